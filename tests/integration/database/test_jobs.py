"""Leases, back-off, dead letters; workers that compete and workers that are killed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event, select

from iap_node.config import JobsConfig
from iap_node.database import jobs
from iap_node.database.engine import Database
from iap_node.database.tables import JobRow, SeriesRow
from iap_node.errors import LeaseLost
from iap_node.records import Job, JobKind, JobState, SeriesState, StoreOutcome

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CONFIG = JobsConfig(max_attempts=3, backoff_s=10, backoff_max_s=35)
Store = Callable[..., StoreOutcome]
Complete = Callable[..., list[str]]


def seconds(number: float) -> datetime:
    return NOON + timedelta(seconds=number)


@pytest.fixture
def claim(database: Database) -> Callable[..., Job | None]:
    """Claims an INFER job with a lease of a minute, in a transaction of its own."""

    def now_claim(now: datetime = NOON, max_attempts: int = 3, kind: JobKind = JobKind.INFER) -> Job | None:
        with database.transaction() as session:
            return jobs.claim(session, kind, "host:1", 60, now, max_attempts)

    return now_claim


@pytest.fixture
def one_job(store: Store, complete: Complete) -> None:
    """A complete series with its INFER job."""
    store()
    complete()


def job_row(database: Database) -> JobRow:
    with database.reading() as session:
        return session.scalars(select(JobRow)).one()


def series_state(database: Database) -> SeriesState:
    with database.reading() as session:
        return session.scalars(select(SeriesRow.state)).one()


@pytest.mark.usefixtures("one_job")
def test_a_claimed_job_is_nobody_elses_until_its_lease_ends(
    database: Database, claim: Callable[..., Job | None]
) -> None:
    first = claim()
    assert first is not None
    assert (first.kind, first.series_instance_uid, first.revision, first.destination, first.attempts) == (
        JobKind.INFER, "1.2.826.8.1", 1, "", 1,
    )  # fmt: skip
    assert claim(seconds(59)) is None
    second = claim(seconds(60))
    assert second is not None
    assert (second.id, second.attempts) == (first.id, 2)
    assert second.lease_token != first.lease_token


@pytest.mark.usefixtures("one_job")
def test_a_kind_is_claimed_by_its_own_workers_only(claim: Callable[..., Job | None]) -> None:
    assert claim(kind=JobKind.DELIVER) is None
    assert claim(kind=JobKind.INFER) is not None


@pytest.mark.usefixtures("one_job")
def test_a_renewed_lease_lasts_longer(database: Database, claim: Callable[..., Job | None]) -> None:
    job = claim()
    assert job is not None
    with database.transaction() as session:
        assert jobs.renew(session, job, 60, seconds(50))
    assert claim(seconds(109)) is None
    assert claim(seconds(110)) is not None


@pytest.mark.usefixtures("one_job")
def test_who_lost_the_lease_can_neither_renew_nor_finish_nor_fail(
    database: Database, claim: Callable[..., Job | None]
) -> None:
    lost, held = claim(), claim(seconds(61))
    assert lost is not None and held is not None
    with database.transaction() as session:
        assert not jobs.renew(session, lost, 60, seconds(62))
    with pytest.raises(LeaseLost, match=r"1\.2\.826\.8\.1"), database.transaction() as session:
        jobs.finish(session, lost, seconds(62))
    for permanent in (False, True):
        with pytest.raises(LeaseLost), database.transaction() as session:
            jobs.fail(session, lost, "late", permanent, CONFIG, seconds(62))
    assert job_row(database).state is JobState.LEASED
    with database.transaction() as session:
        jobs.finish(session, held, seconds(63))
    assert (job_row(database).state, job_row(database).due_at) == (JobState.DONE, None)
    with pytest.raises(LeaseLost), database.transaction() as session:
        jobs.finish(session, held, seconds(64))


def test_the_oldest_job_comes_first_and_expired_leases_before_it(
    store: Store, complete: Complete, claim: Callable[..., Job | None]
) -> None:
    for number in (3, 1, 2):
        store(series=number, instance=number)
        complete(number, seconds(number))
    first = claim(seconds(5))
    assert first is not None and first.series_instance_uid.endswith(".1")
    again = claim(seconds(65))
    assert again is not None and again.id == first.id
    following = [claim(seconds(66)), claim(seconds(66)), claim(seconds(66))]
    assert [job and job.series_instance_uid[-2:] for job in following] == [".2", ".3", None]


@pytest.mark.usefixtures("one_job")
def test_retries_back_off_and_end_as_a_dead_letter(database: Database, claim: Callable[..., Job | None]) -> None:
    now = NOON
    for wait_s in (10, 20):
        job = claim(now)
        assert job is not None
        with database.transaction() as session:
            state = jobs.fail(session, job, "the disk is away", False, CONFIG, now, np.random.default_rng(1))
        assert state is JobState.READY
        row = job_row(database)
        assert row.due_at is not None
        waited = (row.due_at - now).total_seconds()
        assert wait_s / 2 <= waited <= wait_s
        assert claim(row.due_at - timedelta(microseconds=1)) is None
        now = row.due_at
    last = claim(now)
    assert last is not None and last.attempts == 3
    with database.transaction() as session:
        assert jobs.fail(session, last, "the disk is away", False, CONFIG, now) is JobState.DEAD
        dead = jobs.list_jobs(session, [JobState.DEAD])
    assert [(job.error, job.attempts, job.due_at, job.worker) for job in dead] == [
        ("the disk is away", 3, None, "host:1")
    ]
    assert series_state(database) is SeriesState.FAILED
    assert claim(now + timedelta(days=365)) is None


@pytest.mark.usefixtures("one_job")
def test_back_off_is_spread_and_never_longer_than_its_limit(
    database: Database, claim: Callable[..., Job | None]
) -> None:
    config = JobsConfig(max_attempts=200, backoff_s=10, backoff_max_s=35)
    rng = np.random.default_rng(7)
    waits, now = [], NOON
    for _ in range(12):
        job = claim(now, max_attempts=200)
        assert job is not None
        with database.transaction() as session:
            jobs.fail(session, job, "again", False, config, now, rng)
        due_at = job_row(database).due_at
        assert due_at is not None
        waits.append((due_at - now).total_seconds())
        now = due_at
    assert max(waits) <= 35
    assert min(waits[2:]) >= 17.5
    assert len(set(waits)) == len(waits)


@pytest.mark.usefixtures("one_job")
def test_a_permanent_error_is_a_dead_letter_at_once(database: Database, claim: Callable[..., Job | None]) -> None:
    job = claim()
    assert job is not None
    with database.transaction() as session:
        assert jobs.fail(session, job, "no such thing\0" * 1000, True, CONFIG, NOON) is JobState.DEAD
    row = job_row(database)
    assert row.error is not None and row.error.startswith("no such thingno such") and len(row.error) <= 2000
    assert series_state(database) is SeriesState.FAILED


@pytest.mark.usefixtures("one_job")
def test_a_job_whose_workers_all_die_is_a_dead_letter(database: Database, claim: Callable[..., Job | None]) -> None:
    for attempt in range(3):
        assert claim(seconds(61 * attempt)) is not None
    assert claim(seconds(61 * 2 + 59)) is None
    assert job_row(database).state is JobState.LEASED
    assert claim(seconds(61 * 3)) is None
    row = job_row(database)
    assert (row.state, row.attempts) == (JobState.DEAD, 3)
    assert row.error is not None and "host:1" in row.error
    assert series_state(database) is SeriesState.FAILED


@pytest.mark.usefixtures("one_job")
def test_a_dead_letter_can_be_put_back(database: Database, claim: Callable[..., Job | None]) -> None:
    job = claim()
    assert job is not None
    with database.transaction() as session:
        jobs.fail(session, job, "no such thing", True, CONFIG, NOON)
        assert jobs.retry(session, [job.id + 1], seconds(1)) == 0
    with database.transaction() as session:
        assert jobs.retry(session, [job.id], seconds(1)) == 1
        assert jobs.retry(session, None, seconds(1)) == 0
    assert series_state(database) is SeriesState.COMPLETE
    again = claim(seconds(1))
    assert again is not None and (again.id, again.attempts) == (job.id, 1)


def test_all_dead_letters_can_be_put_back_at_once(
    database: Database, store: Store, complete: Complete, claim: Callable[..., Job | None]
) -> None:
    for number in range(3):
        store(series=number, instance=number)
        complete(number)
    for job in (claim(), claim()):
        assert job is not None
        with database.transaction() as session:
            jobs.fail(session, job, "no such thing", True, CONFIG, NOON)
    with database.transaction() as session:
        assert len(jobs.list_jobs(session, [JobState.DEAD])) == 2
        assert jobs.retry(session, None, seconds(1)) == 2
        assert [job.state for job in jobs.list_jobs(session)] == [JobState.READY] * 3


def test_a_late_instance_takes_the_place_of_a_dead_letter(
    database: Database, store: Store, complete: Complete, claim: Callable[..., Job | None]
) -> None:
    store(instance=1)
    complete()
    job = claim()
    assert job is not None
    with database.transaction() as session:
        jobs.fail(session, job, "no such thing", True, CONFIG, NOON)
    store(instance=2)
    assert series_state(database) is SeriesState.RECEIVING
    with database.transaction() as session:
        assert jobs.retry(session, None, NOON) == 0
        assert [found.state for found in jobs.list_jobs(session)] == [JobState.SUPERSEDED]


def test_no_two_workers_get_the_same_job(
    database: Database,
    process: Callable[[], Database],
    store: Store,
    complete: Complete,
    in_threads: Callable[[int, Callable[[int], None]], None],
) -> None:
    n_jobs = 40
    processes = [database] * 4 + [process() for _ in range(4)]
    for number in range(n_jobs):
        store(series=number, instance=number)
        complete(number)
    claimed: list[int] = []

    def work(number: int) -> None:
        while True:
            with processes[number].transaction() as session:
                job = jobs.claim(session, JobKind.INFER, f"thread:{number}", 60, NOON)
            if job is None:
                return
            claimed.append(job.id)

    in_threads(8, work)
    assert len(claimed) == n_jobs
    assert set(Counter(claimed).values()) == {1}


WORKER = """
import sys
from datetime import datetime
from iap_node.database.engine import Database
from iap_node.database.jobs import claim
from iap_node.records import JobKind

