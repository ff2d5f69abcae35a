"""Who may send, and which presentation contexts are accepted. Called by `handlers` while an association is
negotiated.

Nothing is refused that the sender cannot change: every storage SOP Class and every transfer syntax is taken,
those that are private or newer than our dictionaries included. What cannot be analysed is kept and says so.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from pydicom.uid import UID
from pynetdicom.pdu_primitives import SOPClassCommonExtendedNegotiation
from pynetdicom.presentation import PresentationContext, build_context

from iap_node.config import ANY_AE_TITLE, ListenerConfig
from iap_node.dicom.sop_classes import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES

VERIFICATION = "1.2.840.10008.1.1"  # PS3.4 Annex A
STORAGE_SERVICE_CLASS = "1.2.840.10008.4.2"  # PS3.4 Annex B; PS3.6 Table A-1
REJECTED_PERMANENT = 1  # Result of A-ASSOCIATE-RJ, PS3.8 Table 9-21
SOURCE_SERVICE_USER = 1

_STORAGE_SOP_CLASSES = frozenset(STORAGE_SOP_CLASSES)
_TRANSFER_SYNTAXES = frozenset(TRANSFER_SYNTAXES)


class RejectReason(IntEnum):
    """Reason/Diag. of an A-ASSOCIATE-RJ whose source is the service user (PS3.8 Table 9-21)."""

    NO_REASON_GIVEN = 1
    CALLING_AE_TITLE_NOT_RECOGNIZED = 3
    CALLED_AE_TITLE_NOT_RECOGNIZED = 7


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

    def _is_known_address(self, address: str) -> bool:
        try:
            peer = ipaddress.ip_address(address.partition("%")[0])  # without the zone of a link-local address
        except ValueError:
            return False
        if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
            peer = peer.ipv4_mapped
        return any(peer in network for network in self._networks)


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


def supported_contexts(proposed: Iterable[PresentationContext]) -> list[PresentationContext]:
    """What we support of the presentation contexts that a peer proposes: Verification and everything
    storage-like.

    The sender's order of transfer syntaxes is kept, since its first is the one that costs it no conversion;
    one that pydicom does not name comes last, since its header may turn out unreadable.
    """
    transfer_syntaxes: dict[str, list[str]] = {}
    for context in proposed:
        abstract_syntax = str(context.abstract_syntax)
        if abstract_syntax == VERIFICATION or is_storage(abstract_syntax):
            wanted = transfer_syntaxes.setdefault(abstract_syntax, [])
            syntaxes = [str(uid) for uid in context.transfer_syntax]
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
