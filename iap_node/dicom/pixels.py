"""The slices of a series as float arrays: chosen first, then decoded, never more than asked for.

Called by the worker and by training. A series is laid out from its headers alone (classic images, frames of
enhanced objects, tiles of mosaics), `max_slices` of them are chosen evenly in spatial order, and only those
are decoded. Whatever a header claims is checked against the limits, and for native pixels against the bytes
that are there, before memory is allocated. Source: PS3.3 C.7.6.3 (Image Pixel), C.7.6.16 (functional groups),
PS3.5 section 8 and Annex A.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame

from iap_node.dicom import codestreams, mosaic
from iap_node.dicom import elements as el
from iap_node.dicom.file_slice import InstanceFile
from iap_node.dicom.header import PER_FRAME_GROUPS, SHARED_GROUPS
from iap_node.dicom.mosaic import TileGrid, tile_grid
from iap_node.dicom.parameters import canonical_number
from iap_node.dicom.part10 import open_data_set
from iap_node.dicom.values import items, raw_text
from iap_node.errors import UnreadableInstance, UnreadablePixels

Slice = npt.NDArray[np.float32]

_INSTANCE_NUMBER = 0x00200013
_POSITION = 0x00200032
_ORIENTATION = 0x00200037
_PLANE_POSITION = 0x00209113
_PLANE_ORIENTATION = 0x00209116
_PIXEL_TRANSFORMATION = 0x00289145
_SAMPLES_PER_PIXEL = 0x00280002
_PHOTOMETRIC_INTERPRETATION = 0x00280004
_NUMBER_OF_FRAMES = 0x00280008
_BITS_ALLOCATED = 0x00280100
_BITS_STORED = 0x00280101
_HIGH_BIT = 0x00280102
_PIXEL_REPRESENTATION = 0x00280103
_RESCALE_INTERCEPT = 0x00281052
_RESCALE_SLOPE = 0x00281053
_PIXEL_DATA = 0x7FE00010
_BEFORE_PIXEL_DATA = 0x7FE00007  # Float Pixel Data is (7FE0,0008)

_WANTED = frozenset(
    {
        0x00080005, mosaic.IMAGE_TYPE, _INSTANCE_NUMBER, _POSITION, _ORIENTATION, _SAMPLES_PER_PIXEL,
        _PHOTOMETRIC_INTERPRETATION, _NUMBER_OF_FRAMES, mosaic.ROWS, mosaic.COLUMNS, _BITS_ALLOCATED,
        _BITS_STORED, _HIGH_BIT, _PIXEL_REPRESENTATION, _RESCALE_INTERCEPT, _RESCALE_SLOPE, SHARED_GROUPS,
        PER_FRAME_GROUPS,
    }
    | mosaic.PRIVATE_TAGS
)  # fmt: skip
_MAX_PRIVATE_BYTES = 1024**2
_HEADER_ALLOWANCE = 64 * 1024**2  # header of a deflated data set, beside its pixels
_MAX_FRAMES = 1_000_000
_SAME_PLANE = 0.999  # cosine between normals of one stack; GE writes one orientation with rounding jitter
_DAMAGED_FRAMES_PER_INSTANCE = 3  # then the instance is given up
_CACHED_FRAMES = 4  # consecutive tiles come from one sheet


@dataclass(frozen=True, slots=True)
class SeriesPixels:
    """The chosen slices of one series, and what could not be read."""

    slices: tuple[Slice, ...]  # each (rows, columns), stored values, in spatial order
    n_available: int  # slices in the readable instances
    problems: tuple[tuple[InstanceFile, str], ...]  # with the reason


@dataclass(frozen=True, slots=True)
class _Plane:
    """Where one frame lies and how its values are scaled."""

    position: tuple[float, ...]  # Image Position (0020,0032), mm, patient LPS; empty when unknown
    orientation: tuple[float, ...]  # Image Orientation (0020,0037); empty when unknown
    rescale: tuple[float, float]  # slope, intercept


@dataclass(frozen=True, slots=True)
class _Layout:
    """One instance: how its frames are stored, and where they lie."""

    file: InstanceFile
    transfer_syntax_uid: str
    little: bool
    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    monochrome1: bool
    pixel_start: int
    encapsulated: bool
    words: bool  # OW: 8-bit pixels of big endian data are swapped in pairs (PS3.5 8.1.2)
    instance_number: float
    grid: TileGrid | None
    planes: tuple[_Plane, ...]  # one per frame

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.bits_allocated // 8


class _Candidate(NamedTuple):
    """One slice that could be decoded."""

    instance: int  # index of the layout
    frame: int
    tile: int  # -1: the whole frame


def read_series_slices(
    files: Sequence[InstanceFile], *, max_slices: int, max_pixels_per_slice: int, max_bytes_per_instance: int
) -> SeriesPixels:
    """At most `max_slices` slices of a series, evenly spaced in spatial order, as stored values in float32.

    MONOCHROME1 is inverted within the slice. The rescale transformation is left out, because the model scales
    every slice by its own maximum; only where it differs between the chosen slices is it applied, since
    stored values then mean different things from slice to slice. An instance that cannot be read becomes a
    problem, its place is taken by a neighbour, and the rest goes on; when nothing is left, `slices` is empty.

    Raises
    ------
    OSError
        A file cannot be opened or read; a job retries.
    """
    problems: dict[InstanceFile, str] = {}
    layouts: list[_Layout] = []
    for file in files:
        try:
            layouts.append(_read_layout(file, max_pixels_per_slice, max_bytes_per_instance))
        except (UnreadableInstance, UnreadablePixels) as error:
            problems[file] = str(error)
    candidates = _in_spatial_order(layouts)
    chosen: dict[int, Slice] = {}
    refused: set[_Candidate] = set()
    damaged: dict[int, int] = {}
    frames: OrderedDict[tuple[int, int], Slice] = OrderedDict()
    n_chosen = min(max_slices, len(candidates))
    for target in _evenly_spaced(len(candidates), n_chosen):
        for place in _outward(target, len(candidates)):
            candidate = candidates[place]
            if (
                place in chosen
                or damaged.get(candidate.instance, 0) >= _DAMAGED_FRAMES_PER_INSTANCE
                or candidate._replace(tile=-1) in refused
            ):
                continue
            layout = layouts[candidate.instance]
            key = (candidate.instance, candidate.frame)
            try:
                if key not in frames:
                    frames[key] = _decode_frame(layout, candidate.frame, max_bytes_per_instance)
                    while len(frames) > _CACHED_FRAMES:
                        frames.popitem(last=False)
            except (UnreadableInstance, UnreadablePixels) as error:
                problems.setdefault(layout.file, str(error))
                refused.add(candidate._replace(tile=-1))
                damaged[candidate.instance] = damaged.get(candidate.instance, 0) + 1
                continue
            chosen[place] = _cut(frames[key], layout, candidate.tile)
            break
    places = sorted(chosen)
    rescales = {layouts[candidates[p].instance].planes[candidates[p].frame].rescale for p in places}
    slices = []
    for place in places:
        layout = layouts[candidates[place].instance]
        values = chosen[place]
        if len(rescales) > 1:
            slope, intercept = layout.planes[candidates[place].frame].rescale
            values = (values * np.float32(slope) + np.float32(intercept)).astype(np.float32)
        if layout.monochrome1:
            values = values.max() - values
        slices.append(np.ascontiguousarray(values, dtype=np.float32))
    return SeriesPixels(
        slices=tuple(slices),
        n_available=len(candidates),
        problems=tuple((file, problems[file]) for file in files if file in problems),
    )


class SliceStack:
    """All slices of a series in spatial order, decoded one at a time: for whoever looks through them.

    Parameters
    ----------
    files
        Instances; those that cannot be read are left out, `problems` says why.

    Raises
    ------
    OSError
        A file cannot be opened or read; trying again may help.
    """

    def __init__(
        self, files: Sequence[InstanceFile], *, max_pixels_per_slice: int, max_bytes_per_instance: int
    ) -> None:
        self._max_bytes = max_bytes_per_instance
        self._layouts: list[_Layout] = []
        problems: list[tuple[InstanceFile, str]] = []
        for file in files:
            try:
                self._layouts.append(_read_layout(file, max_pixels_per_slice, max_bytes_per_instance))
            except (UnreadableInstance, UnreadablePixels) as error:
                problems.append((file, str(error)))
        self.problems = tuple(problems)
        self._candidates = _in_spatial_order(self._layouts)

    def __len__(self) -> int:
        return len(self._candidates)

    def slice(self, place: int) -> Slice:
        """The slice at a place, (rows, columns), stored values; MONOCHROME1 inverted within it.

        Raises
        ------
        UnreadablePixels, UnreadableInstance
            It is damaged.
        """
        candidate = self._candidates[place]
        layout = self._layouts[candidate.instance]
        values = _cut(_decode_frame(layout, candidate.frame, self._max_bytes), layout, candidate.tile)
        return np.ascontiguousarray(values.max() - values if layout.monochrome1 else values, dtype=np.float32)


def _read_layout(file: InstanceFile, max_pixels_per_slice: int, max_bytes_per_instance: int) -> _Layout:
    """How the pixels of one instance are stored, checked against the limits; nothing is decoded."""
    with open_data_set(file, max_bytes_per_instance + _HEADER_ALLOWANCE) as (stream, transfer_syntax_uid):
        encoding = el.encoding_of(transfer_syntax_uid)
        found, pixel_data = el.walk(stream, encoding, _WANTED, _BEFORE_PIXEL_DATA, _MAX_PRIVATE_BYTES)
        ds = el.excerpt(found, encoding)
        bytes_there = stream.seek(0, os.SEEK_END) - pixel_data.value_start if pixel_data is not None else 0
    if pixel_data is None or pixel_data.tag != _PIXEL_DATA:
        kind = "no pixels" if pixel_data is None or pixel_data.tag > _PIXEL_DATA else "floating point pixels"
        raise UnreadablePixels(f"it holds {kind}; only integer Pixel Data (7FE0,0010) can be read")

    photometric = (raw_text(ds, _PHOTOMETRIC_INTERPRETATION) or "").upper()
    samples = _integer(ds, _SAMPLES_PER_PIXEL, 1)
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadablePixels(f"a colour image ({photometric or 'unknown'}, {samples} samples per pixel)")
    rows, columns = _integer(ds, mosaic.ROWS, 0), _integer(ds, mosaic.COLUMNS, 0)
    frames = _integer(ds, _NUMBER_OF_FRAMES, 1)
    bits_allocated = _integer(ds, _BITS_ALLOCATED, 16)
    bits_stored = _integer(ds, _BITS_STORED, bits_allocated)
    high_bit = _integer(ds, _HIGH_BIT, bits_stored - 1)
    if bits_allocated not in (8, 16, 32) or not 1 <= bits_stored <= high_bit + 1 <= bits_allocated:
        raise UnreadablePixels(
            f"Bits Allocated {bits_allocated}, Stored {bits_stored} and High Bit {high_bit} disagree"
        )
    if rows < 1 or columns < 1 or not 1 <= frames <= _MAX_FRAMES:
        raise UnreadablePixels(f"{rows} rows x {columns} columns x {frames} frames are no image")
    grid = tile_grid(ds) if frames == 1 else None
    pixels_per_slice = grid.tile_rows * grid.tile_columns if grid else rows * columns
    if pixels_per_slice > max_pixels_per_slice:
        raise UnreadablePixels(
            f"{pixels_per_slice} pixels per slice are more than max_pixels_per_slice = {max_pixels_per_slice}"
        )
    n_bytes = rows * columns * frames * bits_allocated // 8
    if n_bytes > max_bytes_per_instance:
        raise UnreadablePixels(
            f"{n_bytes} bytes of pixels are more than max_bytes_per_instance = {max_bytes_per_instance}"
        )
    encapsulated = pixel_data.length == el.UNDEFINED
    bytes_there = min(pixel_data.length, bytes_there)
    if not encapsulated and n_bytes > bytes_there:
        raise UnreadablePixels(f"cut off: {bytes_there} of {n_bytes} bytes of pixels; send it again")
    if not encapsulated and transfer_syntax_uid in codestreams.COMPRESSED:
        raise UnreadablePixels(f"native pixels under the compressed transfer syntax {transfer_syntax_uid}")
    number = canonical_number(raw_text(ds, _INSTANCE_NUMBER) or "")
    return _Layout(
        file=file,
        transfer_syntax_uid=transfer_syntax_uid,
        little=encoding.little,
        rows=rows,
        columns=columns,
        frames=frames,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=high_bit,
        signed=_integer(ds, _PIXEL_REPRESENTATION, 0) == 1,
        monochrome1=photometric == "MONOCHROME1",
        pixel_start=pixel_data.value_start,
        encapsulated=encapsulated,
        words=pixel_data.vr != b"OB",
        instance_number=number if number is not None else float("inf"),
        grid=grid,
        planes=_planes(ds, frames),
    )


def _integer(ds: Dataset, tag: int, default: int) -> int:
    """A whole number, `default` where the element is absent or empty, -1 where it is no whole number."""
    text = raw_text(ds, tag)
    if not text:
        return default
    number = canonical_number(text)
    return int(number) if number is not None and number == int(number) else -1


def _planes(ds: Dataset, frames: int) -> tuple[_Plane, ...]:
    """Position, orientation and rescale of every frame: per-frame groups, else shared, else the top level."""
    shared = items(ds, SHARED_GROUPS)[:1]
    per_frame = items(ds, PER_FRAME_GROUPS)
    if not shared and not per_frame:
        return (_plane([ds]),) * frames
    everywhere = _plane([*shared, ds])
    return tuple(
        _plane([per_frame[frame], *shared, ds]) if frame < len(per_frame) else everywhere for frame in range(frames)
    )


def _plane(groups: Sequence[Dataset]) -> _Plane:
    slope = _first(groups, _PIXEL_TRANSFORMATION, _RESCALE_SLOPE, 1)
    intercept = _first(groups, _PIXEL_TRANSFORMATION, _RESCALE_INTERCEPT, 1)
    return _Plane(
        position=_first(groups, _PLANE_POSITION, _POSITION, 3),
        orientation=_first(groups, _PLANE_ORIENTATION, _ORIENTATION, 6),
        rescale=(slope[0], intercept[0]) if slope and slope[0] and intercept else (1.0, 0.0),
    )


def _first(groups: Sequence[Dataset], sequence: int, tag: int, count: int) -> tuple[float, ...]:
    """`count` numbers from the first group that has them, inside `sequence` or beside it; else empty."""
    for group in groups:
        for item in (*items(group, sequence)[:1], group):
            numbers = [canonical_number(part) for part in (raw_text(item, tag) or "").split("\\")]
            known = tuple(number for number in numbers if number is not None)
            if len(known) == len(numbers) == count:
                return known
    return ()


def _in_spatial_order(layouts: Sequence[_Layout]) -> list[_Candidate]:
    """Every slice along the normal of its stack; by Instance Number where a position is missing."""
    normals: list[npt.NDArray[np.float64]] = []
    keyed: list[tuple[tuple[float, ...], tuple[float, ...], _Candidate]] = []
    placed = True
    for index, layout in enumerate(layouts):
        for frame, plane in enumerate(layout.planes):
            stack, distance = _place(plane, normals)
            placed = placed and stack >= 0
            for tile in range(layout.grid.count) if layout.grid else (-1,):
                along = float(tile) if layout.grid else distance
                number = (layout.instance_number, index, frame, tile)
                keyed.append(((stack, along, *number), number, _Candidate(index, frame, tile)))
    keyed.sort(key=lambda entry: entry[0] if placed else entry[1])
    return [candidate for _, _, candidate in keyed]


def _place(plane: _Plane, normals: list[npt.NDArray[np.float64]]) -> tuple[int, float]:
    """The stack of a plane (planes of one normal) and its place on the normal, mm; (-1, 0) when unknown."""
    if not plane.position or not plane.orientation:
        return -1, 0.0
    normal = np.cross(np.asarray(plane.orientation[:3]), np.asarray(plane.orientation[3:]))
    length = float(np.linalg.norm(normal))
    if not np.isfinite(length) or length < 0.5:
        return -1, 0.0
    normal = normal / length
    stack = next((i for i, known in enumerate(normals) if float(known @ normal) > _SAME_PLANE), len(normals))
    if stack == len(normals):
        normals.append(normal)
    return stack, round(float(normals[stack] @ np.asarray(plane.position)), 3)


def _evenly_spaced(n: int, chosen: int) -> list[int]:
    """`chosen` of `n` places: the middles of as many equal parts."""
    return [(2 * i + 1) * n // (2 * chosen) for i in range(chosen)]


def _outward(start: int, n: int) -> Iterator[int]:
    """All places, nearest to `start` first."""
    yield start
    for step in range(1, n):
        if start + step < n:
            yield start + step
        if start - step >= 0:
            yield start - step


def _decode_frame(layout: _Layout, frame: int, max_bytes_per_instance: int) -> Slice:
    """One frame as stored values; the tile sheet where the image is a mosaic.

    Raises
    ------
    UnreadablePixels
        The frame is damaged, cut off, or not of the size that the header states.
    """
    with open_data_set(layout.file, max_bytes_per_instance + _HEADER_ALLOWANCE) as (stream, _):
        if layout.encapsulated:
            stream.seek(layout.pixel_start)
            try:
                data = get_frame(stream, frame, number_of_frames=layout.frames)
            except el.DAMAGE as error:
                raise UnreadablePixels(f"frame {frame + 1} is not there; send the instance again") from error
        else:
            start = frame * layout.frame_bytes
            swapped = layout.words and not layout.little and layout.bits_allocated == 8
            lead = start % 2 if swapped else 0
            stream.seek(layout.pixel_start + start - lead)
            data = stream.read(layout.frame_bytes + lead + (layout.frame_bytes + lead) % 2 * swapped)
            if swapped:
                data = np.frombuffer(data[: len(data) // 2 * 2], np.uint16).byteswap().tobytes()
                data = data[lead : lead + layout.frame_bytes]
    if layout.encapsulated and layout.transfer_syntax_uid != codestreams.ENCAPSULATED_UNCOMPRESSED:
        raw, bits = codestreams.decode(
            data,
            layout.transfer_syntax_uid,
            rows=layout.rows,
            columns=layout.columns,
            bits_allocated=layout.bits_allocated,
            bits_stored=layout.bits_stored,
            signed=layout.signed,
        )
        return _stored_values(raw, bits, 0, layout.signed)
    if len(data) < layout.frame_bytes:
        raise UnreadablePixels(f"frame {frame + 1} is cut off; send the instance again")
    kind = np.dtype(f"{'<' if layout.little else '>'}u{layout.bits_allocated // 8}")
    raw = np.frombuffer(data, kind, layout.rows * layout.columns).reshape(layout.rows, layout.columns)
    return _stored_values(raw, layout.bits_stored, layout.high_bit + 1 - layout.bits_stored, layout.signed)


def _stored_values(raw: npt.NDArray[np.unsignedinteger], bits: int, shift: int, signed: bool) -> Slice:
    """The `bits` above `shift` of each cell, as numbers: overlays in unused bits go, signs are extended."""
    if shift == 0 and bits == raw.dtype.itemsize * 8:
        if signed:
            native = raw.astype(raw.dtype.newbyteorder("="), copy=False)
            return native.view(f"i{raw.dtype.itemsize}").astype(np.float32)
        return raw.astype(np.float32)
    values = (raw.astype(np.int64) >> shift) & ((1 << bits) - 1)
    if signed:
        values -= (values >> (bits - 1)) << bits
    return values.astype(np.float32)


def _cut(frame: Slice, layout: _Layout, tile: int) -> Slice:
    """One tile of a sheet, or the frame itself."""
    if layout.grid is None or tile < 0:
        return frame
    row, column = divmod(tile, layout.grid.grid_columns)
    top, left = row * layout.grid.tile_rows, column * layout.grid.tile_columns
    return frame[top : top + layout.grid.tile_rows, left : left + layout.grid.tile_columns]
