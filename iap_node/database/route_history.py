"""Past decisions with everything that they were made of, batch by batch: for replay and coverage.

Batches are read one transaction each, by the judgement's number: a hundred thousand series are gone through without
keeping a writer or a checkpoint waiting, and what comes in meanwhile is not missed or met twice.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from iap_node.database.engine import Database
from iap_node.database.payloads import from_payload
from iap_node.database.routes import facts_of
from iap_node.database.tables import (
    FindingRow,
    InstanceRow,
    JudgementRow,
    PredictionRow,
    RouteDecisionRow,
    SeriesRow,
    StatedProtocolRow,
    StudyRow,
)
from iap_node.records import (
    FindingState,
    FoundFact,
    HeaderValue,
    ParameterKind,
    ParameterPrediction,
    RoutingEvidence,
    SeriesHeader,
    SeriesPrediction,
)

AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class PastDecision:
    """The decision on the newest judged revision of a series, without its trace."""

    domain: str | None
    by: tuple[str, ...]  # rules and models; empty: the default route
    destinations: tuple[str, ...]
    shadow_models: tuple[str, ...]
    shadow_destinations: tuple[str, ...]
    held: str
    reason: str
    rules_version: str
    unheard: tuple[str, ...] = ()  # witnesses that could not look at everything
    domain_truths: tuple[tuple[str, str], ...] = ()  # domain, text of its `Truth`; only where asked for


@dataclass(frozen=True, slots=True)
class DecidedSeries:
    """A series, what was decided, and by what."""

    series_id: int
    series_instance_uid: str
    series_description: str
    judged_at: datetime
    decision: PastDecision
    evidence: RoutingEvidence | None = None  # only where asked for


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of the evidence rules look at: the rest stays in the database."""

    parameters: Collection[str] = ()  # predicted
    headers: Collection[str] = ()  # acquisition parameters, as stated
    stated: bool = True  # elements beyond the acquisition parameters
    findings: bool = True


def count_decided(session: Session, since: datetime) -> int:
    """How many series were judged since."""
    query = select(func.count()).select_from(SeriesRow).join(JudgementRow, _newest())
    return session.scalar(query.where(JudgementRow.judged_at >= since)) or 0


def with_evidence(database: Database, since: datetime, wanted: Wanted) -> Generator[DecidedSeries]:
    """Every series judged since, in the order of judgement, with what its route is decided by as it stands now.

    Raises
    ------
    DatabaseUnavailable
        The database did not answer.
    """
    query = (
        select(
            SeriesRow,
            StudyRow.study_date,
            JudgementRow.id,
            JudgementRow.judged_at,
            JudgementRow.header,
            JudgementRow.not_analysed_reason,
            PredictionRow.payload,
            *_decision_columns(),
        )
        .join(JudgementRow, _newest())
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .join(RouteDecisionRow, RouteDecisionRow.judgement_id == JudgementRow.id)
        .outerjoin(PredictionRow, PredictionRow.id == JudgementRow.prediction_id)
    )
    for session, rows in _batches(database, query, since):
        ids = [row[0].id for row in rows]
        n_instances = _instances(session, ids)
        findings = _findings(session, ids) if wanted.findings else {}
        stated = _stated(session, ids) if wanted.stated else {}
        for row in rows:
            series: SeriesRow = row[0]
            decision = _decision(row[7:])
            evidence = RoutingEvidence(
                prediction=None if row[6] is None else _prediction(row[6], wanted.parameters),
                not_analysed_reason=row[5] or "",
                header=_header(row[4], wanted.headers),
                stated=stated.get(series.id),
                facts=facts_of(series, row[1], n_instances.get(series.id, 0)),
                findings=tuple(findings.get(series.id, ())) if wanted.findings else None,
                unheard=decision.unheard,
            )
            yield DecidedSeries(
                series.id,
                series.series_instance_uid,
                series.series_description,
                row[3],
                decision,
                evidence,
            )


def decided(database: Database, since: datetime) -> Iterator[DecidedSeries]:
    """Every series judged since, with the truth of every domain as it was judged then.

    Raises
    ------
    DatabaseUnavailable
        The database did not answer.
    """
    query = (
        select(
            SeriesRow.id,
            SeriesRow.series_instance_uid,
            JudgementRow.id,
            JudgementRow.judged_at,
            SeriesRow.series_description,
            RouteDecisionRow.payload["trace"],
            *_decision_columns(),
        )
        .join(JudgementRow, _newest())
        .join(RouteDecisionRow, RouteDecisionRow.judgement_id == JudgementRow.id)
    )
    for _, rows in _batches(database, query, since):
        for row in rows:
            truths = tuple((trace["domain"], trace["truth"]) for trace in row[5])
            yield DecidedSeries(row[0], row[1], row[4], row[3], _decision(row[6:], truths))


