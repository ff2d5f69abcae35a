"""The queue: jobs are leased, come back when their worker dies, back off, and end as done or as dead letters.

`claim`, `renew`, `finish` and `fail` are called by the worker's loop, `list_jobs` and `retry` by the command
line. What a job results in is written by `results`, in the transaction that ends the job.

Locks on PostgreSQL: whoever locks a series and its jobs locks the series first. SQLite has one writer at a
time.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.orm import Session

from iap_node.config import JobsConfig
from iap_node.database.destination_health import admit, closed_to_claims, pause_of
from iap_node.database.holds import held_by_person
from iap_node.database.insertion import insert_if_new
from iap_node.database.tables import DeliveryRow, DeliveryState, JobRow, SeriesRow, StudyRow
from iap_node.errors import LeaseLost
from iap_node.records import Job, JobKind, JobState, SeriesState

_MOST_ERROR_CHARACTERS = 2000
_DEFAULTS = JobsConfig()

_DELIVERY_STATE = {
    JobState.READY: DeliveryState.PENDING,
    JobState.LEASED: DeliveryState.PENDING,
    JobState.DONE: DeliveryState.DELIVERED,
    JobState.DEAD: DeliveryState.FAILED,
    JobState.SUPERSEDED: DeliveryState.SUPERSEDED,
}


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A job as people see it."""

    id: int
    kind: JobKind
    state: JobState
    series_id: int
    series_instance_uid: str
    study_instance_uid: str
    revision: int
    destination: str  # "" for INFER
    attempts: int
    due_at: datetime | None  # READY: not before; LEASED: end of the lease; None: over
    worker: str | None  # that has it, or had it last
    error: str | None  # of the last failed attempt
    created_at: datetime
    updated_at: datetime
    held: bool = False  # a DELIVER job of a series that a person holds: it waits


def open_job(
    session: Session, kind: JobKind, series_id: int, revision: int, now: datetime, destination: str = ""
) -> None:
    """Put a job into the queue; nothing happens where it is there already."""
    insert_if_new(
        session,
        JobRow,
        (JobRow.series_id, JobRow.kind, JobRow.revision, JobRow.destination),
        kind=kind,
        state=JobState.READY,
        series_id=series_id,
        revision=revision,
        destination=destination,
        attempts=0,
        due_at=now,
        created_at=now,
        updated_at=now,
    )


def claim(
    session: Session,
    kind: JobKind,
    worker: str,
    lease_s: float,
    now: datetime,
    max_attempts: int = _DEFAULTS.max_attempts,
    limits: Mapping[str, int] | None = None,
) -> Job | None:
    """Lease the job that is due longest, those first whose lease ran out; None when none is due.

    No two workers get the same job. A job whose worker died `max_attempts` times becomes a dead letter here. DELIVER
    jobs of a series that a person holds wait.

    Parameters
    ----------
    worker
        Who claims, for people: host and process.
    lease_s
        After this time without `renew` the job goes to somebody else.
    max_attempts
        `jobs.max_attempts` of the configuration.
    limits
        How many DELIVER jobs may be under way at once, by destination; None or no entry: any number. Jobs for
        destinations that are paused (`destination_health`) wait too.
    """
    _bury_one(session, kind, max_attempts, now)
    closed = closed_to_claims(session, limits or {}, now) if kind is JobKind.DELIVER else set()
    while (found := _due(session, kind, max_attempts, closed, now)) is not None:
        job_id, destination = found
        if kind is not JobKind.DELIVER or admit(session, destination, limits or {}, lease_s, now):
            return _lease(session, job_id, worker, now + timedelta(seconds=lease_s), now)
        closed.add(destination)
    return None


