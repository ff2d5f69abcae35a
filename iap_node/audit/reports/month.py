"""The physicist's report of a month: trends, scanners, drift, what people decided, and which model was at work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from iap_node.audit.reports import findings, period
from iap_node.audit.reports.drawing import Axis, Drawing, band, box, tick
from iap_node.audit.reports.files import safe_name
from iap_node.audit.reports.period import Month
from iap_node.audit.reports.rates import Rate
from iap_node.audit.reports.rendering import document, page, plain, table
from iap_node.audit.reports.scanner import (
    CSV_COLUMNS,
    check_lines,
    n_found,
    named,
    rate_line,
    software_lines,
    week_lines,
)
from iap_node.database import report_figures
from iap_node.database.alarms import CONFIDENCE, JOINT_ALPHA, WHOLE_HEADER, AlarmRate, alarm_rates
from iap_node.database.report_figures import (
    Backlog,
    CheckCount,
    Contradictions,
    Decisions,
    Drift,
    ModelAtWork,
    ScannerCount,
    Scope,
    SoftwareSeen,
    Week,
)
from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.records import SeriesState

MONTHS_BEFORE = 3  # that the month is held against, and that the trend begins with
LEAST_FOR_DRIFT = 10  # series on either side, before a distribution is said to have moved
MOST_SHOWN = 20  # lines of a table on the page; the tables for programs have all


@dataclass(frozen=True, slots=True)
class MonthFigures:
    """What the report tells."""

    month: Month
    before: Month  # the first of those that it is held against
    states: dict[SeriesState, int]
    not_analysed: list[tuple[str, int]]
    weeks: list[Week]
    scanners: list[ScannerCount]
    checks: list[CheckCount]
    drift: list[Drift]
    contradictions: list[Contradictions]
    alarms: list[AlarmRate]
    models: list[ModelAtWork]
    decisions: list[Decisions]
    backlog: list[Backlog]
    software: list[SoftwareSeen]  # versions that were not seen in the months before

    @property
    def n_series(self) -> int:
        return sum(self.states.values())

    @property
    def n_novel(self) -> int:
        return sum(model.n_novel for model in self.models)


@dataclass(frozen=True, slots=True)
class DrawnDrift:
    """Drift of one number on one scanner, and whether the month's median left the middle half of before."""

    drift: Drift
    now: Drawing | None
    before: Drawing | None
    ends: tuple[str, str]  # of the axis
    moved: bool


@dataclass(frozen=True, slots=True)
class ComparedRate:
    """Contradictions of one parameter on one scanner, in the month and before."""

    of: Contradictions
    now: Rate
    before: Rate

    @property
    def moved(self) -> bool:
        return bool(self.now.of and self.before.of) and self.now.differs(self.before)


def gather(session: Session, month: Month, joint_alpha: float = JOINT_ALPHA) -> MonthFigures:
    """Ask the archive.

    Parameters
    ----------
    joint_alpha
        At which a header as a whole is doubted: `audit.joint_alpha` of the configuration.
    """
    before = month.plus(-MONTHS_BEFORE)
    scope, longer = Scope(month.since, month.until), Scope(before.since, month.until)
    return MonthFigures(
        month=month,
        before=before,
        states=report_figures.series_by_state(session, scope),
        not_analysed=report_figures.not_analysed(session, scope),
        weeks=report_figures.weeks(session, longer, period.week_starts(longer.since, longer.until)),
        scanners=report_figures.scanners(session, scope),
        checks=report_figures.checks(session, scope, period.week_starts(scope.since, scope.until)),
        drift=report_figures.drift(session, longer, month.since),
        contradictions=report_figures.contradictions(session, longer, month.since),
        alarms=alarm_rates(session, month.since, month.until, joint_alpha=joint_alpha),
        models=report_figures.models_at_work(session, scope),
        decisions=report_figures.decisions(session, scope),
        backlog=report_figures.backlog(session),
        software=[one for one in report_figures.software(session, longer) if one.first_at >= month.since],
    )


