"""Where series can go: reached or not, what waits, what failed; the echo test is an operator's."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from iap_node.database.destinations import destination_counts
from iap_node.web.actions import destinations as actions
from iap_node.web.identity import Operator, Viewer
from iap_node.web.node import Node
from iap_node.web.rendering import page

router = APIRouter(include_in_schema=False, prefix="/destinations")


@router.get("")
def destinations(request: Request, node: Node, viewer: Viewer) -> HTMLResponse:
    """The page, or its live part when htmx asks."""
    with node.database.reading() as session:
        counts = {one.destination: one for one in destination_counts(session)}
    template = "_destinations.html" if request.headers.get("hx-request") else "destinations.html"
    gone = sorted(set(counts) - set(node.config.destinations))
    return page(request, template, viewer, configured=node.config.destinations, counts=counts, gone=gone)


@router.post("/{name}/echo")
def echo(request: Request, node: Node, operator: Operator, name: str) -> HTMLResponse:
    """Try a destination, now; nothing is left there."""
    found = actions.echo(node, operator, name)
    return page(request, "_echo.html", operator, answered=found.answered, text=found.text)
