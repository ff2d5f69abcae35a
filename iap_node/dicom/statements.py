"""What an instance states of itself, as raw text, and what its pixel data really is: the matter of header checks.

Called by `iap_node.audit.checks` and whoever feeds it. Classic MR states its parameters at the top level, enhanced MR
in functional groups (PS3.3 C.7.6.16, C.8.13.5): an `Image` reads both by the classic tags. Text is never converted
here: "1,5", "nan" and "5 ms" stay what they are, and `number` is None for them. Nothing is read that names a patient.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

from iap_node.dicom import elements as el
from iap_node.dicom import mosaic
from iap_node.dicom.codestreams import CodestreamHeader, codestream_header
from iap_node.dicom.file_slice import InstanceFile
from iap_node.dicom.header import HEADER_TAGS, PER_FRAME_GROUPS, SHARED_GROUPS
from iap_node.dicom.mosaic import TileGrid
from iap_node.dicom.parameters import canonical_number
from iap_node.dicom.part10 import open_data_set
from iap_node.dicom.values import BINARY, decode_text, items, raw_text
from iap_node.errors import UnreadablePixels

PIXEL_DATA = 0x7FE00010
_FIRST_PIXELS, _LAST_PIXELS = 0x7FE00008, PIXEL_DATA  # Float, Double Float and integer Pixel Data: PS3.3 C.7.6.24, 25
_MAX_INFLATED = 512 * 1024**2
_MAX_PRIVATE_BYTES = 1024**2  # a CSA image header has some 12 kB
_MAX_RAW = 1024  # characters kept of a value; PS3.5 6.2 gives the VRs read here 64, some times their multiplicity
_SHARED_BYTES = 128  # values up to this length are shared between instances
_FIRST_BYTES = 4096  # of a codestream: its header is in the first hundreds
_ITEM = struct.Struct("<HHI")

# The elements that checks ask for. None of them names a patient.
_TOP_LEVEL = frozenset(
    {
        0x00080005, 0x00080008, 0x00080016, 0x00080018, 0x00080020, 0x00080021, 0x00080022, 0x00080023, 0x00080030,
        0x00080031, 0x00080032, 0x00080033, 0x00080060, 0x00080070, 0x0008103E, 0x00081090, 0x00089208,
        0x00180010, 0x00180015, 0x00180020, 0x00180021, 0x00180022, 0x00180023, 0x00180024, 0x00180025, 0x00180050,
        0x00180080, 0x00180081, 0x00180082, 0x00180083, 0x00180084, 0x00180085, 0x00180086, 0x00180087, 0x00180088,
        0x00180089, 0x00180091, 0x00180093, 0x00180094, 0x00180095, 0x00181000, 0x00181020, 0x00181030, 0x00181040,
        0x00181041, 0x00181042, 0x00181043, 0x00181044, 0x00181046, 0x00181047, 0x00181048, 0x00181049, 0x00181100,
        0x00181250, 0x00181251, 0x00181310, 0x00181312, 0x00181314, 0x00181315, 0x00181316, 0x00185100, 0x00189005,
        0x00189073, 0x00189100,
        0x0020000D, 0x0020000E, 0x00200011, 0x00200012, 0x00200013, 0x00200032, 0x00200037, 0x00200052, 0x00201041,
        0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011, 0x00280030, 0x00280100, 0x00280101,
        0x00280102, 0x00280103,
    }
)  # fmt: skip
# Where vendors name the owners of their private blocks (PS3.5 7.8.1).
_CREATORS = frozenset(
    group << 16 | number
    for group in (0x09, 0x19, 0x21, 0x25, 0x27, 0x29, 0x43, 0x51, 0x61, 0x65, 0x2001, 0x2005, 0x700D)
    for number in (*range(0x10, 0x18), 0x40)
)
_SEQUENCES = frozenset({SHARED_GROUPS, PER_FRAME_GROUPS})
_PATIENT_ORIENTATION = 0x00540410  # Patient Orientation Code Sequence
_WANTED = _TOP_LEVEL | _CREATORS | _SEQUENCES | mosaic.PRIVATE_TAGS | {_PATIENT_ORIENTATION}
_WANTED_BY_BOTH = _WANTED | HEADER_TAGS
_MOSAIC_TAGS = mosaic.PRIVATE_TAGS | {mosaic.IMAGE_TYPE, mosaic.ROWS, mosaic.COLUMNS}

# Classic tag -> functional group sequence and the element in it (PS3.3 C.7.6.16.2, C.8.13.5).
FUNCTIONAL_GROUPS: Mapping[int, tuple[int, int]] = {
    0x00180050: (0x00289110, 0x00180050),  # Pixel Measures
    0x00180088: (0x00289110, 0x00180088),
    0x00280030: (0x00289110, 0x00280030),
    0x00200032: (0x00209113, 0x00200032),  # Plane Position (Patient)
    0x00200037: (0x00209116, 0x00200037),  # Plane Orientation (Patient)
    0x00180080: (0x00189112, 0x00180080),  # MR Timing and Related Parameters
    0x00180091: (0x00189112, 0x00180091),
    0x00181314: (0x00189112, 0x00181314),
    0x00180081: (0x00189114, 0x00189082),  # MR Echo: Effective Echo Time
    0x00180082: (0x00189115, 0x00189079),  # MR Modifier: Inversion Times
    0x00180084: (0x00189006, 0x00189098),  # MR Imaging Modifier: Transmitter Frequency
    0x00180095: (0x00189006, 0x00180095),
    0x00180083: (0x00189119, 0x00180083),  # MR Averages
    0x00180093: (0x00189125, 0x00180093),  # MR FOV/Geometry
    0x00180094: (0x00189125, 0x00180094),
    0x00181312: (0x00189125, 0x00181312),
}
_GEOMETRY_GROUP, _FREQUENCY_STEPS, _PHASE_STEPS = 0x00189125, 0x00189058, 0x00189231
_FRAME_TYPE_GROUP, _FRAME_TYPE = 0x00189226, 0x00089007
_ACQUISITION_MATRIX, _PHASE_DIRECTION = 0x00181310, 0x00181312
_PLACES = frozenset({0x00200032, 0x00201041})  # what differs from slice to slice


class Stated(NamedTuple):
    """One element as it is written."""

    tag: int  # the element that was read; in functional groups another one than the classic tag asked for
    vr: str  # as written; the dictionary's in implicit VR
    raw: str  # values joined by a backslash, padding stripped; "" when empty

    @property
    def parts(self) -> list[str]:
        return self.raw.split("\\")


@dataclass(frozen=True, slots=True)
class Image:
    """What one image states: a classic instance, or the frames of an enhanced one that state the same."""

    stated: Mapping[int, Stated]  # by classic tag
    is_frame: bool = False  # its functional groups have been read
    places: tuple[Mapping[int, Stated], ...] = ()  # of each frame: what differs from slice to slice
    groups: frozenset[int] = frozenset()  # functional group sequences of these frames
    _numbers: dict[int, float | None] = field(default_factory=dict, repr=False, compare=False)

    def get(self, tag: int) -> Stated | None:
        """The element as written; None where it is absent."""
        return self.stated.get(tag)

    def text(self, tag: int) -> str:
        """Its raw text; "" where it is absent or empty."""
        found = self.stated.get(tag)
        return found.raw if found is not None else ""

    def terms(self, tag: int) -> tuple[str, ...]:
        """Its values in capitals; none where it is absent or empty."""
        raw = self.text(tag)
        return tuple(part.strip().upper() for part in raw.split("\\")) if raw else ()

    def number(self, tag: int) -> float | None:
        """Its only value as a number; None where it is absent, empty, no finite number or several."""
        if tag not in self._numbers:
            raw = self.text(tag)
            self._numbers[tag] = canonical_number(raw) if raw else None
        return self._numbers[tag]

    def numbers(self, tag: int, count: int) -> tuple[float, ...] | None:
        """Exactly `count` numbers; None otherwise."""
        return numbers_of(self.stated.get(tag), count)


@dataclass(frozen=True, slots=True)
class PixelsThere:
    """The pixel data element that ends the header, as the file really holds it."""

    tag: int
    stated_bytes: int | None  # None: encapsulated
    bytes_there: int  # from the element's value to the end of the file
    fragments: int = 0  # with bytes in them, Basic Offset Table left out; counted up to one more than frames
    is_complete: bool = True  # encapsulated: the fragments that were stepped over lie within the file
    codestream: CodestreamHeader | None = None  # what the first fragment says of itself


@dataclass(frozen=True, slots=True)
class InstanceStatements:
    """All that the checks look at in one instance."""

    transfer_syntax_uid: str
    top: Image  # the top level alone
    images: tuple[Image, ...]  # classic: the top level; enhanced: one per distinct statement of its frames
    n_frames: int | None = None  # items of Per-Frame Functional Groups; None where there are none
    has_shared: bool = False  # Shared Functional Groups with an item
    pixels: PixelsThere | None = None
    grid: TileGrid | None = None
    grid_problem: str = ""  # why a mosaic's tiles cannot be placed
    creators: frozenset[str] = frozenset()  # Private Creators
    has_patient_orientation: bool = False  # Patient Orientation Code Sequence: it may stand for Patient Position

    @property
    def sop_class_uid(self) -> str:
        return self.top.text(0x00080016)

    @property
    def sop_instance_uid(self) -> str:
        return self.top.text(0x00080018)


def numbers_of(stated: Stated | None, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers of an element; None otherwise."""
    if stated is None or not stated.raw:
        return None
    parts = stated.parts
    numbers = [canonical_number(part) for part in parts] if len(parts) == count else []
    found = tuple(number for number in numbers if number is not None)
    return found if len(found) == count else None


