"""`/api/v1/series/{id}/slices`: how many slices of a series can be read, and each as a picture."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel

from iap_node.web import slices
from iap_node.web.api.series import SeriesId
from iap_node.web.identity import Viewer
from iap_node.web.node import Node

router = APIRouter(tags=["series"])


class Slices(BaseModel):
    """What can be looked at."""

    slices: int
    problems: list[str]


@router.get("/series/{series_id}/slices")
def count(node: Node, _: Viewer, series_id: SeriesId) -> Slices:
    """How many slices there are, and what could not be read."""
    n_slices, problems = slices.slices(node, series_id)
    return Slices(slices=n_slices, problems=problems)


@router.get(
    "/series/{series_id}/slices/{place}.png",
    response_class=Response,
    responses={200: {"content": {slices.PNG: {"schema": {"type": "string", "format": "binary"}}}}},
)
def image(
    node: Node,
    _: Viewer,
    series_id: SeriesId,
    place: Annotated[int, Path(ge=0, le=2**31, description="counted from 0")],
    centre: Annotated[float | None, Query(allow_inf_nan=False, description="of the window, in stored values")] = None,
    width: Annotated[float | None, Query(gt=0, allow_inf_nan=False)] = None,
) -> Response:
    """One slice, 8 bits; without centre and width, the window that shows most of it."""
    return slices.as_response(slices.drawn(node, series_id, place, centre, width))
