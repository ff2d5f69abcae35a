"""Retraining runs: asked for, running, over. One at a time: an index of the table says so, on both databases.

Asked for by the console, `iap-node retrain` and the scheduler; run by `training.retrain`, a process of its own, which
tells how far it is. A run whose process is gone is interrupted by whoever looks next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from iap_node.database.tables import RetrainingRow, RetrainingState
from iap_node.errors import PermanentError

HEARTBEAT_S = 5.0  # how often a run's process gives a sign of life
SILENT_S = 120.0  # and is gone when it gave none for so long
SCHEDULE = "schedule"  # who asks for runs by the clock

_MOST_MESSAGE_CHARACTERS = 2000


class RetrainingUnderWay(PermanentError):
    """A run is requested or running; a second one must wait until it is over."""


class NotRunning(PermanentError):
    """The run is over or belongs to another process: whatever it found out is not wanted any more."""


@dataclass(frozen=True, slots=True)
class RetrainingRun:
    """One run, from the request to its end."""

    id: int
    state: RetrainingState
    requested_by: str
    requested_at: datetime
    started_at: datetime | None
    heartbeat_at: datetime | None
    ended_at: datetime | None
    stage: str
    progress: float  # 0 to 1, over all stages
    message: str
    champion_model_id: str | None  # when it began
    candidate_model_id: str | None
    host: str | None
    pid: int | None
    work: str | None = None  # folder below `NodeConfig.retraining_dir`
    data_until: datetime | None = None  # series that were complete by then were looked at
    cancelled_by: str | None = None
    report: dict[str, Any] | None = None  # data set, guards, gates, as far as it came

    @property
    def under_way(self) -> bool:
        """Whether it is still to be waited for."""
        return self.ended_at is None


def request_run(session: Session, requested_by: str, now: datetime, work: str | None = None) -> RetrainingRun:
    """File a request.

    Parameters
    ----------
    work
        Of the interrupted run that it goes on with.

    Raises
    ------
    RetrainingUnderWay
        Another run is requested or running. The transaction is still usable.
    """
    row = RetrainingRow(
        state=RetrainingState.REQUESTED,
        under_way=True,
        requested_by=requested_by,
        requested_at=now,
        stage="requested",
        progress=0.0,
        message="",
        work=work,
    )
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError as error:
        current = current_run(session)
        what = "a retraining" if current is None else f"retraining {current.id}"
        raise RetrainingUnderWay(f"{what} is under way; wait until it is over") from error
    return _run(row)


def begin_run(
    session: Session,
    run_id: int,
    champion_model_id: str | None,
    host: str,
    pid: int,
    now: datetime,
    work: str | None = None,
) -> RetrainingRun:
    """Take a requested run: from now on it is this process's.

    Parameters
    ----------
    work
        The folder that it works in, unless the request names one to go on with.

    Raises
    ------
    NotRunning
        Another process has it, or it is over.
    """
    row = session.scalar(
        update(RetrainingRow)
        .where(RetrainingRow.id == run_id, RetrainingRow.state == RetrainingState.REQUESTED)
        .values(
            state=RetrainingState.RUNNING,
            started_at=now,
            heartbeat_at=now,
            champion_model_id=champion_model_id,
            host=host,
            pid=pid,
            work=func.coalesce(RetrainingRow.work, work),
        )
        .returning(RetrainingRow)
        .execution_options(populate_existing=True)
    )
    if row is None:
        raise NotRunning(f"retraining {run_id} does not wait to be begun")
    return _run(row)


def tell_progress(session: Session, run_id: int, stage: str, progress: float, message: str, now: datetime) -> None:
    """Say how far a run is; also its sign of life.

    Raises
    ------
    NotRunning
        It was ended from outside: the process stops, and registers nothing.
    """
    told = session.scalar(
        update(RetrainingRow)
        .where(RetrainingRow.id == run_id, RetrainingRow.state == RetrainingState.RUNNING)
        .values(
            stage=stage,
            progress=min(max(progress, 0.0), 1.0),
            message=message[:_MOST_MESSAGE_CHARACTERS],
            heartbeat_at=now,
        )
        .returning(RetrainingRow.id)
    )
    if told is None:
        raise NotRunning(f"retraining {run_id} is not running any more")


def end_run(
    session: Session,
    run_id: int,
    state: RetrainingState,
    message: str,
    now: datetime,
    candidate_model_id: str | None = None,
) -> RetrainingRun:
    """End a run that is requested or running.

    Parameters
    ----------
    state
        SUCCEEDED, REFUSED, FAILED or INTERRUPTED.

    Raises
    ------
    NotRunning
        It is over already.
    """
    if state in (RetrainingState.REQUESTED, RetrainingState.RUNNING):
        raise ValueError(f"a run does not end as {state}")
    values = {"progress": 1.0} if state is RetrainingState.SUCCEEDED else {}
    row = session.scalar(
        update(RetrainingRow)
        .where(RetrainingRow.id == run_id, RetrainingRow.under_way)
        .values(
            state=state,
            under_way=False,
            ended_at=now,
            message=message[:_MOST_MESSAGE_CHARACTERS],
            candidate_model_id=candidate_model_id,
            **values,
        )
        .returning(RetrainingRow)
    )
    if row is None:
        raise NotRunning(f"retraining {run_id} is over")
    return _run(row)


def beat(session: Session, run_id: int, now: datetime) -> RetrainingRun:
    """A sign of life of the process that runs it; what stands in the row, so that it sees who cancels it.

    Raises
    ------
    NotRunning
        See `tell_progress`.
    """
    row = session.scalar(
        update(RetrainingRow)
        .where(RetrainingRow.id == run_id, RetrainingRow.state == RetrainingState.RUNNING)
        .values(heartbeat_at=now)
        .returning(RetrainingRow)
        .execution_options(populate_existing=True)
    )
    if row is None:
        raise NotRunning(f"retraining {run_id} is not running any more")
    return _run(row)


def report_run(session: Session, run_id: int, report: Mapping[str, Any], data_until: datetime | None = None) -> None:
    """Keep what a run found out so far; parts that were told before and are not named stay.

    Parameters
    ----------
    data_until
        Series that were complete by then are looked at: the next run counts the new ones from there.
    """
    row = session.get_one(RetrainingRow, run_id, populate_existing=True)
    row.report = {**(row.report or {}), **report}
    if data_until is not None:
        row.data_until = data_until


def cancel_run(session: Session, who: str, now: datetime) -> RetrainingRun:
    """Cancel the run that is requested or running: one that waits is over at once, one that runs ends itself.

    Raises
    ------
    NotRunning
        None is.
    """
    run = current_run(session)
    if run is None:
        raise NotRunning("no retraining is requested or running")
    row = session.scalar(
        update(RetrainingRow)
        .where(RetrainingRow.id == run.id, RetrainingRow.under_way)
        .values(cancelled_by=who)
        .returning(RetrainingRow)
        .execution_options(populate_existing=True)
    )
    if row is None:
        raise NotRunning(f"retraining {run.id} is over")
    if row.state is RetrainingState.REQUESTED:
        return end_run(session, run.id, RetrainingState.INTERRUPTED, f"cancelled by {who} before it began", now)
    return _run(row)


def newest_data_until(session: Session) -> datetime | None:
    """Up to when series were looked at by runs that came to a judgement of them; None: there was no such run."""
    judged = (RetrainingState.SUCCEEDED, RetrainingState.REFUSED)
    return session.scalar(select(func.max(RetrainingRow.data_until)).where(RetrainingRow.state.in_(judged)))


def newest_request_by(session: Session, requested_by: str) -> datetime | None:
    """When somebody, or the clock, last asked for a run."""
    return session.scalar(
        select(func.max(RetrainingRow.requested_at)).where(RetrainingRow.requested_by == requested_by)
    )


def count_runs_of(session: Session, work: str) -> int:
    """How many runs worked in a folder: the first, and those that went on after it."""
    return session.scalar(select(func.count()).where(RetrainingRow.work == work)) or 0


def works_in_use(session: Session) -> set[str]:
    """Folders that a run under way works in, or that the newest run may be resumed in."""
    newest = select(func.max(RetrainingRow.id)).scalar_subquery()
    resumable = and_(RetrainingRow.id == newest, RetrainingRow.state == RetrainingState.INTERRUPTED)
    query = select(RetrainingRow.work).where(RetrainingRow.work.is_not(None), or_(RetrainingRow.under_way, resumable))
    return {work for work in session.scalars(query) if work is not None}


def current_run(session: Session) -> RetrainingRun | None:
    """The run that is requested or running."""
    return _one(session, select(RetrainingRow).where(RetrainingRow.under_way))


def retraining_run(session: Session, run_id: int) -> RetrainingRun | None:
    """One run."""
    return _one(session, select(RetrainingRow).where(RetrainingRow.id == run_id))


def list_runs(session: Session, limit: int = 20, before: int | None = None) -> list[RetrainingRun]:
    """Runs, the newest first; with `before` only those with a smaller id."""
    query = select(RetrainingRow).order_by(RetrainingRow.id.desc()).limit(limit)
    if before is not None:
        query = query.where(RetrainingRow.id < before)
    return [_run(row) for row in session.scalars(query.execution_options(populate_existing=True))]


def _one(session: Session, query: Select[RetrainingRow]) -> RetrainingRun | None:
    row = session.scalar(query.execution_options(populate_existing=True))
    return None if row is None else _run(row)


def _run(row: RetrainingRow) -> RetrainingRun:
    return RetrainingRun(
        id=row.id,
        state=row.state,
        requested_by=row.requested_by,
        requested_at=row.requested_at,
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        ended_at=row.ended_at,
        stage=row.stage,
        progress=row.progress,
        message=row.message,
        champion_model_id=row.champion_model_id,
        candidate_model_id=row.candidate_model_id,
        host=row.host,
        pid=row.pid,
        work=row.work,
        data_until=row.data_until,
        cancelled_by=row.cancelled_by,
        report=row.report,
    )