def read_statements(file: InstanceFile) -> InstanceStatements:
    """Read what one instance states: its header within bounds, of its pixels the first kilobytes at most.

    Raises
    ------
    UnreadableInstance
        The file is not a DICOM instance, or its header is damaged.
    OSError
        The file cannot be read; trying again may help.
    """
    with open_data_set(file, _MAX_INFLATED) as (stream, transfer_syntax_uid):
        encoding = el.encoding_of(transfer_syntax_uid)
        found, beyond = el.walk(stream, encoding, _WANTED, _FIRST_PIXELS - 1, _MAX_PRIVATE_BYTES)
        return _statements(found, beyond, stream, encoding, transfer_syntax_uid)


def read_header_and_statements(file: InstanceFile) -> tuple[Dataset, InstanceStatements]:
    """Both `header.read_header_dataset` and `read_statements` of one instance, read once.

    Raises
    ------
    UnreadableInstance, OSError
        See `read_statements`.
    """
    with open_data_set(file, _MAX_INFLATED) as (stream, transfer_syntax_uid):
        encoding = el.encoding_of(transfer_syntax_uid)
        found, beyond = el.walk(stream, encoding, _WANTED_BY_BOTH, _FIRST_PIXELS - 1, _MAX_PRIVATE_BYTES)
        ds = el.excerpt({tag: element for tag, element in found.items() if tag in HEADER_TAGS}, encoding)
        return ds, _statements(found, beyond, stream, encoding, transfer_syntax_uid, ds)


