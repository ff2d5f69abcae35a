"""Where series can go: reached or not, what waits, what failed; the echo test and tries are an operator's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from iap_node.database.destination_health import health
from iap_node.database.destinations import delivered_per_period, destination_counts
from iap_node.web.actions import destinations as actions
from iap_node.web.actions import queue
from iap_node.web.identity import Identity, Operator, Viewer
from iap_node.web.node import Node, WebNode
from iap_node.web.rendering import page

HOURS = 24  # that are drawn

router = APIRouter(include_in_schema=False, prefix="/destinations")


@router.get("")
def destinations(request: Request, node: Node, viewer: Viewer) -> HTMLResponse:
    """The page, or its live part when htmx asks."""
    return _shown(request, node, viewer, "")


@router.post("/{name}/echo")
def echo(request: Request, node: Node, operator: Operator, name: str) -> HTMLResponse:
    """Try a destination, now; nothing is left there."""
    found = actions.echo(node, operator, name)
    return page(request, "_echo.html", operator, answered=found.answered, text=found.text)


@router.post("/{name}/try-now")
def try_now(request: Request, node: Node, operator: Operator, name: str) -> HTMLResponse:
    """End its pause, and let what waits for it go at once."""
    n = actions.try_now(node, operator, name)
    return _shown(request, node, operator, f"{name} is tried now; {n} deliveries are due")


@router.post("/{name}/requeue")
def requeue(request: Request, node: Node, operator: Operator, name: str) -> HTMLResponse:
    """Put its dead letters back."""
    n = queue.requeue_of(node, operator, name)
    return _shown(request, node, operator, f"{n} dead letters for {name} are back in the queue")


def _shown(request: Request, node: WebNode, identity: Identity, message: str) -> HTMLResponse:
    now = datetime.now(UTC)
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    starts = [this_hour - timedelta(hours=n) for n in range(HOURS - 1, -1, -1)]
    with node.database.reading() as session:
        counts = {one.destination: one for one in destination_counts(session)}
        hours = delivered_per_period(session, starts)
        state = health(session)
    template = "_destinations.html" if request.headers.get("hx-request") else "destinations.html"
    return page(
        request, template, identity, configured=node.config.destinations, counts=counts, hours=hours, starts=starts,
        health=state, gone=sorted(set(counts) - set(node.config.destinations)), message=message,
        breaker_failures=node.config.jobs.breaker_failures,
    )  # fmt: skip
