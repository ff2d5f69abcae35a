"""The first page: how the node is doing, at one look, live."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from iap_node.database import models
from iap_node.database.finding_lists import count_findings
from iap_node.database.routes import count_held
from iap_node.database.status import arrivals, status_counts
from iap_node.records import JobState
from iap_node.upkeep.capacity import capacity
from iap_node.web.identity import Viewer
from iap_node.web.node import Node
from iap_node.web.rendering import page

HOURS = 24

router = APIRouter(include_in_schema=False)


@router.get("/")
def overview(request: Request, node: Node, viewer: Viewer) -> HTMLResponse:
    """The page, or its live part when htmx asks."""
    now = datetime.now(UTC)
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    with node.database.reading() as session:
        counts = status_counts(session)
        hours = arrivals(session, [this_hour - timedelta(hours=n) for n in range(HOURS - 1, -1, -1)])
        findings = count_findings(session)
        held = count_held(session)
        registered = models.list_models(session)[:1]
    reserve_bytes = node.config.spool.disk_reserve_mb * 1024**2
    room = capacity(node.database, node.config.spool_dir, reserve_bytes, node.config.retention, now)
    by_state = dict.fromkeys(JobState, 0)
    for (_, state), n in counts.jobs.items():
        by_state[state] += n
    template = "_overview.html" if request.headers.get("hx-request") else "overview.html"
    return page(
        request, template, viewer, counts=counts, room=room, hours=hours, findings=findings, held=held,
        by_state=by_state, most=max(one.n_series for one in hours), model=registered[0] if registered else None,
        today=sum(one.n_series for one in hours),
    )  # fmt: skip
