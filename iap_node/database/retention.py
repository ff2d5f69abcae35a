"""What may leave the spool, as the rows know it, and the steps in which it goes.

Called by `iap_node.upkeep.retention` and by `iap-node status`. The order is the promise: a series' instances are
marked (`mark_series`) in the transaction that finds it judged and delivered; then their files go; then the rows say so
(`note_deleted`). A crash in between leaves marked rows, which the next run finishes (`marked_instances`). The rows keep
their `spool_path`, so that no file that a power cut brings back is filed as new.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    extract,
    false,
    func,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from iap_node.config import RetentionConfig
from iap_node.database.jobs import lock_series
from iap_node.database.routes import is_held
from iap_node.database.tables import (
    BYTES_IN_QUESTION,
    BytesState,
    ConflictRow,
    DeliveryRow,
    DeliveryState,
    InstanceRow,
    JobRow,
    SeriesRow,
)
from iap_node.records import JobKind, JobState, SeriesState

FINAL_STATES = (SeriesState.JUDGED, SeriesState.NOT_ANALYSED)


class Hold(StrEnum):
    """Why a series' bytes must stay, whatever its age."""

    RECEIVING = "receiving"
    UNJUDGED = "waits for its judgement"
    JUDGEMENT_FAILED = "its judgement is a dead letter"
    UNDELIVERED = "its delivery is a dead letter"
    DELIVERING = "waits for delivery"
    HELD = "is held: release or reroute it"
    UNROUTED = "was sent nowhere: this node has the only copy"


@dataclass(frozen=True, slots=True)
class RemovableSeries:
    """A series whose bytes may go."""

    id: int
    series_instance_uid: str
    last_received_at: datetime
    n_instances: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class KeptSeries:
    """Series of one state that share a reason to stay, or (`hold` None) that may go: by age now (`due`), or not yet."""

    hold: Hold | None
    state: SeriesState
    due: bool
    n_series: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class MarkedInstance:
    """An instance whose bytes are to go."""

    id: int
    spool_path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class AgedConflict:
    """A conflict that has been kept aside long enough."""

    id: int
    spool_path: str
    size_bytes: int


def days_by_state(config: RetentionConfig) -> dict[SeriesState, float]:
    """After how many days series go, by the state they end in; states without a limit are left out."""
    days = {SeriesState.JUDGED: config.judged_days, SeriesState.NOT_ANALYSED: config.not_analysed_days}
    return {state: limit for state, limit in days.items() if limit is not None}


def kept_bytes(session: Session) -> int:
    """Sum of the sizes of all instances whose bytes are in the spool."""
    total = select(func.coalesce(func.sum(InstanceRow.size_bytes), 0)).where(_PRESENT)
    return int(session.scalar(total) or 0)


def kept_series(session: Session, config: RetentionConfig, now: datetime) -> list[KeptSeries]:
    """All series that have bytes, by the reason why they stay; what may go last."""
    sizes = _sizes()
    hold, due = _hold(config), _due(config, now)
    of_series = (
        select(
            hold.label("hold"),
            SeriesRow.state,
            case((due, 1), else_=0).label("due"),
            sizes.c.size_bytes,
        )
        .select_from(SeriesRow)
        .join(sizes, sizes.c.series_id == SeriesRow.id)
        .subquery()
    )
    kinds = (of_series.c.hold, of_series.c.state, of_series.c.due)
    grouped = (
        select(*kinds, func.count(), func.sum(of_series.c.size_bytes))
        .group_by(*kinds)
        .order_by(of_series.c.hold.nulls_last(), of_series.c.state, of_series.c.due)
    )
    return [
        KeptSeries(None if reason is None else Hold(reason), state, bool(is_due), number, int(size))
        for reason, state, is_due, number, size in session.execute(grouped)
    ]


def removable_series(
    session: Session,
    config: RetentionConfig,
    now: datetime,
    state: SeriesState,
    *,
    by_age: bool,
    limit: int = 100,
    after: RemovableSeries | None = None,
) -> list[RemovableSeries]:
    """Series of one of `FINAL_STATES` whose bytes may go, the oldest first.

    One state at a time, so that the index of series gives them in order and the query ends at its limit.

    Parameters
    ----------
    by_age
        Only those that are due by the configured days, which the state must have; otherwise all that nothing holds.
    after
        The last one of the batch before.
    """
    query = (
        select(SeriesRow.id, SeriesRow.series_instance_uid, SeriesRow.last_received_at)
        .where(SeriesRow.state == state, _has_bytes(), _hold(config).is_(None))
        .order_by(SeriesRow.last_received_at, SeriesRow.id)
        .limit(limit)
    )
    if by_age:
        query = query.where(SeriesRow.last_received_at <= now - timedelta(days=days_by_state(config)[state]))
    if after is not None:
        at = after.last_received_at
        query = query.where(
            SeriesRow.last_received_at >= at, or_(SeriesRow.last_received_at > at, SeriesRow.id > after.id)
        )
    found = session.execute(query).all()
    sizes = _sizes([row.id for row in found])
    size_of = {row.series_id: (row.n_instances, int(row.size_bytes)) for row in session.execute(select(sizes))}
    return [RemovableSeries(*row, *size_of[row.id]) for row in found if row.id in size_of]


