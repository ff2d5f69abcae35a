"""C-STORE SCU: sends instances to one destination, as they were received wherever it takes them so.

Data sets leave byte for byte as they lie in the spool in each transfer syntax that the peer accepts. Beside a
presentation context for each (SOP class, transfer syntax) that occurs, one is proposed for each SOP class in Explicit
and in Implicit VR Little Endian: what the peer takes only so is decompressed while it is sent, one instance at a time.
What the peer answers for an instance is a result, not an error; only a peer that cannot be talked to at all raises.
Called by `iap_node.routing.destinations.destination`.

References
----------
PS3.4 Annex B (Storage Service Class), PS3.5 section 10 (which transfer syntaxes to offer), PS3.8 section 9.3
(associations), PS3.15 Annex B (TLS).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import structlog
from pydicom.dataset import Dataset
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from iap_node.config import DestinationConfig
from iap_node.dicom.status import StoreStatus, is_accepted, is_permanent
from iap_node.dicom.transcoding import can_transcode
from iap_node.errors import DeliveryError
from iap_node.records import InstanceDelivery
from iap_node.routing.destinations.outgoing import (
    NotReadable,
    OutgoingInstance,
    in_syntax,
    in_words,
    refused,
    source_errors,
    syntaxes,
    unanswered,
)
from iap_node.routing.destinations.store import store
from iap_node.scu import MOST_CONTEXTS, association, name_of

MOST_ABORTS = 3  # associations that a peer may abort in one call before the rest waits for the next attempt
VERIFICATION_SOP_CLASS = "1.2.840.10008.1.1"
COMMENT_LIMIT = 64  # Error Comment (0000,0902) is VR LO

log = structlog.get_logger("destination")


class DicomDestination:
    """One C-STORE SCP, as `Destination`."""

    def __init__(self, config: DestinationConfig) -> None:
        self._config = config

    def send(self, instances: Sequence[OutgoingInstance]) -> list[InstanceDelivery]:
        """See `send_instances`."""
        return send_instances(instances, self._config)

    def echo(self) -> None:
        """See the function `echo`."""
        echo(self._config)


def send_instances(instances: Sequence[OutgoingInstance], config: DestinationConfig) -> list[InstanceDelivery]:
    """Send instances over one association.

    Beyond 128 presentation contexts it takes more than one. When the peer aborts over an instance, a new
    association goes on with the next one, so that one instance cannot keep back a series; `MOST_ABORTS`
    associations at most.

    Returns
    -------
    list of InstanceDelivery
        One per instance, in order. Not accepted and not permanent: the peer was out of resources, did not
        answer, or the association ended before the instance's turn.

    Raises
    ------
    DeliveryError
        No association came about, so that no instance was offered. Retried.
    ConfigError
        The TLS files cannot be used. Not retried.
    """
    answers: dict[int, InstanceDelivery] = {}
    transcode = config.transcode == "as_needed"
    for batch in _batches(instances, transcode):
        waiting = batch
        ending = "not sent: the peer ended the association again and again"
        for _ in range(MOST_ABORTS):
            try:
                with association(_contexts(waiting, transcode), config) as assoc:
                    waiting = _send(assoc, waiting, config, answers)
            except DeliveryError as error:
                if not answers:
                    raise
                ending = f"not sent: {error}"
                break
            if not waiting:
                break
        answers.update((instance.instance_id, unanswered(instance, ending)) for instance in waiting)
    _log_refusals(instances, answers, config)
    return [answers[instance.instance_id] for instance in instances]


def echo(config: DestinationConfig) -> None:
    """C-ECHO: whether the destination can be reached and knows us.

    Raises
    ------
    DeliveryError
        It cannot, with the remedy.
    ConfigError
        The TLS files cannot be used.
    """
    with association([build_context(VERIFICATION_SOP_CLASS)], config) as assoc:
        if not assoc.accepted_contexts:
            raise DeliveryError(f"{name_of(config)} does not offer verification (C-ECHO); enable it there")
        status = assoc.send_c_echo()
        if "Status" not in status:
            raise DeliveryError(f"{name_of(config)} did not answer C-ECHO within {config.timeout_s:g} s")
        if status.Status != StoreStatus.SUCCESS:
            raise DeliveryError(f"{name_of(config)} answered C-ECHO with status {status.Status:04X}H")


# ---------------------------------------------------------------- sending


def _batches(instances: Sequence[OutgoingInstance], transcode: bool) -> Iterator[list[OutgoingInstance]]:
    """Groups that need at most 128 presentation contexts each; within a group the order is kept."""
    groups: dict[tuple[str, str], list[int]] = {}
    for position, instance in enumerate(instances):
        groups.setdefault((instance.sop_class_uid, instance.transfer_syntax_uid), []).append(position)
    positions: list[int] = []
    contexts: set[tuple[str, str]] = set()
    for own in groups.values():
        needed = set(_pairs(instances[own[0]], transcode))
        if len(contexts | needed) > MOST_CONTEXTS:
            yield [instances[position] for position in sorted(positions)]
            positions, contexts = [], set()
        positions += own
        contexts |= needed
    if positions:
        yield [instances[position] for position in sorted(positions)]


def _contexts(instances: Sequence[OutgoingInstance], transcode: bool) -> list[PresentationContext]:
    """One for each SOP class and transfer syntax, so that the peer can say which it takes."""
    stored = dict.fromkeys((item.sop_class_uid, item.transfer_syntax_uid) for item in instances)
    fallback = dict.fromkeys(pair for item in instances for pair in _pairs(item, transcode))
    return [build_context(*pair) for pair in stored | fallback]


def _pairs(instance: OutgoingInstance, transcode: bool) -> list[tuple[str, str]]:
    return [(instance.sop_class_uid, uid) for uid in syntaxes(instance, transcode=transcode)]


def _send(
    assoc: Association,
    instances: Sequence[OutgoingInstance],
    config: DestinationConfig,
    answers: dict[int, InstanceDelivery],
) -> list[OutgoingInstance]:
    """Send until the end or until the association is over; return the instances whose turn did not come."""
    accepted = {
        (str(cx.abstract_syntax), str(cx.transfer_syntax[0])): int(cx.context_id or 0) for cx in assoc.accepted_contexts
    }
    transcode = config.transcode == "as_needed"
    rest: list[OutgoingInstance] = []
    decompressed: Counter[str] = Counter()
    for number, instance in enumerate(instances):
        pair = next((pair for pair in _pairs(instance, transcode) if pair in accepted), None)
        if pair is None:
            answers[instance.instance_id] = refused(instance, _why_in_no_syntax(instance, transcode))
        elif assoc.is_established:
            sent = in_syntax(instance, pair[1])
            decompressed[instance.transfer_syntax_uid] += sent is not instance
            answers[instance.instance_id] = _store(
                assoc, accepted[pair], sent, message_id=number % 65535 + 1, timeout_s=config.timeout_s
            )
        else:
            rest = list(instances[number:])
            break
    for transfer_syntax_uid, n in (+decompressed).items():
        log.info("instances sent decompressed", ae_title=config.ae_title, refused=transfer_syntax_uid, instances=n)
    return rest


def _why_in_no_syntax(instance: OutgoingInstance, transcode: bool) -> str:
    refusal = f"the peer refuses SOP class {instance.sop_class_uid} in {in_words(instance.transfer_syntax_uid)}"
    if not transcode:
        return f"{refusal}; allow it there, or set transcode: as_needed"
    if not can_transcode(instance.transfer_syntax_uid):
        return f"{refusal}, which cannot be decompressed here; allow it there"
    return f"{refusal} and uncompressed; allow it there"


def _log_refusals(
    instances: Sequence[OutgoingInstance], answers: Mapping[int, InstanceDelivery], config: DestinationConfig
) -> None:
    """One line for each kind of refusal: a peer may refuse hundreds of instances for one reason."""
    kinds: dict[tuple[int | None, str, bool], list[str]] = {}
    for instance in instances:
        answer = answers[instance.instance_id]
        if not answer.accepted:
            kind = (answer.status, answer.comment, answer.permanent)
            kinds.setdefault(kind, []).append(instance.sop_instance_uid)
    for (status, comment, permanent), uids in kinds.items():
        log.warning(
            "instances not accepted",
            ae_title=config.ae_title,
            instances=len(uids),
            first_sop_instance_uid=uids[0],
            status=None if status is None else f"{status:04X}H",
            comment=comment,
            permanent=permanent,
        )


def _store(
    assoc: Association, context_id: int, instance: OutgoingInstance, message_id: int, timeout_s: float
) -> InstanceDelivery:
    try:
        with source_errors(instance):
            status = store(assoc, context_id, instance, message_id)
    except NotReadable as error:
        return error.answer
    if "Status" not in status:
        assoc.join(timeout_s)  # it is over, or about to be: its own thread notices an abort a moment later
        return unanswered(instance, f"no answer: the peer aborted or took longer than {timeout_s:g} s")
    return _answer(instance, status)


def _answer(instance: OutgoingInstance, response: Dataset) -> InstanceDelivery:
    status = int(response.Status)
    accepted = is_accepted(status)
    return InstanceDelivery(
        instance.instance_id,
        accepted,
        status,
        comment=str(response.get("ErrorComment", "") or "")[:COMMENT_LIMIT],
        permanent=not accepted and is_permanent(status),
    )
