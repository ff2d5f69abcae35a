"""Series as people see them: find one by its UID, list many with what was judged and where they went.

Called by the command line and the web through `archive`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from iap_node.database.holds import held_by_person
from iap_node.database.tables import (
    DeliveryRow,
    DeliveryState,
    FindingRow,
    InstanceRow,
    JudgementRow,
    PredictionRow,
    RouteChangeRow,
    RouteDecisionRow,
    SeriesRow,
    StudyRow,
)
from iap_node.errors import PermanentError
from iap_node.records import FindingState, SeriesState

_MOST_CANDIDATES_SHOWN = 5


class UnknownSeries(PermanentError):
    """No series, or more than one, goes by what was asked for."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A destination of a series' newest judged revision, and how far it got."""

    destination: str
    state: DeliveryState
    shadow: bool = False  # sent for comparison: the series counts as not routed by it

    @property
    def text(self) -> str:
        """As people read it."""
        return f"{self.destination} ({'shadow, ' * self.shadow}{self.state})"


@dataclass(frozen=True, slots=True)
class SeriesSummary:
    """A series in a list. What was judged is that of `judged_revision`, the newest with a judgement."""

    id: int
    series_instance_uid: str
    study_instance_uid: str
    modality: str
    series_number: int | None
    series_description: str
    manufacturer: str
    manufacturer_model_name: str
    calling_ae_title: str
    n_instances: int
    size_bytes: int
    state: SeriesState
    revision: int
    not_analysed_reason: str | None
    first_received_at: datetime
    last_received_at: datetime
    completed_at: datetime | None
    judged_revision: int | None = None
    novel: bool | None = None  # None: no prediction stands
    model_id: str | None = None
    training_data: str | None = None  # of the model, to be shown with what it says
    domain: str | None = None  # None: the default route, or not judged yet
    route_reason: str = ""
    n_findings: int = 0  # that are open
    held: bool = False  # nothing of it is sent until a person releases or reroutes it
    deliveries: tuple[Delivery, ...] = ()

    @property
    def destinations(self) -> tuple[str, ...]:
        """Names of the destinations that it was routed to."""
        return tuple(delivery.destination for delivery in self.deliveries)


def list_series(
    session: Session, states: Sequence[SeriesState] | None = None, limit: int = 100, offset: int = 0
) -> list[SeriesSummary]:
    """Series in any of `states` (None: all), the last begun first."""
    query = _summary_query().order_by(SeriesRow.first_received_at.desc(), SeriesRow.id.desc())
    if states is not None:
        query = query.where(SeriesRow.state.in_(states))
    return _summaries(session, query.limit(limit).offset(offset))


@dataclass(frozen=True, slots=True)
class SeriesFilter:
    """Which series of the list; an empty value admits all. Texts are looked for anywhere, without case."""

    states: tuple[SeriesState, ...] = ()
    text: str = ""  # in description, protocol, or the whole UID
    scanner: str = ""  # in manufacturer, model or serial number
    modality: str = ""
    domain: str = ""  # that the newest judgement routed it to
    destination: str = ""
    with_findings: bool = False  # that are open
    novel: bool | None = None
    since: datetime | None = None  # when its first instance came


def page_of_series(
    session: Session, which: SeriesFilter, limit: int = 100, before: int | None = None
) -> list[SeriesSummary]:
    """A page of the series that a filter admits, the last begun first.

    Parameters
    ----------
    before
        `id` of the last series of the page before; None: the first page.
    """
    query = _summary_query().where(*_admitted(which))
    if which.since is not None:  # along the index of that time: few of many
        query = query.order_by(SeriesRow.first_received_at.desc())
    query = query.order_by(SeriesRow.id.desc()).limit(limit)
    return _summaries(session, query if before is None else query.where(SeriesRow.id < before))


def series_by_id(session: Session, series_id: int) -> SeriesSummary:
    """The series of a row.

    Raises
    ------
    UnknownSeries
        There is none.
    """
    found = _summaries(session, _summary_query().where(SeriesRow.id == series_id))
    if not found:
        raise UnknownSeries(f"there is no series {series_id}")
    return found[0]


