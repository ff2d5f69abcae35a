"""Leases, errors and the end of a worker, on real databases; a worker process that is killed in mid-job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from iap_node.database import archive, jobs
from iap_node.database.engine import Database, DatabaseUnavailable
from iap_node.errors import LeaseLost, PermanentError, RetriableError
from iap_node.records import Job, JobKind, JobState, SeriesState
from iap_node.worker.loop import run_once, run_worker


@pytest.fixture
def waiting(node, write_instance) -> Any:
    """A node with one INFER job in the queue."""
    node.complete([write_instance()])
    return node


def finish(node: Any) -> Callable[[Job], None]:
    """A handler that ends its job and does nothing else."""

    def handle(job: Job) -> None:
        with node.database.transaction() as session:
            jobs.finish(session, job, datetime.now(UTC))

    return handle


def turn(node: Any, handle: Callable[[Job], None], database: Database | None = None) -> bool:
    return run_once(JobKind.INFER, handle, database or node.database, node.config.jobs, "test:infer")


def raising(error: Exception) -> Callable[[Job], None]:
    def handle(_: Job) -> None:
        raise error

    return handle


def test_job_is_handled_once(waiting) -> None:
    handled: list[Job] = []

    def handle(job: Job) -> None:
        handled.append(job)
        finish(waiting)(job)

    assert turn(waiting, handle)
    assert not turn(waiting, handle)
    assert [(job.series_instance_uid, job.revision, job.attempts) for job in handled] == [("1.2.3.4", 1, 1)]
    assert waiting.job(JobKind.INFER).state is JobState.DONE


def test_permanent_error_makes_a_dead_letter_at_once(waiting) -> None:
    assert turn(waiting, raising(PermanentError("the file is no image; remove it")))
    job = waiting.job(JobKind.INFER)
    assert (job.state, job.attempts, job.error) == (JobState.DEAD, 1, "the file is no image; remove it")
    assert waiting.series().state is SeriesState.FAILED


def test_retriable_error_comes_back_after_its_back_off(make_node, write_instance) -> None:
    node = make_node(jobs={"backoff_s": 100.0, "backoff_max_s": 1000.0})
    node.complete([write_instance()])
    before = datetime.now(UTC)
    assert turn(node, raising(RetriableError("the peer is away")))
    job = node.job(JobKind.INFER)
    assert (job.state, job.error) == (JobState.READY, "the peer is away")
    assert job.due_at >= before + timedelta(seconds=50)
    assert not turn(node, raising(AssertionError("not due yet")))


def test_what_keeps_failing_becomes_a_dead_letter(waiting, wait_for) -> None:
    handle = raising(RetriableError("the peer is away"))

    def dead() -> bool:
        turn(waiting, handle)
        return waiting.job(JobKind.INFER).state is JobState.DEAD

    wait_for(dead, "the dead letter")
    assert waiting.job(JobKind.INFER).attempts == waiting.config.jobs.max_attempts == 3


def test_unexpected_error_is_retried_and_its_text_is_not_kept(waiting, capsys) -> None:
    assert turn(waiting, raising(ValueError("PatientName is Secret^Person")))
    job = waiting.job(JobKind.INFER)
    assert job.state is JobState.READY
    assert job.error.startswith("ValueError in test_loop.py:")
    assert "Secret" not in job.error
    shown = capsys.readouterr()
    assert "unexpected error" in shown.out + shown.err
    assert "Secret" not in shown.out + shown.err


def test_worker_that_lost_its_lease_leaves_the_job_to_the_other(waiting) -> None:
    def handle(job: Job) -> None:
        with waiting.database.transaction() as session:
            later = datetime.now(UTC) + timedelta(hours=1)
            taken = jobs.claim(session, JobKind.INFER, "other", 3600.0, later)
        assert taken is not None
        with waiting.database.transaction() as session, pytest.raises(LeaseLost):
            jobs.finish(session, job, datetime.now(UTC))
        raise RetriableError("and now it fails, too")

    assert turn(waiting, handle)
    job = waiting.job(JobKind.INFER)
    assert (job.state, job.worker, job.error) == (JobState.LEASED, "other", None)


def test_lease_is_renewed_while_the_handler_works(make_node, write_instance, wait_for) -> None:
    node = make_node(jobs={"lease_s": 0.6})
    node.complete([write_instance()])
    seen: set[datetime] = set()

    def handle(job: Job) -> None:
        def renewed_twice() -> bool:
            seen.add(node.job(JobKind.INFER).due_at)
            return len(seen) >= 3

        wait_for(renewed_twice, "two renewals")
        finish(node)(job)

    assert turn(node, handle)
    job = node.job(JobKind.INFER)
    assert (job.state, job.attempts) == (JobState.DONE, 1)


def test_stop_ends_the_worker_after_the_job_in_hand(waiting, write_instance) -> None:
    stop = threading.Event()
    waiting.file([write_instance(SeriesInstanceUID="1.2.3.5")])
    with waiting.database.transaction() as session:
        archive.complete_series(session, ["1.2.3.5"], datetime.now(UTC))

    def handle(job: Job) -> None:
        stop.set()
        finish(waiting)(job)

    run_worker(JobKind.INFER, handle, waiting.database, waiting.config.jobs, "test:infer", stop)
    assert [job.state for job in waiting.jobs(JobKind.INFER)] == [JobState.DONE, JobState.READY]


def test_worker_outlives_a_database_that_does_not_answer(waiting) -> None:
    stop = threading.Event()
    failures = iter([True, True])

    class Interrupted(Database):
        """The real one, away for the first two transactions."""

        def transaction(self):
            if next(failures, False):
                raise DatabaseUnavailable("the database is away")
            return super().transaction()

    def handle(job: Job) -> None:
        stop.set()
        finish(waiting)(job)

    database = Interrupted(waiting.database.engine.url.render_as_string(hide_password=False))
    try:
        run_worker(JobKind.INFER, handle, database, waiting.config.jobs, "test:infer", stop)
    finally:
        database.dispose()
    assert waiting.job(JobKind.INFER).state is JobState.DONE


WORKER = """
import sys, threading
from pathlib import Path
from iap_node.config import JobsConfig
from iap_node.database.engine import Database
from iap_node.records import JobKind
from iap_node.worker.loop import run_worker

def handle(job):
    Path(sys.argv[2]).write_text(job.lease_token)
    threading.Event().wait()

config = JobsConfig(lease_s=float(sys.argv[3]), poll_s=0.01)
run_worker(JobKind.INFER, handle, Database(sys.argv[1]), config, "killed", threading.Event())
"""


def test_job_of_a_killed_worker_is_done_by_another(
    make_node, write_instance, wait_for, tmp_path: Path
) -> None:
    node = make_node(jobs={"lease_s": 1.0})
    node.complete([write_instance()])
    begun = tmp_path / "begun"
    url = node.database.engine.url.render_as_string(hide_password=False)
    process = subprocess.Popen([sys.executable, "-c", WORKER, url, str(begun), "1.0"])
    try:
        wait_for(lambda: begun.exists() and begun.read_text(), "the worker to begin")
        assert not turn(node, finish(node))  # it is leased, and stays so while its worker lives
        renewed_from = node.job(JobKind.INFER).due_at
        wait_for(lambda: node.job(JobKind.INFER).due_at > renewed_from, "a renewal")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_for(lambda: turn(node, finish(node)), "the lease to run out")
    job = node.job(JobKind.INFER)
    assert (job.state, job.attempts, job.worker) == (JobState.DONE, 2, "test:infer")
