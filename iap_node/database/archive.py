"""Study, series, instance: what came in, what is in conflict with it, and when a series is complete.

`iap_node.database.reception` makes the rows. `complete_quiet_series` is called by the scheduler, `complete_series` when
an association is released, `judge_again` by the console and `iap-node rejudge`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from iap_node.database.jobs import lock_series, open_job, supersede
from iap_node.database.series import SeriesSummary, UnknownSeries, find_series, list_series
from iap_node.database.tables import BytesState, ConflictRow, InstanceRow, SeriesRow
from iap_node.errors import PermanentError
from iap_node.records import JobKind, SeriesState

__all__ = [
    "ArchivedInstance",
    "BytesGone",
    "Conflict",
    "JudgementWaits",
    "NotJudgedAgain",
    "SeriesSummary",
    "UnknownSeries",
    "complete_quiet_series",
    "complete_series",
    "current_instances",
    "find_series",
    "judge_again",
    "list_conflicts",
    "list_series",
    "series_to_judge_again",
]


class NotJudgedAgain(PermanentError):
    """The series waits for its judgement anyway, or not all of it is here any more."""


class JudgementWaits(NotJudgedAgain):
    """It is in the queue already, or still coming."""


class BytesGone(NotJudgedAgain):
    """Not all of it is here any more: the judgement that stands had more to look at."""


@dataclass(frozen=True, slots=True)
class ArchivedInstance:
    """An instance of a series, and where its file is."""

    id: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    spool_path: str  # relative to the spool's root
    instance_number: int | None
    size_bytes: int
    revision: int  # of the series, with which it came
    not_analysed_reason: str | None  # None: its pixels go to the model
    bytes_state: BytesState  # whether its file is still there


@dataclass(frozen=True, slots=True)
class Conflict:
    """Other bytes under a SOP Instance UID that is already here."""

    sop_instance_uid: str
    series_instance_uid: str  # as the newcomer claims
    study_instance_uid: str
    spool_path: str  # of the newcomer
    standing_spool_path: str
    size_bytes: int
    calling_ae_title: str
    source_address: str
    received_at: datetime


def complete_quiet_series(session: Session, now: datetime, quiet_period_s: float) -> list[str]:
    """Complete the series that got no instance for `quiet_period_s` and open their INFER jobs; their UIDs."""
    quiet = SeriesRow.last_received_at <= now - timedelta(seconds=quiet_period_s)
    return _complete(session, quiet, now, skip_locked=True)  # a locked one is receiving right now


def complete_series(session: Session, series_instance_uids: Collection[str], now: datetime) -> list[str]:
    """Complete those of the named series that are receiving and open their INFER jobs; their UIDs."""
    named = SeriesRow.series_instance_uid.in_(series_instance_uids)
    return _complete(session, named, now, skip_locked=False)


def judge_again(session: Session, series_id: int, now: datetime) -> int:
    """Put a series back into the queue, to be judged by the model and the rules of now; the new revision.

    It is the next revision, of the same instances: what was found out before stays readable, and a worker that still
    has an older INFER job writes nothing. The route is decided anew, what a person decided about the old one included;
    an instance that a destination has accepted is not sent there again.

    Raises
    ------
    NotJudgedAgain
        Its judgement is still to come, or bytes of it are gone: the judgement that stands had more to look at.
    """
    lock_series(session, series_id)
    series = session.execute(
        select(SeriesRow.series_instance_uid, SeriesRow.state, SeriesRow.revision).where(SeriesRow.id == series_id)
    ).one()
    if series.state in (SeriesState.RECEIVING, SeriesState.COMPLETE):
        raise JudgementWaits(f"series {series.series_instance_uid} waits for its judgement; look at the queue")
    gone = select(func.count()).where(InstanceRow.series_id == series_id, InstanceRow.bytes_state != BytesState.PRESENT)
    if n_gone := session.scalar(gone):
        raise BytesGone(
            f"the bytes of {n_gone} instances of series {series.series_instance_uid} are gone; have it sent again first"
        )
    revision: int = series.revision + 1
    again = {"revision": revision, "state": SeriesState.COMPLETE, "not_analysed_reason": None}
    session.execute(update(SeriesRow).where(SeriesRow.id == series_id).values(again))
    supersede(session, series_id, JobKind.INFER, revision, now)
    open_job(session, JobKind.INFER, series_id, revision, now)
    return revision


def series_to_judge_again(session: Session, since: datetime | None, after: int, limit: int) -> list[int]:
    """Series whose judgement stands or failed and whose first instance came since then (None: all), by number.

    Parameters
    ----------
    after
        The last number of the page before; 0: the first page.
    """
    query = select(SeriesRow.id).where(
        SeriesRow.id > after, SeriesRow.state.not_in((SeriesState.RECEIVING, SeriesState.COMPLETE))
    )
    if since is not None:
        query = query.where(SeriesRow.first_received_at >= since)
    return list(session.scalars(query.order_by(SeriesRow.id).limit(limit)))


def current_instances(session: Session, series_id: int) -> list[ArchivedInstance]:
    """All instances of a series, by Instance Number (0020,0013), those without one last."""
    query = select(
        InstanceRow.id,
        InstanceRow.sop_class_uid,
        InstanceRow.sop_instance_uid,
        InstanceRow.transfer_syntax_uid,
        InstanceRow.spool_path,
        InstanceRow.instance_number,
        InstanceRow.size_bytes,
        InstanceRow.revision,
        InstanceRow.not_analysed_reason,
        InstanceRow.bytes_state,
    ).where(InstanceRow.series_id == series_id)
    in_order = query.order_by(InstanceRow.instance_number.nulls_last(), InstanceRow.id)
    return [ArchivedInstance(**row._asdict()) for row in session.execute(in_order)]


def list_conflicts(session: Session, limit: int = 100) -> list[Conflict]:
    """Instances kept aside because other bytes stand under their UID, newest first."""
    query = (
        select(
            InstanceRow.sop_instance_uid,
            ConflictRow.series_instance_uid,
            ConflictRow.study_instance_uid,
            ConflictRow.spool_path,
            InstanceRow.spool_path.label("standing_spool_path"),
            ConflictRow.size_bytes,
            ConflictRow.calling_ae_title,
            ConflictRow.source_address,
            ConflictRow.received_at,
        )
        .join(InstanceRow, InstanceRow.id == ConflictRow.instance_id)
        .order_by(ConflictRow.id.desc())
        .limit(limit)
    )
    return [Conflict(*row) for row in session.execute(query)]


def _complete(session: Session, which: ColumnElement[bool], now: datetime, *, skip_locked: bool) -> list[str]:
    found = session.execute(
        select(SeriesRow.id, SeriesRow.series_instance_uid, SeriesRow.revision)
        .where(SeriesRow.state == SeriesState.RECEIVING, which)
        .order_by(SeriesRow.id)
        .with_for_update(skip_locked=skip_locked)
    ).all()
    for series in found:
        session.execute(
            update(SeriesRow)
            .where(SeriesRow.id == series.id)
            .values(state=SeriesState.COMPLETE, completed_at=now)
        )
        open_job(session, JobKind.INFER, series.id, series.revision, now)
    return [series.series_instance_uid for series in found]
