"""Slices of a series as PNG, windowed here: who looks gets nothing but what is shown. Called by the pages and the API.

Window as PS3.3 C.11.2.1.2: centre and width in stored values; by default the 1st to the 99th percentile of the slice.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import imagecodecs
import numpy as np
from starlette.responses import Response

from iap_node.database import archive
from iap_node.database.series import UnknownSeries, series_by_id
from iap_node.database.tables import BytesState
from iap_node.dicom.pixels import SliceStack
from iap_node.errors import PermanentError, RetriableError, UnreadableInstance, UnreadablePixels
from iap_node.web.node import WebNode

PNG = "image/png"
_MOST_STACKS = 8  # headers of so many series in memory
_LARGEST_SIDE = 1024  # pixels; larger slices are shown smaller

_turn = threading.Lock()
_stacks: OrderedDict[tuple[str, int, int], SliceStack] = OrderedDict()


class NoSuchSlice(UnknownSeries):
    """The series has no such slice, or its bytes are gone."""


@dataclass(frozen=True, slots=True)
class DrawnSlice:
    """One slice as a picture, and the window that it was drawn with."""

    png: bytes  # 8 bits
    centre: float
    width: float


def slices(node: WebNode, series_id: int) -> tuple[int, list[str]]:
    """How many slices of a series can be read, and what could not be.

    Raises
    ------
    UnknownSeries
    RetriableError
        The spool cannot be read now.
    """
    stack = _stack(node, series_id)
    return len(stack), [reason for _, reason in stack.problems]


def drawn(node: WebNode, series_id: int, place: int, centre: float | None, width: float | None) -> DrawnSlice:
    """One slice; without a window the one that shows most of it.

    Raises
    ------
    UnknownSeries
        `NoSuchSlice` included.
    PermanentError
        It is damaged.
    RetriableError
        The spool cannot be read now.
    """
    stack = _stack(node, series_id)
    if not 0 <= place < len(stack):
        raise NoSuchSlice(f"the series has {len(stack)} slices that can be read")
    try:
        values = stack.slice(place)
    except (UnreadablePixels, UnreadableInstance) as error:
        raise PermanentError(f"this slice is damaged: {error}") from error
    except OSError as error:  # retention, or fsck, took its bytes since the headers were read
        _forget(stack)
        raise NoSuchSlice("the bytes of this slice are gone; load the page again") from error
    step = -(-max(values.shape) // _LARGEST_SIDE)
    values = values[::step, ::step]
    if centre is None or width is None:
        low, high = (float(value) for value in np.percentile(values, (1, 99)))
    else:
        low, high = centre - width / 2, centre + width / 2
    wide = max(high - low, 1e-6)
    shown = np.clip((values - low) * (255.0 / wide), 0, 255).astype(np.uint8)
    png = bytes(imagecodecs.png_encode(np.ascontiguousarray(shown), level=1))
    return DrawnSlice(png, (low + high) / 2, wide)


def as_response(slice_: DrawnSlice) -> Response:
    """The picture, with its window in the headers."""
    headers = {
        "X-Window-Centre": f"{slice_.centre:.6g}",
        "X-Window-Width": f"{slice_.width:.6g}",
        "Cache-Control": "private, max-age=300",
    }
    return Response(slice_.png, 200, headers, PNG)


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
    except FileNotFoundError as error:
        raise NoSuchSlice("bytes of this series are gone; `iap-node fsck` says which") from error
    except OSError as error:
        raise RetriableError(f"the spool cannot be read: {error.strerror}") from error
    with _turn:
        _stacks[key] = stack
        while len(_stacks) > _MOST_STACKS:
            _stacks.popitem(last=False)
    return stack
