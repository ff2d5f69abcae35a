"""Retention, the forecast and fsck as their users see them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from sqlalchemy import delete

from iap_node.database.consistency import count_holders
from iap_node.database.engine import Database
from iap_node.database.tables import InstanceRow
from iap_node.listener.intake import Intake
from iap_node.listener.patients import load_or_create_patient_key
from iap_node.spool import Spool
from tests.acceptance.conftest import RunningNode, wait_for
from tests.integration.listener.conftest import make_instance
from tests.integration.upkeep.conftest import NOW, Archive, Clock, series_uid


def today() -> float:
    """Now, in days before the archive's NOW, which lies in the past."""
    return (NOW - datetime.now(UTC)) / timedelta(days=1)


@pytest.fixture
def node(make_node: Callable[..., RunningNode]) -> RunningNode:
    """A node that was initialised and does not run."""
    node = make_node()
    assert node.command("init").returncode == 0
    return node


@pytest.fixture
def archive(node: RunningNode) -> Iterator[Archive]:
    """The node's spool and rows."""
    config, clock = node.config, Clock()
    spool, database = Spool(config.spool_dir), Database(config.database_url)
    key = load_or_create_patient_key(config.patient_key_path)
    intake = Intake(spool, database, key, now=clock)
    yield Archive(spool, database, intake, clock)
    intake.close()
    database.dispose()


def configure(node: RunningNode, **retention: object) -> None:
    content = yaml.safe_load(node.config_path.read_text())
    content["retention"] = retention
    node.config_path.write_text(yaml.safe_dump(content))


def test_status_says_how_much_room_there_is_and_for_how_long(node: RunningNode, archive: Archive) -> None:
    room = node.json("status")["room"]
    assert 0 < room["free_bytes"] < room["total_bytes"]
    assert (room["last_week_bytes"], room["full_in_days"]) == (0, None)
    archive.receive(1, days_ago=today() + 3)
    archive.receive(1, 2, days_ago=today())
    size = archive.row(1).size_bytes
    room = node.json("status")["room"]
    assert (room["last_day_bytes"], room["last_week_bytes"]) == (size, 2 * size)
    shown = node.command("status").stdout
    assert room["forecast"] in shown and "in reserve" in shown


def test_status_check_needs_a_person_when_the_disk_is_full(node: RunningNode) -> None:
    assert node.command("status", "--check").returncode == 0
    content = yaml.safe_load(node.config_path.read_text())
    content["spool"] = {"disk_reserve_mb": 10**12}
    node.config_path.write_text(yaml.safe_dump(content))
    checked = node.command("status", "--check")
    assert checked.returncode == 5
    assert "full: stores are refused" in checked.stdout


def test_a_dry_run_says_what_would_go_and_why_the_rest_stays(node: RunningNode, archive: Archive) -> None:
    archive.settle(1, instances=2)
    archive.receive(2)
    quiet = node.command("retention", "--dry-run")
    assert quiet.returncode == 0 and "nothing goes" in quiet.stdout
    configure(node, not_analysed_days=5)
    planned = node.json("retention", "--dry-run")
    assert (planned["series"], planned["instances"]) == (1, 2)
    assert [(group["hold"], group["n_series"]) for group in planned["stays"]] == [("receiving", 1)]
    shown = node.command("retention", "--dry-run").stdout
    assert series_uid(1) in shown and "receiving" in shown
    assert archive.has_bytes(1) and archive.has_bytes(1, 2)


def test_retention_takes_the_bytes_and_leaves_what_was_found_out(node: RunningNode, archive: Archive) -> None:
    archive.settle(1, instances=3)
    archive.receive(2)
    configure(node, not_analysed_days=5, files_per_run=2)
    removed = node.json("retention")
    assert (removed["series"], removed["instances"], removed["complete"]) == (1, 3, True)
    assert not archive.has_bytes(1) and archive.has_bytes(2)
    shown = node.json("show", series_uid(1))
    assert shown["judgement"]["not_analysed_reason"] == "for a test"
    assert {instance["bytes_state"] for instance in shown["instances"]} == {"deleted"}
    assert "3 of 3 instances: bytes deleted by retention" in node.command("show", series_uid(1)).stdout


def test_a_running_node_removes_what_is_due_by_itself(node: RunningNode, archive: Archive) -> None:
    archive.settle(1)
    configure(node, not_analysed_days=5, every_s=0.5)
    node.start()
    wait_for(lambda: not archive.has_bytes(1), "retention to take the bytes")
    assert archive.series(1).destinations == ("lesions",)


def test_fsck_says_by_its_exit_code_whether_all_is_well(node: RunningNode, archive: Archive) -> None:
    archive.receive(1)
    archive.receive(1, 2)
    assert node.command("fsck", "--deep").returncode == 0
    archive.spool.remove(archive.row(1).spool_path)
    checked = node.command("fsck")
    assert checked.returncode == 5
    assert archive.row(1).sop_instance_uid in checked.stdout and "fsck --repair" in checked.stdout
    repaired = node.command("fsck", "--repair", "--json")
    assert repaired.returncode == 5
    (problem,) = json.loads(repaired.stdout)["problems"]
    assert problem["sop_instance_uid"] == archive.row(1).sop_instance_uid and not problem["mended"]
    assert "1 of 2 instances: bytes lost" in node.command("show", series_uid(1)).stdout
    assert node.json("status")["lost_instances"] == 1
    assert node.command("status", "--check").returncode == 5
    archive.receive(1)
    assert node.command("fsck", "--deep").returncode == 0
    assert node.json("status")["lost_instances"] == 0


def test_fsck_files_what_a_database_restored_from_a_backup_does_not_know(node: RunningNode, archive: Archive) -> None:
    archive.receive(1, days_ago=today())
    with archive.database.transaction() as session:
        session.execute(delete(InstanceRow))
    assert node.command("fsck", "--repair").returncode == 0  # it may be on its way
    assert archive.rows() == []
    found = node.command("fsck", "--settled-after", "0")
    assert found.returncode == 5 and "bytes without a row" in found.stdout
    assert node.command("fsck", "--settled-after", "0", "--repair").returncode == 0
    assert archive.has_bytes(1)
    assert node.command("fsck", "--deep").returncode == 0


def test_fsck_raises_no_alarm_on_a_node_that_is_receiving(node: RunningNode) -> None:
    node.start()
    ae = AE(ae_title="SCANNER")
    ae.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
    enough = threading.Event()
    stored: list[int] = []

    def send() -> None:
        assoc = ae.associate("127.0.0.1", node.port, ae_title="IAP_NODE")
        while not enough.is_set():
            series = f"1.2.840.99.{len(stored) // 20}"
            ds = make_instance(SOPInstanceUID=f"{series}.{len(stored)}", SeriesInstanceUID=series)
            stored.append(int(assoc.send_c_store(ds).Status))
        assoc.release()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        wait_for(lambda: len(stored) > 50, "some instances to be stored")
        checks = [node.command("fsck", "--deep", "--json") for _ in range(3)]
    finally:
        enough.set()
        sender.join(60)
    assert [json.loads(check.stdout)["problems"] for check in checks] == [[], [], []]
    assert [check.returncode for check in checks] == [0, 0, 0]
    assert set(stored) == {0}
    database = node.database()

    def every_row_is_there() -> bool:
        with database.reading() as session:
            return count_holders(session) == len(stored)

    wait_for(every_row_is_there, "the row of every instance that was acknowledged")
    database.dispose()
