"""Who may associate, and which presentation contexts are supported; without a network."""

from __future__ import annotations

import pytest
from pynetdicom.presentation import PresentationContext, build_context

from iap_node.config import ListenerConfig
from iap_node.dicom.sop_classes import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES
from iap_node.listener.admission import Admission, RejectReason, storage_service, supported_contexts

PRIVATE_SOP_CLASS = "1.2.840.113619.4.26"
PRIVATE_TRANSFER_SYNTAX = "1.2.840.113619.5.2"
EXPLICIT, IMPLICIT, JPEG_LOSSLESS = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.70"
MR = "1.2.840.10008.5.1.4.1.1.4"


def admission(**changes: object) -> Admission:
    return Admission(ListenerConfig.model_validate(changes))


def reason(admission: Admission, **changes: str) -> RejectReason | None:
    peer = {"calling_ae_title": "SCANNER", "called_ae_title": "IAP_NODE", "address": "127.0.0.1"} | changes
    refusal = admission.refusal(**peer)
    return None if refusal is None else refusal.reason


def test_by_default_this_machine_may_send_and_no_other() -> None:
    by_default = admission()
    assert reason(by_default) is None
    assert reason(by_default, address="::1") is None
    assert reason(by_default, address="192.0.2.7") is RejectReason.NO_REASON_GIVEN
    assert reason(by_default, address="not an address") is RejectReason.NO_REASON_GIVEN


def test_addresses_are_networks() -> None:
    hospital = admission(addresses=["192.0.2.0/24", "2001:db8::/32"], calling_ae_titles=["SCANNER"])
    assert reason(hospital, address="192.0.2.7") is None
    assert reason(hospital, address="::ffff:192.0.2.7") is None  # IPv4 on a socket for both
    assert reason(hospital, address="2001:db8::1%eth0") is None
    assert reason(hospital, address="192.0.3.7") is RejectReason.NO_REASON_GIVEN
    assert reason(hospital, address="127.0.0.1") is RejectReason.NO_REASON_GIVEN


def test_calling_ae_titles_are_compared_without_padding() -> None:
    named = admission(calling_ae_titles=["SCANNER", "PACS"])
    assert reason(named, calling_ae_title="PACS            ") is None
    assert reason(named, calling_ae_title="pacs") is RejectReason.CALLING_AE_TITLE_NOT_RECOGNIZED
    refusal = named.refusal(calling_ae_title="OTHER", called_ae_title="IAP_NODE", address="127.0.0.1")
    assert refusal is not None
    assert "listener.calling_ae_titles" in refusal.remedy


def test_called_ae_title_counts_only_when_asked_for() -> None:
    assert reason(admission(), called_ae_title="ANY") is None
    strict = admission(require_called_ae_title=True)
    assert reason(strict, called_ae_title="ANY") is RejectReason.CALLED_AE_TITLE_NOT_RECOGNIZED
    assert reason(strict, called_ae_title="IAP_NODE        ") is None


def test_anybody_counts_by_address_and_named_senders_by_address_and_title() -> None:
    anybody, named = admission(), admission(calling_ae_titles=["MR", "CT"])

    def peers(listener: Admission, *senders: tuple[str, str]) -> int:
        return len({listener.peer(calling_ae_title=title, address=address) for title, address in senders})

    assert peers(anybody, ("MR", "192.0.2.7"), ("CT", "192.0.2.7"), ("CT", "::ffff:192.0.2.7")) == 1
    assert peers(anybody, ("MR", "192.0.2.7"), ("MR", "192.0.2.8")) == 2
    assert peers(named, ("MR", "192.0.2.7"), ("CT", "192.0.2.7")) == 2
    assert peers(named, ("MR", "192.0.2.7"), ("MR              ", "192.0.2.7")) == 1


@pytest.mark.parametrize("sop_class", [*STORAGE_SOP_CLASSES, PRIVATE_SOP_CLASS])
def test_every_storage_sop_class_is_supported_in_every_transfer_syntax(sop_class: str) -> None:
    proposed = [build_context(sop_class, syntax) for syntax in (*TRANSFER_SYNTAXES, PRIVATE_TRANSFER_SYNTAX)]
    supported = supported_contexts(proposed)
    assert [context.abstract_syntax for context in supported] == [sop_class]
    assert set(supported[0].transfer_syntax) == {*TRANSFER_SYNTAXES, PRIVATE_TRANSFER_SYNTAX}


def test_the_senders_order_of_transfer_syntaxes_is_kept_and_unknown_ones_come_last() -> None:
    proposed = [build_context(MR, [PRIVATE_TRANSFER_SYNTAX, JPEG_LOSSLESS, IMPLICIT, EXPLICIT])]
    assert supported_contexts(proposed)[0].transfer_syntax == [
        JPEG_LOSSLESS,
        IMPLICIT,
        EXPLICIT,
        PRIVATE_TRANSFER_SYNTAX,
    ]


@pytest.mark.parametrize(
    "other_service",
    [
        "1.2.840.10008.5.1.4.1.2.2.1",  # Study Root Query/Retrieve FIND
        "1.2.840.10008.1.20.1",  # Storage Commitment Push Model
        "1.2.840.10008.5.1.4.38.1",  # Hanging Protocol Storage: no patient, no series
    ],
)
def test_other_services_are_not_supported(other_service: str) -> None:
    assert supported_contexts([build_context(other_service, EXPLICIT)]) == []
    assert storage_service([build_context(other_service, EXPLICIT)]) == {}


def test_verification_is_supported_and_is_not_storage() -> None:
    proposed: list[PresentationContext] = [build_context("1.2.840.10008.1.1", IMPLICIT)]
    assert [context.abstract_syntax for context in supported_contexts(proposed)] == ["1.2.840.10008.1.1"]
    assert storage_service(proposed) == {}
