"""C-FIND over what the node holds: DCMTK's findscu and pynetdicom ask."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, build_context
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from iap_node.database.tables import BytesState, InstanceRow, StudyRow
from iap_node.dicom.query import STUDY_ROOT_FIND
from tests.integration.listener.conftest import WAIT_S, Node, Sender, make_instance, wait_for

CT = "1.2.840.10008.5.1.4.1.1.2"
STUDIES = (
    # study, date, series, modality, description, number of instances
    ("1.2.1", "20260102", "1.2.1.1", "MR", "t1_mprage", 2),
    ("1.2.1", "20260102", "1.2.1.2", "MR", "T2_tse[1]", 1),
    ("1.2.1", "20260102", "1.2.1.3", "CT", "Kopf nüchtern", 1),
    ("1.2.2", "20260315", "1.2.2.1", "MR", "t1%mprage", 3),
    ("1.2.3", "***", "1.2.3.1", "MR", "", 1),
)


@pytest.fixture
def filled(make_node: Callable[..., Node], connect: Callable[..., Sender]) -> Node:
    node = make_node(query={"max_results": 5})
    fill(node, connect)
    return node


def fill(node: Node, connect: Callable[..., Sender]) -> None:
    contexts = [(MRImageStorage, ExplicitVRLittleEndian), (CT, ExplicitVRLittleEndian)]
    sender = connect(node.port, contexts)
    for study, date, series, modality, description, n_instances in STUDIES:
        for number in range(1, n_instances + 1):
            ds = make_instance(
                StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID=f"{series}.{number}",
                StudyDate=date, Modality=modality, SeriesDescription=description, InstanceNumber=number,
                SeriesNumber=series[-1], SOPClassUID=CT if modality == "CT" else MRImageStorage,
                SpecificCharacterSet="ISO_IR 100",
            )  # fmt: skip
            assert sender.store_instance(ds).Status == 0


def ask(node: Node, level: str, **keys: Any) -> tuple[list[Dataset], list[Dataset]]:
    """Matches, and every status that came."""
    ae = AE(ae_title="PACS")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = WAIT_S
    relational = SOPClassExtendedNegotiation()
    relational.sop_class_uid, relational.service_class_application_information = STUDY_ROOT_FIND, b"\x01"
    assoc = ae.associate(
        "127.0.0.1", node.port, [build_context(STUDY_ROOT_FIND)], ae_title="IAP_NODE", ext_neg=[relational]
    )
    assert assoc.is_established
    assert assoc.acceptor.sop_class_extended == {STUDY_ROOT_FIND: b"\x01"}
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    answers = list(assoc.send_c_find(ds, STUDY_ROOT_FIND))
    assoc.release()
    return [match for _, match in answers if match is not None], [status for status, _ in answers]


def uids(matches: list[Dataset], keyword: str = "SeriesInstanceUID") -> list[str]:
    return sorted(str(match[keyword].value) for match in matches)


def _series(query: dict[str, Any], node: Node) -> list[str]:
    matches, statuses = ask(node, "SERIES", SeriesInstanceUID=query.pop("SeriesInstanceUID", ""), **query)
    assert statuses[-1].Status == 0, statuses[-1]
    return [uid.removeprefix("1.2.") for uid in uids(matches)]


def test_series_are_matched_as_the_standard_has_it(make_node: Callable[..., Node], connect: Any) -> None:
    node = make_node()
    fill(node, connect)
    for query, expected in (
        ({}, "1.1 1.2 1.3 2.1 3.1"),  # universal
        ({"StudyInstanceUID": "1.2.1"}, "1.1 1.2 1.3"),
        ({"SeriesInstanceUID": ["1.2.1.2", "1.2.3.1", "9.9"]}, "1.2 3.1"),  # list of UID
        ({"Modality": "MR"}, "1.1 1.2 2.1 3.1"),
        ({"Modality": ["CT", "PT"]}, "1.3"),
        ({"SeriesDescription": "t1_mprage"}, "1.1"),
        ({"SeriesDescription": "T1_MPRAGE"}, ""),  # case counts
        ({"SeriesDescription": "t1*"}, "1.1 2.1"),  # wild cards
        ({"SeriesDescription": "t1_*"}, "1.1"),
        ({"SeriesDescription": "T?_tse[1]*"}, "1.2"),
        ({"SeriesDescription": "*nüchtern"}, "1.3"),
        ({"SeriesDescription": "*"}, "1.1 1.2 1.3 2.1 3.1"),
        ({"StudyDate": "20260102"}, "1.1 1.2 1.3"),
        ({"StudyDate": "20260101-20260201"}, "1.1 1.2 1.3"),  # ranges
        ({"StudyDate": "20260201-"}, "2.1"),
        ({"StudyDate": "-20260201"}, "1.1 1.2 1.3"),
        ({"SeriesNumber": "2"}, "1.2"),
        ({"ModalitiesInStudy": "CT"}, "1.1 1.2 1.3"),
        ({"ModalitiesInStudy": "CT", "Modality": "MR"}, "1.1 1.2"),
    ):
        assert " ".join(_series(dict(query), node)) == expected, query
    # an instance that is not here any more is not found; nor is what only it was in
    node.rows(InstanceRow)
    with node.database.transaction() as session:
        gone = session.query(InstanceRow).filter(InstanceRow.sop_instance_uid.in_(["1.2.3.1.1", "1.2.2.1.3"]))
        gone.update({"bytes_state": BytesState.DELETED})
    assert _series({}, node) == ["1.1", "1.2", "1.3", "2.1"]
    matches, _ = ask(node, "STUDY", StudyInstanceUID="", NumberOfStudyRelatedInstances="")
    assert {(m.StudyInstanceUID, m.NumberOfStudyRelatedInstances) for m in matches} == {("1.2.1", 4), ("1.2.2", 2)}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_was_asked_for_is_returned_and_nothing_of_the_patient(filled: Node) -> None:
    matches, statuses = ask(
        filled, "STUDY", StudyInstanceUID="1.2.1", StudyDate="", ModalitiesInStudy="", NumberOfStudyRelatedSeries="",
        NumberOfStudyRelatedInstances="", PatientName="", PatientID="", AccessionNumber="",
    )  # fmt: skip
    (match,) = matches
    assert [status.Status for status in statuses] == [0xFF00, 0]
    assert (match.StudyDate, list(match.ModalitiesInStudy)) == ("20260102", ["CT", "MR"])
    assert (match.NumberOfStudyRelatedSeries, match.NumberOfStudyRelatedInstances) == (3, 4)
    assert not match.PatientName and not match.PatientID and not match.AccessionNumber
    assert match.QueryRetrieveLevel == "STUDY"
    (match,) = ask(filled, "SERIES", SeriesInstanceUID="1.2.1.3", SeriesDescription="")[0]
    assert (match.SpecificCharacterSet, match.SeriesDescription) == ("ISO_IR 192", "Kopf nüchtern")
    (match,) = ask(
        filled, "IMAGE", SOPInstanceUID="1.2.2.1.2", SOPClassUID="", InstanceNumber="2", Rows="", Columns="",
        NumberOfFrames="", AvailableTransferSyntaxUID="", SeriesInstanceUID="", Manufacturer="",
    )[0]  # fmt: skip
    assert (match.SOPClassUID, match.InstanceNumber, match.Rows, match.Columns) == (MRImageStorage, 2, 4, 4)
    assert (match.AvailableTransferSyntaxUID, match.SeriesInstanceUID) == (ExplicitVRLittleEndian, "1.2.2.1")
    assert match.Manufacturer == "SIEMENS"
    # an optional key that is not matched here is told by FF01
    assert ask(filled, "SERIES", SeriesInstanceUID="1.2.1.3", Laterality="L")[1][0].Status == 0xFF01


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_cannot_be_answered_is_refused_with_the_element(filled: Node) -> None:
    for level, keys, offending in (
        ("SERIES", {"PatientID": "SECRET-4711"}, 0x00100020),
        ("STUDY", {"PatientName": "Secret*"}, 0x00100010),
        ("STUDY", {"AccessionNumber": "7"}, 0x00080050),
        ("PATIENT", {}, 0x00080052),
        ("STUDY", {"StudyDate": "20260199x"}, 0x00080020),
    ):
        matches, statuses = ask(filled, level, StudyInstanceUID="", **keys)
        assert (matches, statuses[-1].Status, statuses[-1].OffendingElement) == ([], 0xA900, offending)
        assert "SECRET" not in statuses[-1].ErrorComment
    assert ask(filled, "IMAGE", SOPInstanceUID="")[1][-1].Status == 0xA700  # more than max_results
    assert len(ask(filled, "IMAGE", SOPInstanceUID="")[0]) == 5


@pytest.fixture
def findscu(program: Callable[[str, str], str]) -> Iterator[Callable[..., str]]:
    path = program("findscu", "dcmtk")

    def run(node: Node, *arguments: str) -> str:
        command = [path, "-S", "-v", *arguments, "-aec", "IAP_NODE", "127.0.0.1", str(node.port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    yield run


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_findscu_finds_a_series_and_may_cancel(
    make_node: Callable[..., Node], connect: Callable[..., Sender], findscu: Callable[..., str]
) -> None:
    node = make_node()
    fill(node, connect)
    said = findscu(node, "-k", "QueryRetrieveLevel=SERIES", "-k", "StudyInstanceUID=1.2.1", "-k", "SeriesInstanceUID",
                   "-k", "Modality=MR", "-k", "NumberOfSeriesRelatedInstances")  # fmt: skip
    assert re.findall(r"\(0020,000e\) UI \[(1\.2\.1\.\d)", said) == ["1.2.1.1", "1.2.1.2"]
    assert re.findall(r"\(0020,1209\) IS \[(\d)", said) == ["2", "1"]
    node.rows(StudyRow)
    _many_studies(node)
    said = findscu(node, "--cancel", "3", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID")
    assert "Cancel" in said and "Received Final Find Response (Cancel" in said
    assert said.count("(0020,000d) UI") < 3000


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_peer_that_leaves_in_the_middle_of_a_query_is_not_waited_for(
    make_node: Callable[..., Node], connect: Callable[..., Sender]
) -> None:
    node = make_node()
    fill(node, connect)
    wait_for(lambda: len(node.rows(InstanceRow)) == 8, "rows")
    _many_studies(node)
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.StudyInstanceUID = "STUDY", ""
    for leave in ("abort", "_close"):
        assoc = connect(node.port, [(STUDY_ROOT_FIND, ExplicitVRLittleEndian)]).assoc
        assert next(assoc.send_c_find(ds, STUDY_ROOT_FIND))[0].Status == 0xFF00
        if leave == "abort":
            assoc.abort()
        else:
            assoc.dul.socket.close()
    wait_for(lambda: node.scp.open_associations == 1, "the end of both")  # the sender that filled it
    assert ask(node, "STUDY", StudyInstanceUID="1.2.1")[1][-1].Status == 0


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_cancel_that_comes_too_late_does_not_cancel_the_next_query(filled: Node, connect: Any) -> None:
    assoc = connect(filled.port, [(STUDY_ROOT_FIND, ExplicitVRLittleEndian)]).assoc
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.StudyInstanceUID = "STUDY", ""
    for _ in range(2):
        statuses = [status.Status for status, _ in assoc.send_c_find(ds, STUDY_ROOT_FIND, msg_id=7)]
        assert statuses == [0xFF00, 0xFF00, 0xFF00, 0x0000]
        assoc.send_c_cancel(7, query_model=STUDY_ROOT_FIND)


def _many_studies(node: Node) -> None:
    """Rows alone: a query has no business with bytes."""
    from sqlalchemy import insert, select

    from iap_node.database.tables import SeriesRow

    with node.database.transaction() as session:

        def copies(table: Any, n: int, **changes: Callable[[int], Any]) -> None:
            row = session.execute(select(table.__table__).limit(1)).mappings().one()
            rows = [{**row, "id": 10_000 + i, **{k: make(i) for k, make in changes.items()}} for i in range(n)]
            session.execute(insert(table), rows)

        copies(StudyRow, 3000, study_instance_uid=lambda i: f"1.3.{i}")
        copies(SeriesRow, 3000, series_instance_uid=lambda i: f"1.3.{i}.1", study_id=lambda i: 10_000 + i)
        copies(
            InstanceRow, 3000, sop_instance_uid=lambda i: f"1.3.{i}.1.1", series_id=lambda i: 10_000 + i,
            spool_path=lambda i: f"nowhere/{i}",
        )  # fmt: skip
