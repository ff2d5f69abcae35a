"""C-STORE SCU: sends instances to one destination, as they were received.

Data sets leave byte for byte as they lie in the spool, whatever their transfer syntax: nothing is decoded.
One presentation context is proposed for each (SOP class, transfer syntax) that occurs. What the peer answers
for an instance is a result, not an error; only a peer that cannot be talked to at all raises. Called by
`iap_node.worker.deliver` and, for `echo`, by the CLI.

References
----------
PS3.4 Annex B (Storage Service Class), PS3.8 section 9.3 (associations), PS3.15 Annex B (TLS).
"""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext

from iap_node.config import DestinationConfig, TlsConfig
from iap_node.dicom.status import StoreStatus, is_accepted, is_permanent
from iap_node.errors import ConfigError, DeliveryError, UnreadableInstance
from iap_node.records import InstanceDelivery
from iap_node.routing.destinations.store import OutgoingInstance, store

MOST_CONTEXTS = 128  # presentation context IDs are odd, 1 to 255 (PS3.8 Table 9-13)
MOST_ABORTS = 3  # associations that a peer may abort in one call before the rest waits for the next attempt
VERIFICATION_SOP_CLASS = "1.2.840.10008.1.1"
COMMENT_LIMIT = 64  # Error Comment (0000,0902) is VR LO
# A-ASSOCIATE-AC and -RJ (PS3.8 Table 9-21): result, and (source, reason)
ASSOCIATION_ACCEPTED = 0
REJECTED_TRANSIENT = 2
CALLING_AE_TITLE_NOT_RECOGNISED = (1, 3)
CALLED_AE_TITLE_NOT_RECOGNISED = (1, 7)

log = structlog.get_logger("destination")


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
                with _association(_contexts(waiting), config) as assoc:
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
    with _association([build_context(VERIFICATION_SOP_CLASS)], config) as assoc:
        if not assoc.accepted_contexts:
            raise DeliveryError(f"{_peer(config)} does not offer verification (C-ECHO); enable it there")
        status = assoc.send_c_echo()
        if "Status" not in status:
            raise DeliveryError(f"{_peer(config)} did not answer C-ECHO within {config.timeout_s:g} s")
        if status.Status != StoreStatus.SUCCESS:
            raise DeliveryError(f"{_peer(config)} answered C-ECHO with status {status.Status:04X}H")


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


# ---------------------------------------------------------------- associations


@contextmanager
def _association(contexts: list[PresentationContext], config: DestinationConfig) -> Iterator[Association]:
    """An association with the destination, released at the end.

    Where the peer accepts it but none of its presentation contexts, pynetdicom aborts. Such an association is
    handed out all the same: that nothing is accepted is an answer.
    """
    ae = AE(ae_title=config.calling_ae_title)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = config.timeout_s
    connected = threading.Event()

    def on_open(event: evt.Event) -> None:
        connected.set()
        _tune(event, config.timeout_s)

    tls_arguments = _tls_arguments(config)
    try:
        assoc = ae.associate(
            config.host,
            config.port,
            contexts=contexts,
            ae_title=config.ae_title,
            tls_args=tls_arguments,
            evt_handlers=[(evt.EVT_CONN_OPEN, on_open)],
        )
    except OSError as error:  # everything later becomes the association's state
        raise DeliveryError(f"{_peer(config)}: {error.strerror}; check the host name and the name server") from error
    try:
        answer = assoc.acceptor.primitive
        if not assoc.is_established and (answer is None or answer.result != ASSOCIATION_ACCEPTED):
            raise DeliveryError(_why_no_association(answer, connected.is_set(), config))
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def _tune(event: evt.Event, timeout_s: float) -> None:
    """Switch Nagle's algorithm off, which costs some 45 ms per instance with delayed acknowledgements; let no peer
    that stops reading block us for ever."""
    connection: Any = event.assoc.dul.socket
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.socket.settimeout(timeout_s)


def _why_no_association(answer: A_ASSOCIATE | None, connected: bool, config: DestinationConfig) -> str:
    peer = f"{_peer(config)} {'with' if config.tls.enabled else 'without'} TLS"
    if answer is not None:
        remedy = "see the log there"
        if (answer.result_source, answer.diagnostic) == CALLING_AE_TITLE_NOT_RECOGNISED:
            remedy = f"let it accept the calling AE title {config.calling_ae_title}"
        elif (answer.result_source, answer.diagnostic) == CALLED_AE_TITLE_NOT_RECOGNISED:
            remedy = "correct its ae_title in the configuration"
        elif answer.result == REJECTED_TRANSIENT:
            remedy = "raise the limit of associations there if it stays"
        return f"{peer} rejects the association ({answer.reason_str}): {remedy}"
    if connected:
        return f"{peer} does not answer as DICOM: check the port, and whether it wants TLS"
    return f"{peer} cannot be reached: check that it runs, host, port, firewall" + (
        " and the certificates" if config.tls.enabled else ""
    )


def _tls_arguments(config: DestinationConfig) -> tuple[ssl.SSLContext, str] | None:
    if not config.tls.enabled:
        return None
    return _tls_context(config.tls), config.host


def _tls_context(tls: TlsConfig) -> ssl.SSLContext:
    """TLS towards a peer: its certificate must come from `peer_ca`, or else from the system's authorities.

    A hospital's own authority vouches for devices, whose certificates rarely name the address that they are
    reached at: with `peer_ca` the host name is not compared. Without `peer_ca` it is, since the system's
    authorities vouch for half the world.
    """
    try:
        context = ssl.create_default_context(cafile=None if tls.peer_ca is None else str(tls.peer_ca))
        context.check_hostname = tls.peer_ca is None
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # BCP 195 (RFC 9325)
        assert tls.certificate is not None
        assert tls.private_key is not None
        context.load_cert_chain(tls.certificate, tls.private_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"TLS files are not usable ({error}); check the destination's certificate, private_key, peer_ca"
        ) from error
    return context


def _peer(config: DestinationConfig) -> str:
    return f"{config.ae_title} at {config.host}:{config.port}"
