"""An instance in another transfer syntax: decompressed, inflated, in other byte order or with other VRs.

The instance stays the one it was, under its SOP Instance UID: what is decoded is what was stored, of lossy compressed
pixels what any receiver would decode (PS3.2 N.5.2.5.1.1: transcoding that re-uses the SOP Instance UID; a new one is
for lossy compression, PS3.3 C.7.6.1.1.5). That it was compressed with losses stays in its header. The whole instance is
in memory once, and complete before anything of it is sent. Called by `iap_node.routing.destinations`.

References
----------
PS3.5 section 8.2, 10.1 and Annex A; PS3.4 Annex B; PS3.3 C.7.6.1.1.5 (Lossy Image Compression), C.7.6.3.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, Literal, Protocol

from pydicom.encaps import generate_frames

from iap_node.dicom import codestreams, frames
from iap_node.dicom import elements as el
from iap_node.dicom.deflated import inflate
from iap_node.dicom.encoded import EncodedInstance, Span, damage_is_told
from iap_node.dicom.frames import FrameKind
from iap_node.dicom.parameters import canonical_number
from iap_node.dicom.part10 import file_preamble, read_file_meta
from iap_node.dicom.reencoding import element_head, in_other_order, reencoded
from iap_node.dicom.sop_classes import TRANSFER_SYNTAXES
from iap_node.dicom.values import raw_text
from iap_node.errors import UnreadableInstance, UnreadablePixels

TARGETS = (el.EXPLICIT_VR_LITTLE_ENDIAN, el.IMPLICIT_VR_LITTLE_ENDIAN)  # in the order in which they are preferred
_UNCOMPRESSED = frozenset(TRANSFER_SYNTAXES) - codestreams.COMPRESSED - {codestreams.ENCAPSULATED_UNCOMPRESSED}
_JPIP = frozenset({"1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})  # deflated, without pixels

_SOP_CLASS_UID, _SOP_INSTANCE_UID = 0x00080016, 0x00080018
_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES = 0x00280002, 0x00280004, 0x00280006, 0x00280008
_ROWS, _COLUMNS, _ALLOCATED, _STORED, _REPRESENTATION = 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280103
_LOSSY = 0x00282110
_ICON = 0x00880200
_IMAGE = (_SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _ALLOCATED, _STORED, _REPRESENTATION)
_OFFSETS, _LENGTHS = 0x7FE00001, 0x7FE00002  # of extended offset tables, of fragments that are no more
_PIXELS = {0x7FE00008: "OF", 0x7FE00009: "OD", 0x7FE00010: "OW"}
_ENCAPSULATED_PIXELS = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff"
_COPIED_AT_ONCE = 1024**2  # bytes; a multiple of every number's size
_HEADER_ALLOWANCE = 64 * 1024**2  # of an inflated data set, beside its pixels


class ReadableFile(Protocol):
    """A Part 10 file that can be read."""

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """A stream of its own, at the file's start."""


def can_transcode(transfer_syntax_uid: str) -> bool:
    """Whether instances in a transfer syntax can be sent uncompressed; damaged ones cannot all the same."""
    return (transfer_syntax_uid in _UNCOMPRESSED or transfer_syntax_uid in frames.DECODABLE) and (
        transfer_syntax_uid not in _JPIP
    )


def transcoded(file: ReadableFile, target_uid: str, max_bytes: int) -> BytesIO:
    """A Part 10 file with the same instance in one of `TARGETS`, at its start.

    Parameters
    ----------
    max_bytes
        The most bytes of decoded pixels; of a deflated data set, some more.

    Raises
    ------
    UnreadableInstance, UnreadablePixels
        It is damaged, too large, or in a transfer syntax that is not decoded here.
    OSError
        The file is gone or cannot be read.
    """
    with file.open("rb") as stored:
        source_uid = read_file_meta(stored)
        if not can_transcode(source_uid):
            raise UnreadablePixels(f"transfer syntax {source_uid} is not decoded here; send it uncompressed")
        if source_uid not in el.DEFLATED:
            return _transcoded(stored, source_uid, target_uid, max_bytes)
        plain, complete = inflate(stored, max_bytes + _HEADER_ALLOWANCE)
    if not complete:
        raise UnreadableInstance("its deflated data set is cut off, or larger than max_bytes_per_instance")
    return _transcoded(plain, source_uid, target_uid, max_bytes)


