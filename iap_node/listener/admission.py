"""Who may send, and which presentation contexts are accepted. Called by `handlers` while an association is
negotiated.

Nothing is refused that the sender cannot change: every storage SOP Class and every transfer syntax is taken,
those that are private or newer than our dictionaries included. What cannot be analysed is kept and says so.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum

from pydicom.uid import UID
from pynetdicom.pdu_primitives import SOPClassCommonExtendedNegotiation
from pynetdicom.presentation import PresentationContext, build_context

from iap_node.config import ANY_AE_TITLE, ListenerConfig
from iap_node.dicom.sop_classes import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES
from iap_node.listener.places import Full

VERIFICATION = "1.2.840.10008.1.1"  # PS3.4 Annex A
STORAGE_SERVICE_CLASS = "1.2.840.10008.4.2"  # PS3.4 Annex B; PS3.6 Table A-1

# Of the messages that other services exchange: they have no pixels to compress (PS3.5 A.1, A.2, A.5, A.3).
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")

_STORAGE_SOP_CLASSES = frozenset(STORAGE_SOP_CLASSES)
_TRANSFER_SYNTAXES = frozenset(TRANSFER_SYNTAXES)


class RejectReason(Enum):
    """Result, Source and Reason/Diag. of an A-ASSOCIATE-RJ (PS3.8 Table 9-21)."""

    NO_REASON_GIVEN = (1, 1, 1)  # permanent, service user
    CALLING_AE_TITLE_NOT_RECOGNIZED = (1, 1, 3)
    CALLED_AE_TITLE_NOT_RECOGNIZED = (1, 1, 7)
    LOCAL_LIMIT_EXCEEDED = (2, 3, 2)  # transient, service provider (presentation related)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an association is rejected."""

    reason: RejectReason
    remedy: str  # for our log; A-ASSOCIATE-RJ has no room for text


class Admission:
    """The allow-lists of a listener."""

    def __init__(self, config: ListenerConfig) -> None:
        self._networks = [ipaddress.ip_network(network) for network in config.addresses]
        self._calling_ae_titles = {title.strip() for title in config.calling_ae_titles}
        self._called_ae_title = config.ae_title.strip() if config.require_called_ae_title else None

    def refusal(self, *, calling_ae_title: str, called_ae_title: str, address: str) -> Refusal | None:
        """Why this peer may not associate; None: it may."""
        if not self._is_known_address(address):
            remedy = f"{address} is in no network of listener.addresses; add it there if it may send"
            return Refusal(RejectReason.NO_REASON_GIVEN, remedy)
        calling, called = calling_ae_title.strip(), called_ae_title.strip()
        if ANY_AE_TITLE not in self._calling_ae_titles and calling not in self._calling_ae_titles:
            remedy = f"{calling!r} is not in listener.calling_ae_titles; add it there if it may send"
            return Refusal(RejectReason.CALLING_AE_TITLE_NOT_RECOGNIZED, remedy)
        if self._called_ae_title is not None and called != self._called_ae_title:
            remedy = (
                f"the sender calls {called!r}, but listener.ae_title is {self._called_ae_title!r}; correct "
                "one of the two or set listener.require_called_ae_title to false"
            )
            return Refusal(RejectReason.CALLED_AE_TITLE_NOT_RECOGNIZED, remedy)
        return None

    def peer(self, *, calling_ae_title: str, address: str) -> str:
        """Who counts as one peer: an address, with its AE title where titles are named.

        Where anybody may send, a title says nothing: a sender may call itself anything. Where titles are named, they
        tell the senders apart that share an address, behind a gateway or a container's bridge.
        """
        peer = str(_address(address) or address)
        return peer if ANY_AE_TITLE in self._calling_ae_titles else f"{peer} {calling_ae_title.strip()}"

    def _is_known_address(self, address: str) -> bool:
        peer = _address(address)
        return peer is not None and any(peer in network for network in self._networks)


def crowding(full: Full) -> Refusal:
    """The refusal of a peer that may send, and for which there is no place now."""
    return Refusal(RejectReason.LOCAL_LIMIT_EXCEEDED, _REMEDIES[full])


_REMEDIES = {
    Full.LISTENER: "all places are taken; raise listener.max_associations, or let it try again",
    Full.PEER: "this peer has all it may have; raise listener.max_associations_per_peer, or let it try again",
}


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address as it is compared: without the zone of a link-local one, IPv4 as IPv4 on a socket for both."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_storage(abstract_syntax: str) -> bool:
    """Whether an abstract syntax is a storage SOP Class, or an unknown one that can only be meant as such."""
    return abstract_syntax in _STORAGE_SOP_CLASSES or _is_unknown(abstract_syntax)


def is_transfer_syntax(uid: str) -> bool:
    """Whether data sets may come in this transfer syntax: one that we store, a private one, or a newer
    one."""
    return uid in _TRANSFER_SYNTAXES or _is_unknown(uid)


def _is_unknown(uid: str) -> bool:
    """Private, or newer than the dictionaries of pydicom and pynetdicom."""
    return UID(uid).name == uid


def supported_contexts(
    proposed: Iterable[PresentationContext], services: Collection[str] = ()
) -> list[PresentationContext]:
    """What we support of the presentation contexts that a peer proposes: Verification, everything
    storage-like, and other services that the listener has.

    The sender's order of transfer syntaxes is kept, since its first is the one that costs it no conversion;
    one that pydicom does not name comes last, since its header may turn out unreadable.
    """
    transfer_syntaxes: dict[str, list[str]] = {}
    for context in proposed:
        abstract_syntax = str(context.abstract_syntax)
        is_service = abstract_syntax in services
        if is_service or abstract_syntax == VERIFICATION or is_storage(abstract_syntax):
            wanted = transfer_syntaxes.setdefault(abstract_syntax, [])
            syntaxes = [str(uid) for uid in context.transfer_syntax if not is_service or uid in NATIVE]
            wanted.extend(uid for uid in syntaxes if uid not in wanted and is_transfer_syntax(uid))
    return [
        build_context(abstract_syntax, sorted(wanted, key=lambda uid: uid not in _TRANSFER_SYNTAXES))
        for abstract_syntax, wanted in transfer_syntaxes.items()
        if wanted
    ]


def storage_service(proposed: Iterable[PresentationContext]) -> dict[str, SOPClassCommonExtendedNegotiation]:
    """The service class of each storage-like abstract syntax, as pynetdicom's common extended negotiation has
    it.

    pynetdicom serves C-STORE for the SOP Classes of its own table only. This answer (PS3.7 D.3.3.6; it is
    never sent, the standard has no response item) tells it that the others are of the Storage Service Class
    as well.
    """
    services = {}
    for context in proposed:
        abstract_syntax = str(context.abstract_syntax)
        if is_storage(abstract_syntax):
            item = SOPClassCommonExtendedNegotiation()
            item.sop_class_uid = abstract_syntax
            item.service_class_uid = STORAGE_SERVICE_CLASS
            services[abstract_syntax] = item
    return services