def _admitted(which: SeriesFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if which.states:
        conditions.append(SeriesRow.state.in_(which.states))
    if which.modality:
        conditions.append(SeriesRow.modality == which.modality)
    if which.text:
        described = [column.icontains(which.text, autoescape=True) for column in
                     (SeriesRow.series_description, SeriesRow.protocol_name)]  # fmt: skip
        conditions.append(or_(SeriesRow.series_instance_uid == which.text, *described))
    if which.scanner:
        columns = (SeriesRow.manufacturer, SeriesRow.manufacturer_model_name, SeriesRow.device_serial_number)
        conditions.append(or_(*(column.icontains(which.scanner, autoescape=True) for column in columns)))
    if which.domain:
        conditions.append(RouteDecisionRow.domain == which.domain)
    if which.novel is not None:
        conditions.append(PredictionRow.novel == which.novel)
    if which.with_findings:
        opened = (FindingRow.series_id == SeriesRow.id, FindingRow.state == FindingState.OPEN)
        conditions.append(exists().where(*opened))
    if which.since is not None:
        conditions.append(SeriesRow.first_received_at >= which.since)
    if which.destination:
        sent = (DeliveryRow.series_id == SeriesRow.id, DeliveryRow.destination == which.destination)
        conditions.append(exists().where(*sent))
    return conditions


def find_series(session: Session, uid: str) -> SeriesSummary:
    """The one series whose Series Instance UID (0020,000E) is `uid`, or begins or ends with it.

    Parameters
    ----------
    uid
        A UID or a part of one; `STUDY/SERIES` where a Series Instance UID appears in two studies.

    Raises
    ------
    UnknownSeries
        None or more than one; the text names the candidates.
    """
    study_uid, _, series_uid = uid.strip().rpartition("/")
    if not series_uid or not set(series_uid + study_uid) <= set("0123456789."):
        raise UnknownSeries(f"{uid!r} is not a series UID, nor the beginning or end of one")
    query = _summary_query().order_by(SeriesRow.id).limit(_MOST_CANDIDATES_SHOWN + 1)
    if study_uid:
        query = query.where(StudyRow.study_instance_uid == study_uid)
    column = SeriesRow.series_instance_uid
    found = _summaries(session, query.where(column == series_uid))
    if not found:
        part = or_(column.startswith(series_uid), column.endswith(series_uid))
        found = _summaries(session, query.where(part))
    if not found:
        raise UnknownSeries(f"no series goes by {uid!r}; `iap-node series` lists them")
    if len(found) > 1:
        shown = ", ".join(
            f"{series.study_instance_uid}/{series.series_instance_uid}"
            for series in found[:_MOST_CANDIDATES_SHOWN]
        )
        more = " and more" if len(found) > _MOST_CANDIDATES_SHOWN else ""
        raise UnknownSeries(
            f"{uid!r} is more than one series: {shown}{more}; give more of the UID, or STUDY/SERIES"
        )
    return found[0]


def _summary_query() -> Select[*tuple[object, ...]]:
    """One row per series, with what stands in single rows beside it; labels are fields of `SeriesSummary`."""
    of_series = InstanceRow.series_id == SeriesRow.id
    judged = and_(JudgementRow.series_id == SeriesRow.id, JudgementRow.revision == SeriesRow.judged_revision)
    n_findings = select(func.count()).where(
        FindingRow.series_id == SeriesRow.id, FindingRow.state == FindingState.OPEN
    )
    was_changed = exists().where(RouteChangeRow.judgement_id == RouteDecisionRow.judgement_id)
    size_bytes = select(func.coalesce(func.sum(InstanceRow.size_bytes), 0)).where(of_series)
    return (
        select(
            SeriesRow.id,
            SeriesRow.series_instance_uid,
            StudyRow.study_instance_uid,
            SeriesRow.modality,
            SeriesRow.series_number,
            SeriesRow.series_description,
            SeriesRow.manufacturer,
            SeriesRow.manufacturer_model_name,
            SeriesRow.calling_ae_title,
            select(func.count()).where(of_series).scalar_subquery().label("n_instances"),
            size_bytes.scalar_subquery().label("size_bytes"),
            SeriesRow.state,
            SeriesRow.revision,
            SeriesRow.not_analysed_reason,
            SeriesRow.first_received_at,
            SeriesRow.last_received_at,
            SeriesRow.completed_at,
            SeriesRow.judged_revision,
            PredictionRow.novel,
            PredictionRow.model_id,
            PredictionRow.payload["training_data"].as_string().label("training_data"),
            RouteDecisionRow.domain,
            func.coalesce(RouteDecisionRow.reason, "").label("route_reason"),
            or_(and_(RouteDecisionRow.held, ~was_changed), held_by_person(SeriesRow.id)).label("held"),
            n_findings.scalar_subquery().label("n_findings"),
        )
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .outerjoin(JudgementRow, judged)
        .outerjoin(PredictionRow, PredictionRow.id == JudgementRow.prediction_id)
        .outerjoin(RouteDecisionRow, RouteDecisionRow.judgement_id == JudgementRow.id)
    )


def _summaries(session: Session, query: Select[*tuple[object, ...]]) -> list[SeriesSummary]:
    rows = session.execute(query).all()
    deliveries: dict[int, list[Delivery]] = {}
    current = (
        select(DeliveryRow.series_id, DeliveryRow.destination, DeliveryRow.state, DeliveryRow.shadow)
        .join(SeriesRow, SeriesRow.id == DeliveryRow.series_id)
        .where(
            DeliveryRow.series_id.in_([row.id for row in rows]),
            DeliveryRow.revision == SeriesRow.judged_revision,
        )
        .order_by(DeliveryRow.id)
    )
    for series_id, destination, state, shadow in session.execute(current):
        deliveries.setdefault(series_id, []).append(Delivery(destination, state, shadow))
    return [
        SeriesSummary(
            **{**row._asdict(), "size_bytes": int(row.size_bytes), "held": bool(row.held)},
            deliveries=tuple(deliveries.get(row.id, ())),
        )
        for row in rows
    ]