def _due(
    session: Session, kind: JobKind, max_attempts: int, closed: Collection[str], now: datetime
) -> tuple[int, str] | None:
    """The job that is next, and its destination; nobody else gets it until this transaction ends."""
    for state in (JobState.LEASED, JobState.READY):
        due = (
            select(JobRow.id, JobRow.destination)
            .where(JobRow.kind == kind, JobRow.state == state, JobRow.due_at <= now)
            .order_by(JobRow.due_at, JobRow.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        if state is JobState.LEASED:
            due = due.where(JobRow.attempts < max_attempts)
        if kind is JobKind.DELIVER:
            due = due.where(~held_by_person(JobRow.series_id))
        if closed:
            due = due.where(JobRow.destination.not_in(closed))
        found = session.execute(due).one_or_none()
        if found is not None:
            return found.id, found.destination
    return None


def renew(session: Session, job: Job, lease_s: float, now: datetime) -> bool:
    """Extend a lease; False when the job is no longer this worker's, which should stop then."""
    until = now + timedelta(seconds=lease_s)
    extend = update(JobRow).where(*_held(job)).values(due_at=until, updated_at=now)
    return session.scalar(extend.returning(JobRow.id)) is not None


def finish(session: Session, job: Job, now: datetime) -> None:
    """End a job as done.

    Raises
    ------
    LeaseLost
        The job went to somebody else, or a later revision took its place; roll back what belongs to it.
    """
    end_leased(session, job, JobState.DONE, None, now)


def fail(
    session: Session,
    job: Job,
    error: str,
    permanent: bool,
    config: JobsConfig,
    now: datetime,
    rng: np.random.Generator | None = None,
) -> JobState:
    """Put a job back with back-off, or make it a dead letter; its new state.

    The k-th attempt is followed by a wait of `backoff_s` times 2^(k-1), at most `backoff_max_s`, shortened by
    up to a half at random so that jobs that failed together do not come back together. An INFER job that dies
    fails its series.

    Where the destination is left alone since (`destination_health`), the job waits until it is tried again, and lets
    those try first that have waited longer. That counts as no attempt until the job is `patience_h` old: an outage
    makes no dead letters, and one series that a destination cannot take does not keep the others from it.

    Parameters
    ----------
    error
        For people, without patient identity. It is kept with the job.
    permanent
        Trying again cannot help: a dead letter at once.
    rng
        Of the random part; one seeded by the operating system when None.

    Raises
    ------
    LeaseLost
        See `finish`.
    """
    lock_series(session, job.series_id)
    paused_until, waits = None, False
    if job.kind is JobKind.DELIVER:
        paused_until = pause_of(session, job.destination, now)
        created_at = session.scalars(select(JobRow.created_at).where(JobRow.id == job.id)).one()
        waits = paused_until is not None and now < created_at + timedelta(hours=config.patience_h)
    if permanent or (job.attempts >= config.max_attempts and not waits):
        end_leased(session, job, JobState.DEAD, error, now)
        return JobState.DEAD
    longest_s = min(config.backoff_s * 2.0 ** min(job.attempts - 1, 64), config.backoff_max_s)
    due_at = now + timedelta(seconds=longest_s * (rng or np.random.default_rng()).uniform(0.5, 1.0))
    put_back = (
        update(JobRow)
        .where(*_held(job))
        .values(
            state=JobState.READY,
            attempts=JobRow.attempts - int(waits),
            due_at=due_at if paused_until is None else max(due_at, paused_until),
            lease_token=None,
            error=error[:_MOST_ERROR_CHARACTERS],
            updated_at=now,
        )
    )
    if session.scalar(put_back.returning(JobRow.id)) is None:
        raise _lease_lost(job)
    return JobState.READY


def end_leased(session: Session, job: Job, state: JobState, error: str | None, now: datetime) -> None:
    """End a leased job as `state`; series and delivery follow. For `finish`, `fail` and `results`.

    Raises
    ------
    LeaseLost
        See `finish`.
    """
    if not _end(session, _held(job), state, error, now):
        raise _lease_lost(job)


def supersede(session: Session, series_id: int, kind: JobKind, before_revision: int, now: datetime) -> None:
    """End the jobs of one kind of a series' earlier revisions: a later one takes their place.

    INFER jobs end even while a worker has them: its results would describe a series that is no longer so. A
    DELIVER job that a worker has goes on, and what it delivers counts.
    """
    open_states = [JobState.READY, JobState.DEAD] + ([JobState.LEASED] if kind is JobKind.INFER else [])
    which = (
        JobRow.series_id == series_id,
        JobRow.kind == kind,
        JobRow.revision < before_revision,
        JobRow.state.in_(open_states),
    )
    _end(session, which, JobState.SUPERSEDED, None, now)


def list_jobs(
    session: Session,
    states: Sequence[JobState] | None = None,
    limit: int = 100,
    before: int | None = None,
    destination: str | None = None,
) -> list[JobSummary]:
    """Jobs in any of `states` and for a destination (None: all), newest first.

    `before` is the last one of the page before.
    """
    query = (
        select(
            JobRow.id,
            JobRow.kind,
            JobRow.state,
            JobRow.series_id,
            SeriesRow.series_instance_uid,
            StudyRow.study_instance_uid,
            JobRow.revision,
            JobRow.destination,
            JobRow.attempts,
            JobRow.due_at,
            JobRow.worker,
            JobRow.error,
            JobRow.created_at,
            JobRow.updated_at,
            and_(JobRow.kind == JobKind.DELIVER, held_by_person(JobRow.series_id)).label("held"),
        )
        .join(SeriesRow, SeriesRow.id == JobRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .order_by(JobRow.id.desc())
        .limit(limit)
    )
    if states is not None:
        query = query.where(JobRow.state.in_(states))
    if before is not None:
        query = query.where(JobRow.id < before)
    if destination is not None:
        query = query.where(JobRow.destination == destination)
    return [JobSummary(**{**row._asdict(), "held": bool(row.held)}) for row in session.execute(query)]


def dead_letters_of(session: Session, destination: str) -> list[int]:
    """The dead letters of a destination, by their numbers."""
    query = select(JobRow.id).where(
        JobRow.state == JobState.DEAD, JobRow.kind == JobKind.DELIVER, JobRow.destination == destination
    )
    return list(session.scalars(query.order_by(JobRow.id)))


def retry(session: Session, job_ids: Sequence[int] | None, now: datetime) -> int:
    """Put dead letters back into the queue with a fresh count of attempts; how many there were.

    Parameters
    ----------
    job_ids
        Which ones; those that are no dead letters are passed over. None: all.
    """
    dead = select(JobRow.id, JobRow.series_id).where(JobRow.state == JobState.DEAD).order_by(JobRow.series_id)
    if job_ids is not None:
        dead = dead.where(JobRow.id.in_(job_ids))
    n_retried = 0
    for job_id, series_id in session.execute(dead).all():
        lock_series(session, series_id)
        revived = session.execute(
            update(JobRow)
            .where(JobRow.id == job_id, JobRow.state == JobState.DEAD)
            .values(state=JobState.READY, attempts=0, due_at=now, updated_at=now)
            .returning(JobRow.kind, JobRow.series_id, JobRow.revision, JobRow.destination)
        ).one_or_none()
        if revived is not None:
            _reflect(session, *revived, JobState.READY, now)
            n_retried += 1
    return n_retried


def lock_series(session: Session, series_id: int) -> None:
    """Keep others from changing a series until this transaction ends (SQLite: it is alone anyway)."""
    session.execute(select(SeriesRow.id).where(SeriesRow.id == series_id).with_for_update())


def _held(job: Job) -> tuple[ColumnElement[bool], ...]:
    return (JobRow.id == job.id, JobRow.state == JobState.LEASED, JobRow.lease_token == job.lease_token)


def _lease_lost(job: Job) -> LeaseLost:
    return LeaseLost(
        f"{job.kind} job {job.id} of series {job.series_instance_uid}, revision {job.revision}: lease lost, "
        "results dropped. If this repeats, raise jobs.lease_s"
    )


def _lease(session: Session, job_id: int, worker: str, until: datetime, now: datetime) -> Job:
    token = secrets.token_hex(16)
    leased = session.execute(
        update(JobRow)
        .where(JobRow.id == job_id)
        .values(
            state=JobState.LEASED,
            attempts=JobRow.attempts + 1,
            due_at=until,
            lease_token=token,
            worker=worker,
            updated_at=now,
        )
        .returning(JobRow.kind, JobRow.series_id, JobRow.revision, JobRow.destination, JobRow.attempts)
    ).one()
    series_instance_uid = session.scalar(
        select(SeriesRow.series_instance_uid).where(SeriesRow.id == leased.series_id)
    )
    assert series_instance_uid is not None  # a foreign key
    return Job(
        id=job_id,
        kind=leased.kind,
        series_id=leased.series_id,
        series_instance_uid=series_instance_uid,
        revision=leased.revision,
        destination=leased.destination,
        attempts=leased.attempts,
        lease_token=token,
    )


def _bury_one(session: Session, kind: JobKind, max_attempts: int, now: datetime) -> None:
    """Make a dead letter of one job whose last lease ran out; of one only, so that one series is locked."""
    spent = (
        JobRow.kind == kind,
        JobRow.state == JobState.LEASED,
        JobRow.due_at <= now,
        JobRow.attempts >= max_attempts,
    )
    found = session.execute(
        select(JobRow.id, JobRow.series_id, JobRow.worker, JobRow.attempts)
        .where(*spent)
        .order_by(JobRow.due_at, JobRow.id)
        .limit(1)
    ).one_or_none()
    if found is None:
        return
    lock_series(session, found.series_id)
    error = f"worker {found.worker} died, hung or lost the database in attempt {found.attempts}, the last one"
    _end(session, (JobRow.id == found.id, *spent), JobState.DEAD, error, now)


def _end(
    session: Session, which: Sequence[ColumnElement[bool]], state: JobState, error: str | None, now: datetime
) -> bool:
    """End the jobs that match; whether there were any."""
    values: dict[str, object] = {"state": state, "due_at": None, "lease_token": None, "updated_at": now}
    if error is not None:
        values["error"] = error[:_MOST_ERROR_CHARACTERS]
    ended = session.execute(
        update(JobRow)
        .where(*which)
        .values(values)
        .returning(JobRow.kind, JobRow.series_id, JobRow.revision, JobRow.destination)
    ).all()
    for job in ended:
        _reflect(session, *job, state, now)
    return bool(ended)


def _reflect(
    session: Session,
    kind: JobKind,
    series_id: int,
    revision: int,
    destination: str,
    state: JobState,
    now: datetime,
) -> None:
    """Let the series or the delivery show what became of its job."""
    if kind is JobKind.DELIVER:
        session.execute(
            update(DeliveryRow)
            .where(
                DeliveryRow.series_id == series_id,
                DeliveryRow.revision == revision,
                DeliveryRow.destination == destination,
            )
            .values(state=_DELIVERY_STATE[state], updated_at=now)
        )
        return
    shown = {JobState.DEAD: SeriesState.FAILED, JobState.READY: SeriesState.COMPLETE}.get(state)
    if shown is not None:  # done and superseded: `results` and `archive` say what the series is now
        session.execute(
            update(SeriesRow)
            .where(SeriesRow.id == series_id, SeriesRow.revision == revision)
            .values(state=shown)
        )