def _transcoded(stream: BinaryIO, source_uid: str, target_uid: str, max_bytes: int) -> BytesIO:
    instance = EncodedInstance(stream, source_uid)
    target = el.encoding_of(target_uid)
    uids = [instance.value(tag).decode("latin-1").strip(" \0") for tag in (_SOP_CLASS_UID, _SOP_INSTANCE_UID)]
    new = BytesIO()
    new.write(file_preamble(uids[0], uids[1], target_uid))
    pixels = next((span for span in instance.spans if span.tag in _PIXELS), None)
    encapsulated = pixels is not None and pixels.undefined_length
    left_out = {_OFFSETS, _LENGTHS} if encapsulated else set()
    if encapsulated and _ENCAPSULATED_PIXELS in instance.value(_ICON):
        left_out.add(_ICON)  # optional, and no more than a small picture of what follows
    if pixels is None:
        new.write(_elements(instance, instance.spans, left_out, target))
        new.seek(0)
        return new
    if not encapsulated and source_uid in codestreams.COMPRESSED:
        raise UnreadablePixels(f"native pixels under the compressed transfer syntax {source_uid}")
    place = instance.spans.index(pixels)
    if encapsulated:
        kind, n_frames = _kind(instance, source_uid, max_bytes)
        described = _described(instance, kind)
        new.write(_elements(instance, instance.spans[:place], left_out, target, described))
        _write_frames(new, instance, stream, pixels, kind, n_frames, target)
    else:
        new.write(_elements(instance, instance.spans[:place], left_out, target))
        _copy_native(new, instance, stream, pixels, target, max_bytes)
    new.write(_elements(instance, instance.spans[place + 1 :], left_out, target))
    new.seek(0)
    return new


def _elements(
    instance: EncodedInstance,
    spans: tuple[Span, ...],
    left_out: set[int],
    target: el.Encoding,
    described: dict[int, tuple[str, bytes]] | None = None,
) -> bytes:
    """Elements in the target's encoding, those of `described` in place of what stands there."""
    ds = instance.dataset(span.tag for span in spans if span.tag not in left_out)
    signed = _integer_of(instance, _REPRESENTATION, 0) == 1
    with damage_is_told():
        return reencoded(ds, instance.encoding, target, signed, described)


def _described(instance: EncodedInstance, kind: FrameKind) -> dict[int, tuple[str, bytes]]:
    """What is otherwise in the header of a decoded image."""
    described: dict[int, tuple[str, bytes]] = {}
    photometric = kind.native_photometric_interpretation
    if photometric != kind.photometric_interpretation:
        described[_PHOTOMETRIC] = "CS", photometric.encode("ascii") + b" " * (len(photometric) % 2)
    if kind.samples > 1:
        described[_PLANAR] = "US", bytes(2)
    if kind.transfer_syntax_uid in frames.JPEG_LOSSY and instance.value(_LOSSY).strip(b" \0") != b"01":
        described[_LOSSY] = "CS", b"01"
    return described


def _kind(instance: EncodedInstance, source_uid: str, max_bytes: int) -> tuple[FrameKind, int]:
    """What the frames are, and how many, within the limits."""
    ds = instance.dataset(_IMAGE)
    rows, columns, n_frames = (_integer(raw_text(ds, tag), default) for tag, default in
                               ((_ROWS, 0), (_COLUMNS, 0), (_FRAMES, 1)))  # fmt: skip
    allocated = _integer(raw_text(ds, _ALLOCATED), 16)
    kind = FrameKind(
        transfer_syntax_uid=source_uid,
        rows=rows,
        columns=columns,
        samples=_integer(raw_text(ds, _SAMPLES), 1),
        bits_allocated=allocated,
        bits_stored=_integer(raw_text(ds, _STORED), allocated),
        signed=_integer(raw_text(ds, _REPRESENTATION), 0) == 1,
        photometric_interpretation=(raw_text(ds, _PHOTOMETRIC) or "").upper(),
    )
    if allocated not in (8, 16, 32) or not 1 <= kind.bits_stored <= allocated or kind.samples not in (1, 3):
        raise UnreadablePixels(
            f"{kind.samples} samples per pixel with Bits Allocated {allocated} and Stored {kind.bits_stored} are not "
            "decoded here"
        )
    if rows < 1 or columns < 1 or n_frames < 1:
        raise UnreadablePixels(f"{rows} rows x {columns} columns x {n_frames} frames are no image")
    if kind.frame_bytes * n_frames > max_bytes:
        raise UnreadablePixels(
            f"{kind.frame_bytes * n_frames} bytes of pixels are more than max_bytes_per_instance = {max_bytes}"
        )
    return kind, n_frames


