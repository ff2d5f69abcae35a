"""DELIVER jobs of destinations with `send: corrected`: copies on the fly, against pynetdicom and DCMTK's storescp."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pynetdicom import evt
from sqlalchemy import select

from iap_node.correction.series import look
from iap_node.database import corrections, findings, results
from iap_node.database.engine import Database
from iap_node.database.tables import DeliveryState, FindingRow
from iap_node.records import Finding, FindingKind, FindingState, JobKind, JobState, Severity, Witness
from iap_node.worker.deliver import DeliverHandler
from iap_node.worker.loop import run_once

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    """SQLite alone: the queries are tested on both databases in tests/integration/database/test_corrections.py."""
    path = tmp_path / "node.sqlite"
    shutil.copyfile(migrated_sqlite, path)
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.dispose()


@pytest.fixture
def routed(make_node: Callable[..., Any], scripted: Any, write_instance: Any) -> Callable[..., Any]:
    """Factory: a node whose series of `n` images waits for a destination that wants corrected copies."""

    def make(port: int, n: int = 3, send: str = "corrected") -> Any:
        peer = {"ae_title": "PEER", "host": "127.0.0.1", "port": port, "timeout_s": 5, "send": send}
        node = make_node(destinations={"lesions": peer, "people": peer})
        node.complete([write_instance() for _ in range(n)])
        node.infer(scripted())
        return node

    return make


def accept(node: Any, element: str = "EchoTime", value: str = "21", raw: str = "2.1") -> int:
    """A finding that a person accepted with a value; its number."""
    finding = Finding(element, "a-check", FindingKind.UNIT, Severity.WARNING, "for a test", raw, value)
    series_id = node.series().id
    with node.database.transaction() as session:
        findings.record(session, series_id, 1, [finding], NOW, unheard=list(Witness))
        query = select(FindingRow.id).where(FindingRow.series_id == series_id, FindingRow.element == element)
        number = session.scalars(query).one()
        findings.decide(session, number, FindingState.ACCEPTED, "Ada", value=value, now=NOW)
    return number


def state_of(node: Any, number: int) -> FindingState:
    with node.database.reading() as session:
        return session.scalars(select(FindingRow.state).where(FindingRow.id == number)).one()


def deliver(node: Any) -> bool:
    handler = DeliverHandler(node.database, node.spool, node.config)
    return run_once(JobKind.DELIVER, handler, node.database, node.config.jobs, "test:deliver")


def send_again(node: Any, destination: str = "lesions") -> None:
    with node.database.transaction() as session:
        series = corrections.series_to_correct(session, node.series().id)
        corrections.deliver_again(session, series, destination, NOW)


def received(peer: Any, index: int) -> Dataset:
    return read_dataset(BytesIO(peer.received[index][2]), False, True)


def answers(node: Any) -> list[results.InstanceAnswer]:
    with node.database.reading() as session:
        return results.instance_deliveries(session, node.series().id)


def test_without_accepted_values_the_originals_are_sent(start_peer: Any, routed: Any) -> None:
    peer = start_peer()
    node = routed(peer.port)
    deliver(node)
    assert set(peer.uids()) == set(node.instance_ids())
    assert [answer.sent_sop_instance_uid for answer in answers(node)] == [None] * 3
    assert node.job(JobKind.DELIVER).state is JobState.DONE


def test_accepted_values_are_sent_in_copies_whose_uids_are_kept(start_peer: Any, routed: Any) -> None:
    peer = start_peer()
    node = routed(peer.port)
    number = accept(node)
    deliver(node)
    assert node.job(JobKind.DELIVER).state is JobState.DONE
    assert len(peer.received) == 3
    assert set(peer.uids()).isdisjoint(node.instance_ids())
    for index in range(3):
        ds = received(peer, index)
        assert ds.EchoTime == 21
        assert ds.SOPInstanceUID == peer.uids()[index]
        old = ds.OriginalAttributesSequence[0].ModifiedAttributesSequence[0]
        assert (old.EchoTime, old.SOPInstanceUID in node.instance_ids()) == (2.1, True)
    assert {answer.sent_sop_instance_uid for answer in answers(node)} == set(peer.uids())
    assert {answer.sop_instance_uid for answer in answers(node)} == set(node.instance_ids())
    with node.database.reading() as session:
        (correction,) = corrections.list_corrections(session, node.series().id)
        (event,) = [one for one in findings.finding_events(session, number) if one.state is FindingState.CORRECTED]
    assert correction.series_instance_uid == received(peer, 0).SeriesInstanceUID
    assert (correction.elements, correction.n_instances, correction.target) == ({"EchoTime": "21"}, 3, "lesions")
    assert correction.finished_at is not None
    assert state_of(node, number) is FindingState.CORRECTED
    assert (event.who, event.value) == ("delivery", "21")
    assert correction.series_instance_uid in event.reason


def test_a_destination_that_wants_originals_gets_them_whatever_is_accepted(start_peer: Any, routed: Any) -> None:
    peer = start_peer()
    node = routed(peer.port, send="original")
    number = accept(node)
    deliver(node)
    assert set(peer.uids()) == set(node.instance_ids())
    assert state_of(node, number) is FindingState.ACCEPTED


def test_only_copies_that_failed_are_sent_again_and_are_the_same(start_peer: Any, routed: Any, wait_for: Any) -> None:
    def answer(_: evt.Event) -> int:
        return 0xA700 if len(peer.received) == 2 else 0x0000

    peer = start_peer(answer=answer)
    node = routed(peer.port)
    number = accept(node)

    def over() -> bool:
        deliver(node)
        return node.job(JobKind.DELIVER).state is JobState.DONE

    assert deliver(node)
    assert state_of(node, number) is FindingState.ACCEPTED  # not all copies are there yet
    wait_for(over, "the end of the job")
    assert len(peer.received) == 4
    assert peer.received[3] == peer.received[1]
    assert state_of(node, number) is FindingState.CORRECTED


def test_a_value_accepted_after_delivery_goes_when_it_is_sent_again(start_peer: Any, routed: Any) -> None:
    peer = start_peer()
    node = routed(peer.port)
    deliver(node)
    accept(node)
    assert not deliver(node)
    assert len(peer.received) == 3
    send_again(node)
    assert [item.state for item in node.series().deliveries] == [DeliveryState.PENDING]
    deliver(node)
    assert len(peer.received) == 6
    assert [received(peer, index).EchoTime for index in range(3, 6)] == [21, 21, 21]
    assert [item.state for item in node.series().deliveries] == [DeliveryState.DELIVERED]
    send_again(node)
    deliver(node)
    assert len(peer.received) == 6  # it has them already
    assert node.job(JobKind.DELIVER).state is JobState.DONE


def test_a_late_instance_joins_the_copies_that_are_there(
    start_peer: Any, routed: Any, write_instance: Any, scripted: Any
) -> None:
    peer = start_peer()
    node = routed(peer.port)
    with node.database.transaction() as session:
        query = select(FindingRow.id).where(FindingRow.element == "Manufacturer")
        number = session.scalars(query).one()  # the audit found that it is missing
        findings.decide(session, number, FindingState.ACCEPTED, "Ada", value="SIEMENS", now=NOW)
    deliver(node)
    assert [received(peer, index).Manufacturer for index in range(3)] == ["SIEMENS"] * 3
    node.complete([write_instance()])
    node.infer(scripted())
    deliver(node)
    assert len(peer.received) == 4
    assert received(peer, 3).Manufacturer == "SIEMENS"
    assert received(peer, 3).SeriesInstanceUID == received(peer, 0).SeriesInstanceUID
    assert state_of(node, number) is FindingState.CORRECTED


def test_a_copy_that_goes_elsewhere_too_is_the_same_to_the_byte(start_peer: Any, routed: Any) -> None:
    peer = start_peer()
    node = routed(peer.port)
    accept(node)
    deliver(node)
    send_again(node, "people")
    deliver(node)
    assert [(uid, content) for uid, _, content in peer.received[3:]] == [
        (uid, content) for uid, _, content in peer.received[:3]
    ]


def test_an_accepted_value_that_cannot_be_written_is_a_dead_letter(start_peer: Any, routed: Any) -> None:
    peer = start_peer()
    node = routed(peer.port)
    accept(node, value="about 21")
    deliver(node)
    job = node.job(JobKind.DELIVER)
    assert (job.state, job.attempts) == (JobState.DEAD, 1)
    assert "'about 21' cannot be written into Echo Time (0018,0081)" in job.error
    assert f"retry job {job.id}" in job.error
    assert peer.received == []


def test_an_accepted_value_that_is_no_element_holds_nothing_up(start_peer: Any, routed: Any) -> None:
    peer = start_peer()
    node = routed(peer.port)
    number = accept(node, element="FieldOfView", value="350")
    deliver(node)
    assert set(peer.uids()) == set(node.instance_ids())
    assert state_of(node, number) is FindingState.ACCEPTED


def test_an_unwritten_correction_notes_nothing(start_peer: Any, routed: Any) -> None:
    node = routed(start_peer().port)
    accept(node, value="2.1")  # which the header says
    found = look(node.database, node.spool, node.series().id, max_inflated_bytes=2**24)
    assert not found.changes_something
    deliver(node)
    with node.database.reading() as session:
        assert corrections.list_corrections(session, node.series().id) == []


@pytest.fixture
def storescp(program: Callable[[str, str], str], tmp_path: Path, wait_for: Any) -> Iterator[tuple[int, Path]]:
    """DCMTK's storescp, bit preserving: its port, and where it puts files."""
    folder = tmp_path / "stored"
    folder.mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [program("storescp", "dcmtk"), "+B", "+xa", "-pm", "-aet", "PEER", "-od", str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers_calls() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(answers_calls, "storescp")
        yield port, folder
    finally:
        process.terminate()
        process.wait(30)


def test_dcmtk_takes_corrected_copies(routed: Any, storescp: tuple[int, Path]) -> None:
    port, folder = storescp
    node = routed(port)
    accept(node)
    deliver(node)
    assert node.job(JobKind.DELIVER).state is JobState.DONE
    stored = [dcmread(path) for path in folder.iterdir()]
    assert [ds.EchoTime for ds in stored] == [21, 21, 21]
    assert {ds.SOPInstanceUID for ds in stored} == {answer.sent_sop_instance_uid for answer in answers(node)}
