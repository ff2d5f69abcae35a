"""Where series can go: reached or not, what waits, what failed; the echo test is an operator's."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse

from iap_node.database import accounts
from iap_node.database.destinations import destination_counts
from iap_node.errors import NodeError
from iap_node.routing.destinations.destination import open_destination
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
    config = node.config.destinations.get(name)
    if config is None:
        raise HTTPException(404, f"no destination {name!r} in the configuration")
    began = time.monotonic()
    try:
        open_destination(config).echo()
        answered, text = True, f"answers in {1000 * (time.monotonic() - began):.0f} ms"
    except NodeError as error:
        answered, text = False, str(error)
    with node.database.transaction() as session:
        accounts.note(session, operator.name, "echo", name, datetime.now(UTC), text, operator.address)
    return page(request, "_echo.html", operator, answered=answered, text=text)
