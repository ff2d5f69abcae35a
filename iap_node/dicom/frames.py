"""Whole frames as native cells: what a transfer syntax without compression holds in place of a compressed frame.

Unlike what the model sees (`pixels`), nothing is scaled, inverted or left out, and colour is decoded too. The size of
a codestream is compared with the header before a decoder sees it, as in `codestreams`. Called by `transcoding`.

References
----------
PS3.5 section 8.1 and 8.2, Annex A.4 (what a native frame is, and what compressed ones become), Annex G (RLE);
PS3.3 C.7.6.3.1.2 (Photometric Interpretation); ITU-T T.81, T.871 and Adobe TN 5116 (which colours a JPEG has).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np

from iap_node.dicom import codestreams
from iap_node.dicom.elements import DAMAGE_IN_MEMORY
from iap_node.errors import UnreadablePixels

RLE_LOSSLESS = "1.2.840.10008.1.2.5"
JPEG_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{last}" for last in (90, 91, 201, 202, 203))
_DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
# Not: video, whose frames are no codestreams of their own; the multi-component JPEG 2000; JPEG XL, for want of a
# referee to test against.
DECODABLE = frozenset(
    {RLE_LOSSLESS, codestreams.ENCAPSULATED_UNCOMPRESSED, _DEFLATED_FRAMES,
     *JPEG_LOSSY, *_JPEG_LOSSLESS, *_JPEG_LS, *_JPEG_2000}
)  # fmt: skip
_DECODER_ERRORS: tuple[type[Exception], ...] = (RuntimeError, *DAMAGE_IN_MEMORY)
_SEGMENTS_OF_COLOUR = 3


@dataclass(frozen=True, slots=True)
class FrameKind:
    """What the header says of every frame."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    samples: int  # per pixel: 1 or 3
    bits_allocated: int  # 8, 16 or 32
    bits_stored: int
    signed: bool
    photometric_interpretation: str

    @property
    def frame_bytes(self) -> int:
        """Of one native frame."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8

    @property
    def native_photometric_interpretation(self) -> str:
        """Photometric Interpretation (0028,0004) of what `native_frame` makes.

        JPEG 2000 undoes its own colour transformation, and JPEG with losses is converted, since YBR_FULL_422 and
        the like are for compressed pixels (PS3.3 C.7.6.3.1.2) and RGB is what every receiver knows. Elsewhere colours
        are what was encoded.
        """
        photometric = self.photometric_interpretation
        if photometric in ("YBR_RCT", "YBR_ICT"):
            return "RGB"
        if self.samples > 1 and self.transfer_syntax_uid in JPEG_LOSSY:
            return "RGB"
        return "YBR_FULL" if photometric == "YBR_FULL_422" else photometric


def native_frame(data: bytes, kind: FrameKind) -> bytes:
    """One compressed frame as little endian cells, colour by pixel (Planar Configuration 0).

    Raises
    ------
    UnreadablePixels
        It is damaged, not of the stated size, or of a kind that nothing here decodes.
    """
    if kind.transfer_syntax_uid == codestreams.ENCAPSULATED_UNCOMPRESSED:
        frame = data[: kind.frame_bytes]
    elif kind.transfer_syntax_uid == _DEFLATED_FRAMES:
        frame = _inflated(data, kind.frame_bytes)
    elif kind.samples == 1:
        frame = _monochrome(data, kind)
    else:
        frame = _colour(data, kind)
    if len(frame) != kind.frame_bytes:
        raise UnreadablePixels("one of its frames is cut off; send the instance again")
    return frame


def _inflated(data: bytes, most_bytes: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, most_bytes)
    except zlib.error as error:
        raise UnreadablePixels("a deflated frame of it is damaged; send the instance again") from error


def _monochrome(data: bytes, kind: FrameKind) -> bytes:
    cells, bits = codestreams.decode(
        data,
        kind.transfer_syntax_uid,
        rows=kind.rows,
        columns=kind.columns,
        bits_allocated=kind.bits_allocated,
        bits_stored=kind.bits_stored,
        signed=kind.signed,
    )
    native = np.dtype(f"<u{kind.bits_allocated // 8}")
    if kind.transfer_syntax_uid == RLE_LOSSLESS:
        return cells.astype(native, copy=False).tobytes()  # whole cells, with whatever stands in their unused bits
    values = cells.astype(np.int64) & ((1 << bits) - 1)
    if kind.signed:
        values -= (values >> (bits - 1)) << bits
    return values.astype(native).tobytes()


def _colour(data: bytes, kind: FrameKind) -> bytes:
    if kind.samples != _SEGMENTS_OF_COLOUR or kind.bits_allocated not in (8, 16):
        raise UnreadablePixels(
            f"{kind.samples} samples per pixel of {kind.bits_allocated} bits are not decoded here; "
            "send the instance uncompressed"
        )
    if kind.transfer_syntax_uid == RLE_LOSSLESS:
        return _rle_colour(data, kind)
    header = codestreams.codestream_header(data)
    if header is None or (header.rows, header.columns, header.samples) != (kind.rows, kind.columns, kind.samples):
        raise UnreadablePixels("its codestream is not of the size that its header states; send the instance again")
    try:
        decoded = _decoded_colour(data, kind)
    except _DECODER_ERRORS as error:
        raise UnreadablePixels(
            f"a frame in transfer syntax {kind.transfer_syntax_uid} cannot be decoded ({type(error).__name__}); "
            "send the instance uncompressed"
        ) from error
    if not isinstance(decoded, np.ndarray) or decoded.shape != (kind.rows, kind.columns, kind.samples):
        raise UnreadablePixels("its decoded frame is not of the size that its header states; send it again")
    return np.ascontiguousarray(decoded).astype(f"<u{kind.bits_allocated // 8}", copy=False).tobytes()


def _decoded_colour(data: bytes, kind: FrameKind) -> Any:
    if kind.transfer_syntax_uid in _JPEG_2000:
        return imagecodecs.jpeg2k_decode(data)
    if kind.transfer_syntax_uid in _JPEG_LS:
        return imagecodecs.jpegls_decode(data)
    if kind.transfer_syntax_uid in JPEG_LOSSY and _is_ycbcr(data, kind.photometric_interpretation):
        return imagecodecs.jpeg8_decode(data, colorspace="YCBCR", outcolorspace="RGB")
    return imagecodecs.jpeg8_decode(data, colorspace="RGB", outcolorspace="RGB")  # as encoded, not converted


def _is_ycbcr(data: bytes, photometric_interpretation: str) -> bool:
    """What a JPEG says of its colours counts before the header: whoever writes RGB for a JFIF file is wrong."""
    head = data[:1024]
    adobe = head.find(b"Adobe\0")
    if adobe > 0 and len(head) > adobe + 11:
        return head[adobe + 11] == 1
    if head[6:10] == b"JFIF":
        return True
    return photometric_interpretation.startswith("YBR")


def _rle_colour(data: bytes, kind: FrameKind) -> bytes:
    """RLE holds the planes one after the other, of each the more significant bytes first (PS3.5 G.2)."""
    segments = kind.samples * kind.bits_allocated // 8
    starts = np.frombuffer(data[:64].ljust(64, b"\0"), "<u4")
    if starts[0] != segments or max(starts[1 : segments + 1]) >= len(data):
        raise UnreadablePixels("its RLE frame has not the segments of its header; send the instance uncompressed")
    plane = FrameKind(
        kind.transfer_syntax_uid, kind.rows, kind.columns, 1, kind.bits_allocated, kind.bits_stored, kind.signed, ""
    )
    per_plane = kind.bits_allocated // 8
    planes = []
    for sample in range(kind.samples):
        own = [int(one) for one in starts[1 + sample * per_plane : 1 + (sample + 1) * per_plane]]
        following = 1 + (sample + 1) * per_plane
        end = int(starts[following]) if following <= segments else len(data)
        head = np.zeros(16, "<u4")
        head[0] = per_plane
        head[1 : 1 + per_plane] = [64 + start - own[0] for start in own]
        decoded = _monochrome(head.tobytes() + data[own[0] : end], plane)
        planes.append(np.frombuffer(decoded, f"<u{per_plane}"))
    return np.stack(planes, axis=-1).tobytes()
