"""The scheduled pull as a process of its own: by the clock, again after a PACS was away, until it is told to stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from sqlalchemy import select

from iap_node.database.engine import Database
from iap_node.database.tables import InstanceRow
from iap_node.dicom.query import STUDY_ROOT_FIND
from iap_node.pull.retrieve import STUDY_ROOT_GET
from tests.acceptance.conftest import wait_for
from tests.integration.listener.conftest import make_instance
from tests.integration.partners.conftest import free_port

# The command itself, with a clock on which every second is a minute's beginning.
EVERY_SECOND = """
import sys
from apscheduler.triggers.interval import IntervalTrigger
import iap_node.pull.schedule as schedule
from iap_node.cli import app

schedule.crontab = lambda line: IntervalTrigger(seconds=1)
app(["pull-schedule", "--config", sys.argv[1]])
"""


@pytest.fixture
def archive() -> Iterator[tuple[list[Dataset], list[list[str]], Callable[[int], None]]]:
    """What a PACS holds, the SOP Instance UIDs that were asked for, and how to start it on a port."""
    held: list[Dataset] = []
    asked: list[list[str]] = []
    servers: list[Any] = []

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for ds in held if event.identifier.QueryRetrieveLevel == "IMAGE" else held[:1]:
            match = Dataset()
            match.StudyInstanceUID, match.SeriesInstanceUID = ds.StudyInstanceUID, ds.SeriesInstanceUID
            match.SOPInstanceUID, match.Modality = ds.SOPInstanceUID, ds.Modality
            match.NumberOfSeriesRelatedInstances = len(held)
            yield 0xFF00, match

    def get(event: evt.Event) -> Iterator[Any]:
        uids = event.identifier.get("SOPInstanceUID", None)
        asked.append([uids] if isinstance(uids, str) else list(uids or ()))
        wanted = [ds for ds in held if not uids or ds.SOPInstanceUID in asked[-1]]
        yield len(wanted)
        for ds in wanted:
            yield 0xFF00, ds

    def start(port: int) -> None:
        ae = AE(ae_title="PACS")
        for uid in (STUDY_ROOT_FIND, STUDY_ROOT_GET):
            ae.add_supported_context(uid)
        ae.add_supported_context(MRImageStorage, ExplicitVRLittleEndian, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_C_FIND, find), (evt.EVT_C_GET, get)]
        servers.append(ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers))

    yield held, asked, start
    for server in servers:
        server.shutdown()


def test_the_process_pulls_by_the_clock_what_is_new_outlives_a_pacs_that_is_away_and_stops_when_told(
    archive: Any, tmp_path: Path, migrated_sqlite: Path
) -> None:
    held, asked, start = archive
    series = [make_instance(SOPInstanceUID=f"1.2.840.99.1.1.{number}", InstanceNumber=number) for number in (1, 2, 3)]
    held += series[:2]
    port = free_port()
    schedule = {"cron": "* * * * *", "days": None, "modalities": ["MR"]}
    source = {"ae_title": "PACS", "host": "127.0.0.1", "port": port, "retrieve": "get", "schedule": schedule}
    config = tmp_path / "config.yaml"
    content = {"data_dir": "var", "sources": {"pacs": source}, "spool": {"disk_reserve_mb": 0}}
    config.write_text(yaml.safe_dump(content | {"log": {"format": "json"}}))
    (tmp_path / "var" / "spool").mkdir(parents=True)
    shutil.copyfile(migrated_sqlite, tmp_path / "var" / "node.sqlite")
    database, log = Database(f"sqlite:///{tmp_path / 'var' / 'node.sqlite'}"), tmp_path / "log"

    def events(name: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        return [event for event in found if event["event"] == name]

    def rows() -> set[str]:
        with database.reading() as session:
            return set(session.scalars(select(InstanceRow.sop_instance_uid)))

    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", EVERY_SECOND, str(config)], stdout=stream, stderr=stream, env=os.environ
        )
    try:
        wait_for(lambda: events("scheduled pull failed"), "a turn in vain")
        start(port)
        wait_for(lambda: rows() == {ds.SOPInstanceUID for ds in series[:2]}, "the instances of the first pull")
        held.append(series[2])
        wait_for(lambda: len(rows()) == 3, "the instance of a later one")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
        database.dispose()
    assert asked == [[], [series[2].SOPInstanceUID]]  # each instance once, whatever the number of turns
    assert events("pull scheduled")[0]["source"] == "pacs"
    assert sum(event["n_instances"] for event in events("scheduled pull done")) in (2, 3)  # it may stop in a turn
    assert "SECRET" not in log.read_text()
