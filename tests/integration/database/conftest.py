"""Factories of tiny rows for the database tests."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from iap_node.database import results
from iap_node.database.archive import complete_series
from iap_node.database.engine import Database
from iap_node.database.reception import Arrival, Overtaken, record_instances
from iap_node.records import InstanceHeader, Job, ReceivedInstance, RouteDecision, SeriesHeader, StoreOutcome

receptions = itertools.count()  # no two receptions share a file

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def judge_unseen(session: Session, job: Job, decision: RouteDecision, now: datetime = NOON) -> None:
    """Save that the pixels of a claimed INFER job's series were not looked at, and where it goes nevertheless."""
    results.save_judgement(
        session,
        job,
        header=SeriesHeader(()),
        prediction=None,
        comparisons=(),
        decision=decision,
        problems=(),
        not_analysed_reason="for a test",
        now=now,
    )


@pytest.fixture
def received() -> Callable[..., ReceivedInstance]:
    """Makes a received instance: `received(series=1, instance=2, content="a")`."""

    def make(
        series: int | str = 1,
        instance: int = 1,
        content: str = "a",
        study: int = 1,
        received_at: datetime = NOON,
        **header: object,
    ) -> ReceivedInstance:
        sop_instance_uid = f"1.2.826.9.{instance}"
        return ReceivedInstance(
            header=InstanceHeader(
                sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
                sop_instance_uid=sop_instance_uid,
                study_instance_uid=f"1.2.826.7.{study}",
                series_instance_uid=f"1.2.826.8.{series}",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                **{"patient_id": "P1", "modality": "MR", "instance_number": instance, **header},  # type: ignore[arg-type]
            ),
            spool_path=f"{series}/{sop_instance_uid}-{content}.{next(receptions)}.dcm",
            checksum=f"{content:0>64}",
            size_bytes=1000,
            calling_ae_title="SCANNER",
            source_address="127.0.0.1",
            received_at=received_at,
        )

    return make


@pytest.fixture
def store(database: Database, received: Callable[..., ReceivedInstance]) -> Callable[..., StoreOutcome]:
    """Files an instance made by `received` in a transaction of its own."""

    def file(patient_hash: str = "c0ffee", **instance: object) -> StoreOutcome:
        return record(database, received(**instance), patient_hash)

    return file


def record(database: Database, received: ReceivedInstance, patient_hash: str = "c0ffee") -> StoreOutcome:
    """File one instance, as the registrar does when others file at the same moment."""
    while True:
        with suppress(Overtaken), database.transaction() as session:
            return record_instances(session, [Arrival(received, patient_hash)])[0]


@pytest.fixture
def complete(database: Database) -> Callable[..., list[str]]:
    """Completes a series by its number in `received`."""

    def now_complete(series: int | str = 1, now: datetime = NOON) -> list[str]:
        with database.transaction() as session:
            return complete_series(session, [f"1.2.826.8.{series}"], now)

    return now_complete


@pytest.fixture
def process(database: Database) -> Iterator[Callable[[], Database]]:
    """Opens the database once more, as another process does: nothing but the database itself is shared."""
    opened: list[Database] = []

    def open_again() -> Database:
        opened.append(Database(database.engine.url.render_as_string(hide_password=False)))
        return opened[-1]

    yield open_again
    for one in opened:
        one.dispose()


@pytest.fixture
def wait_until_blocked(database: Database) -> Callable[[], None]:
    """Returns when a transaction on PostgreSQL waits for a row; on SQLite at once: there it waits to begin."""

    def wait() -> None:
        blocked = database.is_sqlite
        while not blocked:  # pytest's timeout ends it
            with database.reading() as session:
                blocked = bool(session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))

    return wait


@pytest.fixture
def in_threads() -> Callable[[int, Callable[[int], None]], None]:
    """Runs `work(0)` .. `work(n - 1)` in threads that begin together; raises what one of them raised."""

    def run(n: int, work: Callable[[int], None]) -> None:
        barrier = threading.Barrier(n)

        def begin(number: int) -> None:
            barrier.wait()
            work(number)

        with ThreadPoolExecutor(n) as pool:
            list(pool.map(begin, range(n)))

    return run
