"""The models that were at work here: where each comes from, and what it is doing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from iap_node.database import models, report_figures
from iap_node.database.alarms import alarm_rates
from iap_node.web.identity import Viewer
from iap_node.web.node import Node
from iap_node.web.rendering import page

DAYS = 30

router = APIRouter(include_in_schema=False)


@router.get("/models")
def registry(request: Request, node: Node, viewer: Viewer) -> HTMLResponse:
    """The registry, the models at work in the last month, and the alarms that they raised."""
    now = datetime.now(UTC)
    since = now - timedelta(days=DAYS)
    with node.database.reading() as session:
        registered = models.list_models(session)
        at_work = report_figures.models_at_work(session, report_figures.Scope(since, now))
        rates = alarm_rates(session, since, now)
    return page(
        request, "models.html", viewer, registered=registered, at_work=at_work, rates=rates, days=DAYS,
        configured=node.config.inference.model, alpha=node.config.audit.alpha,
    )  # fmt: skip
