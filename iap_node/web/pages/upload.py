"""Files from the browser, filed through the same archive and queue as C-STORE."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from iap_node.database.series import SeriesFilter, page_of_series
from iap_node.web.actions import files
from iap_node.web.actions.files import Uploaded
from iap_node.web.identity import Operator, Viewer
from iap_node.web.node import Node
from iap_node.web.rendering import page

MOST_SERIES = 50  # that are shown on their way

router = APIRouter(include_in_schema=False)


@router.get("/upload")
def show_upload(request: Request, viewer: Viewer) -> HTMLResponse:
    """The page."""
    return page(request, "upload.html", viewer)


@router.get("/upload/through")
def through(request: Request, node: Node, viewer: Viewer, since: datetime) -> HTMLResponse:
    """The series that came since then, on their way to the verdict."""
    begin = since if since.tzinfo is not None else since.replace(tzinfo=UTC)
    with node.database.reading() as session:
        found = page_of_series(session, SeriesFilter(since=begin), MOST_SERIES)
    return page(request, "_series_rows.html", viewer, series=found, query="since")


@router.post("/upload")
async def upload(request: Request, node: Node, operator: Operator) -> Uploaded:
    """File what came, and tell what became of it."""
    return await files.upload(request, node, operator)