def _batches(
    database: Database, query: Select[*tuple[Any, ...]], since: datetime
) -> Iterator[tuple[Session, Sequence[Any]]]:
    last = 0
    while True:
        with database.reading() as session:
            rows = session.execute(
                query.where(JudgementRow.id > last, JudgementRow.judged_at >= since)
                .order_by(JudgementRow.id)
                .limit(AT_ONCE)
            ).all()
            if rows:
                last = rows[-1]._mapping[JudgementRow.id]
                yield session, rows
        if len(rows) < AT_ONCE:
            return


def _newest() -> Any:
    return (JudgementRow.series_id == SeriesRow.id) & (JudgementRow.revision == SeriesRow.judged_revision)


def _decision_columns() -> tuple[Any, ...]:
    """Columns of `_decision`; picked out by the database, since traces are long."""
    keys = ("by", "destinations", "shadow_models", "shadow_destinations", "unheard")
    picked = [RouteDecisionRow.payload[key] for key in keys]
    held = RouteDecisionRow.payload["held"].as_string()
    return (RouteDecisionRow.domain, *picked, held, RouteDecisionRow.reason, RouteDecisionRow.rules_version)


def _decision(columns: Sequence[Any], truths: tuple[tuple[str, str], ...] = ()) -> PastDecision:
    domain, by, destinations, shadow_models, shadow_destinations, unheard, held, reason, version = columns
    return PastDecision(
        domain,
        tuple(by or ()),
        tuple(destinations or ()),
        tuple(shadow_models or ()),
        tuple(shadow_destinations or ()),
        held or "",
        reason,
        version,
        tuple(unheard or ()),
        truths,
    )


# Of payloads only what is asked for becomes records: that is most of the time that a long replay takes.


def _header(payload: dict[str, Any], keywords: Collection[str]) -> SeriesHeader:
    looked_at = [from_payload(HeaderValue, value) for value in payload["values"] if value["keyword"] in keywords]
    return SeriesHeader(tuple(looked_at))


def _prediction(payload: dict[str, Any], parameters: Collection[str]) -> SeriesPrediction:
    looked_at = [item for item in payload["parameters"] if item["keyword"] in parameters]
    prediction: SeriesPrediction = from_payload(SeriesPrediction, {**payload, "parameters": []})
    return replace(prediction, parameters=tuple(map(_parameter, looked_at))) if looked_at else prediction


def _parameter(payload: dict[str, Any]) -> ParameterPrediction:
    """What rules look at of a prediction; conformal sets and most intervals are not."""
    shares, interval = payload["probabilities"], payload["interval"]
    intervals = () if interval else from_payload(tuple[tuple[float, float, float], ...], payload["intervals"])
    return ParameterPrediction(
        keyword=payload["keyword"],
        kind=ParameterKind(payload["kind"]),
        probabilities=tuple((str(label), float(share)) for label, share in shares),
        value=None if payload["value"] is None else from_payload(float, payload["value"]),
        interval=None if interval is None else from_payload(tuple[float, float], interval),
        intervals=intervals,
        alpha=from_payload(float, payload["alpha"]),
        by_association=payload.get("by_association", False),
    )


def _instances(session: Session, ids: Sequence[int]) -> dict[int, int]:
    query = select(InstanceRow.series_id, func.count()).where(InstanceRow.series_id.in_(ids))
    return dict(session.execute(query.group_by(InstanceRow.series_id)).all())


def _findings(session: Session, ids: Sequence[int]) -> dict[int, list[FoundFact]]:
    query = select(
        FindingRow.series_id,
        FindingRow.check_name,
        FindingRow.element,
        FindingRow.severity,
        FindingRow.state,
        FindingRow.raised_by,
    ).where(FindingRow.series_id.in_(ids), FindingRow.state != FindingState.GONE)
    found: dict[int, list[FoundFact]] = {}
    for series_id, check, element, severity, state, raised_by in session.execute(query):
        found.setdefault(series_id, []).append(FoundFact(check, element, str(severity), str(state), str(raised_by)))
    return found


def _stated(session: Session, ids: Sequence[int]) -> dict[int, tuple[tuple[str, str], ...]]:
    query = select(StatedProtocolRow.series_id, StatedProtocolRow.stated).where(StatedProtocolRow.series_id.in_(ids))
    return {series_id: tuple(stated.items()) for series_id, stated in session.execute(query)}
