"""DELIVER jobs of destinations with `results: true`, and the same document by the command and the API."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pynetdicom import evt
from starlette.testclient import TestClient
from structlog.testing import capture_logs
from typer.testing import CliRunner

from iap_node.cli import app
from iap_node.database import accounts, archive, findings
from iap_node.database.engine import Database
from iap_node.database.tables import DeliveryState
from iap_node.dicom.sop_classes import STORAGE_SOP_CLASSES
from iap_node.records import Finding, FindingKind, FindingState, JobKind, JobState, Role, Severity, Witness
from iap_node.results.content import NoResult, series_result
from iap_node.results.document import COMPREHENSIVE_SR_STORAGE
from iap_node.results.report import SrDocument, sr_document
from iap_node.web.app import create_app
from iap_node.web.node import WebNode
from iap_node.web.secrets import hash_token, new_token
from iap_node.worker.deliver import DeliverHandler
from iap_node.worker.loop import run_once

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RAW = "1.2.840.10008.5.1.4.1.1.66"


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    """SQLite alone: no query here is new."""
    path = tmp_path / "node.sqlite"
    shutil.copyfile(migrated_sqlite, path)
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.dispose()


@pytest.fixture
def routed(make_node: Callable[..., Any], scripted: Any, write_instance: Any) -> Callable[..., Any]:
    """Factory: a node whose series of two images waits for a destination that wants results."""

    def make(port: int = 1, novel: bool = False, **changes: Any) -> Any:
        peer = {"ae_title": "PEER", "host": "127.0.0.1", "port": port, "timeout_s": 5, "results": True} | changes
        node = make_node(destinations={"lesions": peer, "people": peer})
        whose = {"PatientName": "Doe^Jane", "PatientSex": "F", "StudyDate": "20260301", "PatientBirthDate": "unknown"}
        node.complete([write_instance(**whose), write_instance(**whose)])
        node.infer(scripted(novel=novel))
        return node

    return make


def deliver(node: Any) -> bool:
    handler = DeliverHandler(node.database, node.spool, node.config)
    return run_once(JobKind.DELIVER, handler, node.database, node.config.jobs, "test:deliver")


def document(node: Any, **changes: Any) -> SrDocument:
    given: dict[str, Any] = {"ae_title": "IAP_NODE", "max_inflated_bytes": 10**8}
    return sr_document(node.database, node.spool, node.series().id, **(given | changes))


def meanings(ds: Dataset) -> Iterator[str]:
    """Of every coded value and every text of a document."""
    for child in ds.get("ContentSequence", ()):
        if "ConceptCodeSequence" in child:
            yield child.ConceptCodeSequence[0].CodeMeaning
        if "TextValue" in child:
            yield child.TextValue
        yield from meanings(child)


def referred(ds: Dataset) -> tuple[str, set[str]]:
    """The series that is its evidence, and the instances."""
    series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    return series.SeriesInstanceUID, {one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence}


def test_document_follows_the_instances_once(start_peer: Any, routed: Any) -> None:
    peer = start_peer()
    node = routed(peer.port)
    assert deliver(node)
    assert not deliver(node)
    assert peer.sop_class_uids[2:] == [COMPREHENSIVE_SR_STORAGE]
    uid, syntax, content = peer.received[2]
    ds = read_dataset(BytesIO(content), True, True)
    assert (uid, syntax) == (ds.SOPInstanceUID, "1.2.840.10008.1.2")
    assert (str(ds.PatientName), ds.PatientID, ds.PatientSex, ds.PatientBirthDate) == ("Doe^Jane", "TEST", "F", "")
    assert (ds.StudyInstanceUID, ds.StudyDate, ds.InstanceNumber) == ("1.2.3", "20260301", 1)
    assert referred(ds) == ("1.2.3.4", set(node.instance_ids()))
    assert {"predicted", "SIEMENS", "scripted-1: none: scripted for a test"} <= set(meanings(ds))
    assert (node.job(JobKind.DELIVER).state, node.job(JobKind.DELIVER).error) == (JobState.DONE, None)
    assert uid == document(node).sop_instance_uid


def test_document_waits_until_all_instances_are_there(start_peer: Any, routed: Any, wait_for: Any) -> None:
    peer = start_peer(answer=lambda _: 0xA700 if len(peer.received) == 2 else 0x0000)
    node = routed(peer.port)
    deliver(node)
    assert COMPREHENSIVE_SR_STORAGE not in peer.sop_class_uids
    wait_for(lambda: deliver(node) and node.job(JobKind.DELIVER).state is JobState.DONE, "the end of the job")
    assert len(peer.received) == 4
    assert peer.sop_class_uids.index(COMPREHENSIVE_SR_STORAGE) == 3


@pytest.mark.parametrize("how", ["status", "sop class", "abort"])
def test_refused_document_costs_the_images_nothing_and_is_told(start_peer: Any, routed: Any, how: str) -> None:
    def answer(event: evt.Event) -> int:
        if event.request.AffectedSOPClassUID != COMPREHENSIVE_SR_STORAGE:
            return 0x0000
        if how == "abort":
            event.assoc.abort()
        return 0xC123

    taken = [uid for uid in STORAGE_SOP_CLASSES if how != "sop class" or uid != COMPREHENSIVE_SR_STORAGE]
    peer = start_peer(answer=answer, sop_classes=taken)
    node = routed(peer.port)
    with capture_logs() as logs:
        deliver(node)
    job = node.job(JobKind.DELIVER)
    assert job.state is JobState.DONE
    assert [one.state for one in node.series().deliveries] == [DeliveryState.DELIVERED]
    assert job.error is not None
    assert "all instances are there, the SR document is not" in job.error
    told = [line for line in logs if line["event"] == "result not delivered"]
    assert [(line["log_level"], line["destination"]) for line in told] == [("warning", "lesions")]
    assert "Doe" not in str(logs)


def test_document_refers_to_the_copies_where_copies_are_sent(start_peer: Any, routed: Any) -> None:
    peer = start_peer()
    node = routed(peer.port, send="corrected")
    decide(node, FindingState.ACCEPTED, value="21")
    deliver(node)
    copies = [read_dataset(BytesIO(content), False, True) for _, _, content in peer.received[:2]]
    ds = read_dataset(BytesIO(peer.received[2][2]), True, True)
    assert {one.EchoTime for one in copies} == {21}
    assert referred(ds) == (copies[0].SeriesInstanceUID, {one.SOPInstanceUID for one in copies})
    assert ds.StudyInstanceUID == copies[0].StudyInstanceUID
    assert {"a-check", "accepted", "21"} <= set(meanings(ds))


def test_destination_that_does_not_ask_gets_no_document(start_peer: Any, routed: Any) -> None:
    peer = start_peer()
    deliver(routed(peer.port, results=False))
    assert len(peer.received) == 2


def test_nothing_is_said_about_documents_or_two_systems_would_talk_for_ever(
    start_peer: Any, make_node: Any, scripted: Any, write_instance: Any
) -> None:
    peer = start_peer()
    there = {"ae_title": "PEER", "host": "127.0.0.1", "port": peer.port, "timeout_s": 5, "results": True}
    node = make_node(destinations={"lesions": there, "people": there})
    node.complete([write_instance(COMPREHENSIVE_SR_STORAGE, Modality="SR")])
    node.infer(scripted())
    deliver(node)
    assert (node.job(JobKind.DELIVER).state, len(peer.received)) == (JobState.DONE, 1)


def test_folder_gets_the_same_file_as_the_command_writes_and_the_api_gives(
    make_node: Any, scripted: Any, write_instance: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    there = {"kind": "folder", "path": str(folder), "template": "{SOPInstanceUID}.dcm", "results": True}
    node = make_node(destinations={"lesions": there, "people": there})
    node.complete([write_instance()])
    node.infer(scripted())
    deliver(node)
    made = document(node)
    delivered = (folder / f"{made.sop_instance_uid}.dcm").read_bytes()
    assert delivered == made.content
    config, out = tmp_path / "config.yaml", tmp_path / "sr.dcm"
    config.write_text(yaml.safe_dump({"data_dir": str(tmp_path)}))
    arguments = ["result", "1.2.3.4", "--config", str(config)]
    assert CliRunner().invoke(app, [*arguments, "--out", str(out)]).exit_code == 0
    assert out.read_bytes() == delivered
    assert dcmread(out).Modality == "SR"
    again = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert (again.exit_code, "File exists" in again.stderr) == (1, True)
    assert CliRunner().invoke(app, arguments).exit_code == 2  # neither a file nor JSON
    printed = CliRunner().invoke(app, [*arguments, "--json"])

    client = TestClient(create_app(WebNode(node.config, None, node.database, node.spool)), base_url="http://console")
    operator, viewer = (program(node.database, role) for role in (Role.OPERATOR, Role.VIEWER))
    path = f"/api/v1/series/{node.series().id}/result"
    given = client.get(f"{path}.dcm", headers=operator)
    assert (given.status_code, given.headers["content-type"], given.content) == (200, "application/dicom", delivered)
    assert client.get(f"{path}.dcm", headers=viewer).status_code == 403  # it names the patient
    shown = client.get(path, headers=viewer).json()
    assert shown == json.loads(printed.stdout)
    assert "TEST" not in printed.stdout  # the Patient ID
    assert client.get("/api/v1/series/99/result", headers=viewer).status_code == 404
    with node.database.reading() as session:
        taken = [one for one in accounts.trail(session) if one.action == "take result"]
    assert [one.detail for one in taken] == [f"SR document {made.sop_instance_uid}"]


def test_json_tells_parameters_header_findings_and_model(routed: Any) -> None:
    node = routed()
    decide(node, FindingState.DISMISSED)
    told = result_of(node)
    (manufacturer,) = [one for one in told["parameters"] if one["keyword"] == "Manufacturer"]
    assert (manufacturer["predicted_value"], manufacturer["probability"]) == ("SIEMENS", 0.98)
    assert (manufacturer["classes"], manufacturer["confidence"]) == ([{"value": "SIEMENS", "probability": 0.98}], 0.99)
    assert (manufacturer["header_value"], manufacturer["verdict"]) == ("", "missing")
    (echo_time,) = [one for one in told["parameters"] if one["keyword"] == "EchoTime"]
    assert (echo_time["header_value"], echo_time["unit"], echo_time["kind"]) == ("2.1", "ms", None)
    (found,) = [one for one in told["findings"] if one["check"] == "a-check"]
    assert (found["state"], found["severity"], found["suggested_value"]) == ("dismissed", "warning", "21")
    assert told["model"]["training_data"] == "none: scripted for a test"
    assert (told["format"], told["format_version"], told["status"]) == ("iap-node-result", 1, "predicted")


def test_novel_and_not_analysed_series_have_documents_that_say_so(
    routed: Any, make_node: Any, scripted: Any, write_instance: Any, tmp_path: Path
) -> None:
    node = routed(novel=True)
    assert result_of(node)["status"] == "novel"
    said = set(meanings(dcmread(BytesIO(document(node).content))))
    assert "novel" in said
    assert any(text.startswith("Novel: unlike what model scripted-1 (none: scripted for a test)") for text in said)
    node.file([write_instance(RAW, SeriesInstanceUID="1.2.3.5")])
    with node.database.transaction() as session:
        archive.complete_series(session, ["1.2.3.5"], NOW)
        series = archive.find_series(session, "1.2.3.5")
    with pytest.raises(NoResult, match="has not been judged yet"):
        sr_document(node.database, node.spool, series.id, ae_title="IAP_NODE", max_inflated_bytes=10**8)
    node.infer(scripted())
    made = sr_document(node.database, node.spool, series.id, ae_title="IAP_NODE", max_inflated_bytes=10**8)
    assert made.result.statement.startswith("Not analysed: Raw Data Storage")
    assert "not analysed" in set(meanings(dcmread(BytesIO(made.content))))


def test_another_decision_is_another_document_and_no_bytes_no_document(routed: Any) -> None:
    node = routed()
    first = document(node)
    assert document(node) == first
    decide(node, FindingState.ACCEPTED, value="21")
    assert document(node).sop_instance_uid != first.sop_instance_uid
    with node.database.reading() as session:
        told = series_result(session, node.series().id)
    assert replace(told, findings=first.result.findings, changed_at=first.result.changed_at) == first.result
    shutil.rmtree(node.spool.root)
    with pytest.raises(NoResult, match=r"no instance of series 1\.2\.3\.4 is here any more"):
        document(node)


def decide(node: Any, state: FindingState, value: str | None = None) -> None:
    """A finding that a person decided."""
    finding = Finding("EchoTime", "a-check", FindingKind.UNIT, Severity.WARNING, "for a test", "2.1", "21")
    with node.database.transaction() as session:
        findings.record(session, node.series().id, 1, [finding], NOW, unheard=list(Witness))
        which = findings.FindingFilter(series_id=node.series().id, checks=("a-check",))
        (one,) = findings.list_findings(session, which)
        given = {} if value is None else {"value": value}
        findings.decide(session, one.id, state, "Ada", "for a reason", now=datetime.now(UTC), **given)


def result_of(node: Any) -> dict[str, Any]:
    with node.database.reading() as session:
        told: dict[str, Any] = json.loads(json.dumps(series_result(session, node.series().id).as_json()))
    return told


def program(database: Database, role: Role) -> dict[str, str]:
    """The head of a request by a program of this role."""
    token, now = new_token(), datetime.now(UTC)
    with database.transaction() as session:
        owner = accounts.create_account(session, f"owner {token[:6]}", role, now)
        accounts.create_token(session, hash_token(token), "test", owner, role, now)
    return {"Authorization": f"Bearer {token}"}
