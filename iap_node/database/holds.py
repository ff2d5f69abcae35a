"""Holds that people put on series: rows, and the condition that keeps a series' jobs from being claimed.

Called by `routes` (hold, release, reroute), `jobs` (claim) and whatever lists series. A hold is of the series, not of a
revision: what is judged or asked for meanwhile waits too. Jobs stay in the queue as they are, so that nothing has to be
put together again at the release.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, exists, insert, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from iap_node.database.tables import SeriesHoldRow


@dataclass(frozen=True, slots=True)
class SeriesHold:
    """A person held a series."""

    who: str
    reason: str
    held_at: datetime
    ended_at: datetime | None  # None: it stands
    ended_by: str | None
    end_reason: str | None

    @property
    def text(self) -> str:
        """As people read it."""
        return f"held by {self.who}" + (f": {self.reason}" if self.reason else "")


def held_by_person(series_id: InstrumentedAttribute[int]) -> ColumnElement[bool]:
    """Whether a person holds the series of that column. For queries over series, deliveries and jobs."""
    return exists().where(SeriesHoldRow.series_id == series_id, SeriesHoldRow.ended_at.is_(None))


def standing_hold(session: Session, series_id: int) -> SeriesHold | None:
    """The hold that stands; None: nobody holds the series."""
    return next((one for one in holds(session, series_id) if one.ended_at is None), None)


def holds(session: Session, series_id: int) -> list[SeriesHold]:
    """All holds of a series, the oldest first."""
    row = SeriesHoldRow
    query = select(row.who, row.reason, row.held_at, row.ended_at, row.ended_by, row.end_reason)
    return [SeriesHold(*one) for one in session.execute(query.where(row.series_id == series_id).order_by(row.id))]


def begin_hold(session: Session, series_id: int, who: str, reason: str, now: datetime) -> None:
    """Write that a person holds a series; the caller has locked it and knows that nobody does."""
    session.execute(
        insert(SeriesHoldRow).values(series_id=series_id, who=who, reason=reason, held_at=now, ended_at=None)
    )


def end_hold(session: Session, series_id: int, who: str, reason: str, now: datetime) -> bool:
    """End the hold that stands; False: there is none."""
    standing = (SeriesHoldRow.series_id == series_id, SeriesHoldRow.ended_at.is_(None))
    ended = update(SeriesHoldRow).where(*standing).values(ended_at=now, ended_by=who, end_reason=reason)
    return session.scalar(ended.returning(SeriesHoldRow.id)) is not None
