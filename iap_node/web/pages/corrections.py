"""The correction of a series: element by element what a copy would say, the copies, and those made before."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Path, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from iap_node.correction.noted import FOLDER
from iap_node.database.corrections import list_corrections
from iap_node.database.series import series_by_id
from iap_node.errors import PermanentError
from iap_node.web.actions import corrections as actions
from iap_node.web.identity import Identity, Physicist
from iap_node.web.node import Node, WebNode
from iap_node.web.pages.series import SeriesId
from iap_node.web.rendering import page

MOST_GROUPS = 20  # of instances with the same changes, that are shown

router = APIRouter(include_in_schema=False, prefix="/series/{series_id}/correction")

Seen = Annotated[str, Form(max_length=64)]
CopyId = Annotated[int, Path(ge=1, le=2**62)]


@router.get("")
def correction(request: Request, node: Node, physicist: Physicist, series_id: SeriesId) -> HTMLResponse:
    """What would be written, and nothing is."""
    return _shown(request, node, physicist, series_id, "")


@router.post("/write")
def write(request: Request, node: Node, physicist: Physicist, series_id: SeriesId, seen: Seen) -> HTMLResponse:
    """Write the copies that the person saw."""
    done = actions.write(node, physicist, series_id, seen)
    there = f", {done.n_there} of them were there already" if done.n_there else ""
    return _shown(request, node, physicist, series_id, f"{done.n_copies} copies in {done.folder}{there}")


@router.get("/{copy_id}.zip")
def take(node: Node, physicist: Physicist, series_id: SeriesId, copy_id: CopyId) -> StreamingResponse:
    """The copies in the node's folder, for download."""
    pieces = actions.take(node, physicist, series_id, copy_id)
    headers = {"Content-Disposition": f'attachment; filename="corrected-{series_id}-{copy_id}.zip"'}
    return StreamingResponse(pieces, media_type="application/zip", headers=headers)


@router.post("/send")
def send(
    request: Request,
    node: Node,
    physicist: Physicist,
    series_id: SeriesId,
    seen: Seen,
    destination: Annotated[str, Form(max_length=128)],
) -> HTMLResponse:
    """Send the copies that the person saw, by the queue."""
    actions.send(node, physicist, series_id, destination, seen)
    return _shown(request, node, physicist, series_id, f"the copy is in the queue for {destination}")


def _shown(request: Request, node: WebNode, identity: Identity, series_id: int, message: str) -> HTMLResponse:
    with node.database.reading() as session:
        series = series_by_id(session, series_id)
        copies = list_corrections(session, series_id)
    looked, refused = None, ""
    try:
        looked = actions.look(node, series_id)
    except PermanentError as error:  # what cannot be corrected has copies nevertheless
        refused = str(error)
    template = "_correction.html" if request.headers.get("hx-request") else "correction.html"
    return page(
        request, template, identity, series=series, copies=copies, correction=looked, refused=refused,
        destinations=actions.destinations(node), message=message, most_groups=MOST_GROUPS,
        folder=str(node.config.data_dir / FOLDER),
    )  # fmt: skip
