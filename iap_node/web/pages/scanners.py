"""Scanners by parameter: where headers are wrong, at one look; each cell leads to its findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from iap_node.audit.reports.period import Month
from iap_node.database import report_figures
from iap_node.database.report_figures import Drift, Scope, SoftwareSeen
from iap_node.database.scanner_matrix import cells
from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.web.identity import Viewer
from iap_node.web.node import Node
from iap_node.web.rendering import page

MOST_SCANNERS = 60
MOST_ELEMENTS = 18  # columns: what a screen can show
WEEKS = 12
MOST_DRIFTS = 40  # lines of a table
FEWEST = 5  # series on either side of a difference that is told

router = APIRouter(include_in_schema=False)


@router.get("/scanners")
def scanners(
    request: Request, node: Node, viewer: Viewer, days: Annotated[int, Query(ge=1, le=3660)] = 90
) -> HTMLResponse:
    """The heat map, the weeks, and the software versions seen."""
    now = datetime.now(UTC)
    since = now - timedelta(days=days)
    scope = Scope(since, now)
    starts = [now - timedelta(weeks=n) for n in range(WEEKS, 0, -1)]
    with node.database.reading() as session:
        found = cells(session, since)
        counted = report_figures.scanners(session, scope)
        software = report_figures.software(session, scope)
        weeks = report_figures.weeks(session, Scope(starts[0], now), starts)
        drift = report_figures.drift(session, scope, now - timedelta(days=days / 2))
        ruled_out = report_figures.contradictions(session, scope, now - timedelta(days=days / 2))
    n_series = {one.scanner: one.n_series for one in counted}
    elements = Counter[str]()
    rows: dict[report_figures.Scanner, dict[str, tuple[int, int]]] = {one.scanner: {} for one in counted}
    for cell in found:
        elements[cell.element] += cell.n_series
        rows.setdefault(cell.scanner, {})[cell.element] = (cell.n_series, cell.n_grave)
    worst = sorted(rows, key=lambda one: (-sum(n for n, _ in rows[one].values()), str(one)))[:MOST_SCANNERS]
    return page(
        request, "scanners.html", viewer, days=days, scanners=worst, rows=rows, n_series=n_series,
        elements=[element for element, _ in elements.most_common(MOST_ELEMENTS)], software=software, weeks=weeks,
        left_out=max(0, len(rows) - MOST_SCANNERS), months=(Month.of(now), Month.of(now).plus(-1)),
        most=max((week.n_findings for week in weeks), default=0),
        drift=moved(drift)[:MOST_DRIFTS], changes=changes(software)[:MOST_DRIFTS], parameters=BY_KEYWORD,
        ruled_out=[one for one in ruled_out if one.n_now or one.n_before][:MOST_DRIFTS],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Moved:
    """How far predicted minus stated values of a number have moved on a scanner, in widths of what was usual."""

    drift: Drift
    was: float  # median before, in the parameter's unit
    is_now: float
    widths: float  # of the range in which half of the values lay before


def moved(drifts: Iterable[Drift]) -> list[Moved]:
    """Those with enough series on either side, what moved farthest first."""
    found = []
    for one in drifts:
        if one.now is None or one.before is None or min(one.now.n, one.before.n) < FEWEST:
            continue
        _, lower, was, upper, _ = one.before.quantiles
        is_now = one.now.quantiles[2]
        if was == is_now == lower == upper == 0.0:
            continue  # predicted as a class, and always right
        usual = upper - lower
        far = 0.0 if is_now == was else abs(is_now - was) / usual if usual else float("inf")
        found.append(Moved(one, was, is_now, far))
    return sorted(found, key=lambda one: -one.widths)


@dataclass(frozen=True, slots=True)
class SoftwareChange:
    """A scanner has another software than before."""

    before: SoftwareSeen
    after: SoftwareSeen


def changes(software: Sequence[SoftwareSeen]) -> list[SoftwareChange]:
    """Where a scanner's next version appeared after another one, the latest first."""
    found = [
        SoftwareChange(before, after)
        for before, after in pairwise(software)
        if before.scanner == after.scanner and after.first_at > before.first_at
    ]
    return sorted(found, key=lambda one: one.after.first_at, reverse=True)