def name(month: Month) -> str:
    """What the files of the report are called."""
    return safe_name("physicist", str(month))


def as_html(figures: MonthFigures, at: datetime) -> str:
    """A page that needs nothing else: for the screen, and for paper."""
    return page(
        "month.html",
        at,
        figures=figures,
        severities=n_found(figures.checks),
        findings_over_time=period.findings_over_time(figures.weeks),
        series_over_time=period.series_over_time(figures.weeks),
        ends=period.ends(figures.weeks, figures.month.until),
        scanners=sorted(
            ((one, Rate(one.n_conspicuous, one.n_series)) for one in figures.scanners), key=lambda item: -item[1].low
        ),
        checks=period.checks_over_time(figures.checks),
        drifts=drawn(figures.drift),
        contradictions=[one for one in compared(figures.contradictions) if one.now.n or one.before.n],
        alarms=drawn_alarms(figures.alarms),
        n_above=sum(one.above_alpha for one in figures.alarms),
        confidence=CONFIDENCE,
        whole_header=WHOLE_HEADER,
        most_shown=MOST_SHOWN,
        least_for_drift=LEAST_FOR_DRIFT,
        about=findings,
        is_over=at >= figures.month.until,
    )


def as_csv(figures: MonthFigures) -> str:
    """One line per number: what it is about, what it measures, and of how many."""
    nobody = ("", "", "")
    n = figures.n_series
    lines: list[tuple[object, ...]] = [
        ("series", *nobody, state, "n_series", count, None, None, n) for state, count in figures.states.items()
    ]
    lines.append(("series", *nobody, "novel", "n_series", figures.n_novel, None, None, n))
    lines += [("not analysed", *nobody, why, "n_series", count, None, None, n) for why, count in figures.not_analysed]
    lines += week_lines(figures.weeks)
    for scanner in figures.scanners:
        found = scanner.n_conspicuous, scanner.n_series
        lines.append(rate_line("scanner", named(scanner.scanner), "", "share_conspicuous", *found))
    lines += check_lines(figures.checks)
    lines += _drift_lines(figures.drift)
    for one in figures.contradictions:
        who = named(one.scanner)
        lines.append(rate_line("contradictions", who, one.keyword, "share_now", one.n_now, one.of_now))
        lines.append(rate_line("contradictions", who, one.keyword, "share_before", one.n_before, one.of_before))
    lines += _alarm_lines(figures.alarms)
    lines += [("model", *nobody, one.model_id, "n_series", one.n_series, None, None, n) for one in figures.models]
    for decided in figures.decisions:
        by = (("by_people", decided.by_people), ("by_rules", decided.by_rules))
        about = (*by, ("median_days_open", decided.median_days_open))
        lines += [("decisions", *nobody, decided.state, measure, value, None, None, None) for measure, value in about]
    lines += [("backlog", *nobody, one.severity, "n_open", one.n_open, None, None, None) for one in figures.backlog]
    lines += software_lines(figures.software)
    return table(CSV_COLUMNS, lines)


def as_json(figures: MonthFigures, at: datetime) -> str:
    """Everything."""
    content = {
        **plain(figures),
        "month": str(figures.month),
        "before": str(figures.before),
        "is_over": at >= figures.month.until,
        "n_series": figures.n_series,
        "n_novel": figures.n_novel,
        "scanners": [
            {**plain(one), "conspicuous": Rate(one.n_conspicuous, one.n_series).as_object()} for one in figures.scanners
        ],
        "drift": [{**plain(one), "moved": moved(one)} for one in figures.drift],
        "contradictions": [
            {"scanner": one.of.scanner, "keyword": one.of.keyword, "now": one.now.as_object(),
             "before": one.before.as_object(), "moved": one.moved}
            for one in compared(figures.contradictions)
        ],
        "alarms": [
            {**plain(one), "rate": one.rate, "interval": one.interval, "above_alpha": one.above_alpha}
            for one in figures.alarms
        ],
    }  # fmt: skip
    return document(at, content)


