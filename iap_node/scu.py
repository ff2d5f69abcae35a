"""Associations that the node requests: opened with a remedy in every error, released at the end.

Called by whatever is an SCU towards a peer of the configuration, or reports to one: destinations, the listener's
storage commitment, `iap_node.pull`.

References
----------
PS3.8 section 9.3 (associations), PS3.15 Annex B (TLS).
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE, SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

from iap_node.config import TlsConfig
from iap_node.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from iap_node.errors import ConfigError, DeliveryError

MOST_CONTEXTS = 128  # presentation context IDs are odd, 1 to 255 (PS3.8 Table 9-13)
# A-ASSOCIATE-AC and -RJ (PS3.8 Table 9-21): result, and (source, reason)
ASSOCIATION_ACCEPTED = 0
REJECTED_TRANSIENT = 2
CALLING_AE_TITLE_NOT_RECOGNISED = (1, 3)
CALLED_AE_TITLE_NOT_RECOGNISED = (1, 7)


class Peer(Protocol):
    """Where a peer is and how it is to be called: a section of the configuration."""

    @property
    def ae_title(self) -> str:
        """Its AE title."""

    @property
    def host(self) -> str:
        """Its host name or address."""

    @property
    def port(self) -> int:
        """Its port."""

    @property
    def calling_ae_title(self) -> str:
        """Our title towards it."""

    @property
    def timeout_s(self) -> float:
        """For the association and for each answer."""

    @property
    def tls(self) -> TlsConfig:
        """Certificates, where it wants TLS."""


# pynetdicom decodes every identifier for its own log unless told not to: they may hold a patient's
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False


@contextmanager
def association(
    contexts: Sequence[PresentationContext],
    peer: Peer,
    *,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[evt.EventHandlerType] = (),
) -> Iterator[Association]:
    """An association with a peer, released at the end.

    Where the peer accepts it but none of its presentation contexts, pynetdicom aborts. Such an association is
    handed out all the same: that nothing is accepted is an answer.

    Parameters
    ----------
    roles
        SCP/SCU role selection (PS3.7 D.3.3.4) to propose.
    handlers
        Of pynetdicom's events, for requests that the peer makes.

    Raises
    ------
    DeliveryError
        No association came about; trying again may help.
    ConfigError
        The TLS files cannot be used.
    """
    ae = AE(ae_title=peer.calling_ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = peer.timeout_s
    connected = threading.Event()

    def on_open(event: evt.Event) -> None:
        connected.set()
        _tune(event, peer.timeout_s)

    tls_arguments = (tls_context(peer.tls), peer.host) if peer.tls.enabled else None
    try:
        assoc = ae.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.ae_title,
            ext_neg=list(roles),
            tls_args=tls_arguments,
            evt_handlers=[(evt.EVT_CONN_OPEN, on_open), *handlers],
        )
    except OSError as error:  # everything later becomes the association's state
        raise DeliveryError(f"{name_of(peer)}: {error.strerror}; check the host name and the name server") from error
    try:
        answer = assoc.acceptor.primitive
        if not assoc.is_established and (answer is None or answer.result != ASSOCIATION_ACCEPTED):
            raise DeliveryError(_why_no_association(answer, connected.is_set(), peer))
        keep_answers(assoc)
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def keep_answers(assoc: Association) -> None:
    """Let nobody but who asked have the answers of the peer.

    Whoever sends on an association pauses pynetdicom's own thread before (`Association._reactor_checkpoint`). But that
    thread says that it is paused before it looks whether it is to be: one that lost the processor in between takes the
    answer, does not know what to do with it, and who asked waits until the time is out, and sends again what was taken.
    """
    dimse, take = assoc.dimse, assoc.dimse.get_msg

    def get_msg(block: bool = False) -> Any:
        context_id, message = take(block)
        is_asked_for = not block and not assoc._reactor_checkpoint.is_set()
        if is_asked_for and message is not None and not message.is_valid_request:
            messages = dimse.msg_queue
            with messages.mutex:  # back to where it was, before any that follows it
                messages.queue.appendleft((context_id, message))
                messages.not_empty.notify()
            return None, None
        return context_id, message

    dimse.get_msg = get_msg  # type: ignore[method-assign]


def name_of(peer: Peer) -> str:
    """A peer, for people."""
    return f"{peer.ae_title} at {peer.host}:{peer.port}"


def _tune(event: evt.Event, timeout_s: float) -> None:
    """Switch Nagle's algorithm off, which costs some 45 ms per instance with delayed acknowledgements; let no peer
    that stops reading block us for ever."""
    connection: Any = event.assoc.dul.socket
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.socket.settimeout(timeout_s)


def _why_no_association(answer: A_ASSOCIATE | None, connected: bool, peer: Peer) -> str:
    named = f"{name_of(peer)} {'with' if peer.tls.enabled else 'without'} TLS"
    if answer is not None:
        remedy = "see the log there"
        if (answer.result_source, answer.diagnostic) == CALLING_AE_TITLE_NOT_RECOGNISED:
            remedy = f"let it accept the calling AE title {peer.calling_ae_title}"
        elif (answer.result_source, answer.diagnostic) == CALLED_AE_TITLE_NOT_RECOGNISED:
            remedy = "correct its ae_title in the configuration"
        elif answer.result == REJECTED_TRANSIENT:
            remedy = "raise the limit of associations there if it stays"
        return f"{named} rejects the association ({answer.reason_str}): {remedy}"
    if connected:
        return f"{named} does not answer as DICOM: check the port, and whether it wants TLS"
    return f"{named} cannot be reached: check that it runs, host, port, firewall" + (
        " and the certificates" if peer.tls.enabled else ""
    )


def tls_context(tls: TlsConfig) -> ssl.SSLContext:
    """TLS towards a peer: its certificate must come from `peer_ca`, or else from the system's authorities.

    A hospital's own authority vouches for devices, whose certificates rarely name the address that they are
    reached at: with `peer_ca` the host name is not compared. Without `peer_ca` it is, since the system's
    authorities vouch for half the world.

    Raises
    ------
    ConfigError
        The files cannot be used.
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
            f"TLS files are not usable ({error}); check the peer's certificate, private_key, peer_ca"
        ) from error
    return context
