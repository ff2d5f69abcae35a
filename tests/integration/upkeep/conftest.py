"""A spool with its archive, and series that came, were judged and delivered as fast as a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import select

from iap_node.config import JobsConfig
from iap_node.database import archive, jobs, results
from iap_node.database.engine import Database
from iap_node.database.series import SeriesSummary
from iap_node.database.tables import InstanceRow
from iap_node.errors import UnreadableInstance
from iap_node.listener.intake import Intake
from iap_node.listener.reception import Request
from iap_node.records import (
    InstanceDelivery,
    JobKind,
    JobState,
    RouteDecision,
    StoreOutcome,
)
from iap_node.spool import Spool
from tests.integration.database.conftest import judge_unseen
from tests.integration.listener.conftest import encode, make_instance

NOW = datetime(2026, 3, 31, 12, 0, tzinfo=UTC)
JOBS = JobsConfig(max_attempts=1)


def series_uid(number: int) -> str:
    return f"1.2.840.99.{number}"


def instance_uid(series: int, number: int) -> str:
    return f"1.2.840.99.{series}.{number}"


def request(sop_class_uid: str, sop_instance_uid: str) -> Request:
    return Request(sop_class_uid, sop_instance_uid, ExplicitVRLittleEndian, "SCANNER", "127.0.0.1")


@dataclass
class Clock:
    """What time it is for whoever asks."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Archive:
    """A spool and its rows."""

    spool: Spool
    database: Database
    intake: Intake
    clock: Clock = field(default_factory=Clock)

    def receive(
        self, series: int, instance: int = 1, days_ago: float = 0.0, comment: str = "", **changes: Any
    ) -> StoreOutcome:
        """Take in one instance, as the listener does, some days before NOW."""
        self.clock.now = NOW - timedelta(days=days_ago)
        ds = make_instance(
            SOPInstanceUID=instance_uid(series, instance),
            SeriesInstanceUID=series_uid(series),
            StudyInstanceUID="1.2.840.99",
            InstanceNumber=instance,
            SeriesDescription=comment,
            **changes,
        )
        return self.intake.file(encode(ds), request(ds.SOPClassUID, ds.SOPInstanceUID))

    def refuse(self, days_ago: float = 0.0, content: bytes = b"no DICOM") -> None:
        """Take in bytes that go to the quarantine."""
        self.clock.now = NOW - timedelta(days=days_ago)
        with pytest.raises(UnreadableInstance):
            self.intake.file(content, request("1.2.840.10008.5.1.4.1.1.4", "1.2.3"))

    def complete(self, series: int) -> None:
        with self.database.transaction() as session:
            assert archive.complete_series(session, [series_uid(series)], NOW) == [series_uid(series)]

    def judge(self, series: int, *destinations: str) -> None:
        """Complete it and judge it as not analysed, for some destinations."""
        self.complete(series)
        decision = RouteDecision(None, (), destinations, "for a test", (), "1")
        with self.database.transaction() as session:
            job = jobs.claim(session, JobKind.INFER, "test", 60.0, NOW)
            assert job is not None and job.series_instance_uid == series_uid(series)
            judge_unseen(session, job, decision, NOW)

    def deliver(self, series: int, accepted: bool = True) -> JobState:
        """One DELIVER job of it, answered by its destination."""
        with self.database.transaction() as session:
            job = jobs.claim(session, JobKind.DELIVER, "test", 60.0, NOW)
            assert job is not None and job.series_instance_uid == series_uid(series)
            answers = [
                InstanceDelivery(instance.instance_id, accepted, 0 if accepted else 0xA900, permanent=True)
                for instance in results.outstanding_instances(session, job)
            ]
            return results.save_delivery(session, job, answers, JOBS, NOW)

    def settle(self, series: int, instances: int = 1, days_ago: float = 0.0) -> None:
        """A series of which everything is done: received, judged, delivered to one destination."""
        for number in range(1, instances + 1):
            self.receive(series, number, days_ago)
        self.judge(series, "lesions")
        assert self.deliver(series) is JobState.DONE

    def series(self, number: int) -> SeriesSummary:
        with self.database.reading() as session:
            return archive.find_series(session, series_uid(number))

    def rows(self, table: Any = InstanceRow) -> list[Any]:
        """All rows of a table, by their number."""
        with self.database.reading() as session:
            return list(session.scalars(select(table).order_by(table.id)))

    def row(self, series: int, instance: int = 1) -> InstanceRow:
        (row,) = [row for row in self.rows() if row.sop_instance_uid == instance_uid(series, instance)]
        return row

    def has_bytes(self, series: int, instance: int = 1) -> bool:
        """Whether the bytes that a row names are there."""
        return self.spool.exists(self.row(series, instance).spool_path)

    def files(self, below: str = "") -> list[str]:
        """What lies in the spool, as relative paths."""
        root = self.spool.root
        return sorted(str(path.relative_to(root)) for path in (root / below).rglob("*") if path.is_file())


@pytest.fixture
def make_archive(tmp_path: Path, database: Database) -> Iterator[Callable[[], Archive]]:
    """Factory of archives on one database and one spool, each as in a process of its own."""
    archives: list[Archive] = []

    def make() -> Archive:
        clock = Clock()
        spool = Spool(tmp_path / "spool")
        archives.append(Archive(spool, database, Intake(spool, database, b"k" * 32, now=clock), clock))
        return archives[-1]

    yield make
    for one in archives:
        one.intake.close(timeout_s=1.0)  # the tests that crash it leave rows that nobody writes any more


@pytest.fixture
def node(make_archive: Callable[[], Archive]) -> Archive:
    """An empty archive."""
    return make_archive()


@pytest.fixture(params=["records", "files"])
def kept_as(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Instances are kept as records of segments, or as files of their own, as large ones are."""
    if request.param == "files":
        monkeypatch.setattr("iap_node.spool.new_instance.STAGING_BYTES", 512)
    return str(request.param)
