"""How far deliveries got, destination by destination; for the console, the API and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import Session

from iap_node.database.tables import DeliveryRow, DeliveryState, JobRow
from iap_node.records import JobKind, JobState


@dataclass(frozen=True, slots=True)
class DestinationCounts:
    """One destination's deliveries by state, and the last error of its jobs."""

    destination: str
    pending: int
    delivered: int
    failed: int
    last_delivered_at: datetime | None
    last_error: str
    last_error_at: datetime | None


def destination_counts(session: Session) -> list[DestinationCounts]:
    """All destinations that anything was ever sent to, by name."""

    def of(state: DeliveryState) -> ColumnElement[int]:
        return func.count(case((DeliveryRow.state == state, 1)))

    delivered_at = case((DeliveryRow.state == DeliveryState.DELIVERED, DeliveryRow.updated_at))
    query = (
        select(
            DeliveryRow.destination,
            of(DeliveryState.PENDING),
            of(DeliveryState.DELIVERED),
            of(DeliveryState.FAILED),
            func.max(delivered_at),
        )
        .group_by(DeliveryRow.destination)
        .order_by(DeliveryRow.destination)
    )
    errors: dict[str, tuple[str, datetime]] = {}
    failing = (
        select(JobRow.destination, JobRow.error, JobRow.updated_at)
        .where(
            JobRow.kind == JobKind.DELIVER,
            JobRow.state.in_((JobState.READY, JobState.LEASED, JobState.DEAD)),
            JobRow.error.is_not(None),
        )
        .order_by(JobRow.id.desc())
        .limit(1000)
    )
    for destination, error, at in session.execute(failing):
        errors.setdefault(destination, (error or "", at))
    return [
        DestinationCounts(name, pending, delivered, failed, last, *errors.get(name, ("", None)))
        for name, pending, delivered, failed, last in session.execute(query)
    ]


def delivered_per_period(session: Session, starts: Sequence[datetime]) -> dict[str, list[int]]:
    """Deliveries that ended well between one start and the next, the last until now, by destination."""
    place = case(*((DeliveryRow.updated_at >= start, n) for n, start in reversed(list(enumerate(starts)))))
    bucket = place.label("bucket")
    query = (
        select(DeliveryRow.destination, bucket, func.count())
        .where(DeliveryRow.state == DeliveryState.DELIVERED, DeliveryRow.updated_at >= starts[0])
        .group_by(DeliveryRow.destination, bucket)
    )
    found: dict[str, list[int]] = {}
    for destination, number, n in session.execute(query):
        found.setdefault(destination, [0] * len(starts))[number] = n
    return found