def drawn(drifts: list[Drift]) -> list[DrawnDrift]:
    """Distributions on one axis per number, so that scanners can be compared; what moved first."""
    found = []
    axes = {
        keyword: Axis.around([0.0, *(q for one in drifts if one.keyword == keyword for q in _quantiles(one))])
        for keyword in dict.fromkeys(one.keyword for one in drifts)
    }
    for one in drifts:
        axis, unit = axes[one.keyword], BY_KEYWORD[one.keyword].unit
        drawings = [
            None if part is None else box(axis, part.quantiles, f"median {part.quantiles[2]:.3g} {unit} of {part.n}")
            for part in (one.now, one.before)
        ]
        found.append(DrawnDrift(one, drawings[0], drawings[1], (f"{axis.low:+.3g}", f"{axis.high:+.3g}"), moved(one)))
    return sorted(found, key=lambda item: (not item.moved, item.drift.keyword, item.drift.scanner))


def drawn_alarms(alarms: list[AlarmRate]) -> list[tuple[AlarmRate, Drawing]]:
    """Rates with their intervals on one axis that shows alpha; what is clearly above it first."""
    top = min(
        1.0, max((2 * one.alpha for one in alarms), default=0.0) + max((one.interval[1] for one in alarms), default=0)
    )
    axis = Axis(0.0, top)
    rows = []
    for one in sorted(alarms, key=lambda one: (not one.above_alpha, -one.interval[0], -one.rate)):
        low, high = one.interval
        about = f"{one.rate:.3g}, between {low:.3g} and {high:.3g}; alpha {one.alpha:g}"
        line = band(axis, 0.0, top, "axis", thick=0.06)
        marks = (band(axis, low, high, "range"), tick(axis, one.rate, "mark"), tick(axis, one.alpha, "stated"))
        rows.append((one, Drawing(about, (line, *marks))))
    return rows


def moved(drift: Drift) -> bool:
    """Whether the month's median lies outside the middle half of the months before."""
    if drift.now is None or drift.before is None or min(drift.now.n, drift.before.n) < LEAST_FOR_DRIFT:
        return False
    return not drift.before.quantiles[1] <= drift.now.quantiles[2] <= drift.before.quantiles[3]


def compared(contradictions: list[Contradictions]) -> list[ComparedRate]:
    """Shares in the month and before; what moved first, then what is most often contradicted."""
    found = [
        ComparedRate(one, Rate(one.n_now, one.of_now), Rate(one.n_before, one.of_before)) for one in contradictions
    ]
    return sorted(found, key=lambda one: (not one.moved, -one.now.low, one.of.scanner, one.of.keyword))


def _quantiles(drift: Drift) -> list[float]:
    return [value for part in (drift.now, drift.before) if part is not None for value in part.quantiles]


def _drift_lines(drifts: list[Drift]) -> list[tuple[object, ...]]:
    return [
        ("drift", *named(one.scanner), one.keyword, f"median_difference_{when}", part.quantiles[2], part.quantiles[0],
         part.quantiles[4], part.n)
        for one in drifts
        for when, part in (("now", one.now), ("before", one.before))
        if part is not None
    ]  # fmt: skip


def _alarm_lines(alarms: list[AlarmRate]) -> list[tuple[object, ...]]:
    lines: list[tuple[object, ...]] = []
    for one in alarms:
        about = ("false alarms", *named(one.scanner), one.keyword)
        lines.append((*about, "rate", one.rate, *one.interval, one.n_judged))
        counted = (("alarms", one.n_alarms), ("dismissed", one.n_dismissed), ("accepted", one.n_accepted))
        lines += [(*about, measure, n, None, None, one.n_judged) for measure, n in (("alpha", one.alpha), *counted)]
    return lines
