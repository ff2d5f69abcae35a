"""The first page: how the node is doing, at one look."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from iap_node.database.status import status_counts
from iap_node.upkeep.capacity import capacity
from iap_node.web.identity import Viewer
from iap_node.web.node import Node
from iap_node.web.rendering import page

router = APIRouter(include_in_schema=False)


@router.get("/")
def overview(request: Request, node: Node, viewer: Viewer) -> HTMLResponse:
    """The page, or its live part when htmx asks."""
    with node.database.reading() as session:
        counts = status_counts(session)
    reserve_bytes = node.config.spool.disk_reserve_mb * 1024**2
    room = capacity(node.database, node.config.spool_dir, reserve_bytes, node.config.retention, datetime.now(UTC))
    template = "_overview.html" if request.headers.get("hx-request") else "overview.html"
    return page(request, template, viewer, counts=counts, room=room)
