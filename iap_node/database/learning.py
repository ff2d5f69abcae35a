"""Queries of training: which series may be learned from, where their instances are, and what stands against them.

Called by `training.sources.archive`, a page at a time, so that an archive of any size is read in bounded memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from iap_node.database.tables import (
    BytesState,
    FindingRow,
    InstanceRow,
    JudgementRow,
    PatientRow,
    PredictionRow,
    SeriesRow,
    StudyRow,
)
from iap_node.records import FindingState, SeriesState, Severity

# An accepted finding says that the header is wrong, and a corrected copy leaves the original as it is.
STANDING = frozenset({FindingState.OPEN, FindingState.ACCEPTED, FindingState.CORRECTED})
_SETTLED = (SeriesState.JUDGED, SeriesState.NOT_ANALYSED, SeriesState.FAILED)


@dataclass(frozen=True, slots=True)
class SettledSeries:
    """A series that the node is done with."""

    id: int
    study_instance_uid: str
    series_instance_uid: str
    patient_hash: str
    revision: int
    state: SeriesState
    not_analysed_reason: str | None
    novel: bool | None  # None: the model was not asked


@dataclass(frozen=True, slots=True)
class StandingFinding:
    """What stands against a header: nobody dismissed it, and no later revision is without it."""

    element: str
    check: str
    severity: Severity


def settled_series(session: Session, since: datetime | None, after_id: int, limit: int) -> list[SettledSeries]:
    """Series that are judged, not analysed or failed, by ascending id.

    Parameters
    ----------
    since
        Only those of whose newest revision this became known then or later; None: all.
    after_id
        0 at first, then the last id of the page before.
    """
    judged = and_(JudgementRow.series_id == SeriesRow.id, JudgementRow.revision == SeriesRow.revision)
    query = (
        select(
            SeriesRow.id,
            StudyRow.study_instance_uid,
            SeriesRow.series_instance_uid,
            PatientRow.patient_hash,
            SeriesRow.revision,
            SeriesRow.state,
            func.coalesce(JudgementRow.not_analysed_reason, SeriesRow.not_analysed_reason).label(
                "not_analysed_reason"
            ),
            PredictionRow.novel,
        )
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .join(PatientRow, PatientRow.id == StudyRow.patient_id)
        .outerjoin(JudgementRow, judged)
        .outerjoin(PredictionRow, PredictionRow.id == JudgementRow.prediction_id)
        .where(SeriesRow.id > after_id, SeriesRow.state.in_(_SETTLED))
        .order_by(SeriesRow.id)
        .limit(limit)
    )
    if since is not None:
        query = query.where(func.coalesce(JudgementRow.judged_at, SeriesRow.last_received_at) >= since)
    return [SettledSeries(**row._asdict()) for row in session.execute(query)]


def count_settled(session: Session, since: datetime | None) -> int:
    """How many series `settled_series` has in all its pages."""
    judged = and_(JudgementRow.series_id == SeriesRow.id, JudgementRow.revision == SeriesRow.revision)
    query = select(func.count()).select_from(SeriesRow).outerjoin(JudgementRow, judged)
    query = query.where(SeriesRow.state.in_(_SETTLED))
    if since is not None:
        query = query.where(func.coalesce(JudgementRow.judged_at, SeriesRow.last_received_at) >= since)
    return session.scalar(query) or 0


def standing_findings(session: Session, series_ids: Collection[int]) -> dict[int, list[StandingFinding]]:
    """What stands against each of some series, by series id."""
    query = (
        select(FindingRow.series_id, FindingRow.element, FindingRow.check_name, FindingRow.severity)
        .where(FindingRow.series_id.in_(series_ids), FindingRow.state.in_(STANDING))
        .order_by(FindingRow.id)
    )
    found: defaultdict[int, list[StandingFinding]] = defaultdict(list)
    for series_id, element, check, severity in session.execute(query):
        found[series_id].append(StandingFinding(element, check, severity))
    return dict(found)


def learnable_spool_paths(session: Session, series_ids: Collection[int]) -> dict[int, list[str]]:
    """Where the instances of some series lie that are still there and a model can read, by series id."""
    query = (
        select(InstanceRow.series_id, InstanceRow.spool_path)
        .where(
            InstanceRow.series_id.in_(series_ids),
            InstanceRow.bytes_state == BytesState.PRESENT,
            InstanceRow.not_analysed_reason.is_(None),
        )
        .order_by(InstanceRow.series_id, InstanceRow.sop_instance_uid)
    )
    found: defaultdict[int, list[str]] = defaultdict(list)
    for series_id, spool_path in session.execute(query):
        found[series_id].append(spool_path)
    return dict(found)