def _statements(
    found: dict[int, el.Element],
    beyond: el.Place | None,
    stream: BinaryIO,
    encoding: el.Encoding,
    transfer_syntax_uid: str,
    ds: Dataset | None = None,
) -> InstanceStatements:
    """What the elements that were found state, and the pixels that begin `beyond` them; `ds` has them as a data set."""
    character_set = found[0x00080005][1] if 0x00080005 in found else b""
    stated = {
        tag: (_shared if len(element[1]) <= _SHARED_BYTES else _stated)(tag, *element, encoding, character_set)
        for tag, element in found.items()
        if tag in _TOP_LEVEL
    }
    top = Image(stated, places=({tag: stated[tag] for tag in _PLACES if tag in stated},))
    frames = _integer(top.number(0x00280008), 1)
    pixels = _pixels(stream, beyond, frames)
    grid, grid_problem = _grid(found, encoding, stated)
    images: tuple[Image, ...] = (top,)
    n_frames, has_shared = None, False
    if any(tag in found for tag in _SEQUENCES):
        if ds is None:
            ds = el.excerpt({tag: found[tag] for tag in (0x00080005, *_SEQUENCES) if tag in found}, encoding)
        shared, per_frame = items(ds, SHARED_GROUPS)[:1], items(ds, PER_FRAME_GROUPS)
        images = _frames(stated, shared, per_frame) or images
        n_frames, has_shared = len(per_frame), bool(shared)
    creators = frozenset(decode_text(found[tag][1]) for tag in found if tag in _CREATORS and len(found[tag][1]) <= 64)
    return InstanceStatements(
        transfer_syntax_uid, top, images, n_frames, has_shared, pixels, grid, grid_problem, creators,
        _PATIENT_ORIENTATION in found,
    )  # fmt: skip


