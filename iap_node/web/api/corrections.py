"""`/api/v1/series/{id}/correct`: what a corrected copy would be, the copies made, and making one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from iap_node.correction.noted import as_object
from iap_node.database.corrections import list_corrections
from iap_node.database.series import series_by_id
from iap_node.web.actions import corrections as actions
from iap_node.web.api.paging import plain
from iap_node.web.api.series import SeriesId
from iap_node.web.identity import Physicist
from iap_node.web.node import Node

router = APIRouter(tags=["series"])


class Correct(BaseModel):
    """What is to be done with the values that are accepted for a series."""

    dry_run: bool = Field(True, description="only say what would be written, element by element")
    destination: str | None = Field(
        None, max_length=128, description="send the copy there, by the queue; null: write it into the node's folder"
    )


@router.get("/series/{series_id}/corrections")
def copies(node: Node, _: Physicist, series_id: SeriesId) -> dict[str, Any]:
    """The corrected copies that were made of a series, the newest first."""
    with node.database.reading() as session:
        series_by_id(session, series_id)
        return {"items": plain(list_corrections(session, series_id))}


@router.get(
    "/series/{series_id}/corrections/{copy_id}.zip",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
)
def take(
    node: Node, physicist: Physicist, series_id: SeriesId, copy_id: Annotated[int, Path(ge=1, le=2**62)]
) -> StreamingResponse:
    """The copies in the node's folder. They name the patient, as the images do: who took them is noted."""
    pieces = actions.take(node, physicist, series_id, copy_id)
    return StreamingResponse(pieces, media_type="application/zip")


@router.post("/series/{series_id}/correct")
def correct(
    node: Node, physicist: Physicist, series_id: SeriesId, asked: Annotated[Correct, Body()]
) -> dict[str, Any]:
    """Write or send a copy with the accepted values, or say what it would be; the original is never changed."""
    if asked.dry_run:
        return {"dry_run": True, **plain(as_object(actions.look(node, series_id)))}
    if asked.destination is not None:
        sent = actions.send(node, physicist, series_id, asked.destination)
        return {
            "dry_run": False, "copy_series_instance_uid": sent.copy_series_instance_uid,
            "destination": asked.destination,
        }  # fmt: skip
    done = actions.write(node, physicist, series_id)
    return {
        "dry_run": False, "folder": str(done.folder), "copies": done.n_copies, "were_there": done.n_there,
        "corrected_findings": list(done.finding_ids),
    }  # fmt: skip
