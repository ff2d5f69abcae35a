"""The report of a scanner, or of all of one model, over a period."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from iap_node.audit.reports import findings, period
from iap_node.audit.reports.files import safe_name
from iap_node.audit.reports.rates import Rate
from iap_node.audit.reports.rendering import day, document, page, plain, table
from iap_node.database import report_figures
from iap_node.database.report_figures import (
    CheckCount,
    ProtocolCount,
    Scanner,
    ScannerCount,
    Scope,
    SoftwareSeen,
    Week,
)
from iap_node.records import SeriesState, Severity

MOST_SHOWN = 30  # of protocols, checks and scanners on the page; the tables for programs have all

CSV_COLUMNS = ("section", "manufacturer", "model", "serial_number", "subject", "measure", "value", "low", "high", "of")


@dataclass(frozen=True, slots=True)
class ScannerFigures:
    """What the report tells."""

    scope: Scope
    states: dict[SeriesState, int]
    scanners: list[ScannerCount]
    weeks: list[Week]
    checks: list[CheckCount]
    protocols: list[ProtocolCount]
    software: list[SoftwareSeen]

    @property
    def n_series(self) -> int:
        return sum(self.states.values())


def gather(session: Session, scope: Scope) -> ScannerFigures:
    """Ask the archive."""
    starts = period.week_starts(scope.since, scope.until)
    return ScannerFigures(
        scope=scope,
        states=report_figures.series_by_state(session, scope),
        scanners=report_figures.scanners(session, scope),
        weeks=report_figures.weeks(session, scope, starts),
        checks=report_figures.checks(session, scope, starts),
        protocols=report_figures.protocols(session, scope),
        software=report_figures.software(session, scope),
    )


def name(figures: ScannerFigures) -> str:
    """What the files of the report are called."""
    scope = figures.scope
    return safe_name("scanner", scope.serial_number or scope.model or "all", day(scope.since), day(scope.until))


def as_html(figures: ScannerFigures, at: datetime) -> str:
    """A page that needs nothing else: for the screen, and for paper."""
    scope = figures.scope
    deviating = [(one, Rate(one.n_deviating, one.n_series)) for one in figures.protocols if one.n_deviating]
    return page(
        "scanner.html",
        at,
        figures=figures,
        what=scope.serial_number or scope.model or "all scanners",
        severities=n_found(figures.checks),
        findings_over_time=period.findings_over_time(figures.weeks),
        series_over_time=period.series_over_time(figures.weeks),
        ends=period.ends(figures.weeks, scope.until),
        checks=period.checks_over_time(figures.checks),
        deviating=sorted(deviating, key=lambda item: -item[1].low),
        scanners=[(one, Rate(one.n_conspicuous, one.n_series)) for one in figures.scanners],
        most_shown=MOST_SHOWN,
        about=findings,
    )


def n_found(checks: list[CheckCount]) -> dict[str, int]:
    """Standing findings by severity."""
    return {severity.value: sum(one.n_findings for one in checks if one.severity is severity) for severity in Severity}


def as_csv(figures: ScannerFigures) -> str:
    """One line per number: what it is about, what it measures, and of how many."""
    nobody = ("", "", "")
    lines: list[tuple[object, ...]] = [
        ("series", *nobody, state, "n_series", n, None, None, figures.n_series) for state, n in figures.states.items()
    ]
    lines += week_lines(figures.weeks)
    lines += check_lines(figures.checks)
    for scanner in figures.scanners:
        lines.append(
            rate_line(
                "scanner", named(scanner.scanner), "", "share_conspicuous", scanner.n_conspicuous, scanner.n_series
            )
        )
    for one in figures.protocols:
        lines.append(
            rate_line(
                "protocol", named(one.scanner), one.protocol_name, "share_deviating", one.n_deviating, one.n_series
            )
        )
    lines += software_lines(figures.software)
    return table(CSV_COLUMNS, lines)


def as_json(figures: ScannerFigures, at: datetime) -> str:
    """Everything."""
    scanners = [
        {**plain(one), "conspicuous": Rate(one.n_conspicuous, one.n_series).as_object()} for one in figures.scanners
    ]
    protocols = [
        {**plain(one), "deviating": Rate(one.n_deviating, one.n_series).as_object()} for one in figures.protocols
    ]
    return document(at, {**plain(figures), "scanners": scanners, "protocols": protocols})


# ---------------------------------------------------------------- lines of a table, shared with the month's report


def named(scanner: Scanner) -> tuple[str, str, str]:
    """The cells that say which scanner."""
    return (scanner.manufacturer, scanner.model, scanner.serial_number)


def rate_line(
    section: str, scanner: tuple[str, str, str], subject: str, measure: str, n: int, of: int
) -> tuple[object, ...]:
    """A share with its interval."""
    share = Rate(n, of)
    return (section, *scanner, subject, measure, share.share, share.low, share.high, of)


def week_lines(weeks: list[Week]) -> list[tuple[object, ...]]:
    """Errors, warnings and notes of each week."""
    return [
        ("week", "", "", "", day(week.since), measure, n, None, None, week.n_series)
        for week in weeks
        for measure, n in (("errors", week.errors), ("warnings", week.warnings), ("notes", week.notes))
    ]


def check_lines(checks: list[CheckCount]) -> list[tuple[object, ...]]:
    """What each check found."""
    return [
        ("check", "", "", "", one.check, f"{one.severity.value}_{measure}", n, None, None, one.n_series)
        for one in checks
        for measure, n in (("findings", one.n_findings), ("open", one.n_open), ("dismissed", one.n_dismissed))
    ]


def software_lines(software: list[SoftwareSeen]) -> list[tuple[object, ...]]:
    """Each version, and when it was seen first and last."""
    return [
        ("software", *named(one.scanner), one.software_versions, measure, at, None, None, one.n_series)
        for one in software
        for measure, at in (("first_at", one.first_at), ("last_at", one.last_at))
    ]
