"""What the reports of one series and of one study tell: series, judgement, findings with their events, what differs.

Called by the command `report`. Figures over a period stand in `report_figures`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, func, or_, select
from sqlalchemy.orm import Session

from iap_node.database import results
from iap_node.database.findings import ArchivedFinding, FindingEvent, FindingFilter, list_findings
from iap_node.database.results import Judgement
from iap_node.database.tables import FindingEventRow, FindingRow, InstanceRow, SeriesRow, StatedProtocolRow, StudyRow
from iap_node.errors import PermanentError
from iap_node.records import FindingState, SeriesState

MOST_SERIES = 500  # of a study that a report looks at, the first that came
MOST_FINDINGS = 1_000  # of a series, the worst
MOST_EVENTS = 20_000
MOST_CANDIDATES_SHOWN = 5

_STATES = list(FindingState)


class UnknownStudy(PermanentError):
    """No study, or more than one, goes by what was asked for."""


@dataclass(frozen=True, slots=True)
class ReportedFinding:
    """A finding of a series, and what became of it."""

    finding: ArchivedFinding
    events: tuple[FindingEvent, ...]

    @property
    def state(self) -> FindingState:
        return self.finding.state


@dataclass(frozen=True, slots=True)
class ReportedSeries:
    """A series, what was found out about its newest judged revision, and its findings, those that are gone last."""

    id: int
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    series_number: int | None
    series_description: str
    protocol_name: str
    body_part_examined: str
    manufacturer: str
    manufacturer_model_name: str
    device_serial_number: str
    software_versions: str
    calling_ae_title: str
    state: SeriesState
    revision: int
    not_analysed_reason: str | None
    first_received_at: datetime
    n_instances: int
    judgement: Judgement | None
    findings: tuple[ReportedFinding, ...]
    stated: dict[str, str]  # what its headers state, in canonical text, by DICOM keyword

    @property
    def standing(self) -> tuple[ReportedFinding, ...]:
        """The findings that still are some: not dismissed, not gone."""
        over = (FindingState.DISMISSED, FindingState.GONE)
        return tuple(one for one in self.findings if one.state not in over)


@dataclass(frozen=True, slots=True)
class ReportedStudy:
    """The series of a study, in the order in which they came."""

    study_instance_uid: str
    received_at: datetime
    n_series: int  # all of it; `series` are MOST_SERIES at most
    series: tuple[ReportedSeries, ...]


def series(session: Session, series_id: int) -> ReportedSeries:
    """Everything that a report tells of a series.

    Raises
    ------
    LookupError
        There is no such row.
    """
    found = _series(session, session.execute(_series_query().where(SeriesRow.id == series_id)).all())
    if not found:
        raise LookupError(f"no series has the row {series_id}")
    return found[0]


def study(session: Session, uid: str) -> ReportedStudy:
    """Everything that a report tells of the one study whose Study Instance UID (0020,000D) is, begins or ends so.

    Raises
    ------
    UnknownStudy
        None or more than one; the text names the candidates.
    """
    text = uid.strip()
    if not text or not set(text) <= set("0123456789."):
        raise UnknownStudy(f"{uid!r} is not a study UID, nor the beginning or end of one")
    column, limit = StudyRow.study_instance_uid, MOST_CANDIDATES_SHOWN + 1
    rows = session.scalars(select(StudyRow).where(column == text)).all()
    if not rows:
        part = or_(column.startswith(text), column.endswith(text))
        rows = session.scalars(select(StudyRow).where(part).order_by(StudyRow.id).limit(limit)).all()
    if len(rows) != 1:
        shown = ", ".join(row.study_instance_uid for row in rows[:MOST_CANDIDATES_SHOWN])
        raise UnknownStudy(
            f"{uid!r} is more than one study: {shown}; give more of the UID"
            if rows
            else f"no study goes by {uid!r}; `iap-node series --json` names them"
        )
    of_study = SeriesRow.study_id == rows[0].id
    query = _series_query().where(of_study).order_by(SeriesRow.id).limit(MOST_SERIES)
    return ReportedStudy(
        study_instance_uid=rows[0].study_instance_uid,
        received_at=rows[0].received_at,
        n_series=session.scalar(select(func.count()).select_from(SeriesRow).where(of_study)) or 0,
        series=tuple(_series(session, session.execute(query).all())),
    )


def _series_query() -> Select[*tuple[Any, ...]]:
    """One row per series; labels are fields of `ReportedSeries`."""
    n_instances = select(func.count()).where(InstanceRow.series_id == SeriesRow.id)
    return (
        select(
            SeriesRow.id,
            StudyRow.study_instance_uid,
            SeriesRow.series_instance_uid,
            SeriesRow.modality,
            SeriesRow.series_number,
            SeriesRow.series_description,
            SeriesRow.protocol_name,
            SeriesRow.body_part_examined,
            SeriesRow.manufacturer,
            SeriesRow.manufacturer_model_name,
            SeriesRow.device_serial_number,
            SeriesRow.software_versions,
            SeriesRow.calling_ae_title,
            SeriesRow.state,
            SeriesRow.revision,
            SeriesRow.not_analysed_reason,
            SeriesRow.first_received_at,
            n_instances.scalar_subquery().label("n_instances"),
        )
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .order_by(SeriesRow.id)
    )


def _series(session: Session, rows: Collection[Row[Any]]) -> list[ReportedSeries]:
    ids = [row.id for row in rows]
    findings = _findings(session, ids)
    query = select(StatedProtocolRow.series_id, StatedProtocolRow.stated).where(StatedProtocolRow.series_id.in_(ids))
    stated: dict[int, dict[str, Any]] = {series_id: values for series_id, values in session.execute(query)}  # noqa: C416
    return [
        ReportedSeries(
            **row._asdict(),
            judgement=results.judgement(session, row.id),
            findings=findings[row.id],
            stated=stated.get(row.id, {}),
        )
        for row in rows
    ]


def _findings(session: Session, series_ids: Collection[int]) -> dict[int, tuple[ReportedFinding, ...]]:
    """Of each series: those that stand first, the worst of them before the others."""
    happened = (
        select(FindingEventRow)
        .join(FindingRow, FindingRow.id == FindingEventRow.finding_id)
        .where(FindingRow.series_id.in_(series_ids))
        .order_by(FindingEventRow.id)
        .limit(MOST_EVENTS)
    )
    events: defaultdict[int, list[FindingEvent]] = defaultdict(list)
    for event in session.scalars(happened):
        events[event.finding_id].append(FindingEvent(event.state, event.who, event.reason, event.value, event.at))
    found = {}
    for series_id in series_ids:
        which = FindingFilter(states=(), series_id=series_id)
        rows = [
            ReportedFinding(one, tuple(events[one.id])) for one in list_findings(session, which, limit=MOST_FINDINGS)
        ]
        found[series_id] = tuple(sorted(rows, key=lambda one: _STATES.index(one.state)))
    return found
