"""C-STORE SCU: sends instances to one destination, as they were received.

Data sets leave byte for byte as they lie in the spool, whatever their transfer syntax: nothing is decoded.
One presentation context is proposed for each (SOP class, transfer syntax) that occurs. What the peer answers
for an instance is a result, not an error; only a peer that cannot be talked to at all raises. Called by
`iap_node.routing.destinations.destination`.

References
----------
PS3.4 Annex B (Storage Service Class), PS3.8 section 9.3 (associations), PS3.15 Annex B (TLS).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import structlog
from pydicom.dataset import Dataset
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from iap_node.config import DestinationConfig
from iap_node.dicom.status import StoreStatus, is_accepted, is_permanent
from iap_node.errors import DeliveryError, UnreadableInstance
from iap_node.records import InstanceDelivery
from iap_node.routing.destinations.outgoing import OutgoingInstance
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
    for batch in _batches(instances):
        waiting = batch
        ending = "not sent: the peer ended the association again and again"
        for _ in range(MOST_ABORTS):
            try:
                with association(_contexts(waiting), config) as assoc:
                    waiting = _send(assoc, waiting, config, answers)
            except DeliveryError as error:
                if not answers:
                    raise
                ending = f"not sent: {error}"
                break
            if not waiting:
                break
        answers.update((instance.instance_id, _unanswered(instance, ending)) for instance in waiting)
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


def _batches(instances: Sequence[OutgoingInstance]) -> Iterator[list[OutgoingInstance]]:
    """Groups that need at most 128 presentation contexts each; within a group the order is kept."""
    groups: dict[tuple[str, str], list[int]] = {}
    for position, instance in enumerate(instances):
        groups.setdefault((instance.sop_class_uid, instance.transfer_syntax_uid), []).append(position)
    pairs = list(groups)
    for start in range(0, len(pairs), MOST_CONTEXTS):
        positions = itertools.chain.from_iterable(groups[pair] for pair in pairs[start : start + MOST_CONTEXTS])
        yield [instances[position] for position in sorted(positions)]


def _contexts(instances: Sequence[OutgoingInstance]) -> list[PresentationContext]:
    pairs = dict.fromkeys((item.sop_class_uid, item.transfer_syntax_uid) for item in instances)
    return [build_context(sop_class_uid, transfer_syntax_uid) for sop_class_uid, transfer_syntax_uid in pairs]


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
    for number, instance in enumerate(instances):
        context_id = accepted.get((instance.sop_class_uid, instance.transfer_syntax_uid))
        if context_id is None:
            answer = InstanceDelivery(
                instance.instance_id,
                accepted=False,
                status=None,
                comment=f"the peer refuses SOP class {instance.sop_class_uid} "
                f"in transfer syntax {instance.transfer_syntax_uid}; allow it there",
                permanent=True,
            )
        elif assoc.is_established:
            answer = _store(assoc, context_id, instance, message_id=number % 65535 + 1, timeout_s=config.timeout_s)
        else:
            return list(instances[number:])
        answers[instance.instance_id] = answer
    return []


def _log_refusals(
    instances: Sequence[OutgoingInstance], answers: Mapping[int, InstanceDelivery], config: DestinationConfig
) -> None:
    """One line for each kind of refusal: a peer may refuse hundreds of instances for one reason."""
    refused: dict[tuple[int | None, str, bool], list[str]] = {}
    for instance in instances:
        answer = answers[instance.instance_id]
        if not answer.accepted:
            kind = (answer.status, answer.comment, answer.permanent)
            refused.setdefault(kind, []).append(instance.sop_instance_uid)
    for (status, comment, permanent), uids in refused.items():
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
        status = store(assoc, context_id, instance, message_id)
    except FileNotFoundError:
        return InstanceDelivery(
            instance.instance_id, False, None, "its spool file is gone; send the series again", permanent=True
        )
    except UnreadableInstance as error:
        damage = f"its spool file is damaged: {error}"
        return InstanceDelivery(instance.instance_id, False, None, damage, permanent=True)
    except OSError as error:
        return _unanswered(instance, f"its spool file cannot be read: {error.strerror}")
    if "Status" not in status:
        assoc.join(timeout_s)  # it is over, or about to be: its own thread notices an abort a moment later
        return _unanswered(instance, f"no answer: the peer aborted or took longer than {timeout_s:g} s")
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


def _unanswered(instance: OutgoingInstance, comment: str) -> InstanceDelivery:
    return InstanceDelivery(instance.instance_id, accepted=False, status=None, comment=comment)
