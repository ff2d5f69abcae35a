"""Slices of a series as PNG, windowed on the server (`iap_node.web.slices`), for the viewer in the browser."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from iap_node.web import slices
from iap_node.web.identity import Viewer
from iap_node.web.node import Node
from iap_node.web.pages.series import SeriesId

router = APIRouter(include_in_schema=False)


@router.get("/series/{series_id}/slices")
def count(node: Node, _: Viewer, series_id: SeriesId) -> dict[str, object]:
    """How many slices there are, and what could not be read."""
    n_slices, problems = slices.slices(node, series_id)
    return {"slices": n_slices, "problems": problems}


@router.get("/series/{series_id}/slices/{place}.png")
def image(
    node: Node,
    _: Viewer,
    series_id: SeriesId,
    place: int,
    centre: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    width: Annotated[float | None, Query(gt=0, allow_inf_nan=False)] = None,
) -> Response:
    """One slice, 8 bits."""
    return slices.as_response(slices.drawn(node, series_id, place, centre, width))
