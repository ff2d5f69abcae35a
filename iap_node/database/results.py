"""What the workers found out: judgements of series and answers of destinations, and reading them back.

Each `save_` ends the worker's job in the same transaction, fenced by the job's lease: a result is there if
and only if its job says so, and a worker that lost its lease writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlalchemy import and_, insert, select, update
from sqlalchemy.orm import Session

from iap_node.config import JobsConfig
from iap_node.database.findings import record
from iap_node.database.insertion import insert_if_new, insert_into
from iap_node.database.jobs import end_leased, fail, finish, lock_series, supersede
from iap_node.database.payloads import from_payload, to_payload
from iap_node.database.routes import open_deliveries
from iap_node.database.tables import (
    HeaderComparisonRow,
    InstanceDeliveryRow,
    InstanceProblemRow,
    InstanceRow,
    JudgementRow,
    ModelRow,
    PredictionRow,
    RouteDecisionRow,
    SeriesRow,
)
from iap_node.records import (
    Finding,
    HeaderComparison,
    InstanceDelivery,
    Job,
    JobKind,
    JobState,
    RouteDecision,
    SeriesHeader,
    SeriesPrediction,
    SeriesState,
    Witness,
)


@dataclass(frozen=True, slots=True)
class OutstandingInstance:
    """An instance that a destination has not accepted yet; the spool knows its absolute path."""

    instance_id: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    spool_path: str  # relative to the spool's root


@dataclass(frozen=True, slots=True)
class InstanceAnswer:
    """What a destination last answered for one instance."""

    sop_instance_uid: str
    destination: str
    accepted: bool
    status: int | None  # DIMSE status; None: no answer came
    comment: str
    answered_at: datetime
    sent_sop_instance_uid: str | None = None  # of the corrected copy that was sent; None: the instance as it came


@dataclass(frozen=True, slots=True)
class Judgement:
    """Everything that was found out about one revision of a series."""

    series_id: int
    series_instance_uid: str
    revision: int
    header: SeriesHeader
    prediction: SeriesPrediction | None
    not_analysed_reason: str | None
    comparisons: tuple[HeaderComparison, ...]
    decision: RouteDecision
    problems: tuple[tuple[int, str], ...]  # instance id, why it could not be used
    judged_at: datetime


def save_judgement(
    session: Session,
    job: Job,
    *,
    header: SeriesHeader,
    prediction: SeriesPrediction | None,
    comparisons: Sequence[HeaderComparison],
    decision: RouteDecision,
    problems: Sequence[tuple[int, str]],
    not_analysed_reason: str | None,
    now: datetime,
    findings: Sequence[Finding] = (),
    unheard: Collection[Witness] = (),
) -> None:
    """Write a judgement, open a DELIVER job per destination unless it is held, end the INFER job: all or nothing.

    The series' findings become those of this revision. Jobs that still wait to deliver earlier revisions end: the
    new ones take their instances along.

    Parameters
    ----------
    prediction
        None: the model was not asked, and `not_analysed_reason` says why.
    problems
        Instance id and reason of each instance that could not be used.
    findings
        What the witnesses have against the headers.
    unheard
        Witnesses that could not look at all of the series: see `findings.record`.

    Raises
    ------
    LeaseLost
        The job went to somebody else, or a late instance opened the next revision. The transaction must be
        rolled back, as it is when the error leaves `Database.transaction()`.
    """
    if (prediction is None) != (not_analysed_reason is not None):
        raise ValueError("a judgement has either a prediction or the reason why there is none")
    lock_series(session, job.series_id)
    finish(session, job, now)
    judgement_id = session.scalars(
        insert(JudgementRow)
        .values(
            series_id=job.series_id,
            revision=job.revision,
            prediction_id=None if prediction is None else _insert_prediction(session, job, prediction, now),
            not_analysed_reason=not_analysed_reason,
            header=to_payload(header),
            judged_at=now,
        )
        .returning(JudgementRow.id)
    ).one()
    _insert_details(session, judgement_id, comparisons, decision, problems)
    record(session, job.series_id, job.revision, findings, now, unheard)
    session.execute(
        update(SeriesRow)
        .where(SeriesRow.id == job.series_id)
        .values(
            state=SeriesState.NOT_ANALYSED if prediction is None else SeriesState.JUDGED,
            not_analysed_reason=not_analysed_reason,
            judged_revision=job.revision,
        )
    )
    supersede(session, job.series_id, JobKind.DELIVER, job.revision, now)
    open_deliveries(session, job.series_id, job.revision, decision, now)


def judgement(session: Session, series_id: int, revision: int | None = None) -> Judgement | None:
    """The judgement of a revision of a series (None: of the newest that has one), or None without one."""
    query = (
        select(JudgementRow, SeriesRow.series_instance_uid, PredictionRow.payload, RouteDecisionRow.payload)
        .join(SeriesRow, SeriesRow.id == JudgementRow.series_id)
        .join(RouteDecisionRow, RouteDecisionRow.judgement_id == JudgementRow.id)
        .outerjoin(PredictionRow, PredictionRow.id == JudgementRow.prediction_id)
        .where(JudgementRow.series_id == series_id)
        .where(JudgementRow.revision == (SeriesRow.judged_revision if revision is None else revision))
    )
    found = session.execute(query).one_or_none()
    if found is None:
        return None
    row, series_instance_uid, prediction, decision = found
    comparisons = session.scalars(
        select(HeaderComparisonRow)
        .where(HeaderComparisonRow.judgement_id == row.id)
        .order_by(HeaderComparisonRow.position)
    )
    problems = session.execute(
        select(InstanceProblemRow.instance_id, InstanceProblemRow.reason)
        .where(InstanceProblemRow.judgement_id == row.id)
        .order_by(InstanceProblemRow.position)
    )
    return Judgement(
        series_id=series_id,
        series_instance_uid=series_instance_uid,
        revision=row.revision,
        header=from_payload(SeriesHeader, row.header),
        prediction=None if prediction is None else from_payload(SeriesPrediction, prediction),
        not_analysed_reason=row.not_analysed_reason,
        comparisons=tuple(_comparison(comparison) for comparison in comparisons),
        decision=from_payload(RouteDecision, decision),
        problems=tuple((problem.instance_id, problem.reason) for problem in problems),
        judged_at=row.judged_at,
    )


def outstanding_instances(
    session: Session, job: Job, sent_uids: Mapping[int, str] | None = None
) -> list[OutstandingInstance]:
    """The instances of the job's revision that its destination has not accepted yet, by Instance Number.

    Parameters
    ----------
    sent_uids
        SOP Instance UIDs of corrected copies by instance id: what was accepted in another form is outstanding. None
        or nothing for an instance: it is sent as it was received.
    """
    answer = and_(
        InstanceDeliveryRow.instance_id == InstanceRow.id,
        InstanceDeliveryRow.destination == job.destination,
        InstanceDeliveryRow.accepted,
    )
    query = (
        select(
            InstanceRow.id,
            InstanceRow.sop_class_uid,
            InstanceRow.sop_instance_uid,
            InstanceRow.transfer_syntax_uid,
            InstanceRow.spool_path,
            InstanceDeliveryRow.instance_id.is_not(None).label("accepted"),
            InstanceDeliveryRow.sent_sop_instance_uid,
        )
        .outerjoin(InstanceDeliveryRow, answer)
        .where(InstanceRow.series_id == job.series_id, InstanceRow.revision <= job.revision)
        .order_by(InstanceRow.instance_number.nulls_last(), InstanceRow.id)
    )
    wanted = sent_uids or {}
    return [
        OutstandingInstance(row.id, row.sop_class_uid, row.sop_instance_uid, row.transfer_syntax_uid, row.spool_path)
        for row in session.execute(query)
        if not row.accepted or row.sent_sop_instance_uid != wanted.get(row.id)
    ]


def save_delivery(
    session: Session,
    job: Job,
    results: Sequence[InstanceDelivery],
    config: JobsConfig,
    now: datetime,
    rng: np.random.Generator | None = None,
    sent_uids: Mapping[int, str] | None = None,
    comment: str = "",
) -> JobState:
    """Write what a destination answered; end the DELIVER job or put it back for what is left; its new state.

    DONE when the destination has accepted all instances of the revision, in this attempt or before. DEAD when
    it never will: attempts are used up, or every instance that is left was refused for good. Otherwise READY,
    after a back-off.

    Parameters
    ----------
    sent_uids
        See `outstanding_instances`.
    comment
        What people should know of a delivery that is done all the same.

    Raises
    ------
    LeaseLost
        The job went to somebody else. Nothing is kept: the instances are sent again, which changes nothing
        there.
    """
    lock_series(session, job.series_id)
    _record_answers(session, job.destination, results, now, sent_uids or {})
    left = {instance.instance_id: instance for instance in outstanding_instances(session, job, sent_uids)}
    if not left:
        end_leased(session, job, JobState.DONE, comment or None, now)
        return JobState.DONE
    refused = {result.instance_id: result for result in results if not result.accepted}
    permanent = all(key in refused and refused[key].permanent for key in left)
    first = next((refused[key] for key in left if key in refused), None)
    error = f"{job.destination} has not accepted {len(left)} instances of series {job.series_instance_uid}"
    if first is not None:
        status = "" if first.status is None else f"status {first.status:04X}H"
        uid = left[first.instance_id].sop_instance_uid
        error += f"; first {uid}: {', '.join(filter(None, (status, first.comment))) or 'no answer'}"
    return fail(session, job, error, permanent, config, now, rng)


def instance_deliveries(session: Session, series_id: int) -> list[InstanceAnswer]:
    """What destinations last answered for the instances of a series, by destination and Instance Number."""
    query = (
        select(
            InstanceRow.sop_instance_uid,
            InstanceDeliveryRow.destination,
            InstanceDeliveryRow.accepted,
            InstanceDeliveryRow.status,
            InstanceDeliveryRow.comment,
            InstanceDeliveryRow.answered_at,
            InstanceDeliveryRow.sent_sop_instance_uid,
        )
        .join(InstanceRow, InstanceRow.id == InstanceDeliveryRow.instance_id)
        .where(InstanceRow.series_id == series_id)
        .order_by(InstanceDeliveryRow.destination, InstanceRow.instance_number.nulls_last(), InstanceRow.id)
    )
    return [InstanceAnswer(*row) for row in session.execute(query)]


def _record_answers(
    session: Session,
    destination: str,
    results: Sequence[InstanceDelivery],
    now: datetime,
    sent_uids: Mapping[int, str],
) -> None:
    """Keep the last answer for each instance; that it was accepted once is overwritten by another form of it only."""
    if not results:
        return
    statement = insert_into(session, InstanceDeliveryRow)
    new = statement.excluded
    newest = statement.on_conflict_do_update(
        index_elements=("instance_id", "destination"),
        set_={name: new[name] for name in ("accepted", "status", "comment", "answered_at", "sent_sop_instance_uid")},
        where=~InstanceDeliveryRow.accepted
        | InstanceDeliveryRow.sent_sop_instance_uid.is_distinct_from(new.sent_sop_instance_uid),
    )
    rows = [
        {
            "instance_id": result.instance_id,
            "destination": destination,
            "accepted": result.accepted,
            "status": result.status,
            "comment": result.comment,
            "answered_at": now,
            "sent_sop_instance_uid": sent_uids.get(result.instance_id),
        }
        for result in results
    ]
    session.execute(newest, rows)


def _insert_prediction(session: Session, job: Job, prediction: SeriesPrediction, now: datetime) -> int:
    # Registered by the infer role at its start; a prediction must not be lost where that was forgotten.
    insert_if_new(
        session,
        ModelRow,
        (ModelRow.model_id,),
        model_id=prediction.model_id,
        manifest={},
        registered_at=now,
    )
    score = prediction.novelty_score
    return session.scalars(
        insert(PredictionRow)
        .values(
            series_id=job.series_id,
            revision=job.revision,
            model_id=prediction.model_id,
            novel=prediction.novel,
            novelty_score=score if math.isfinite(score) else None,
            n_slices=prediction.n_slices,
            payload=to_payload(prediction),
            predicted_at=now,
        )
        .returning(PredictionRow.id)
    ).one()


def _insert_details(
    session: Session,
    judgement_id: int,
    comparisons: Sequence[HeaderComparison],
    decision: RouteDecision,
    problems: Sequence[tuple[int, str]],
) -> None:
    session.add_all(
        HeaderComparisonRow(
            judgement_id=judgement_id,
            position=position,
            keyword=comparison.keyword,
            header_value=comparison.header_value,
            predicted_value=comparison.predicted_value,
            header_probability=comparison.header_probability,
            verdict=comparison.verdict,
            suggested_value=comparison.suggested_value,
            reason=comparison.reason,
        )
        for position, comparison in enumerate(comparisons)
    )
    session.add_all(
        InstanceProblemRow(
            judgement_id=judgement_id, position=position, instance_id=instance_id, reason=reason
        )
        for position, (instance_id, reason) in enumerate(problems)
    )
    session.add(
        RouteDecisionRow(
            judgement_id=judgement_id,
            domain=decision.domain,
            reason=decision.reason,
            rules_version=decision.rules_version,
            held=bool(decision.held),
            payload=to_payload(decision),
        )
    )
    session.flush()


def _comparison(row: HeaderComparisonRow) -> HeaderComparison:
    return HeaderComparison(
        keyword=row.keyword,
        header_value=row.header_value,
        predicted_value=row.predicted_value,
        header_probability=row.header_probability,
        verdict=row.verdict,
        suggested_value=row.suggested_value,
        reason=row.reason,
    )
