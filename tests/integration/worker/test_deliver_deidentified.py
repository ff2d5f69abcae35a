"""DELIVER jobs of destinations with `send: deidentified`, through the whole of a node without its processes.

Not covered here: what is taken out of an instance (tests/unit/deidentification), other kinds of destinations
(tests/integration/routing/test_deidentified_destinations.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pynetdicom.sop_class import SecondaryCaptureImageStorage

from iap_node.config.patient_key import load_or_create_patient_key
from iap_node.database import results
from iap_node.database.engine import Database
from iap_node.deidentification.pseudonyms import Pseudonyms
from iap_node.records import JobKind, JobState
from iap_node.worker.deliver import DeliverHandler
from iap_node.worker.loop import run_once


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    """SQLite alone: no query is new."""
    path = tmp_path / "node.sqlite"
    shutil.copyfile(migrated_sqlite, path)
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.dispose()


@pytest.fixture
def routed(make_node: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Factory: a node with a destination that gets de-identified copies only."""

    def make(port: int) -> Any:
        peer = {"ae_title": "PEER", "host": "127.0.0.1", "port": port, "timeout_s": 5, "send": "deidentified"}
        return make_node(destinations={"lesions": peer, "people": peer}, data_dir=tmp_path / "data")

    return make


def deliver(node: Any) -> bool:
    handler = DeliverHandler(node.database, node.spool, node.config)
    return run_once(JobKind.DELIVER, handler, node.database, node.config.jobs, "test:deliver")


def received(peer: Any) -> list[Dataset]:
    return [read_dataset(BytesIO(content), False, True) for _, _, content in peer.received]


def answers(node: Any) -> list[results.InstanceAnswer]:
    with node.database.reading() as session:
        return results.instance_deliveries(session, node.series().id)


def test_copies_of_a_series_and_of_what_comes_late_fit_together_and_their_uids_are_kept(
    start_peer: Any, routed: Any, write_instance: Any, scripted: Any
) -> None:
    peer = start_peer()
    node = routed(peer.port)
    node.complete([write_instance(PatientName="Doe^Jane") for _ in range(2)])
    node.infer(scripted())
    deliver(node)
    assert node.job(JobKind.DELIVER).state is JobState.DONE
    node.complete([write_instance(PatientName="Doe^Jane")])
    node.infer(scripted())
    deliver(node)
    assert len(peer.received) == 3  # nothing twice
    copies = received(peer)
    pseudonyms = Pseudonyms.of_node(load_or_create_patient_key(node.config.patient_key_path))
    assert (
        {str(one.SOPInstanceUID) for one in copies}
        == set(peer.uids())
        == {pseudonyms.uid(uid) for uid in node.instance_ids()}
    )
    assert {(one.StudyInstanceUID, one.SeriesInstanceUID) for one in copies} == {
        (pseudonyms.uid("1.2.3"), pseudonyms.uid("1.2.3.4"))
    }
    assert len({str(one.PatientID) for one in copies}) == 1
    assert all(one.PatientIdentityRemoved == "YES" for one in copies)
    assert not any(word in content for _, _, content in peer.received for word in (b"Doe", b"TEST"))
    assert {one.sent_sop_instance_uid: pseudonyms.uid(one.sop_instance_uid) for one in answers(node)} == {
        uid: uid for uid in peer.uids()
    }


def test_an_instance_that_may_show_who_it_is_of_is_refused_and_the_others_go(
    start_peer: Any, routed: Any, write_instance: Any, scripted: Any
) -> None:
    peer = start_peer()
    node = routed(peer.port)
    node.complete([write_instance(), write_instance(SecondaryCaptureImageStorage), write_instance()])
    node.infer(scripted())
    deliver(node)
    assert len(peer.received) == 2
    job = node.job(JobKind.DELIVER)
    assert job.state is JobState.DEAD
    (refused,) = [one for one in answers(node) if not one.accepted]
    assert "Secondary Capture Image Storage may say in its pixels" in refused.comment
    assert "not de-identified" in (job.error or "")
