"""Storage commitment over real sockets, with pynetdicom as the requestor; Orthanc's turn is in `partners`."""

from __future__ import annotations

import queue
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association

from iap_node.database import commitments
from iap_node.database.tables import BytesState, CommitmentRow, CommitmentState, ConflictRow, InstanceRow
from iap_node.dicom.commitment import STORAGE_COMMITMENT_PUSH_MODEL as MODEL
from iap_node.dicom.commitment import STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE as INSTANCE
from tests.integration.listener.conftest import WAIT_S, Certificates, Node, make_instance, wait_for

SOON = {"patience_s": 0, "backoff_s": 0.05, "backoff_max_s": 0.05}


@dataclass
class Requestor:
    """A peer that stores, asks for commitment, and takes reports on whatever association they come."""

    node: Node
    reports: queue.Queue[tuple[str, int, Dataset]] = field(default_factory=queue.Queue)
    answer: int = 0x0000
    port: int = 0
    assoc: Association | None = None
    _server: Any = None

    def listen(self, tls: ssl.SSLContext | None = None) -> int:
        ae = AE(ae_title="SCANNER")
        ae.add_supported_context(MODEL, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._reported, ["new"])]
        self._server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers, ssl_context=tls)
        self.port = self._server.server_address[1]
        return self.port

    def connect(self) -> None:
        ae = AE(ae_title="SCANNER")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = WAIT_S
        contexts = [build_context(MODEL), build_context(MRImageStorage, ExplicitVRLittleEndian)]
        self.assoc = ae.associate(
            "127.0.0.1", self.node.port, contexts, ae_title="IAP_NODE",
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._reported, ["same"])],
        )  # fmt: skip
        assert self.assoc.is_established and len(self.assoc.accepted_contexts) == 2

    def store(self, ds: Dataset) -> int:
        assert self.assoc is not None
        return int(self.assoc.send_c_store(ds).Status)

    def ask(self, transaction_uid: str | None, *references: tuple[str, str], action: int = 1) -> int:
        assert self.assoc is not None
        ds = Dataset()
        if transaction_uid is not None:
            ds.TransactionUID = transaction_uid
        ds.ReferencedSOPSequence = [_reference(*reference) for reference in references]
        return int(self.assoc.send_n_action(ds, action, MODEL, INSTANCE)[0].Status)

    def report(self) -> tuple[str, int, Dataset]:
        return self.reports.get(timeout=WAIT_S)

    def stop(self) -> None:
        if self.assoc is not None and self.assoc.is_established:
            self.assoc.release()
        if self._server is not None:
            self._server.shutdown()

    def _reported(self, event: evt.Event, where: str) -> tuple[int, None]:
        self.reports.put((where, event.event_type, event.event_information))
        return self.answer, None


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


def _failures(ds: Dataset) -> dict[str, int]:
    return {item.ReferencedSOPInstanceUID: item.FailureReason for item in ds.get("FailedSOPSequence", [])}


@pytest.fixture
def requestor_of() -> Iterator[Callable[[Node], Requestor]]:
    requestors: list[Requestor] = []

    def make(node: Node) -> Requestor:
        requestors.append(Requestor(node))
        return requestors[-1]

    yield make
    for requestor in requestors:
        requestor.stop()


def _rows_are(node: Node, *states: CommitmentState) -> bool:
    return [row.state for row in node.rows(CommitmentRow)] == list(states)


def test_what_was_stored_is_committed_on_the_same_association_and_stores_go_on(
    make_node: Callable[..., Node], requestor_of: Callable[[Node], Requestor]
) -> None:
    node = make_node(storage_commitment={})
    requestor = requestor_of(node)
    requestor.connect()
    first, second = make_instance(), make_instance(InstanceNumber=2)
    assert requestor.store(first) == requestor.store(second) == 0
    transaction_uid = generate_uid()
    references = [(MRImageStorage, ds.SOPInstanceUID) for ds in (first, second)]
    assert requestor.ask(transaction_uid, *references) == 0
    assert requestor.store(make_instance(InstanceNumber=3)) == 0
    where, event_type, ds = requestor.report()
    assert (where, event_type, ds.TransactionUID) == ("same", 1, transaction_uid)
    told = [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in ds.ReferencedSOPSequence]
    assert told == references
    assert "FailedSOPSequence" not in ds
    wait_for(lambda: _rows_are(node, CommitmentState.DELIVERED), "the delivery in the archive")
    assert requestor.store(make_instance(InstanceNumber=4)) == 0


