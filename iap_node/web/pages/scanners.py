"""Scanners by parameter: where headers are wrong, at one look; each cell leads to its findings."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from iap_node.audit.reports.period import Month
from iap_node.database import report_figures
from iap_node.database.report_figures import Scope
from iap_node.database.scanner_matrix import cells
from iap_node.web.identity import Viewer
from iap_node.web.node import Node
from iap_node.web.rendering import page

MOST_SCANNERS = 60
MOST_ELEMENTS = 18  # columns: what a screen can show
WEEKS = 12

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
    )  # fmt: skip
