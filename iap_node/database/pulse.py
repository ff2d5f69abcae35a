"""Whether anything has changed, cheaply: one mark per topic, made of indexed look-ups only. Called by the web each
second, however many browsers watch.
"""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from iap_node.database.tables import (
    MODEL_AT_WORK,
    DeliveryRow,
    DeliveryState,
    FindingEventRow,
    FindingRow,
    InstanceRow,
    JobRow,
    JudgementRow,
    ModelEventRow,
    ModelRow,
    ModelState,
    QuarantineRow,
    RetrainingRow,
    RouteChangeRow,
    SeriesHoldRow,
    SeriesRow,
)
from iap_node.records import JobState, SeriesState

TOPICS = ("series", "findings", "queue", "deliveries", "models")


def marks(session: Session) -> dict[str, str]:
    """Text per topic that differs when something of it has changed, nearly always; never the other way round."""
    newest = {
        table: session.scalar(select(func.max(table.id))) or 0
        for table in (
            SeriesRow, InstanceRow, JudgementRow, FindingRow, FindingEventRow, JobRow, QuarantineRow, RouteChangeRow,
            SeriesHoldRow,
        )
    }  # fmt: skip
    holds = session.scalar(select(func.count()).where(SeriesHoldRow.ended_at.is_(None)))
    people = f"{newest[RouteChangeRow]} {newest[SeriesHoldRow]} {holds}"
    open_series = session.scalar(
        select(func.count()).where(SeriesRow.state.in_((SeriesState.RECEIVING, SeriesState.COMPLETE)))
    )
    open_jobs = [
        session.scalar(select(func.count()).where(JobRow.state == state))
        for state in (JobState.READY, JobState.LEASED, JobState.DEAD)
    ]
    pending = session.scalar(select(func.count()).where(DeliveryRow.state == DeliveryState.PENDING))
    failed = session.scalar(select(func.count()).where(DeliveryRow.state == DeliveryState.FAILED))
    return {
        "models": _models_mark(session, newest[JudgementRow]),
        "series": f"{newest[SeriesRow]} {newest[InstanceRow]} {newest[JudgementRow]} {open_series} {people}",
        "findings": f"{newest[FindingRow]} {newest[FindingEventRow]}",
        "queue": f"{newest[JobRow]} {open_jobs} {newest[QuarantineRow]}",
        "deliveries": f"{pending} {failed} {newest[JobRow]} {people}",
    }


def _models_mark(session: Session, newest_judgement: int) -> str:
    """What happened to models, how far a training is, and the series that a model in shadow sees."""
    event = session.scalar(select(func.max(ModelEventRow.id)))
    shadow = session.scalar(select(ModelRow.model_id).where(MODEL_AT_WORK, ModelRow.state == ModelState.SHADOW))
    run = RetrainingRow
    newest_run = select(run.id, run.state, run.stage, run.progress, run.message).order_by(run.id.desc()).limit(1)
    training = session.execute(newest_run).first()
    return f"{event} {training} {shadow and newest_judgement}"