def _write_frames(
    new: BytesIO,
    instance: EncodedInstance,
    stream: BinaryIO,
    pixels: Span,
    kind: FrameKind,
    n_frames: int,
    target: el.Encoding,
) -> None:
    n_bytes = kind.frame_bytes * n_frames
    vr = "OW" if kind.bits_allocated > 8 or target.implicit else "OB"
    new.write(element_head(pixels.tag, vr, n_bytes + n_bytes % 2, target))
    written = 0
    for data in _frames(instance, stream, pixels, n_frames):
        if written == n_frames:
            raise UnreadablePixels(f"it holds more than the {n_frames} frames of its header; send it again")
        new.write(frames.native_frame(data, kind))
        written += 1
    if written < n_frames:
        raise UnreadablePixels(f"it holds {written} of the {n_frames} frames of its header; send it again")
    new.write(bytes(n_bytes % 2))


def _frames(instance: EncodedInstance, stream: BinaryIO, pixels: Span, n_frames: int) -> Iterator[bytes]:
    offsets, lengths = instance.value(_OFFSETS), instance.value(_LENGTHS)
    stream.seek(pixels.value_start)
    iterator = generate_frames(
        stream, number_of_frames=n_frames, extended_offsets=(offsets, lengths) if offsets and lengths else None
    )
    while True:
        try:
            data = next(iterator, None)
        except el.DAMAGE as error:
            raise UnreadablePixels("one of its frames is not there; send the instance again") from error
        if data is None:
            return
        yield data


def _copy_native(
    new: BytesIO, instance: EncodedInstance, stream: BinaryIO, pixels: Span, target: el.Encoding, max_bytes: int
) -> None:
    length = pixels.end - pixels.value_start
    if length > max_bytes:
        raise UnreadablePixels(f"{length} bytes of pixels are more than max_bytes_per_instance = {max_bytes}")
    if instance.is_cut_off:
        raise UnreadableInstance("its last element is cut off; send the instance again")
    vr = pixels.vr if pixels.vr not in ("", "UN") else _PIXELS[pixels.tag]
    if target.implicit and vr == "OB":
        vr = "OW"
    new.write(element_head(pixels.tag, vr, length + length % 2, target))
    swap = instance.encoding.little != target.little
    # cells of 32 bits are taken as one number each, as most do; by the letter of PS3.5 6.2 OW is 16-bit words
    wide = 4 if pixels.vr == "OW" and _integer_of(instance, _ALLOCATED, 16) == 32 else None
    stream.seek(pixels.value_start, os.SEEK_SET)
    left = length
    while left:
        piece = stream.read(min(left, _COPIED_AT_ONCE))
        if not piece:
            raise OSError(f"the file ends {left} bytes too early")
        left -= len(piece)
        new.write(in_other_order(piece, pixels.vr, wide) if swap else piece)
    new.write(bytes(length % 2))


def _integer_of(instance: EncodedInstance, tag: int, default: int) -> int:
    return _integer(raw_text(instance.dataset([tag]), tag), default)


def _integer(text: str | None, default: int) -> int:
    """A whole number, `default` where nothing stands, -1 where it is none."""
    number = canonical_number(text) if text else None
    if not text:
        return default
    return int(number) if number is not None and number == int(number) else -1