def mark_series(
    session: Session, series: RemovableSeries, config: RetentionConfig, now: datetime, *, by_age: bool
) -> int:
    """Decide that a series' bytes go, unless something came in between; how many instances that are.

    The series is locked: a late instance, a retried job or a judgement comes before this, and then it stays, or after.
    """
    lock_series(session, series.id)
    still = select(SeriesRow.id).where(SeriesRow.id == series.id, _may_go(config))
    if by_age:
        still = still.where(_due(config, now))
    if session.scalar(still) is None:
        return 0
    marked = session.execute(
        update(InstanceRow)
        .where(InstanceRow.series_id == series.id, InstanceRow.bytes_state.in_((BytesState.PRESENT, BytesState.LOST)))
        .values(bytes_state=BytesState.DELETING)
        .returning(InstanceRow.id)
    )
    return len(marked.all())


def marked_instances(session: Session, limit: int) -> list[MarkedInstance]:
    """Instances whose bytes are to go, by this run or by one that was interrupted."""
    query = (
        select(InstanceRow.id, InstanceRow.spool_path, InstanceRow.size_bytes)
        .where(BYTES_IN_QUESTION, InstanceRow.bytes_state == BytesState.DELETING)
        .order_by(InstanceRow.id)
        .limit(limit)
    )
    return [MarkedInstance(*row) for row in session.execute(query)]


def note_deleted(session: Session, instances: Iterable[MarkedInstance], now: datetime) -> None:
    """Note that the bytes are gone; an instance that came anew meanwhile has other bytes and is left alone."""
    rows = [{"instance": instance.id, "path": instance.spool_path} for instance in instances]
    if not rows:
        return
    statement = (
        update(InstanceRow)
        .where(
            InstanceRow.id == bindparam("instance"),
            InstanceRow.spool_path == bindparam("path"),
            InstanceRow.bytes_state == BytesState.DELETING,
        )
        .values(bytes_state=BytesState.DELETED, bytes_gone_at=now)
    )
    session.connection().execute(statement, rows)


def aged_conflicts(session: Session, received_before: datetime, limit: int) -> list[AgedConflict]:
    """Conflicts that came before a time, oldest first."""
    query = (
        select(ConflictRow.id, ConflictRow.spool_path, ConflictRow.size_bytes)
        .where(ConflictRow.received_at < received_before)
        .order_by(ConflictRow.id)
        .limit(limit)
    )
    return [AgedConflict(*row) for row in session.execute(query)]


def count_conflicts(session: Session, received_before: datetime) -> int:
    """Number of conflicts that came before a time."""
    number = select(func.count()).select_from(ConflictRow).where(ConflictRow.received_at < received_before)
    return session.scalar(number) or 0


def remove_conflicts(session: Session, conflict_ids: Sequence[int]) -> None:
    """Forget conflicts, after their bytes are gone."""
    session.execute(delete(ConflictRow).where(ConflictRow.id.in_(conflict_ids)))


def leaving_by_day(session: Session, config: RetentionConfig, now: datetime) -> dict[int, int]:
    """Bytes that retention by age takes on each coming day of what is here now; day 0 is the next 24 hours.

    Series that something holds are left out.
    """
    leaving: dict[int, int] = {}
    for state, days in days_by_state(config).items():
        for age_days, size in _bytes_by_age(session, config, state, now):
            day = max(0, int(days - age_days))
            leaving[day] = leaving.get(day, 0) + size
    return leaving


def received_since(session: Session, since: datetime) -> int:
    """Sum of the sizes of the instances received since a time.

    Rows are numbered in the order in which they came, but for what several processes write at once: the first row is
    found by halving, and only what follows it is read.
    """
    first = _first_id_since(session, since)
    if first is None:
        return 0
    total = select(func.sum(InstanceRow.size_bytes)).where(InstanceRow.id >= first)
    return int(session.scalar(total) or 0)


def first_received_at(session: Session) -> datetime | None:
    """When the first instance that is known of came."""
    return session.scalar(select(InstanceRow.received_at).order_by(InstanceRow.id).limit(1))


_PRESENT = InstanceRow.bytes_state == BytesState.PRESENT


