"""Mosaics: many slices tiled into one classic MR image. Where the tiles are, by two vendors' private headers.

Called by header (field of view per tile) and pixels (cutting). Siemens marks Image Type MOSAIC and counts the
tiles in (0019,xx0A) "SIEMENS MR HEADER" or in the CSA header, UIH marks VFRAME and counts in (0065,xx50)
"Image Private Header"; no standard describes either. Checked on eight real mosaic series of 20 to 40 tiles.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from pydicom.dataset import Dataset

from iap_node.dicom.parameters import canonical_number
from iap_node.dicom.values import raw_text
from iap_node.errors import UnreadablePixels

IMAGE_TYPE = 0x00080008
ROWS = 0x00280010
COLUMNS = 0x00280011

_SIEMENS = (0x0019, "SIEMENS MR HEADER", 0x0A)
_CSA = (0x0029, "SIEMENS CSA HEADER", 0x10)
_UIH = (0x0065, "Image Private Header", 0x50)
MAX_TILES = 4096  # in one sheet; real sheets hold up to some hundred
# What may be needed to place tiles: creators and counts of the three blocks.
PRIVATE_TAGS = frozenset(
    group << 16 | number
    for group, _, last in (_SIEMENS, _CSA, _UIH)
    for block in range(0x10, 0x100)
    for number in (block, block << 8 | last)
)


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Tiles of one sheet, row by row from the upper left; the cells behind `count` are empty."""

    count: int
    grid_rows: int
    grid_columns: int
    tile_rows: int  # pixels
    tile_columns: int  # pixels


def tile_grid(ds: Dataset) -> TileGrid | None:
    """The tiles of a classic image; None when it is a single slice.

    Raises
    ------
    UnreadablePixels
        The image says that it is a mosaic, but not how many tiles it has, or they do not divide it.
    """
    image_type = (raw_text(ds, IMAGE_TYPE) or "").upper().split("\\")
    if "MOSAIC" in image_type:
        count = _count(_private_text(ds, _SIEMENS)) or _csa_count(_private_bytes(ds, _CSA))
        side = math.isqrt(count - 1) + 1 if count else 0
        grid_rows, grid_columns = side, side
        where = '(0019,xx0A) of "SIEMENS MR HEADER" or the CSA header'
    elif "VFRAME" in image_type:
        count = _count(_private_text(ds, _UIH))
        grid_columns = math.isqrt(count - 1) + 1 if count else 0
        grid_rows = -(-count // grid_columns) if count else 0
        where = '(0065,xx50) of "Image Private Header"'
    else:
        return None
    if not count:
        raise UnreadablePixels(f"a mosaic without its number of tiles; keep {where} when exporting")
    rows, columns = (int(canonical_number(raw_text(ds, tag) or "") or 0) for tag in (ROWS, COLUMNS))
    if rows < grid_rows or columns < grid_columns or rows % grid_rows or columns % grid_columns:
        raise UnreadablePixels(
            f"a mosaic of {rows} x {columns} pixels that its {count} tiles do not divide; export it again"
        )
    return TileGrid(count, grid_rows, grid_columns, rows // grid_rows, columns // grid_columns)


def _private_tag(ds: Dataset, block: tuple[int, str, int]) -> int | None:
    """The tag of a private element under its creator (PS3.5 7.8.1)."""
    group, creator, last = block
    for number in range(0x10, 0x100):
        tag = group << 16 | number
        if tag in ds and (raw_text(ds, tag) or "") == creator:
            return group << 16 | number << 8 | last
    return None


def _private_bytes(ds: Dataset, block: tuple[int, str, int]) -> bytes:
    tag = _private_tag(ds, block)
    if tag is None or tag not in ds:
        return b""
    element = ds.get_item(tag, keep_deferred=True)
    return element.value if element is not None and isinstance(element.value, bytes) else b""


def _private_text(ds: Dataset, block: tuple[int, str, int]) -> str:
    """A private value as text; two bytes without a VR (implicit VR, UN) are an unsigned short."""
    tag = _private_tag(ds, block)
    text = raw_text(ds, tag) if tag is not None else None
    if tag is None or text is None:
        return ""
    element = ds.get_item(tag, keep_deferred=True)
    if element is not None and element.VR in (None, "UN") and block is _SIEMENS:
        value = _private_bytes(ds, block)
        return str(int.from_bytes(value, "little")) if len(value) == 2 else ""
    return text


def _count(text: str) -> int:
    number = canonical_number(text)
    return int(number) if number is not None and 0 < number <= MAX_TILES and number == int(number) else 0


def _csa_count(header: bytes) -> int:
    """NumberOfImagesInMosaic from a CSA2 header ("SV10"); 0 where there is none.

    Layout: 4 bytes SV10, 4 unused, uint32 tags, uint32 77; per tag char[64] name, int32 vm, char[4] vr, int32
    type, int32 items, int32; per item int32[4], of which the second is the length, and the text padded to
    four bytes.
    """
    if header[:4] != b"SV10" or len(header) < 16:
        return 0
    (tags,) = struct.unpack_from("<I", header, 8)
    offset = 16
    for _ in range(min(tags, 1024)):
        if offset + 84 > len(header):
            return 0
        name = header[offset : offset + 64].split(b"\0")[0]
        (items,) = struct.unpack_from("<i", header, offset + 76)
        offset += 84
        for _ in range(max(0, min(items, 1024))):
            if offset + 16 > len(header):
                return 0
            (length,) = struct.unpack_from("<i", header, offset + 4)
            offset += 16
            if length < 0:
                return 0
            text = header[offset : offset + length].split(b"\0")[0].decode("latin-1")
            if name == b"NumberOfImagesInMosaic" and text.strip():
                return _count(text)
            offset += -(-length // 4) * 4
    return 0
