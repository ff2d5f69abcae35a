"""Slices of a series as PNG, windowed on the server: the browser gets nothing but what it shows.

Window as PS3.3 C.11.2.1.2: centre and width in stored values; by default the 1st to the 99th percentile of the slice.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Annotated

import imagecodecs
import numpy as np
from fastapi import APIRouter, HTTPException, Query, Response

from iap_node.database import archive
from iap_node.database.series import series_by_id
from iap_node.database.tables import BytesState
from iap_node.dicom.pixels import SliceStack
from iap_node.errors import UnreadableInstance, UnreadablePixels
from iap_node.web.identity import Viewer
from iap_node.web.node import Node, WebNode
from iap_node.web.pages.series import SeriesId

_MOST_STACKS = 8  # headers of so many series in memory
_LARGEST_SIDE = 1024  # pixels; larger slices are shown smaller

router = APIRouter(include_in_schema=False)
_turn = threading.Lock()
_stacks: OrderedDict[tuple[str, int, int], SliceStack] = OrderedDict()


@router.get("/series/{series_id}/slices")
def count(node: Node, _: Viewer, series_id: SeriesId) -> dict[str, object]:
    """How many slices there are, and what could not be read."""
    stack = _stack(node, series_id)
    return {"slices": len(stack), "problems": [reason for _, reason in stack.problems]}


@router.get("/series/{series_id}/slices/{place}.png")
def image(
    node: Node,
    _: Viewer,
    series_id: SeriesId,
    place: int,
    centre: float | None = None,
    width: Annotated[float | None, Query(gt=0)] = None,
) -> Response:
    """One slice, 8 bits."""
    stack = _stack(node, series_id)
    if not 0 <= place < len(stack):
        raise HTTPException(404, f"the series has {len(stack)} slices that can be read")
    try:
        values = stack.slice(place)
    except (UnreadablePixels, UnreadableInstance) as error:
        raise HTTPException(422, f"this slice is damaged: {error}") from error
    except OSError as error:  # retention, or fsck, took its bytes since the headers were read
        _forget(stack)
        raise HTTPException(404, "the bytes of this slice are gone; load the page again") from error
    step = -(-max(values.shape) // _LARGEST_SIDE)
    values = values[::step, ::step]
    if centre is None or width is None:
        low, high = (float(value) for value in np.percentile(values, (1, 99)))
    else:
        low, high = centre - width / 2, centre + width / 2
    shown = np.clip((values - low) * (255.0 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
    headers = {
        "X-Window-Centre": f"{(low + high) / 2:.6g}", "X-Window-Width": f"{max(high - low, 1e-6):.6g}",
        "Cache-Control": "private, max-age=300",
    }  # fmt: skip
    return Response(bytes(imagecodecs.png_encode(np.ascontiguousarray(shown), level=1)), 200, headers, "image/png")


def _forget(stack: SliceStack) -> None:
    with _turn:
        for key in [key for key, known in _stacks.items() if known is stack]:
            del _stacks[key]


def _stack(node: WebNode, series_id: int) -> SliceStack:
    with node.database.reading() as session:
        series = series_by_id(session, series_id)
        key = (node.database.name, series_id, series.revision * 1_000_000 + series.n_instances)
        with _turn:
            if key in _stacks:
                _stacks.move_to_end(key)
                return _stacks[key]
        instances = archive.current_instances(session, series_id)
    files = [node.spool.locate(one.spool_path) for one in instances if one.bytes_state is BytesState.PRESENT]
    limits = node.config.inference
    try:
        stack = SliceStack(
            files,
            max_pixels_per_slice=limits.max_pixels_per_slice,
            max_bytes_per_instance=limits.max_bytes_per_instance,
        )
    except OSError as error:
        raise HTTPException(503, f"the spool cannot be read: {error.strerror}") from error
    with _turn:
        _stacks[key] = stack
        while len(_stacks) > _MOST_STACKS:
            _stacks.popitem(last=False)
    return stack
