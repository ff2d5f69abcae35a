"""Findings as people read them: filtered, ordered, page by page, with what became of them.

Called through `findings` by the command line and the reports. Every page is read along an index, however many
findings there are: one walk for each severity and state, merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from itertools import product
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, exists, func, literal, select, tuple_, union_all
from sqlalchemy.orm import Session

from iap_node.database.columns import storable
from iap_node.database.payloads import from_payload
from iap_node.database.tables import (
    FindingEventRow,
    FindingRow,
    JudgementRow,
    PredictionRow,
    SeriesRow,
    StudyRow,
)
from iap_node.errors import PermanentError
from iap_node.records import FindingKind, FindingState, Severity, Testimony, Witness

_PAGE = 500  # findings that `every_finding` reads at a time
_FEW_SERIES = 2000  # of a scanner; of more, one in some hundred is met on any walk through the archive
_RANK = {severity: rank for rank, severity in enumerate(Severity)}  # the worst first

# What a filter, an order or a page asks of a finding.
_ASKED_FOR = (
    "id", "series_id", "element", "check_name", "kind", "severity", "raised_by", "state", "rule_id", "found_at",
)  # fmt: skip


class UnknownFinding(PermanentError):
    """No finding has that number."""


class UnknownScanner(PermanentError):
    """No series is of the scanner that was asked for."""


@dataclass(frozen=True, slots=True)
class Scanner:
    """Which scanner; "" stands for any. Compared as written, without case."""

    manufacturer: str = ""
    manufacturer_model_name: str = ""
    device_serial_number: str = ""


ANY_SCANNER = Scanner()


@dataclass(frozen=True, slots=True)
class FindingFilter:
    """Which findings; an empty tuple or None admits all."""

    states: tuple[FindingState, ...] = (FindingState.OPEN,)
    severities: tuple[Severity, ...] = ()
    kinds: tuple[FindingKind, ...] = ()
    witnesses: tuple[Witness, ...] = ()  # that raised it
    checks: tuple[str, ...] = ()
    elements: tuple[str, ...] = ()  # DICOM keywords
    scanner: Scanner | None = None
    series_id: int | None = None
    rule_id: int | None = None  # that dismissed it
    since: datetime | None = None  # found then or later


OPEN = FindingFilter()


class FindingOrder(StrEnum):
    """Which come first."""

    WORST = "worst"  # by severity, of each the newest first
    NEWEST = "newest"
    OLDEST = "oldest"


@dataclass(frozen=True, slots=True)
class ArchivedFinding:
    """A finding of a series, with what became of it. What the witnesses said is that of `last_revision`."""

    id: int
    series_id: int
    series_instance_uid: str
    study_instance_uid: str
    series_description: str
    manufacturer: str
    manufacturer_model_name: str
    device_serial_number: str
    element: str  # DICOM keyword
    check: str
    kind: FindingKind
    severity: Severity
    raised_by: Witness
    evidence: str
    raw: str  # as written: to be escaped wherever it is shown
    suggested_value: str | None
    testimonies: tuple[Testimony, ...]
    conclusion: str
    state: FindingState
    accepted_value: str | None
    rule_id: int | None  # that dismissed it
    first_revision: int
    last_revision: int
    found_at: datetime
    updated_at: datetime
    model_id: str | None  # that spoke for the pixels; None: none did
    training_data: str | None  # of the model, to be shown with what it says


@dataclass(frozen=True, slots=True)
class FindingEvent:
    """What happened to a finding, and who did it."""

    state: FindingState  # from then on
    who: str  # a person's name, or what of the node: "audit", "rule 7"
    reason: str
    value: str | None  # that was accepted or written
    at: datetime


def list_findings(
    session: Session,
    which: FindingFilter = OPEN,
    order: FindingOrder = FindingOrder.WORST,
    limit: int = 100,
    after: int | None = None,
) -> list[ArchivedFinding]:
    """A page of the findings that a filter admits.

    Parameters
    ----------
    after
        Number of the last finding of the page before; None: the first page. Findings that come, go or change
        between two pages are on one of them or on none; no other is left out or comes twice, unless it is the one
        named here that changes its severity.

    Raises
    ------
    UnknownFinding
        There is no finding `after`.
    """
    return _listed(session, which, order, limit, None if after is None else _position(session, after))


def _listed(
    session: Session, which: FindingFilter, order: FindingOrder, limit: int, end: _Position | None
) -> list[ArchivedFinding]:
    found = _page(_source(session, which), which, order, limit, end).subquery()
    query = _records().join(found, found.c.id == FindingRow.id)
    return [_archived(*row) for row in session.execute(query.order_by(*_sorting(found.c, order)))]


def every_finding(
    session: Session, which: FindingFilter = OPEN, order: FindingOrder = FindingOrder.WORST
) -> Iterator[ArchivedFinding]:
    """All findings that a filter admits, a page at a time in memory."""
    page = _listed(session, which, order, _PAGE, None)
    while page:
        last = page[-1]
        end = _Position(last.id, _RANK[last.severity], last.found_at)  # as it was read: it may change meanwhile
        yield from page
        page = _listed(session, which, order, _PAGE, end) if len(page) == _PAGE else []


def count_findings(session: Session, which: FindingFilter = OPEN) -> dict[Severity, int]:
    """How many findings a filter admits, by severity; zero included."""
    findings, others = _source(session, which)
    asked = [column.in_(values) for column, values in ((findings.state, which.states),
                                                       (findings.severity, which.severities)) if values]  # fmt: skip
    query = select(findings.severity, func.count()).where(*asked, *others).group_by(findings.severity)
    counted: dict[Severity, int] = dict.fromkeys(Severity, 0)
    for severity, n in session.execute(query):
        counted[severity] = n
    return counted


def finding(session: Session, finding_id: int) -> ArchivedFinding:
    """One finding by its number.

    Raises
    ------
    UnknownFinding
        There is none.
    """
    row = session.execute(_records().where(FindingRow.id == finding_id)).one_or_none()
    if row is None:
        raise _unknown(finding_id)
    return _archived(*row)


def finding_events(session: Session, finding_id: int) -> tuple[FindingEvent, ...]:
    """What happened to a finding, in order."""
    query = (
        select(
            FindingEventRow.state,
            FindingEventRow.who,
            FindingEventRow.reason,
            FindingEventRow.value,
            FindingEventRow.at,
        )
        .where(FindingEventRow.finding_id == finding_id)
        .order_by(FindingEventRow.id)
    )
    return tuple(FindingEvent(*row) for row in session.execute(query))


def admitted(findings: Any, which: FindingFilter) -> list[ColumnElement[bool]]:
    """The conditions of a filter on the columns of `finding`."""
    lists: tuple[tuple[Any, tuple[Any, ...]], ...] = (
        (findings.state, which.states),
        (findings.severity, which.severities),
        (findings.kind, which.kinds),
        (findings.raised_by, which.witnesses),
        (findings.check_name, tuple(map(storable, which.checks))),
        (findings.element, tuple(map(storable, which.elements))),
    )
    conditions = [column == values[0] if len(values) == 1 else column.in_(values) for column, values in lists if values]
    if which.scanner is not None:
        conditions.append(findings.series_id.in_(select(SeriesRow.id).where(*made_by(which.scanner))))
    if which.series_id is not None:
        conditions.append(findings.series_id == which.series_id)
    if which.rule_id is not None:
        conditions.append(findings.rule_id == which.rule_id)
    if which.since is not None:
        conditions.append(findings.found_at >= which.since)
    return conditions


def made_by(scanner: Scanner) -> list[ColumnElement[bool]]:
    """That a series is of a scanner."""
    wanted = (
        (SeriesRow.manufacturer, scanner.manufacturer),
        (SeriesRow.manufacturer_model_name, scanner.manufacturer_model_name),
        (SeriesRow.device_serial_number, scanner.device_serial_number),
    )
    return [func.lower(column) == func.lower(value) for column, value in wanted if value]


def named_scanner(session: Session, text: str) -> Scanner:
    """The scanner that a person names: by serial number, model or manufacturer, or `MANUFACTURER/MODEL/SERIAL`.

    Raises
    ------
    UnknownScanner
        No series here is of it.
    """
    parts = [part.strip() for part in text.split("/")]
    asked = [Scanner(device_serial_number=text), Scanner(manufacturer_model_name=text), Scanner(manufacturer=text)]
    if len(parts) == 3:
        asked.append(Scanner(*parts))
    for scanner in asked:
        conditions = made_by(scanner)
        if conditions and session.scalar(select(SeriesRow.id).where(*conditions).limit(1)) is not None:
            return scanner
    raise UnknownScanner(
        f"no series here is of scanner {text!r}; name its serial number, model or manufacturer as the headers write "
        "it, or MANUFACTURER/MODEL/SERIAL, parts of which may be empty"
    )


class _Source(NamedTuple):
    """Where findings are looked for, and the conditions that are left to look for there."""

    findings: Any  # columns of `finding`
    conditions: list[ColumnElement[bool]]


def _source(session: Session, which: FindingFilter) -> _Source:
    """What a filter asks for beyond states and severities, looked for along the index that leads there first.

    The findings of one series, or of a scanner with few series, are gathered before anything else is asked of them.
    Those of a scanner with many are met soon enough on the way through the inbox. Neither database knows that.
    """
    rest = replace(which, states=(), severities=(), series_id=None)
    if which.series_id is not None:
        series_ids: Sequence[int] = [which.series_id]
    elif which.scanner is not None:
        rest = replace(rest, scanner=None)
        query = select(SeriesRow.id).where(*made_by(which.scanner)).limit(_FEW_SERIES + 1)
        series_ids = session.scalars(query).all()
        if len(series_ids) > _FEW_SERIES:
            of_scanner = exists().where(SeriesRow.id == FindingRow.series_id, *made_by(which.scanner))
            return _Source(FindingRow, [*admitted(FindingRow, rest), of_scanner])
    else:
        return _Source(FindingRow, admitted(FindingRow, rest))
    gathered = select(*(getattr(FindingRow, name) for name in _ASKED_FOR)).where(FindingRow.series_id.in_(series_ids))
    findings = gathered.cte("gathered").prefix_with("MATERIALIZED").c
    return _Source(findings, admitted(findings, rest))


@dataclass(frozen=True, slots=True)
class _Position:
    """Where a page ends."""

    id: int
    rank: int
    found_at: datetime


def _position(session: Session, finding_id: int) -> _Position:
    query = select(FindingRow.severity, FindingRow.found_at).where(FindingRow.id == finding_id)
    row = session.execute(query).one_or_none()
    if row is None:
        raise _unknown(finding_id)
    return _Position(finding_id, _RANK[row.severity], row.found_at)


def _page(
    source: _Source, which: FindingFilter, order: FindingOrder, limit: int, after: _Position | None
) -> Select[Any]:
    """Number, rank and time of the findings of one page: the first of each severity and state, merged."""
    findings, others = source
    walks = []
    for severity, state in product(which.severities or tuple(Severity), which.states or tuple(FindingState)):
        rank = _RANK[severity]
        if after is not None and order is FindingOrder.WORST and rank < after.rank:
            continue
        conditions = [findings.severity == severity, findings.state == state, *others]
        if after is not None and not (order is FindingOrder.WORST and rank > after.rank):
            conditions.append(_beyond(findings, order, after))
        walk = select(findings.id, literal(rank).label("rank"), findings.found_at.label("found_at"))
        walks.append(walk.where(*conditions).order_by(*_by_time(findings, order)).limit(limit).subquery())
    merged = union_all(*(select(walk) for walk in walks)).subquery()
    return select(merged).order_by(*_sorting(merged.c, order)).limit(limit)


def _beyond(findings: Any, order: FindingOrder, after: _Position) -> ColumnElement[bool]:
    place = tuple_(findings.found_at, findings.id)
    end = tuple_(literal(after.found_at, FindingRow.found_at.type), literal(after.id))
    return place > end if order is FindingOrder.OLDEST else place < end


def _by_time(columns: Any, order: FindingOrder) -> tuple[ColumnElement[Any], ...]:
    if order is FindingOrder.OLDEST:
        return (columns.found_at, columns.id)
    return (columns.found_at.desc(), columns.id.desc())


def _sorting(columns: Any, order: FindingOrder) -> tuple[ColumnElement[Any], ...]:
    return (columns.rank, *_by_time(columns, order)) if order is FindingOrder.WORST else _by_time(columns, order)


def _records() -> Select[Any]:
    shown = and_(JudgementRow.series_id == FindingRow.series_id, JudgementRow.revision == FindingRow.last_revision)
    return (
        select(FindingRow, SeriesRow, StudyRow.study_instance_uid, PredictionRow.model_id,
               PredictionRow.payload["training_data"].as_string())
        .join(SeriesRow, SeriesRow.id == FindingRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .outerjoin(JudgementRow, shown)
        .outerjoin(PredictionRow, PredictionRow.id == JudgementRow.prediction_id)
    )  # fmt: skip


def _archived(
    row: FindingRow, series: SeriesRow, study_instance_uid: str, model_id: str | None, training_data: str | None
) -> ArchivedFinding:
    testimonies = tuple(from_payload(Testimony, testimony) for testimony in row.testimonies)
    by_model = any(testimony.witness is Witness.PIXELS for testimony in testimonies)
    return ArchivedFinding(
        id=row.id,
        series_id=row.series_id,
        series_instance_uid=series.series_instance_uid,
        study_instance_uid=study_instance_uid,
        series_description=series.series_description,
        manufacturer=series.manufacturer,
        manufacturer_model_name=series.manufacturer_model_name,
        device_serial_number=series.device_serial_number,
        element=row.element,
        check=row.check_name,
        kind=row.kind,
        severity=row.severity,
        raised_by=row.raised_by,
        evidence=row.evidence,
        raw=row.raw,
        suggested_value=row.suggested_value,
        testimonies=testimonies,
        conclusion=row.conclusion,
        state=row.state,
        accepted_value=row.accepted_value,
        rule_id=row.rule_id,
        first_revision=row.first_revision,
        last_revision=row.last_revision,
        found_at=row.found_at,
        updated_at=row.updated_at,
        model_id=model_id if by_model else None,
        training_data=training_data if by_model else None,
    )


def _unknown(finding_id: int) -> UnknownFinding:
    return UnknownFinding(f"there is no finding {finding_id}; `iap-node findings` lists them")
