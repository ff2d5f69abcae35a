"""What reports over a period count: series, findings, predictions and decisions, of all scanners or of one.

Called by the command `report` and the scheduler. A series belongs to the period in which its first instance came; what
is counted of it is what is known of it now. Queries walk along the index of that time, and every answer is bounded.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Select, and_, case, func, select
from sqlalchemy.orm import Session

from iap_node.database.tables import (
    FindingEventRow,
    FindingRow,
    HeaderComparisonRow,
    JudgementRow,
    PredictionRow,
    SeriesRow,
)
from iap_node.dicom.parameters import PARAMETERS, Nature, canonical_number
from iap_node.records import FindingKind, FindingState, SeriesState, Severity, Verdict, Witness

MOST_GROUPS = 1_000  # scanners, protocols, checks, versions that one answer lists
MOST_COMPARISONS = 200_000  # of numbers that a distribution is made of, the newest
MOST_EVENTS = 100_000
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

# What still is a finding: not dismissed, and in the newest revision.
STANDING = (FindingState.OPEN, FindingState.ACCEPTED, FindingState.CORRECTED)
GRAVE = (Severity.ERROR, Severity.WARNING)
DRIFTING = tuple(one.keyword for one in PARAMETERS if one.nature is Nature.NUMBER)
_OF_THE_NODE = ("audit", "delivery")  # who, in a finding's history, is no person; rules are "rule 7"


@dataclass(frozen=True, slots=True)
class Scope:
    """Series whose first instance came from `since` on and before `until`: of all scanners, of one, of one model."""

    since: datetime
    until: datetime
    serial_number: str | None = None  # Device Serial Number (0018,1000), as written
    model: str | None = None  # Manufacturer's Model Name (0008,1090), as written


@dataclass(frozen=True, slots=True, order=True)
class Scanner:
    """A scanner as its headers name it; "" where they do not."""

    manufacturer: str
    model: str
    serial_number: str

    def __str__(self) -> str:
        named = " ".join(part for part in (self.manufacturer, self.model) if part)
        return " ".join(part for part in (named or "unnamed scanner", self.serial_number) if part)


@dataclass(frozen=True, slots=True)
class Week:
    """Series that came in a week, and the standing findings of these, by severity."""

    since: datetime
    n_series: int
    errors: int
    warnings: int
    notes: int

    @property
    def n_findings(self) -> int:
        return self.errors + self.warnings + self.notes


@dataclass(frozen=True, slots=True)
class CheckCount:
    """How often a check found something."""

    check: str
    severity: Severity
    raised_by: Witness
    n_findings: int  # standing
    n_series: int
    n_open: int
    n_dismissed: int
    by_week: tuple[int, ...]  # standing ones


@dataclass(frozen=True, slots=True)
class ScannerCount:
    """A scanner, its series, and how many of them have a standing error or warning."""

    scanner: Scanner
    n_series: int
    n_conspicuous: int


@dataclass(frozen=True, slots=True)
class ProtocolCount:
    """A protocol of a scanner, and how many of its series have findings; deviations are those against habit."""

    scanner: Scanner
    protocol_name: str
    n_series: int
    n_deviating: int
    n_conspicuous: int


@dataclass(frozen=True, slots=True)
class SoftwareSeen:
    """A software version of a scanner, and when series of it came."""

    scanner: Scanner
    software_versions: str
    first_at: datetime
    last_at: datetime
    n_series: int


@dataclass(frozen=True, slots=True)
class Distribution:
    """Predicted minus stated values of one number: `QUANTILES`, in the parameter's unit."""

    n: int
    quantiles: tuple[float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Drift:
    """Predicted minus stated values of one number on one scanner, in the period and before it."""

    scanner: Scanner
    keyword: str
    now: Distribution | None
    before: Distribution | None


@dataclass(frozen=True, slots=True)
class Contradictions:
    """How often the pixels ruled a scanner's header value out, in the period and before it."""

    scanner: Scanner
    keyword: str
    n_now: int
    of_now: int  # judged either way
    n_before: int
    of_before: int


@dataclass(frozen=True, slots=True)
class ModelAtWork:
    """A model whose prediction stands for series of the period."""

    model_id: str
    training_data: str
    n_series: int
    n_novel: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Decisions:
    """What people, or rules of theirs, made of findings in the period; whenever those were found."""

    state: FindingState
    by_people: int
    by_rules: int  # deliveries that send corrected copies included
    median_days_open: float | None  # of those that people decided


@dataclass(frozen=True, slots=True)
class Backlog:
    """Findings of a severity that wait for a person now, whenever they were found."""

    severity: Severity
    n_open: int
    oldest_at: datetime


# ---------------------------------------------------------------- series and findings


def series_by_state(session: Session, scope: Scope) -> dict[SeriesState, int]:
    """How many series there are in each state; every state has its number."""
    query = select(SeriesRow.state, func.count()).where(_in(scope)).group_by(SeriesRow.state)
    counted = dict(session.execute(query).all())
    return {state: counted.get(state, 0) for state in SeriesState}


def not_analysed(session: Session, scope: Scope, limit: int = 20) -> list[tuple[str, int]]:
    """Why series were not analysed, and how many, the commonest reason first."""
    reason = SeriesRow.not_analysed_reason
    query = select(reason, func.count()).where(_in(scope), reason.is_not(None)).group_by(reason)
    return [(text or "", n) for text, n in session.execute(query.order_by(func.count().desc(), reason).limit(limit))]


def weeks(session: Session, scope: Scope, starts: Sequence[datetime]) -> list[Week]:
    """Series and standing findings between one start and the next, the last until the end of the period."""
    week = _bucket(starts)
    series = select(week, func.count()).where(_in(scope)).group_by(week)
    n_series = dict(session.execute(series).all())
    found = (
        select(week, FindingRow.severity, func.count())
        .join(FindingRow, FindingRow.series_id == SeriesRow.id)
        .where(_in(scope), FindingRow.state.in_(STANDING))
        .group_by(week, FindingRow.severity)
    )
    n_found: dict[tuple[int, Severity], int] = {(number, severity): n for number, severity, n in session.execute(found)}
    return [
        Week(
            start,
            n_series.get(number, 0),
            *(n_found.get((number, severity), 0) for severity in (Severity.ERROR, Severity.WARNING, Severity.NOTE)),
        )
        for number, start in enumerate(starts)
    ]


def checks(session: Session, scope: Scope, starts: Sequence[datetime]) -> list[CheckCount]:
    """What each check found, the most frequent first; `starts` as in `weeks`."""
    stands = FindingRow.state.in_(STANDING)
    week = _bucket(starts)
    query = (
        select(
            FindingRow.check_name,
            FindingRow.severity,
            FindingRow.raised_by,
            week,
            func.count(case((stands, FindingRow.id))),
            func.count(case((stands, FindingRow.series_id)).distinct()),
            func.count(case((FindingRow.state == FindingState.OPEN, FindingRow.id))),
            func.count(case((FindingRow.state == FindingState.DISMISSED, FindingRow.id))),
        )
        .join(SeriesRow, SeriesRow.id == FindingRow.series_id)
        .where(_in(scope), FindingRow.state != FindingState.GONE)
        .group_by(FindingRow.check_name, FindingRow.severity, FindingRow.raised_by, week)
        .limit(MOST_GROUPS * len(starts))
    )
    counted: defaultdict[tuple[str, Severity, Witness], dict[int, list[int]]] = defaultdict(dict)
    for check, severity, raised_by, number, *counts in session.execute(query):
        counted[check, severity, raised_by][number] = counts
    found = []
    for key, of_week in counted.items():
        n_findings, n_series, n_open, n_dismissed = (sum(column) for column in zip(*of_week.values(), strict=True))
        by_week = _by_week(of_week, len(starts))
        found.append(CheckCount(*key, n_findings, n_series, n_open, n_dismissed, by_week))
    return sorted(found, key=lambda one: (-one.n_findings, one.check, one.severity))


def scanners(session: Session, scope: Scope) -> list[ScannerCount]:
    """The scanners whose series came, those with the most series first."""
    n_series = func.count()
    query = (
        select(*_SCANNER, n_series, func.count(case((_has_finding(severities=GRAVE), SeriesRow.id))))
        .where(_in(scope))
        .group_by(*_SCANNER)
        .order_by(n_series.desc(), *_SCANNER)
        .limit(MOST_GROUPS)
    )
    return [ScannerCount(Scanner(*row[:3]), *row[3:]) for row in session.execute(query)]


def protocols(session: Session, scope: Scope) -> list[ProtocolCount]:
    """The protocols of the scanners, those with the most deviating series first."""
    n_deviating = func.count(case((_has_finding(kind=FindingKind.DEVIATION), SeriesRow.id)))
    n_conspicuous = func.count(case((_has_finding(severities=GRAVE), SeriesRow.id)))
    query = (
        select(*_SCANNER, SeriesRow.protocol_name, func.count(), n_deviating, n_conspicuous)
        .where(_in(scope))
        .group_by(*_SCANNER, SeriesRow.protocol_name)
        .order_by(n_deviating.desc(), n_conspicuous.desc(), *_SCANNER, SeriesRow.protocol_name)
        .limit(MOST_GROUPS)
    )
    return [ProtocolCount(Scanner(*row[:3]), *row[3:]) for row in session.execute(query)]


def software(session: Session, scope: Scope) -> list[SoftwareSeen]:
    """The software versions that were seen, scanner by scanner, in the order in which they appeared."""
    first_at = func.min(SeriesRow.first_received_at)
    query = (
        select(*_SCANNER, SeriesRow.software_versions, first_at, func.max(SeriesRow.first_received_at), func.count())
        .where(_in(scope))
        .group_by(*_SCANNER, SeriesRow.software_versions)
        .order_by(*_SCANNER, first_at)
        .limit(MOST_GROUPS)
    )
    return [SoftwareSeen(Scanner(*row[:3]), *row[3:]) for row in session.execute(query)]


# ---------------------------------------------------------------- pixels


def drift(session: Session, scope: Scope, boundary: datetime) -> list[Drift]:
    """Predicted minus stated numbers, scanner by scanner and parameter; from `boundary` on, and before it.

    Predictions have three digits here, as they are shown.
    """
    query = (
        _judged(
            *_SCANNER,
            HeaderComparisonRow.keyword,
            SeriesRow.first_received_at >= boundary,
            HeaderComparisonRow.header_value,
            HeaderComparisonRow.predicted_value,
        )
        .where(
            _in(scope),
            HeaderComparisonRow.keyword.in_(DRIFTING),
            HeaderComparisonRow.header_value != "",
            HeaderComparisonRow.predicted_value != "",
        )
        .order_by(SeriesRow.first_received_at.desc())
        .limit(MOST_COMPARISONS)
    )
    differences: defaultdict[tuple[Scanner, str], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for manufacturer, model, serial, keyword, now, stated, predicted in session.execute(query):
        header, pixels = canonical_number(stated), canonical_number(predicted.partition(" ")[0])
        if header is not None and pixels is not None:
            differences[Scanner(manufacturer, model, serial), keyword][not now].append(pixels - header)
    return [
        Drift(scanner, keyword, _distribution(now), _distribution(before))
        for (scanner, keyword), (now, before) in sorted(differences.items())
    ]


def contradictions(session: Session, scope: Scope, boundary: datetime) -> list[Contradictions]:
    """How often pixels ruled a value out, by scanner and parameter; from `boundary` on, and before it."""
    against = HeaderComparisonRow.verdict == Verdict.CONTRADICTS
    now = SeriesRow.first_received_at >= boundary
    query = (
        _judged(
            *_SCANNER,
            HeaderComparisonRow.keyword,
            func.count(case((and_(now, against), 1))),
            func.count(case((now, 1))),
            func.count(case((and_(~now, against), 1))),
            func.count(case((~now, 1))),
        )
        .where(_in(scope), HeaderComparisonRow.verdict.in_((Verdict.CONTRADICTS, Verdict.AGREES)))
        .group_by(*_SCANNER, HeaderComparisonRow.keyword)
        .order_by(*_SCANNER, HeaderComparisonRow.keyword)
        .limit(MOST_GROUPS * 12)
    )
    return [Contradictions(Scanner(*row[:3]), *row[3:]) for row in session.execute(query)]


def models_at_work(session: Session, scope: Scope) -> list[ModelAtWork]:
    """The models whose predictions stand, the last at work first."""
    last_at = func.max(PredictionRow.predicted_at)
    query = (
        select(
            PredictionRow.model_id,
            func.max(PredictionRow.payload["training_data"].as_string()),
            func.count(),
            func.count(case((PredictionRow.novel, 1))),
            func.min(PredictionRow.predicted_at),
            last_at,
        )
        .select_from(SeriesRow)
        .join(JudgementRow, _NEWEST_JUDGEMENT)
        .join(PredictionRow, PredictionRow.id == JudgementRow.prediction_id)
        .where(_in(scope))
        .group_by(PredictionRow.model_id)
        .order_by(last_at.desc())
        .limit(MOST_GROUPS)
    )
    return [ModelAtWork(*row) for row in session.execute(query)]


# ---------------------------------------------------------------- people


def decisions(session: Session, scope: Scope) -> list[Decisions]:
    """What was decided in the period: accepted, dismissed, corrected."""
    decided = (FindingState.ACCEPTED, FindingState.DISMISSED, FindingState.CORRECTED)
    query = (
        select(FindingEventRow.state, FindingEventRow.who, FindingEventRow.at, FindingRow.found_at)
        .join(FindingRow, FindingRow.id == FindingEventRow.finding_id)
        .where(FindingEventRow.at >= scope.since, FindingEventRow.at < scope.until, FindingEventRow.state.in_(decided))
        .order_by(FindingEventRow.id.desc())
        .limit(MOST_EVENTS)
    )
    by_rules: dict[FindingState, int] = dict.fromkeys(decided, 0)
    days_open: dict[FindingState, list[float]] = {state: [] for state in decided}
    for state, who, at, found_at in session.execute(query):
        if who in _OF_THE_NODE or who.startswith("rule "):
            by_rules[state] += 1
        else:
            days_open[state].append((at - found_at).total_seconds() / 86_400)
    return [
        Decisions(state, len(days), by_rules[state], statistics.median(days) if days else None)
        for state, days in days_open.items()
    ]


def backlog(session: Session) -> list[Backlog]:
    """What waits for a person now, the worst first."""
    query = (
        select(FindingRow.severity, func.count(), func.min(FindingRow.found_at))
        .where(FindingRow.state == FindingState.OPEN)
        .group_by(FindingRow.severity)
    )
    found = {severity: Backlog(severity, n, oldest_at) for severity, n, oldest_at in session.execute(query)}
    return [found[severity] for severity in Severity if severity in found]


def first_series_at(session: Session) -> datetime | None:
    """When the archive's first series came; None while there is none."""
    return session.scalar(select(func.min(SeriesRow.first_received_at)))


# ---------------------------------------------------------------- parts of queries


_SCANNER = (SeriesRow.manufacturer, SeriesRow.manufacturer_model_name, SeriesRow.device_serial_number)
_NEWEST_JUDGEMENT = and_(JudgementRow.series_id == SeriesRow.id, JudgementRow.revision == SeriesRow.judged_revision)


def _in(scope: Scope) -> ColumnElement[bool]:
    conditions = [SeriesRow.first_received_at >= scope.since, SeriesRow.first_received_at < scope.until]
    if scope.serial_number is not None:
        conditions.append(SeriesRow.device_serial_number == scope.serial_number)
    if scope.model is not None:
        conditions.append(SeriesRow.manufacturer_model_name == scope.model)
    return and_(*conditions)


def _bucket(starts: Sequence[datetime]) -> ColumnElement[int]:
    """The number of the last start before a series; both databases can group by it."""
    newest_first = reversed(list(enumerate(starts)))
    return case(*((SeriesRow.first_received_at >= start, number) for number, start in newest_first), else_=-1)


def _by_week(counts: Mapping[int, Sequence[int]], n_weeks: int) -> tuple[int, ...]:
    return tuple(counts[week][0] if week in counts else 0 for week in range(n_weeks))


def _has_finding(*, severities: Sequence[Severity] = tuple(Severity), kind: FindingKind | None = None) -> Any:
    query = select(FindingRow.id).where(
        FindingRow.series_id == SeriesRow.id, FindingRow.state.in_(STANDING), FindingRow.severity.in_(severities)
    )
    return (query if kind is None else query.where(FindingRow.kind == kind)).exists()


def _judged(*columns: Any) -> Select[Any]:
    """Comparisons of the newest judgement of each series."""
    return (
        select(*columns)
        .select_from(SeriesRow)
        .join(JudgementRow, _NEWEST_JUDGEMENT)
        .join(HeaderComparisonRow, HeaderComparisonRow.judgement_id == JudgementRow.id)
    )


def _distribution(differences: list[float]) -> Distribution | None:
    if not differences:
        return None
    least, lower, middle, upper, most = (float(value) for value in np.quantile(differences, QUANTILES))
    return Distribution(len(differences), (least, lower, middle, upper, most))