def test_each_instance_that_cannot_be_promised_has_its_reason(
    make_node: Callable[..., Node], requestor_of: Callable[[Node], Requestor]
) -> None:
    node = make_node(storage_commitment=SOON)
    requestor = requestor_of(node)
    requestor.connect()
    kept, deleted, other = make_instance(), make_instance(InstanceNumber=2), make_instance(InstanceNumber=3)
    gone = make_instance(InstanceNumber=4)
    for ds in (kept, deleted, other, gone):
        assert requestor.store(ds) == 0
    other.EchoTime = "7"
    assert requestor.store(other) == 0  # a conflict, kept aside
    assert len(node.rows(ConflictRow)) == 1
    with node.database.transaction() as session:
        session.query(InstanceRow).filter_by(sop_instance_uid=deleted.SOPInstanceUID).update(
            {"bytes_state": BytesState.DELETED}
        )
        session.query(ConflictRow).update({"bytes_state": BytesState.DELETED})
    spool_path = next(r for r in node.rows(InstanceRow) if r.sop_instance_uid == gone.SOPInstanceUID).spool_path
    node.spool.remove(spool_path)
    unknown, ct, echo = generate_uid(), "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.1"
    asked = [
        (MRImageStorage, kept.SOPInstanceUID), (MRImageStorage, deleted.SOPInstanceUID), (MRImageStorage, unknown),
        (MRImageStorage, other.SOPInstanceUID), (MRImageStorage, gone.SOPInstanceUID), (echo, "1.2.3"),
    ]  # fmt: skip
    assert requestor.ask(generate_uid(), *asked) == 0
    _, event_type, ds = requestor.report()
    assert event_type == 2
    assert [item.ReferencedSOPInstanceUID for item in ds.ReferencedSOPSequence] == [kept.SOPInstanceUID]
    assert _failures(ds) == {
        deleted.SOPInstanceUID: 0x0112, unknown: 0x0112, other.SOPInstanceUID: 0x0110, gone.SOPInstanceUID: 0x0112,
        "1.2.3": 0x0122,
    }  # fmt: skip
    assert requestor.ask(generate_uid(), (ct, kept.SOPInstanceUID)) == 0
    _, event_type, ds = requestor.report()
    assert (event_type, _failures(ds)) == (2, {kept.SOPInstanceUID: 0x0119})
    assert "ReferencedSOPSequence" not in ds


def test_a_request_survives_a_restart_and_is_reported_on_a_new_association_until_the_peer_takes_it(
    make_node: Callable[..., Node], requestor_of: Callable[[Node], Requestor]
) -> None:
    node = make_node()  # nobody reports here
    requestor = requestor_of(node)
    requestor.connect()
    ds = make_instance()
    assert requestor.store(ds) == 0
    node.commitments.config = node.commitments.config.model_copy(update={"same_association": False})
    assert requestor.ask(generate_uid(), (MRImageStorage, ds.SOPInstanceUID)) == 0
    requestor.stop()
    node.scp.stop()
    node.intake.close(WAIT_S)
    requestor.answer = 0x0110
    port = requestor.listen()
    later = make_node(storage_commitment=SOON | {"requestors": {"SCANNER": {"host": "127.0.0.1", "port": port}}})
    wait_for(lambda: later.commitments.due.set() or requestor.reports.qsize() >= 2, "two reports")
    assert requestor.report()[:2] == ("new", 1)
    requestor.answer = 0
    wait_for(lambda: later.commitments.due.set() or _rows_are(later, CommitmentState.DELIVERED), "the delivery")
    (row,) = later.rows(CommitmentRow)
    assert row.attempts >= 2 and row.n_not_committed == 0


def test_a_requestor_that_leaves_before_the_report_gets_it_at_its_address(
    make_node: Callable[..., Node], requestor_of: Callable[[Node], Requestor]
) -> None:
    node = make_node()
    requestor = requestor_of(node)
    port = requestor.listen()
    again = make_node(storage_commitment={"requestors": {"SCANNER": {"host": "127.0.0.1", "port": port}}})
    requestor.node = again
    requestor.connect()
    ds = make_instance()
    assert requestor.store(ds) == 0
    # it asks for something that is not here yet: too early to say so, and then it leaves and sends it
    late = make_instance(InstanceNumber=2)
    references = [(MRImageStorage, one.SOPInstanceUID) for one in (ds, late)]
    assert requestor.ask(generate_uid(), *references) == 0
    assert requestor.assoc is not None
    requestor.assoc.release()
    requestor.connect()
    assert requestor.store(late) == 0
    wait_for(lambda: len(again.rows(InstanceRow)) == 2, "rows")
    again.commitments.config = again.commitments.config.model_copy(update={"patience_s": 0})
    with again.database.transaction() as session:
        session.query(CommitmentRow).update({"due_at": again.commitments.now()})
    again.commitments.due.set()
    assert requestor.report()[:2] == ("new", 1)