url, now, commit = sys.argv[1], datetime.fromisoformat(sys.argv[2]), sys.argv[3] == "commit"
with Database(url).transaction() as session:
    job = claim(session, JobKind.INFER, "killed", 60, now)
    if not commit:
        print(job.id, flush=True)
        sys.stdin.read()
print(job.id, flush=True)
sys.stdin.read()
"""


def kill_a_worker_that_claimed(database: Database, commit: bool) -> int:
    """Claims in another process and kills it with SIGKILL; the id of the job it had."""
    url = database.engine.url.render_as_string(hide_password=False)
    arguments = [sys.executable, "-c", WORKER, url, NOON.isoformat(), "commit" if commit else "hold"]
    worker = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    job_id = int(worker.stdout.readline())
    worker.kill()
    worker.communicate()
    return job_id


@pytest.mark.usefixtures("one_job")
def test_the_job_of_a_killed_worker_comes_back_when_its_lease_ends(
    database: Database, claim: Callable[..., Job | None]
) -> None:
    job_id = kill_a_worker_that_claimed(database, commit=True)
    assert job_row(database).worker == "killed"
    assert claim(seconds(59)) is None
    job = claim(seconds(61))
    assert job is not None and (job.id, job.attempts) == (job_id, 2)


@pytest.mark.usefixtures("one_job")
def test_a_worker_killed_inside_its_transaction_leaves_the_job_as_it_was(
    database: Database, claim: Callable[..., Job | None]
) -> None:
    job_id = kill_a_worker_that_claimed(database, commit=False)
    with database.transaction() as session:  # waits until the database has noticed
        session.execute(select(JobRow.id).with_for_update())
    job = claim()
    assert job is not None and (job.id, job.attempts) == (job_id, 1)


def test_a_claim_walks_along_an_index(
    database: Database, store: Store, complete: Complete, claim: Callable[..., Job | None]
) -> None:
    for number in range(20):
        store(series=number, instance=number)
        complete(number)
    searches: list[tuple[str, Any]] = []

    def listen(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if "ORDER BY job.due_at" in statement:
            searches.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", listen)
    assert claim() is not None
    event.remove(database.engine, "before_cursor_execute", listen)
    assert len(searches) == 3  # spent leases, leases that ran out, jobs that are ready
    with database.transaction() as session:
        connection = session.connection()
        explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
        if not database.is_sqlite:  # twenty rows are one page, which it would rather read whole
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for statement, parameters in searches:
            plan = " ".join(str(row) for row in connection.exec_driver_sql(explain + statement, parameters))
            assert "ix_job_kind_state_due_at_id" in plan
            assert "B-TREE" not in plan and "Sort" not in plan  # in the index's own order
