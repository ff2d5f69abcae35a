"""How the node is doing, in numbers. For `iap-node status` and, later, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, case, func, or_, select
from sqlalchemy.orm import Session

from iap_node.database.holds import held_by_person
from iap_node.database.routes import count_held
from iap_node.database.tables import (
    BYTES_IN_QUESTION,
    BytesState,
    ConflictRow,
    DeliveryRow,
    DeliveryState,
    InstanceRow,
    JobRow,
    JudgementRow,
    PredictionRow,
    QuarantineRow,
    SeriesRow,
)
from iap_node.records import JobKind, JobState, SeriesState


@dataclass(frozen=True, slots=True)
class StatusCounts:
    """Rows by state; every state has its number, zero included."""

    series: Mapping[SeriesState, int]
    jobs: Mapping[tuple[JobKind, JobState], int]
    deliveries: Mapping[DeliveryState, int]
    n_held: int  # series that wait for a person, because a rule or a person says so
    n_quarantined: int
    n_conflicts: int
    n_lost: int  # instances whose bytes fsck did not find
    oldest_waiting_job_at: datetime | None  # when the oldest READY job was opened, those of held series aside


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Series whose first instance came from `since` on, until the next one's `since`."""

    since: datetime
    n_series: int
    n_failed: int


def arrivals(session: Session, starts: Sequence[datetime]) -> list[Arrivals]:
    """How many series came between one start and the next, the last until now."""
    place = case(*((SeriesRow.first_received_at >= start, n) for n, start in reversed(list(enumerate(starts)))))
    bucket = place.label("bucket")
    failed = func.count(case((SeriesRow.state == SeriesState.FAILED, 1)))
    query = select(bucket, func.count(), failed).where(SeriesRow.first_received_at >= starts[0]).group_by(bucket)
    found = {row[0]: (row[1], row[2]) for row in session.execute(query)}
    return [Arrivals(start, *found.get(n, (0, 0))) for n, start in enumerate(starts)]


def judged_per_period(session: Session, starts: Sequence[datetime]) -> list[int]:
    """Judgements between one start and the next, the last until now."""
    place = case(*((JudgementRow.judged_at >= start, n) for n, start in reversed(list(enumerate(starts)))))
    bucket = place.label("bucket")
    query = select(bucket, func.count()).where(JudgementRow.judged_at >= starts[0]).group_by(bucket)
    found: dict[int, int] = dict(session.execute(query).all())
    return [found.get(n, 0) for n in range(len(starts))]


@dataclass(frozen=True, slots=True)
class RecentJudgement:
    """How long a series waited from complete to judged, and whether it was novel; None: not known, not predicted."""

    latency_s: float | None
    novel: bool | None


def recent_judgements(session: Session, limit: int) -> list[RecentJudgement]:
    """The newest judgements; those of late instances are measured from the completion that they belong to."""
    query = (
        select(JudgementRow.judged_at, SeriesRow.completed_at, PredictionRow.novel)
        .join(SeriesRow, and_(SeriesRow.id == JudgementRow.series_id, SeriesRow.revision == JudgementRow.revision))
        .outerjoin(PredictionRow, PredictionRow.id == JudgementRow.prediction_id)
        .order_by(JudgementRow.id.desc())
        .limit(limit)
    )
    return [
        RecentJudgement(None if completed is None else max(0.0, (judged - completed).total_seconds()), novel)
        for judged, completed, novel in session.execute(query)
    ]


def status_counts(session: Session) -> StatusCounts:
    """Count everything that waits, stands aside or is done."""
    series = dict.fromkeys(SeriesState, 0)
    for series_state, n in session.execute(select(SeriesRow.state, func.count()).group_by(SeriesRow.state)):
        series[series_state] = n
    jobs = {(kind, state): 0 for kind in JobKind for state in JobState}
    for kind, job_state, n in session.execute(
        select(JobRow.kind, JobRow.state, func.count()).group_by(JobRow.kind, JobRow.state)
    ):
        jobs[kind, job_state] = n
    deliveries = dict.fromkeys(DeliveryState, 0)
    for delivery_state, n in session.execute(
        select(DeliveryRow.state, func.count()).group_by(DeliveryRow.state)
    ):
        deliveries[delivery_state] = n
    return StatusCounts(
        series=series,
        jobs=jobs,
        deliveries=deliveries,
        n_held=count_held(session),
        n_quarantined=session.scalar(select(func.count()).select_from(QuarantineRow)) or 0,
        n_conflicts=session.scalar(select(func.count()).select_from(ConflictRow)) or 0,
        n_lost=session.scalar(
            select(func.count()).where(BYTES_IN_QUESTION, InstanceRow.bytes_state == BytesState.LOST)
        )
        or 0,
        oldest_waiting_job_at=session.scalar(
            select(func.min(JobRow.created_at)).where(
                JobRow.state == JobState.READY,
                or_(JobRow.kind != JobKind.DELIVER, ~held_by_person(JobRow.series_id)),
            )
        ),
    )
