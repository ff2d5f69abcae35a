"""Where series can go: reached or not, what waits, what failed; the echo test is an operator's."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from iap_node.database import accounts
from iap_node.database.destinations import destination_counts
from iap_node.errors import ConfigError, DeliveryError
from iap_node.scu import association
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
    """C-ECHO to a destination, now (PS3.4 Annex A)."""
    config = node.config.destinations.get(name)
    if config is None:
        raise HTTPException(404, f"no destination {name!r} in the configuration")
    began = time.monotonic()
    try:
        with association([build_context(Verification)], config) as assoc:
            status = assoc.send_c_echo() if assoc.is_established else None
            answered = status is not None and "Status" in status and int(status.Status) == 0
        took_ms = 1000 * (time.monotonic() - began)
        text = f"answers in {took_ms:.0f} ms" if answered else "takes the association, not C-ECHO"
    except (DeliveryError, ConfigError) as error:
        answered, text = False, str(error)
    with node.database.transaction() as session:
        accounts.note(session, operator.name, "echo", name, datetime.now(UTC), text, operator.address)
    return page(request, "_echo.html", operator, answered=answered, text=text)
