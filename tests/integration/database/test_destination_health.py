"""Circuit breaker and concurrency of destinations: which jobs may be claimed, by any worker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, select

from iap_node.config import JobsConfig
from iap_node.database import jobs
from iap_node.database.destination_health import note_answered, note_failed, pauses
from iap_node.database.engine import Database
from iap_node.database.tables import JobRow, SeriesRow
from iap_node.records import Job, JobKind, JobState, StoreOutcome

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONFIG = JobsConfig(breaker_failures=2, breaker_s=60, backoff_max_s=200)
LEASE_S = 30.0


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def queued(database: Database, store: Callable[..., StoreOutcome]) -> Database:
    """Three series that wait for one destination, and one of them for another too."""
    for number in (1, 2, 3):
        store(series=number, instance=number)
    with database.transaction() as session:
        for number, series in enumerate(session.scalars(select(SeriesRow.id).order_by(SeriesRow.id)).all(), 1):
            jobs.open_job(session, JobKind.DELIVER, series, 1, START, "pacs")
            if number == 3:
                jobs.open_job(session, JobKind.DELIVER, series, 1, START, "other")
    return database


def claimed(database: Database, seconds: float, limits: dict[str, int] | None = None) -> Job | None:
    with database.transaction() as session:
        return jobs.claim(session, JobKind.DELIVER, "w", LEASE_S, after(seconds), 6, limits)


def failed(database: Database, seconds: float) -> datetime | None:
    with database.transaction() as session:
        return note_failed(session, "pacs", "it cannot be reached", CONFIG, after(seconds))


def test_no_more_series_are_under_way_than_a_destination_takes(queued: Database) -> None:
    limits = {"pacs": 2, "other": 1}
    found = [claimed(queued, 0, limits) for _ in range(4)]
    assert [None if job is None else job.destination for job in found] == ["pacs", "pacs", "other", None]
    with queued.transaction() as session:
        assert found[0] is not None
        jobs.finish(session, found[0], after(1))
    job = claimed(queued, 1, limits)
    assert job is not None and job.destination == "pacs"


def test_a_dead_workers_job_does_not_count_and_is_claimed_first(queued: Database) -> None:
    first = claimed(queued, 0, {"pacs": 1})
    again = claimed(queued, LEASE_S + 1, {"pacs": 1})
    assert first is not None and again is not None and again.id == first.id


def test_a_destination_that_fails_is_left_alone_by_all_and_then_tried_by_one(queued: Database) -> None:
    assert claimed(queued, 0) is not None
    assert failed(queued, 0) is None
    assert failed(queued, 1) == after(61)
    with queued.reading() as session:
        assert [(one.destination, one.failures, one.error) for one in pauses(session)] == [
            ("pacs", 2, "it cannot be reached")
        ]
    others = [claimed(queued, 2), claimed(queued, 2)]
    assert [None if job is None else job.destination for job in others] == ["other", None]
    assert others[0] is not None
    with queued.transaction() as session:
        jobs.finish(session, others[0], after(3))
    probe = claimed(queued, 62)
    assert probe is not None and probe.destination == "pacs"
    assert claimed(queued, 63) is None  # one tries it for all
    assert failed(queued, 64) == after(64 + 120)
    assert failed(queued, 65) == after(65 + 200)  # no longer than backoff_max_s


def test_a_destination_that_answers_again_is_open_to_all(queued: Database) -> None:
    assert claimed(queued, 0) is not None
    failed(queued, 0)
    failed(queued, 1)
    assert claimed(queued, 62) is not None
    with queued.transaction() as session:
        note_answered(session, "pacs")
    with queued.reading() as session:
        assert pauses(session) == []
    assert claimed(queued, 62) is not None


def test_a_probe_whose_worker_died_is_followed_by_another(queued: Database) -> None:
    assert claimed(queued, 0) is not None
    failed(queued, 0)
    failed(queued, 1)
    assert claimed(queued, 62) is not None
    assert claimed(queued, 62 + LEASE_S + 1) is not None


def test_a_job_that_fails_while_its_destination_is_left_alone_waits_behind_the_others_and_keeps_its_attempts(
    queued: Database,
) -> None:
    def fail(job: Job | None, seconds: float) -> JobState:
        assert job is not None
        failed(queued, seconds)
        with queued.transaction() as session:
            return jobs.fail(session, job, "away", False, CONFIG, after(seconds))

    with queued.transaction() as session:
        session.execute(delete(JobRow).where(JobRow.destination == "other"))
    first = claimed(queued, 0)
    assert first is not None and first.attempts == 1
    assert fail(first, 1) is JobState.READY
    assert fail(claimed(queued, 1), 2) is JobState.READY  # the second in a row: left alone until 62
    probe = claimed(queued, 63)
    assert probe is not None and probe.destination == "pacs" and probe.attempts == 1  # who has not tried yet
    assert fail(probe, 64) is JobState.READY
    for attempt in range(20):  # each pause is 200 s by then
        found = claimed(queued, 1000 * (attempt + 1))
        assert found is not None and found.attempts <= 2
        assert fail(found, 1000 * (attempt + 1)) is JobState.READY
    with queued.transaction() as session:
        patient = session.scalars(select(JobRow).where(JobRow.destination == "pacs")).all()
        assert [job.state for job in patient] == [JobState.READY] * 3
    hours = CONFIG.patience_h * 3600
    states = []
    for attempt in range(3 * CONFIG.max_attempts):
        job = claimed(queued, hours + 1000 * attempt)
        if job is not None:
            states.append(fail(job, hours + 1000 * attempt))
    assert states.count(JobState.DEAD) == 3


def test_workers_that_claim_at_once_do_not_share_the_last_place(
    queued: Database, in_threads: Callable[[int, Callable[[int], None]], None]
) -> None:
    found: list[str] = []

    def work(_: int) -> None:
        job = claimed(queued, 0, {"pacs": 1, "other": 1})
        if job is not None:
            found.append(job.destination)

    in_threads(4, work)
    assert sorted(found).count("pacs") == 1
    assert len(found) == len(set(found))
