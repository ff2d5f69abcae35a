"""Months and weeks, in UTC as all times of the archive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from iap_node.audit.reports.drawing import Drawing, columns
from iap_node.database.report_figures import CheckCount, Week

WEEK = timedelta(days=7)
MOST_COLUMNS = 53  # of a drawing over time
ENOUGH_SERIES = 5  # in a week, for a rate that sets the scale


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A month of the calendar."""

    year: int
    month: int

    @classmethod
    def parse(cls, text: str) -> Month:
        """The month that YYYY-MM names.

        Raises
        ------
        ValueError
            It is none.
        """
        at = datetime.strptime(text.strip(), "%Y-%m")
        if not 1900 <= at.year <= 9000:
            raise ValueError(f"{text!r} is no month in which a series came")
        return cls(at.year, at.month)

    @classmethod
    def of(cls, at: datetime) -> Month:
        """The month that holds a time."""
        at = at.astimezone(UTC)
        return cls(at.year, at.month)

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"

    def plus(self, months: int) -> Month:
        """The month so many months later, or earlier."""
        year, month = divmod(12 * self.year + self.month - 1 + months, 12)
        return Month(year, month + 1)

    @property
    def since(self) -> datetime:
        """Its first moment."""
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def until(self) -> datetime:
        """The first moment of the next."""
        return self.plus(1).since


def week_starts(since: datetime, until: datetime) -> list[datetime]:
    """Mondays that divide a period, its beginning first; every second, third ... where there would be too many."""
    weeks = max(1, math.ceil((until - since) / WEEK))
    step = WEEK * math.ceil(weeks / MOST_COLUMNS)
    at = since.astimezone(UTC)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    monday = midnight - timedelta(days=midnight.weekday()) + step
    starts = [at]
    while monday < until:
        starts.append(monday)
        monday += step
    return starts


def rhythm(weeks: Sequence[Week]) -> str:
    """What a column of a drawing over time stands for."""
    step = round((weeks[2].since - weeks[1].since) / WEEK) if len(weeks) > 2 else 1
    return "week by week" if step == 1 else f"{step} weeks at a time"


def findings_over_time(weeks: Sequence[Week]) -> tuple[Drawing, str]:
    """Findings per 100 series, by severity, and what the highest column stands for.

    Few series make no rate: their columns are cut where the highest of the others ends.
    """
    rates = [100 * week.n_findings / week.n_series for week in weeks if week.n_series >= ENOUGH_SERIES]
    top = max(rates, default=0.0) or max(
        (100 * week.n_findings / week.n_series for week in weeks if week.n_series), default=0
    )
    stacks = []
    for week in weeks:
        name = f"{week.since:%Y-%m-%d}: {week.n_series} series"
        found = (("error", week.errors), ("warning", week.warnings), ("note", week.notes))
        per_finding = min(100 / week.n_series, top / week.n_findings) if week.n_series and week.n_findings else 0.0
        stacks.append(
            [(severity, per_finding * n, f"{name}, {n} {severity}{'' if n == 1 else 's'}") for severity, n in found]
        )
    few = any(0 < week.n_series < ENOUGH_SERIES for week in weeks) and rates
    cut = f"; fewer than {ENOUGH_SERIES} series are cut there" if few else ""
    return columns(stacks, f"findings per 100 series, {rhythm(weeks)}"), f"{top:.3g} per 100 series{cut}"


def checks_over_time(checks: Sequence[CheckCount]) -> list[tuple[CheckCount, Drawing]]:
    """Each check with its findings week by week, all in one scale."""
    top = float(max((n for one in checks for n in one.by_week), default=0))
    return [
        (one, columns([[(one.severity.value, n, str(n))] for n in one.by_week], f"{one.check}, over time", top))
        for one in checks
    ]


def series_over_time(weeks: Sequence[Week]) -> tuple[Drawing, str]:
    """Series week by week, and what the highest column stands for."""
    stacks = [[("series", float(week.n_series), f"{week.since:%Y-%m-%d}: {week.n_series} series")] for week in weeks]
    return columns(stacks, f"series, {rhythm(weeks)}"), f"{max((week.n_series for week in weeks), default=0)} series"


def ends(weeks: Sequence[Week], until: datetime) -> list[str]:
    """What stands below a drawing over time: its first, middle and last day."""
    if not weeks:
        return []
    last = (until - timedelta(seconds=1)).astimezone(UTC)
    middle = [f"{weeks[len(weeks) // 2].since:%Y-%m-%d}"] if len(weeks) > 2 else []
    return [f"{weeks[0].since:%Y-%m-%d}", *middle, f"{last:%Y-%m-%d}"]