def test_a_report_that_nobody_takes_expires_and_says_why(
    make_node: Callable[..., Node], requestor_of: Callable[[Node], Requestor]
) -> None:
    node = make_node(storage_commitment=SOON | {"same_association": False, "expire_h": 1e-6})
    requestor = requestor_of(node)
    requestor.connect()
    assert requestor.ask(generate_uid(), (MRImageStorage, "1.2.3")) == 0
    wait_for(lambda: _rows_are(node, CommitmentState.EXPIRED), "the end of patience")
    (row,) = node.rows(CommitmentRow)
    assert "storage_commitment.requestors" in row.error


def test_a_repeated_request_is_one_and_a_transaction_uid_in_use_is_refused_in_the_report(
    make_node: Callable[..., Node], requestor_of: Callable[[Node], Requestor]
) -> None:
    node = make_node(storage_commitment={"patience_s": 3600})  # what is not here is not said: the first one waits
    requestor = requestor_of(node)
    requestor.connect()
    transaction_uid = generate_uid()
    for _ in range(2):
        assert requestor.ask(transaction_uid, (MRImageStorage, "1.2.3")) == 0
    assert _rows_are(node, CommitmentState.WAITING)
    assert requestor.ask(transaction_uid, (MRImageStorage, "1.2.4")) == 0
    _, event_type, ds = requestor.report()
    assert (event_type, _failures(ds)) == (2, {"1.2.4": 0x0131})


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_report_goes_over_tls_with_certificates_of_both_sides(
    make_node: Callable[..., Node], requestor_of: Callable[[Node], Requestor], certificates: Certificates
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates.file("scanner.pem"), certificates.file("scanner.key"))
    tls.load_verify_locations(certificates.file("ca.pem"))
    tls.verify_mode = ssl.CERT_REQUIRED
    requestor = requestor_of(make_node())
    address = {"host": "127.0.0.1", "port": requestor.listen(tls)}
    with_tls = {"SCANNER": address | certificates.listener(client_certificates=True)}
    node = make_node(storage_commitment=SOON | {"same_association": False, "requestors": with_tls})
    requestor.node = node
    requestor.connect()
    ds = make_instance()
    assert requestor.store(ds) == 0
    assert requestor.ask(generate_uid(), (MRImageStorage, ds.SOPInstanceUID)) == 0
    assert requestor.report()[:2] == ("new", 1)
    wait_for(lambda: _rows_are(node, CommitmentState.DELIVERED), "the delivery in the archive")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_peer_that_asks_and_never_takes_its_reports_is_told_to_wait(
    make_node: Callable[..., Node], requestor_of: Callable[[Node], Requestor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitments, "MOST_WAITING", 2)
    requestor = requestor_of(make_node(storage_commitment={"patience_s": 3600}))
    requestor.connect()
    told = [requestor.ask(f"1.2.{number}", (MRImageStorage, "1.2.3")) for number in range(3)]
    assert told == [0, 0, 0x0213]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_requests_that_are_none_are_told_so_and_the_association_stands(
    make_node: Callable[..., Node], requestor_of: Callable[[Node], Requestor], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node(storage_commitment={})
    requestor = requestor_of(node)
    requestor.connect()
    assert requestor.ask(None, (MRImageStorage, "1.2.3")) == 0x0114
    assert requestor.ask(generate_uid()) == 0x0114
    assert requestor.ask(generate_uid(), (MRImageStorage, "1.2.3"), action=2) == 0x0123
    assert requestor.ask(generate_uid(), (MRImageStorage, "no uid")) == 0x0115
    assert requestor.assoc is not None
    assert requestor.assoc.send_n_action(None, 1, MODEL, "1.2.3")[0].Status == 0x0112
    assert not node.rows(CommitmentRow)
    assert requestor.store(make_instance()) == 0


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_thousand_instances_are_committed_in_one_request(
    make_node: Callable[..., Node], requestor_of: Callable[[Node], Requestor]
) -> None:
    node = make_node(storage_commitment=SOON, max_pdu_bytes=4096)
    requestor = requestor_of(node)
    requestor.connect()
    ds = make_instance()
    assert requestor.store(ds) == 0
    references = [(MRImageStorage, f"1.2.3.{number}") for number in range(1200)]
    assert requestor.ask(generate_uid(), (MRImageStorage, ds.SOPInstanceUID), *references) == 0
    _, event_type, report = requestor.report()
    assert event_type == 2
    assert len(_failures(report)) == 1200 and len(report.ReferencedSOPSequence) == 1
    wait_for(lambda: _rows_are(node, CommitmentState.DELIVERED), "the delivery in the archive")
