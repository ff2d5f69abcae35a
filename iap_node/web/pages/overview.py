"""The first page: how the node is doing, at one look, live.

Drift is looked up apart from the rest, and kept for minutes: it reads a month of judgements.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from iap_node.database import models
from iap_node.database.alarms import AlarmRate, alarm_rates
from iap_node.database.destinations import delivered_per_period
from iap_node.database.finding_lists import count_findings
from iap_node.database.routes import count_held
from iap_node.database.status import arrivals, judged_per_period, status_counts
from iap_node.database.tables import ModelState
from iap_node.records import JobState
from iap_node.upkeep.capacity import capacity
from iap_node.web.identity import Viewer
from iap_node.web.node import Node, WebNode
from iap_node.web.rendering import page

HOURS = 24
DRIFT_KEPT = timedelta(minutes=10)

router = APIRouter(include_in_schema=False)
_turn = threading.Lock()
_drift: dict[str, tuple[datetime, list[AlarmRate]]] = {}  # by database: when it was looked up, and what came out


@router.get("/")
def overview(request: Request, node: Node, viewer: Viewer) -> HTMLResponse:
    """The page, or its live part when htmx asks."""
    now = datetime.now(UTC)
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    with node.database.reading() as session:
        counts = status_counts(session)
        starts = [this_hour - timedelta(hours=n) for n in range(HOURS - 1, -1, -1)]
        hours = arrivals(session, starts)
        judged = judged_per_period(session, starts)
        delivered = [sum(column) for column in zip(*delivered_per_period(session, starts).values(), strict=True)]
        findings = count_findings(session)
        held = count_held(session)
        champion = next((one for one in models.list_models(session) if one.state is ModelState.CHAMPION), None)
    reserve_bytes = node.config.spool.disk_reserve_mb * 1024**2
    room = capacity(node.database, node.config.spool_dir, reserve_bytes, node.config.retention, now)
    by_state = dict.fromkeys(JobState, 0)
    for (_, state), n in counts.jobs.items():
        by_state[state] += n
    template = "_overview.html" if request.headers.get("hx-request") else "overview.html"
    return page(
        request, template, viewer, counts=counts, room=room, hours=hours, findings=findings, held=held,
        by_state=by_state, most=max(one.n_series for one in hours), model=champion,
        today=sum(one.n_series for one in hours), starts=starts,
        throughput=(("received", [one.n_series for one in hours]), ("judged", judged),
                    ("delivered", delivered or [0] * HOURS)),
    )  # fmt: skip


@router.get("/overview/drift")
def drift(request: Request, node: Node, viewer: Viewer) -> HTMLResponse:
    """Where the pixels doubt headers more often than promised: the model may not fit these scanners' images."""
    at, rates = _rates(node)
    above = [one for one in rates if one.above_alpha]
    return page(
        request, "_drift.html", viewer, above=above, n_rates=len(rates), days=node.config.notifications.drift_days,
        at=at,
    )  # fmt: skip


def _rates(node: WebNode) -> tuple[datetime, list[AlarmRate]]:
    now, key = datetime.now(UTC), node.database.name
    with _turn:  # one at a time: the others take what it finds
        if key not in _drift or not _drift[key][1] or now - _drift[key][0] > DRIFT_KEPT:  # nothing is found fast
            since = now - timedelta(days=node.config.notifications.drift_days)
            with node.database.reading() as session:
                rates = alarm_rates(session, since, now, joint_alpha=node.config.audit.joint_alpha)
            _drift[key] = (now, rates)
        return _drift[key]
