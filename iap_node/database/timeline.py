"""Everything that happened to one series, in order: what came, was judged, decided, sent and corrected.

Called by the web. What happened stands in many tables, each in the words of its own; here it becomes one list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import and_, exists, func, select
from sqlalchemy.orm import Session, aliased

from iap_node.database.commitments import commitments_of
from iap_node.database.corrections import list_corrections
from iap_node.database.holds import holds
from iap_node.database.routes import route_changes
from iap_node.database.tables import (
    AuditTrailRow,
    CommitmentState,
    ConflictRow,
    DeliveryRow,
    FindingEventRow,
    FindingRow,
    InstanceRow,
    JobRow,
    JudgementRow,
    PredictionRow,
    RouteDecisionRow,
    SeriesRow,
)
from iap_node.records import FindingState, JobKind, JobState

JUDGE_AGAIN = "judge series again"  # in the audit trail, with the number of the series; at the time of its job
_MOST_EVENTS = 500  # of findings, the latest


class Happening(StrEnum):
    """What kind of thing happened."""

    RECEIVED = "received"
    COMPLETED = "completed"
    QUEUED = "queued"
    JUDGED = "judged"
    FAILED = "failed"
    FINDING = "finding"
    ROUTE = "route"
    DELIVERY = "delivery"
    CORRECTION = "correction"
    COMMITMENT = "commitment"


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """One thing that happened."""

    at: datetime
    kind: Happening
    what: str  # for people; text from headers and people's reasons are in it
    who: str = ""  # "": the node itself
    finding_id: int | None = None


def timeline(session: Session, series_id: int) -> list[TimelineEvent]:
    """What happened to a series, the oldest first; found findings are counted, decided ones named."""
    events = [
        *_arrival(session, series_id),
        *_judgements(session, series_id),
        *_findings(session, series_id),
        *_routes(session, series_id),
        *_corrections(session, series_id),
        *_commitments(session, series_id),
    ]
    order = list(Happening)
    return sorted(events, key=lambda event: (event.at, order.index(event.kind)))


def _arrival(session: Session, series_id: int) -> Iterator[TimelineEvent]:
    query = (
        select(InstanceRow.revision, func.min(InstanceRow.received_at), func.max(InstanceRow.received_at), func.count())
        .where(InstanceRow.series_id == series_id)
        .group_by(InstanceRow.revision)
        .order_by(InstanceRow.revision)
    )
    for revision, first, last, n in session.execute(query):
        late = f", late: revision {revision}" if revision > 1 else ""
        yield TimelineEvent(first, Happening.RECEIVED, f"first of {n} instances{late}")
        if last != first:
            yield TimelineEvent(last, Happening.RECEIVED, f"last of {n} instances{late}")
    aside = (
        select(func.max(ConflictRow.received_at), func.count())
        .join(InstanceRow, InstanceRow.id == ConflictRow.instance_id)
        .where(InstanceRow.series_id == series_id)
    )
    for last, n in session.execute(aside):
        if last is not None:
            what = f"last of {n} that came again with other bytes; kept aside, never used"
            yield TimelineEvent(last, Happening.RECEIVED, what)
    completed_at = session.scalar(select(SeriesRow.completed_at).where(SeriesRow.id == series_id))
    if completed_at is not None:
        yield TimelineEvent(completed_at, Happening.COMPLETED, "complete")


def _judgements(session: Session, series_id: int) -> Iterator[TimelineEvent]:
    jobs = session.execute(
        select(JobRow.revision, JobRow.state, JobRow.created_at, JobRow.updated_at, JobRow.error)
        .where(JobRow.series_id == series_id, JobRow.kind == JobKind.INFER)
        .order_by(JobRow.revision)
    ).all()
    asked = (
        AuditTrailRow.at.in_([job.created_at for job in jobs]),  # there is an index on it, and none on the subject
        AuditTrailRow.action == JUDGE_AGAIN,
        AuditTrailRow.subject == str(series_id),
    )
    by: dict[datetime, tuple[str, str]] = {
        at: (who, detail)
        for at, who, detail in session.execute(
            select(AuditTrailRow.at, AuditTrailRow.who, AuditTrailRow.detail).where(*asked)
        )
    }
    for job in jobs:
        who, why = by.get(job.created_at, ("", ""))
        again = "to be judged again, " if who else "to be judged, "
        what = f"{again}revision {job.revision}" + (f": {why}" if why else "")
        yield TimelineEvent(job.created_at, Happening.QUEUED, what, who)
        if job.state is JobState.DEAD:
            yield TimelineEvent(job.updated_at, Happening.FAILED, f"revision {job.revision} not judged: {job.error}")
    query = (
        select(
            JudgementRow.revision,
            JudgementRow.judged_at,
            JudgementRow.not_analysed_reason,
            PredictionRow.model_id,
            PredictionRow.novel,
            RouteDecisionRow.reason,
        )
        .join(RouteDecisionRow, RouteDecisionRow.judgement_id == JudgementRow.id)
        .outerjoin(PredictionRow, PredictionRow.id == JudgementRow.prediction_id)
        .where(JudgementRow.series_id == series_id)
    )
    for one in session.execute(query):
        pixels = (
            f"pixels not analysed: {one.not_analysed_reason}"
            if one.model_id is None
            else f"{'novel to' if one.novel else 'by'} model {one.model_id}"
        )
        what = f"revision {one.revision} judged, {pixels}; route: {one.reason}"
        yield TimelineEvent(one.judged_at, Happening.JUDGED, what)


def _findings(session: Session, series_id: int) -> Iterator[TimelineEvent]:
    of_series = (FindingRow.series_id == series_id,)
    found = (
        select(FindingRow.found_at, FindingRow.first_revision, func.count())
        .where(*of_series)
        .group_by(FindingRow.found_at, FindingRow.first_revision)
    )
    for at, revision, n in session.execute(found):
        yield TimelineEvent(at, Happening.FINDING, f"{n} finding{'' if n == 1 else 's'} in revision {revision}")
    earlier = aliased(FindingEventRow)
    is_first = ~exists().where(earlier.finding_id == FindingEventRow.finding_id, earlier.id < FindingEventRow.id)
    decided = (
        select(FindingRow.id, FindingRow.element, FindingEventRow)
        .join(FindingRow, FindingRow.id == FindingEventRow.finding_id)
        .where(*of_series, ~and_(is_first, FindingEventRow.state == FindingState.OPEN))
        .order_by(FindingEventRow.id.desc())
        .limit(_MOST_EVENTS)
    )
    for finding_id, element, event in session.execute(decided):
        value = f" as {event.value}" if event.value else ""
        why = f": {event.reason}" if event.reason else ""
        what = f"{element} {event.state.value}{value}{why}"
        yield TimelineEvent(event.at, Happening.FINDING, what, event.who, finding_id)


def _routes(session: Session, series_id: int) -> Iterator[TimelineEvent]:
    for one in holds(session, series_id):
        why = f": {one.reason}" if one.reason else ""
        yield TimelineEvent(one.held_at, Happening.ROUTE, f"held, nothing is sent{why}", one.who)
        if one.ended_at is not None:
            why = f": {one.end_reason}" if one.end_reason else ""
            yield TimelineEvent(one.ended_at, Happening.ROUTE, f"held no longer{why}", one.ended_by or "")
    for change in route_changes(session, series_id):
        why = f": {change.reason}" if change.reason else ""
        what = f"revision {change.revision} {change.action.value} to {', '.join(change.destinations) or 'nowhere'}{why}"
        yield TimelineEvent(change.at, Happening.ROUTE, what, change.who)
    deliveries = select(DeliveryRow).where(DeliveryRow.series_id == series_id).order_by(DeliveryRow.id)
    for row in session.scalars(deliveries):
        where = f"revision {row.revision} to {row.destination}{' (shadow)' if row.shadow else ''}"
        yield TimelineEvent(row.created_at, Happening.DELIVERY, f"{where} queued")
        if row.updated_at != row.created_at:
            yield TimelineEvent(row.updated_at, Happening.DELIVERY, f"{where} {row.state.value}")


def _corrections(session: Session, series_id: int) -> Iterator[TimelineEvent]:
    for one in list_corrections(session, series_id):
        elements = ", ".join(
            f"{label} {'removed' if value is None else value or 'emptied'}" for label, value in one.elements.items()
        )
        begun = f"corrected copy {one.series_instance_uid} for {one.target} begun: {elements}"
        yield TimelineEvent(one.made_at, Happening.CORRECTION, begun, one.made_by)
        if one.finished_at is not None:
            done = f"corrected copy {one.series_instance_uid} for {one.target} written, {one.n_instances} instances"
            yield TimelineEvent(one.finished_at, Happening.CORRECTION, done, one.made_by)


def _commitments(session: Session, series_id: int) -> Iterator[TimelineEvent]:
    for one in commitments_of(session, series_id):
        asked = f"{one.calling_ae_title} asked whether instances are kept for good (storage commitment)"
        yield TimelineEvent(one.requested_at, Happening.COMMITMENT, asked)
        if one.state is CommitmentState.DELIVERED:
            failed = f"{one.n_not_committed} of the request's instances not" if one.n_not_committed else "yes for all"
            told = f"{one.calling_ae_title} was told: {failed}"
            yield TimelineEvent(one.updated_at, Happening.COMMITMENT, told)
        elif one.state is CommitmentState.EXPIRED:
            untold = f"{one.calling_ae_title} could not be told: {one.error or 'the time was over'}"
            yield TimelineEvent(one.updated_at, Happening.COMMITMENT, untold)
