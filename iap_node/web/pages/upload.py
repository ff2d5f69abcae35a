"""Files from the browser, filed through the same archive and queue as C-STORE."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from iap_node.web.actions import files
from iap_node.web.actions.files import Uploaded
from iap_node.web.identity import Operator, Viewer
from iap_node.web.node import Node
from iap_node.web.rendering import page

router = APIRouter(include_in_schema=False)


@router.get("/upload")
def show_upload(request: Request, viewer: Viewer) -> HTMLResponse:
    """The page."""
    return page(request, "upload.html", viewer)


@router.post("/upload")
async def upload(request: Request, node: Node, operator: Operator) -> Uploaded:
    """File what came, and tell what became of it."""
    return await files.upload(request, node, operator)
