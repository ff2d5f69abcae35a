"""The scheduler on a real database."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

from iap_node.database.engine import Database, DatabaseUnavailable
from iap_node.records import JobKind, JobState, SeriesState
from iap_node.scheduler import run_scheduler


def run_until(node, database: Database, condition, what: str, wait_for) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=run_scheduler, args=(node.config, database, stop))
    thread.start()
    try:
        wait_for(condition, what)
    finally:
        stop.set()
        thread.join(timeout=30)
    assert not thread.is_alive()


def test_quiet_series_is_completed_and_gets_its_job(make_node, write_instance, wait_for) -> None:
    node = make_node(series={"quiet_period_s": 0.2})
    node.file([write_instance()])
    received_at = node.series().last_received_at
    run_until(
        node,
        node.database,
        lambda: node.series().state is SeriesState.COMPLETE,
        "the series to be complete",
        wait_for,
    )
    assert node.job(JobKind.INFER).state is JobState.READY
    assert (node.series().completed_at - received_at).total_seconds() >= 0.2


def test_series_that_is_not_quiet_yet_is_left_alone(make_node, write_instance, wait_for) -> None:
    node = make_node(series={"quiet_period_s": 3600.0})
    node.file([write_instance()])
    looks: list[datetime] = []

    class Watched(Database):
        """The real one; notes when it was asked."""

        def transaction(self):
            looks.append(datetime.now(UTC))
            return super().transaction()

    database = Watched(node.database.engine.url.render_as_string(hide_password=False))
    run_until(node, database, lambda: len(looks) >= 2, "two looks", wait_for)
    database.dispose()
    assert node.series().state is SeriesState.RECEIVING
    assert node.jobs(JobKind.INFER) == []


def test_scheduler_outlives_a_database_that_does_not_answer(make_node, write_instance, wait_for) -> None:
    node = make_node(series={"quiet_period_s": 0.0})
    node.file([write_instance()])
    failures = iter([True, True])

    class Interrupted(Database):
        """The real one, away for the first two transactions."""

        def transaction(self):
            if next(failures, False):
                raise DatabaseUnavailable("the database is away")
            return super().transaction()

    database = Interrupted(node.database.engine.url.render_as_string(hide_password=False))
    run_until(node, database, lambda: node.series().state is SeriesState.COMPLETE, "completion", wait_for)
    database.dispose()
    assert next(failures, None) is None
