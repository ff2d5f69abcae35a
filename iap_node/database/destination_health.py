"""Circuit breakers: a destination that fails again and again is left alone for a while, by all workers.

Closed while it answers; open after so many failures in a row, and longer with each further one; half open when that is
over: the first worker that claims a job for it tries it for all. `jobs.claim` asks, the DELIVER handler tells, people
see it in `iap-node status` and `iap-node echo`.

Locks on PostgreSQL: a row here is locked after a job's, and for no longer than a claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from iap_node.config import JobsConfig
from iap_node.database.insertion import insert_if_new
from iap_node.database.tables import DestinationHealthRow, JobRow
from iap_node.records import JobKind, JobState

_MOST_ERROR_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Pause:
    """A destination that is left alone, or that is tried again."""

    destination: str
    failures: int  # in a row
    paused_until: datetime  # over: the next series tries it
    error: str


def pauses(session: Session) -> list[Pause]:
    """Destinations that have failed too often, by name."""
    query = (
        select(DestinationHealthRow)
        .where(DestinationHealthRow.paused_until.is_not(None))
        .order_by(DestinationHealthRow.destination)
    )
    return [
        Pause(row.destination, row.failures, row.paused_until, row.error or "")
        for row in session.scalars(query)
        if row.paused_until is not None
    ]


@dataclass(frozen=True, slots=True)
class Health:
    """How a destination answers as a whole."""

    failures: int  # in a row; 0: it answered the last time
    paused_until: datetime | None  # None: it is not left alone
    failed_at: datetime | None  # the last time
    error: str  # of that time


def health(session: Session) -> dict[str, Health]:
    """Of every destination that anything was ever claimed for, by name."""
    row = DestinationHealthRow
    query = select(row.destination, row.failures, row.paused_until, row.failed_at, row.error)
    return {name: Health(n, until, at, error or "") for name, n, until, at, error in session.execute(query)}


def try_now(session: Session, destination: str, now: datetime) -> int:
    """End the pause of a destination and the waits of what goes there; how many deliveries are due now."""
    waiting = (JobRow.kind == JobKind.DELIVER, JobRow.state == JobState.READY, JobRow.destination == destination)
    due = session.scalars(update(JobRow).where(*waiting).values(due_at=now).returning(JobRow.id)).all()
    ended = update(DestinationHealthRow).where(DestinationHealthRow.destination == destination)
    session.execute(ended.values(paused_until=None))
    return len(due)


def pause_of(session: Session, destination: str, now: datetime) -> datetime | None:
    """Until when a destination is left alone; None: it is not."""
    return session.scalar(
        select(DestinationHealthRow.paused_until).where(
            DestinationHealthRow.destination == destination, DestinationHealthRow.paused_until > now
        )
    )


def closed_to_claims(session: Session, limits: Mapping[str, int], now: datetime) -> set[str]:
    """Destinations for which no job is to be claimed now: paused, or with as many series under way as they take."""
    paused = session.scalars(select(DestinationHealthRow.destination).where(DestinationHealthRow.paused_until > now))
    under_way = session.execute(
        select(JobRow.destination, func.count())
        .where(JobRow.kind == JobKind.DELIVER, JobRow.state == JobState.LEASED, JobRow.due_at > now)
        .group_by(JobRow.destination)
    )
    return {*paused, *(name for name, number in under_way if name in limits and number >= limits[name])}


def admit(session: Session, destination: str, limits: Mapping[str, int], lease_s: float, now: datetime) -> bool:
    """Whether one more job for a destination may be claimed; to be asked before it is leased, in one transaction.

    Others that ask wait until this transaction is over, so that no two take the last place. Where a pause has run out,
    the job is the one that tries, and the pause goes on for the others until the outcome is told or its lease ends.
    """
    insert_if_new(
        session,
        DestinationHealthRow,
        (DestinationHealthRow.destination,),
        destination=destination,
        failures=0,
        paused_until=None,
        error=None,
        failed_at=None,
    )
    which = DestinationHealthRow.destination == destination
    paused_until = session.execute(
        select(DestinationHealthRow.paused_until).where(which).with_for_update()
    ).scalar_one()
    if destination in closed_to_claims(session, limits, now):
        return False
    if paused_until is not None:
        session.execute(update(DestinationHealthRow).where(which).values(paused_until=now + timedelta(seconds=lease_s)))
    return True


def note_answered(session: Session, destination: str) -> None:
    """The destination took something, or spoke of each instance: it is well."""
    session.execute(
        update(DestinationHealthRow)
        .where(DestinationHealthRow.destination == destination)
        .values(failures=0, paused_until=None)
    )


def note_failed(session: Session, destination: str, error: str, config: JobsConfig, now: datetime) -> datetime | None:
    """The destination failed as a whole; until when it is left alone, None when it is not."""
    failures = session.scalar(
        update(DestinationHealthRow)
        .where(DestinationHealthRow.destination == destination)
        .values(
            failures=DestinationHealthRow.failures + 1,
            error=error[:_MOST_ERROR_CHARACTERS],
            failed_at=now,
        )
        .returning(DestinationHealthRow.failures)
    )
    if failures is None or failures < config.breaker_failures:
        return None
    pause_s = min(config.breaker_s * 2.0 ** min(failures - config.breaker_failures, 64), config.backoff_max_s)
    until = now + timedelta(seconds=pause_s)
    session.execute(
        update(DestinationHealthRow).where(DestinationHealthRow.destination == destination).values(paused_until=until)
    )
    return until