def _first_id_since(session: Session, since: datetime) -> int | None:
    low = session.scalar(select(func.min(InstanceRow.id)))
    high = session.scalar(select(func.max(InstanceRow.id)))
    if low is None or high is None:
        return None
    end = high + 1
    at_or_after = select(InstanceRow.id, InstanceRow.received_at).order_by(InstanceRow.id).limit(1)
    low, high = int(low), int(end)
    while low < high:
        middle = (low + high) // 2
        found = session.execute(at_or_after.where(InstanceRow.id >= middle)).one()
        if found.received_at >= since:
            high = middle
        else:
            low = found.id + 1
    return low if low < end else None


def _sizes(series_ids: Sequence[int] | None = None) -> Any:
    """Subquery: number and bytes of the instances that are here, per series that has any."""
    query = select(
        InstanceRow.series_id,
        func.count().label("n_instances"),
        func.sum(InstanceRow.size_bytes).label("size_bytes"),
    ).where(_PRESENT)
    if series_ids is not None:
        query = query.where(InstanceRow.series_id.in_(series_ids))
    return query.group_by(InstanceRow.series_id).subquery()


def _has_bytes() -> ColumnElement[bool]:
    return exists().where(InstanceRow.series_id == SeriesRow.id, _PRESENT)


def _may_go(config: RetentionConfig) -> ColumnElement[bool]:
    return and_(SeriesRow.state.in_(FINAL_STATES), _hold(config).is_(None))


def _hold(config: RetentionConfig) -> ColumnElement[str | None]:
    """The reason why a series must stay, the most urgent one, or NULL."""

    # The states are said by what they are not: SQLite would else look up all jobs in a state, for every series, rather
    # than the few jobs of the series.
    def job(kind: JobKind, *states: JobState) -> ColumnElement[bool]:
        others = [state for state in JobState if state not in states]
        return exists().where(JobRow.series_id == SeriesRow.id, JobRow.kind == kind, JobRow.state.not_in(others))

    def delivery(*states: DeliveryState) -> ColumnElement[bool]:
        others = [state for state in DeliveryState if state not in states]
        return exists().where(DeliveryRow.series_id == SeriesRow.id, DeliveryRow.state.not_in(others))

    receiving = SeriesRow.state == SeriesState.RECEIVING
    failed = or_(SeriesRow.state == SeriesState.FAILED, job(JobKind.INFER, JobState.DEAD))
    unjudged = or_(
        SeriesRow.state == SeriesState.COMPLETE,
        SeriesRow.judged_revision.is_(None),
        SeriesRow.judged_revision != SeriesRow.revision,
        job(JobKind.INFER, JobState.READY, JobState.LEASED),
    )
    undelivered = or_(job(JobKind.DELIVER, JobState.DEAD), delivery(DeliveryState.FAILED))
    delivering = or_(job(JobKind.DELIVER, JobState.READY, JobState.LEASED), delivery(DeliveryState.PENDING))
    went_out = exists().where(
        DeliveryRow.series_id == SeriesRow.id,
        DeliveryRow.revision == SeriesRow.judged_revision,
        DeliveryRow.state == DeliveryState.DELIVERED,
        ~DeliveryRow.shadow,
    )
    unrouted = false() if config.unrouted else ~went_out
    return case(
        (receiving, literal(Hold.RECEIVING.value)),
        (failed, literal(Hold.JUDGEMENT_FAILED.value)),
        (unjudged, literal(Hold.UNJUDGED.value)),
        (undelivered, literal(Hold.UNDELIVERED.value)),
        (delivering, literal(Hold.DELIVERING.value)),
        (is_held(), literal(Hold.HELD.value)),
        (unrouted, literal(Hold.UNROUTED.value)),
        else_=null(),
    )


def _due(config: RetentionConfig, now: datetime) -> ColumnElement[bool]:
    """Whether a series' last instance came longer ago than the days configured for its state."""
    return or_(
        false(),
        *(
            and_(SeriesRow.state == state, SeriesRow.last_received_at <= now - timedelta(days=days))
            for state, days in days_by_state(config).items()
        ),
    )


def _bytes_by_age(
    session: Session, config: RetentionConfig, state: SeriesState, now: datetime
) -> Iterable[tuple[int, int]]:
    """(age in whole days, bytes) of the series in one state that nothing holds."""
    sizes = _sizes()
    since, until = SeriesRow.last_received_at, literal(now, SeriesRow.last_received_at.type)
    whole_days: ColumnElement[Any]
    if session.get_bind().dialect.name == "sqlite":
        whole_days = cast(func.julianday(until) - func.julianday(since), Integer)  # truncates
    else:
        whole_days = func.floor(extract("epoch", until - since) / 86_400)
    whole_days = whole_days.label("age")
    query = (
        select(whole_days, func.sum(sizes.c.size_bytes))
        .select_from(SeriesRow)
        .join(sizes, sizes.c.series_id == SeriesRow.id)
        .where(SeriesRow.state == state, _hold(config).is_(None))
        .group_by(whole_days)
    )
    for age_days, size in session.execute(query):
        yield int(age_days), int(size)
