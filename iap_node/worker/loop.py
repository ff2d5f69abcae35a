"""The life of a worker: claim a job, run its handler under a lease, turn errors into retries or dead letters.

One worker per process, any number of processes, on any machine that sees the database. A worker that dies
leaves its leases behind, and the jobs go to others when those run out. Handlers write their
results and the end of their job in one transaction, fenced by the lease, so that a job that runs twice
has its effects once. Called by the commands `infer` and `deliver`.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

import structlog

from iap_node.config import JobsConfig
from iap_node.database import jobs
from iap_node.database.engine import Database
from iap_node.errors import LeaseLost, NodeError, PermanentError, RetriableError
from iap_node.records import Job, JobKind, JobState

LONGEST_WAIT_S = 30.0  # between looks at a database that does not answer

Handler = Callable[[Job], None]
Clock = Callable[[], datetime]

log = structlog.get_logger("worker")


@runtime_checkable
class FollowsUp(Protocol):
    """A handler that has more to do when a job is over: nobody waits for it, and no lease covers it."""

    def after(self, job: Job) -> None:
        """Do it; raises nothing."""


def utc_now() -> datetime:
    """What the clock says."""
    return datetime.now(UTC)


def run_worker(
    kind: JobKind,
    handle: Handler,
    database: Database,
    config: JobsConfig,
    worker: str,
    stop: threading.Event,
    limits: Mapping[str, int] | None = None,
    at_once: int = 1,
) -> None:
    """Work on jobs of one kind until `stop` is set; the jobs in hand are finished first.

    Parameters
    ----------
    handle
        Does the work and ends the job (`results.save_...`); what it raises decides what becomes of the job. With
        several jobs at once it is called by several threads.
    worker
        Name of this process for people: host, process, role.
    limits
        How many jobs may be under way at once, by destination, over all workers.
    at_once
        How many jobs this worker has in hand at most. Those that wait for a peer keep the others from nothing.
    """
    log.info("worker starts", kind=kind, worker=worker, at_once=at_once)
    failures = 0
    in_hand: set[Future[None]] = set()
    with ThreadPoolExecutor(at_once, thread_name_prefix=str(kind)) as threads:
        while not stop.is_set():
            for over in [one for one in in_hand if one.done()]:
                in_hand.remove(over)
                over.result()  # raises what a job must not raise: that ends this process, and another begins
            if len(in_hand) == at_once:
                wait(in_hand, config.poll_s, FIRST_COMPLETED)
                continue
            try:
                job = _claim(kind, database, config, worker, limits, utc_now)
                failures = 0
            except RetriableError as error:
                failures += 1
                job = None
                log.warning("no jobs can be had now", kind=kind, error=str(error))
            if job is not None:
                in_hand.add(threads.submit(_work, job, handle, database, config, utc_now))
            elif in_hand and not failures:
                wait(in_hand, config.poll_s, FIRST_COMPLETED)  # its end may let the next one of a destination begin
            else:
                stop.wait(min(config.poll_s * 2.0 ** min(failures, 16), max(config.poll_s, LONGEST_WAIT_S)))
    log.info("worker stops", kind=kind, worker=worker)


def run_once(
    kind: JobKind,
    handle: Handler,
    database: Database,
    config: JobsConfig,
    worker: str,
    limits: Mapping[str, int] | None = None,
    clock: Clock = utc_now,
) -> bool:
    """Claim one job and work on it; whether there was one.

    Raises
    ------
    RetriableError
        The database did not answer when asked for a job.
    """
    job = _claim(kind, database, config, worker, limits, clock)
    if job is not None:
        _work(job, handle, database, config, clock)
    return job is not None


def _claim(
    kind: JobKind,
    database: Database,
    config: JobsConfig,
    worker: str,
    limits: Mapping[str, int] | None,
    clock: Clock,
) -> Job | None:
    with database.transaction() as session:
        return jobs.claim(session, kind, worker, config.lease_s, clock(), config.max_attempts, limits)


def _work(job: Job, handle: Handler, database: Database, config: JobsConfig, clock: Clock) -> None:
    facts = {
        "kind": job.kind,
        "job": job.id,
        "series_instance_uid": job.series_instance_uid,
        "revision": job.revision,
        "attempt": job.attempts,
    }
    if job.destination:
        facts["destination"] = job.destination
    with structlog.contextvars.bound_contextvars(**facts):
        try:
            with _lease_renewed(job, database, config, clock):
                handle(job)
        except LeaseLost as error:
            log.warning("results dropped", error=str(error))
        except PermanentError as error:
            _fail(job, str(error), True, database, config, clock)
        except NodeError as error:
            _fail(job, str(error), False, database, config, clock)
        except Exception as error:  # noqa: BLE001 - the edge: whatever a handler raises must not end the worker
            log.error("unexpected error", error=type(error).__name__, frames=_frames(error))
            _fail(job, _without_values(error), False, database, config, clock)
        else:
            log.info("job over")
            if isinstance(handle, FollowsUp):
                handle.after(job)


def _fail(
    job: Job, error: str, permanent: bool, database: Database, config: JobsConfig, clock: Clock
) -> None:
    try:
        with database.transaction() as session:
            state = jobs.fail(session, job, error, permanent, config, clock())
    except LeaseLost as lost:
        log.warning("failure dropped", failure=error, error=str(lost))
    except RetriableError as unavailable:
        log.warning("failure not recorded: the job comes back with its lease", error=str(unavailable))
    else:
        report = log.error if state is JobState.DEAD else log.warning
        report("job failed", error=error, state=state, permanent=permanent)


@contextmanager
def _lease_renewed(job: Job, database: Database, config: JobsConfig, clock: Clock) -> Iterator[None]:
    """Renew the lease every third of its length while the block runs."""
    over = threading.Event()
    context = structlog.contextvars.get_contextvars()

    def renew() -> None:
        structlog.contextvars.bind_contextvars(**context)
        while not over.wait(config.lease_s / 3.0):
            try:
                with database.transaction() as session:
                    held = jobs.renew(session, job, config.lease_s, clock())
            except RetriableError as error:
                log.warning("lease not renewed; trying again", error=str(error))
                continue
            if not held:
                if not over.is_set():  # else the handler has just ended the job
                    log.warning("lease lost; the results of this attempt will be dropped")
                return

    thread = threading.Thread(target=renew, name=f"lease-{job.id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _without_values(error: Exception) -> str:
    """An unexpected error for the job row: what and where, but not its text, which may quote a header."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    why = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    return (
        f"{type(error).__name__}{why} in {Path(frame.filename).name}:{frame.lineno}, unexpected; see the log"
    )


def _frames(error: Exception) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
