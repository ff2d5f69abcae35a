"""Compressed frames: what a codestream says of itself, and its decoding.

Called by pixels. imagecodecs decodes (it is the fastest here and releases the GIL), pydicom's decoders with
their plugins are asked where it cannot. A codestream states its own size: it is compared with the header
before any decoder sees it, so that a small file cannot make one allocate gigabytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from iap_node.dicom.elements import (
    DAMAGE_IN_MEMORY,
    DEFLATED,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    PAPYRUS_3,
)
from iap_node.dicom.sop_classes import TRANSFER_SYNTAXES
from iap_node.errors import UnreadablePixels

Cells = npt.NDArray[np.unsignedinteger]

_RLE_LOSSLESS = "1.2.840.10008.1.2.5"
_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{last}" for last in (90, 91, 92, 93, 201, 202, 203))
ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"  # its frames are plain cells
_NATIVE = {
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    ENCAPSULATED_UNCOMPRESSED,
    PAPYRUS_3,
}
COMPRESSED = frozenset(TRANSFER_SYNTAXES) - _NATIVE - DEFLATED

# imagecodecs and pydicom raise RuntimeError where a library beneath them refuses a codestream.
_RLE_PADDING = 64  # cells that segments may have behind the frame's
_RLE_HEADER = struct.Struct("<16I")  # number of segments, where each begins: PS3.5 G.5
_DECODER_ERRORS: tuple[type[Exception], ...] = (RuntimeError, *DAMAGE_IN_MEMORY)


class CodestreamHeader(NamedTuple):
    """What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself."""

    rows: int
    columns: int
    samples: int
    precision: int  # bits


def codestream_header(data: bytes) -> CodestreamHeader | None:
    """Size and precision from the first marker segments; None for what is none of these codestreams.

    References: ITU-T T.81 B.2.2 (SOF), T.87 C.2.2 (SOF55), T.800 A.5.1 (SIZ).
    """
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # in a JP2 container the codestream follows some boxes
    if start == 0 or (start > 0 and data[4:8] == b"jP  "):
        if len(data) < start + 43:
            return None
        x, y, x0, y0 = struct.unpack_from(">4I", data, start + 8)
        (samples,) = struct.unpack_from(">H", data, start + 40)
        return CodestreamHeader(y - y0, x - x0, samples, (data[start + 42] & 0x7F) + 1)
    if data[:2] != b"\xff\xd8":
        return None
    offset = 2
    while offset + 10 <= len(data):
        if data[offset] != 0xFF:
            return None
        marker = data[offset + 1]
        if marker == 0xFF:  # fill bytes
            offset += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            precision, rows, columns, samples = struct.unpack_from(">BHHB", data, offset + 4)
            return CodestreamHeader(rows, columns, samples, precision)
        (length,) = struct.unpack_from(">H", data, offset + 2)
        offset += 2 + max(length, 2)
    return None


def decode(
    data: bytes,
    transfer_syntax_uid: str,
    *,
    rows: int,
    columns: int,
    bits_allocated: int,
    bits_stored: int,
    signed: bool,
) -> tuple[Cells, int]:
    """One compressed single-sample frame as unsigned cells (rows, columns), and how many of their bits count.

    The codestream's precision is believed more than Bits Stored, as it is what was encoded.

    Raises
    ------
    UnreadablePixels
        Not of the stated size, damaged, or in a transfer syntax that nothing here decodes.
    """
    header = codestream_header(data)
    if header is not None and (header.rows, header.columns, header.samples) != (rows, columns, 1):
        raise UnreadablePixels(
            f"its codestream holds {header.rows} x {header.columns} x {header.samples}, its header says "
            f"{rows} x {columns} x 1; send the instance again"
        )
    if header is None and transfer_syntax_uid != _RLE_LOSSLESS:
        raise UnreadablePixels("its codestream has no readable start; send the instance again")
    bits = min(header.precision, bits_allocated) if header else bits_stored
    cells = _by_imagecodecs(data, transfer_syntax_uid, rows, columns, bits_allocated)
    if cells is None and transfer_syntax_uid == _RLE_LOSSLESS:
        # pylibjpeg-rle answers damage with a panic, which is no Exception and would end the worker, and pydicom's own
        # decoder lets a frame swell without a bound.
        raise UnreadablePixels("its RLE frame cannot be decoded; send the instance uncompressed")
    if cells is None:
        cells = _by_pydicom(data, transfer_syntax_uid, rows, columns, bits_allocated, bits_stored, signed)
    return cells, min(bits, cells.dtype.itemsize * 8)


def _by_imagecodecs(
    data: bytes, transfer_syntax_uid: str, rows: int, columns: int, bits_allocated: int
) -> Cells | None:
    """The frame, or None where imagecodecs cannot."""
    decoder: Callable[..., Any]
    if transfer_syntax_uid in _JPEG_2000:
        decoder = imagecodecs.jpeg2k_decode
    elif transfer_syntax_uid in _JPEG_LS:
        decoder = imagecodecs.jpegls_decode
    elif transfer_syntax_uid in (*_JPEG, *_JPEG_LOSSLESS):
        decoder = imagecodecs.jpeg8_decode  # libjpeg-turbo; `ljpeg_decode` does not survive damaged bytes
    elif transfer_syntax_uid == _RLE_LOSSLESS:
        return _rle(data, rows, columns, bits_allocated)
    else:
        return None
    try:
        return _cells(decoder(data), rows, columns)
    except _DECODER_ERRORS:
        return None


def _rle(data: bytes, rows: int, columns: int, bits_allocated: int) -> Cells | None:
    kind = np.dtype(f"<u{bits_allocated // 8}")
    if len(data) < _RLE_HEADER.size or max(_RLE_HEADER.unpack_from(data)[1:]) >= len(data):
        return None  # imagecodecs would read beyond the end
    most = (rows * columns + _RLE_PADDING) * kind.itemsize  # what a frame says may swell to 64 times its bytes
    try:
        decoded = imagecodecs.dicomrle_decode(data, kind, out=most)
    except _DECODER_ERRORS:
        return None
    flat = np.frombuffer(decoded, kind, len(decoded) // kind.itemsize)
    return flat[: rows * columns].reshape(rows, columns) if flat.size >= rows * columns else None


def _cells(array: Any, rows: int, columns: int) -> Cells | None:
    """A decoder's answer as unsigned cells; None where it is not one plane of integers of this size."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.size != rows * columns:
        return None
    plane = np.ascontiguousarray(array).reshape(rows, columns)
    return plane.view(f"u{plane.dtype.itemsize}")


def _by_pydicom(
    data: bytes,
    transfer_syntax_uid: str,
    rows: int,
    columns: int,
    bits_allocated: int,
    bits_stored: int,
    signed: bool,
) -> Cells:
    options: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": bits_allocated,
        "bits_stored": bits_stored,
        "pixel_representation": int(signed),
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
    }
    try:
        decoder = get_decoder(UID(transfer_syntax_uid))
        array, _ = decoder.as_array(encapsulate([data]), index=0, raw=True, **options)
    except _DECODER_ERRORS as error:
        raise UnreadablePixels(
            f"its frame in transfer syntax {transfer_syntax_uid} cannot be decoded ({type(error).__name__}); "
            "send the instance uncompressed"
        ) from error
    cells = _cells(array, rows, columns)
    if cells is None:
        raise UnreadablePixels("its decoded frame is not of the size that its header states; send it again")
    return cells