def _stated(tag: int, header: bytes, value: bytes, encoding: el.Encoding, character_set: bytes) -> Stated:
    vr = header[4:6]
    name = vr.decode("ascii") if vr in el.SHORT_VRS or vr in el.LONG_VRS else ""
    if not name or name == "UN":
        name = _dictionary_vr(tag)
    code = BINARY.get(name)
    if code is not None and len(value) % struct.calcsize(code) == 0:
        count = min(len(value) // struct.calcsize(code), _MAX_RAW // 16)
        numbers = struct.unpack_from(f"{'<' if encoding.little else '>'}{count}{code}", value)
        return Stated(tag, name, "\\".join(f"{number:.12g}" for number in numbers))
    text = decode_text(value[:_MAX_RAW], character_set if not value.isascii() else b"")
    if "\\" in text:
        text = "\\".join(part.strip() for part in text.split("\\"))
    return Stated(tag, name, text)


# Most elements of a series say the same in every instance: they are decoded once, and kept once.
_shared = lru_cache(maxsize=4096)(_stated)


@lru_cache(maxsize=256)
def _dictionary_vr(tag: int) -> str:
    return str(dictionary_VR(tag))[:2]  # "US or SS" is US here


def _integer(number: float | None, default: int) -> int:
    return int(number) if number is not None and 0 < number <= 10**7 and number == int(number) else default


# ---------------------------------------------------------------- functional groups


def _frames(top: Mapping[int, Stated], shared: Sequence[Dataset], per_frame: Sequence[Dataset]) -> tuple[Image, ...]:
    """One image for each distinct statement of the frames; what the groups can say, the top level does not say."""
    base = {tag: stated for tag, stated in top.items() if tag not in FUNCTIONAL_GROUPS and tag not in _PLACES}
    shared_stated, shared_groups = _group(shared[0]) if shared else ({}, frozenset[int]())
    distinct: dict[tuple[object, ...], tuple[dict[int, Stated], frozenset[int], list[Mapping[int, Stated]]]] = {}
    for ds in per_frame or [Dataset()]:
        own, groups = _group(ds)
        stated = {**base, **shared_stated, **own}
        place = {tag: stated.pop(tag) for tag in _PLACES if tag in stated}
        key = (groups, *sorted(stated.items()))
        if key not in distinct:
            distinct[key] = (stated, groups | shared_groups, [])
        distinct[key][2].append(place)
    return tuple(Image(stated, True, tuple(places), groups) for stated, groups, places in distinct.values())


def _group(ds: Dataset) -> tuple[dict[int, Stated], frozenset[int]]:
    """What one item of shared or per-frame groups states, by classic tag, and the sequences that it has."""
    first = _first_items(ds)
    stated: dict[int, Stated] = {}
    for classic, (sequence, tag) in FUNCTIONAL_GROUPS.items():
        if sequence in first:
            raw = raw_text(first[sequence], tag)
            if raw is not None:
                stated[classic] = Stated(tag, _dictionary_vr(tag), raw[:_MAX_RAW])
    if _FRAME_TYPE_GROUP in first:
        raw = raw_text(first[_FRAME_TYPE_GROUP], _FRAME_TYPE)
        if raw is not None:
            stated[0x00080008] = Stated(_FRAME_TYPE, "CS", raw[:_MAX_RAW])
    if _GEOMETRY_GROUP in first:
        steps = [raw_text(first[_GEOMETRY_GROUP], tag) for tag in (_FREQUENCY_STEPS, _PHASE_STEPS)]
        if any(step for step in steps):
            frequency, phase = (step or "" for step in steps)
            row = stated[_PHASE_DIRECTION].raw.upper() == "ROW" if _PHASE_DIRECTION in stated else False
            raw = f"0\\{frequency}\\{phase}\\0" if row else f"{frequency}\\0\\0\\{phase}"
            stated[_ACQUISITION_MATRIX] = Stated(_FREQUENCY_STEPS, "US", raw)
    return stated, frozenset(first)


def _first_items(ds: Dataset) -> dict[int, Dataset]:
    sequences = {sequence for sequence, _ in FUNCTIONAL_GROUPS.values()} | {_FRAME_TYPE_GROUP, _GEOMETRY_GROUP}
    return {tag: first for tag in sequences if tag in ds for first in items(ds, tag)[:1]}


# ---------------------------------------------------------------- pixels


def _pixels(stream: BinaryIO, place: el.Place | None, frames: int) -> PixelsThere | None:
    if place is None or not _FIRST_PIXELS <= place.tag <= _LAST_PIXELS:
        return None
    end = stream.seek(0, os.SEEK_END)
    there = max(0, end - place.value_start)
    if place.length != el.UNDEFINED:
        return PixelsThere(place.tag, place.length, there)
    fragments, position, codestream, complete = 0, place.value_start, None, False
    is_offset_table = True
    while fragments <= frames:
        stream.seek(position)
        header = stream.read(_ITEM.size)
        if len(header) < _ITEM.size:
            break
        group, number, length = _ITEM.unpack(header)
        if group << 16 | number == el.SEQUENCE_DELIMITATION:
            complete = True
            break
        if group << 16 | number != el.ITEM or position + _ITEM.size + length > end:
            break
        if not is_offset_table and length:
            fragments += 1
            if fragments == 1:
                codestream = codestream_header(stream.read(min(length, _FIRST_BYTES)))
        is_offset_table = False
        position += _ITEM.size + length
    else:
        complete = True
    return PixelsThere(place.tag, None, there, fragments, complete, codestream)


def _grid(
    found: Mapping[int, el.Element], encoding: el.Encoding, stated: Mapping[int, Stated]
) -> tuple[TileGrid | None, str]:
    image_type = stated[mosaic.IMAGE_TYPE].raw.upper() if mosaic.IMAGE_TYPE in stated else ""
    if "MOSAIC" not in image_type and "VFRAME" not in image_type:
        return None, ""
    try:
        ds = el.excerpt({tag: found[tag] for tag in sorted(_MOSAIC_TAGS & found.keys())}, encoding)
        return mosaic.tile_grid(ds), ""
    except UnreadablePixels as error:
        return None, str(error)
