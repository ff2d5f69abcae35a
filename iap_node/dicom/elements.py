"""A bounded walk over an encoded data set: find a few elements, step over the rest, stop early.

Called by part10, header and pixels. pydicom decodes what is found; the walk itself is ours because it
stands in the path of every C-STORE and meets hostile bytes: pydicom's `specific_tags` parses every
undefined-length sequence recursively; this walk steps over them with an explicit stack and never reads a value
that nobody asked for (docs/decisions/0005). Source: PS3.5 section 7 (data set) and 6.2.2 (UN).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Container
from functools import lru_cache
from io import BytesIO
from typing import BinaryIO, Literal, NamedTuple

from pydicom._dicom_dict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_dataset

from iap_node.errors import UnreadableInstance

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
PAPYRUS_3 = "1.2.840.10008.1.20"
# The whole data set is a raw deflate stream (PS3.5 A.5); JPIP Referenced Deflate is encoded the same way.
DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})

UNDEFINED = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_DELIMITATION = 0xFFFEE00D
SEQUENCE_DELIMITATION = 0xFFFEE0DD

SHORT_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
)  # PS3.5 Table 7.1-2: 16-bit length
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # PS3.5 Table 7.1-1: 32-bit length

MAX_VALUE_BYTES = 4096  # of one element outside sequences; LO and UI have 64, Image Type rarely 100
MAX_SEQUENCE_BYTES = 512 * 1024**2  # functional groups of some ten thousand frames are 50 MB
MAX_DEPTH = 64  # of nested sequences; real objects stay below 10
MAX_STEPS = 5_000_000  # element and item headers in one walk; functional groups have a hundred for each frame
SHORT_HEADER_BYTES, LONG_HEADER_BYTES = 8, 12  # tag, VR, length: PS3.5 7.1.2
WINDOW_BYTES = 16_384  # of a stream at a time: most headers as far as the store path reads them

# What pydicom raises on damaged bytes, by reading its conversions.
DAMAGE: tuple[type[Exception], ...] = (
    ValueError,  # numbers, UIDs
    BytesLengthException,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    EOFError,
    OverflowError,
    RecursionError,
    LookupError,  # unknown character sets
    struct.error,
    zlib.error,
)
# Bytes that are in memory already: pydicom's OSError is about them. From a file it would be the disk, which is
# no fault of the instance.
DAMAGE_IN_MEMORY: tuple[type[Exception], ...] = (OSError, *DAMAGE)


class Encoding(NamedTuple):
    """How the bytes of a data set are to be read."""

    implicit: bool
    little: bool


Element = tuple[bytes, bytes]  # one that was asked for: its header as written (tag, VR, length), and its value


class Place(NamedTuple):
    """One top-level element that was not read."""

    tag: int
    vr: bytes  # b"" in implicit VR
    start: int  # bytes from the start of the stream
    value_start: int
    length: int  # as written; UNDEFINED possible


# By whether it is little endian: tag and VR, 16-bit length; tag, VR, 16-bit length; tag, 32-bit length; 32-bit length.
_UNPACK = {
    little: tuple(struct.Struct(order + fields).unpack_from for fields in ("6sH", "HH2sH", "HHI", "I"))
    for little, order in ((True, "<"), (False, ">"))
}


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """The encoding behind a transfer syntax; all but the named ones are Explicit VR Little Endian."""
    return Encoding(
        implicit=transfer_syntax_uid in (IMPLICIT_VR_LITTLE_ENDIAN, PAPYRUS_3),
        little=transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN,
    )


class _Window:
    """The part of a data set that a walk looks at: some kilobytes of it."""

    def __init__(self, source: bytes | memoryview | BinaryIO) -> None:
        self._source = source
        self.base = 0 if isinstance(source, bytes | memoryview) else source.tell()  # where the buffer begins
        self.move(0)

    def move(self, place: int) -> int:
        """Make the buffer begin at its byte `place`; where that byte is now."""
        self.base += place
        self.buffer = self._read(self.base, WINDOW_BYTES)
        self.last = len(self.buffer) - LONG_HEADER_BYTES  # place of an element of either form whose header is all there
        return 0

    def read(self, place: int, length: int) -> bytes:
        """`length` bytes from `place` on, fewer where the data set ends; the buffer stays where it is."""
        end = place + length
        if place >= 0 and end <= len(self.buffer):
            return self.buffer[place:end]
        return self._read(self.base + place, length)

    def _read(self, start: int, length: int) -> bytes:
        if isinstance(self._source, bytes | memoryview):
            return bytes(self._source[start : start + length])
        self._source.seek(start)
        return self._source.read(length)


def walk(
    source: bytes | memoryview | BinaryIO,
    encoding: Encoding,
    wanted: frozenset[int],
    stop_after: int,
    max_value_bytes: int = MAX_VALUE_BYTES,
    max_sequence_bytes: int = MAX_SEQUENCE_BYTES,
    max_steps: int = MAX_STEPS,
    places: list[int] | None = None,
) -> tuple[dict[int, Element], Place | None]:
    """The wanted top-level elements, and where the first one beyond `stop_after` is.

    Left out are values longer than `max_value_bytes`, sequences longer than `max_sequence_bytes`, and a value that
    the end of the data set cuts off. The second result is None when the data set ended first. A stream is read from
    where it is, and left anywhere; places count from its start. Where each top-level element begins is appended to
    `places`, if given.

    Raises
    ------
    UnreadableInstance
        Sequences nested deeper than MAX_DEPTH, or more than `max_steps` element headers, or as many within sequences.
    """
    elements: dict[int, Element] = {}
    window = _Window(source)
    buffer, last, place = window.buffer, window.last, 0
    implicit = encoding.implicit and not _begins_explicit(buffer)
    unpack_start, unpack_explicit, unpack_implicit, _ = _UNPACK[encoding.little]
    passed = frozenset() if implicit or places is not None else _passed(wanted, stop_after, encoding.little)
    header_bytes = SHORT_HEADER_BYTES
    vr = b""
    steps_within = max_steps
    for _ in range(max_steps):
        if place > last:
            place = window.move(place)
            buffer, last = window.buffer, window.last
            if place + SHORT_HEADER_BYTES > len(buffer):
                return elements, None
        start, length = unpack_start(buffer, place)
        if start in passed:
            place += length + header_bytes
            continue
        value = place + header_bytes
        if implicit:
            group, number, length = unpack_implicit(buffer, place)
        else:
            group, number, vr, length = unpack_explicit(buffer, place)
            if vr not in SHORT_VRS:
                vr, value, length = _other_form(buffer, place, encoding, vr, length)
                if value > len(buffer):
                    return elements, None
        tag = group << 16 | number
        if tag > stop_after:
            return elements, Place(tag, vr, window.base + place, window.base + value, length)
        if places is not None:
            places.append(window.base + place)
        if length == UNDEFINED:
            header, begin = buffer[place:value], window.base + value
            place, steps_within = _skip_undefined(window, value, encoding, implicit, steps_within)
            if steps_within <= 0:
                break
            if tag in wanted:
                length = window.base + place - begin
                content = window.read(place - length, length) if length <= max_sequence_bytes else b""
                if len(content) == length:
                    elements[tag] = header, content
            buffer, last = window.buffer, window.last
            continue
        end = value + length
        if tag in wanted and (
            length <= max_value_bytes or (length <= max_sequence_bytes and (vr == b"SQ" or tag in SEQUENCES))
        ):
            content = buffer[value:end] if end <= len(buffer) else window.read(value, length)
            if len(content) < length:
                return elements, None
            elements[tag] = buffer[place:value], content
        place = end
    raise UnreadableInstance(
        f"more than {max_steps} elements before the pixels; send the instance with a smaller header"
    )


# Sequences that are read whole, for implicit VR, where the VR does not say that they are sequences.
SEQUENCES: Container[int] = frozenset({0x00180012, 0x52009229, 0x52009230, 0x00651051})


@lru_cache(maxsize=16)
def _passed(wanted: frozenset[int], stop_after: int, little: bool) -> frozenset[bytes]:
    """Tag and VR, as written, of the standard's elements that a walk steps over most often: it need not look closer.

    Most are of these. Private elements, sequences and all that has a 32-bit length take the long way.
    """
    order: Literal["little", "big"] = "little" if little else "big"
    return frozenset(
        (tag >> 16).to_bytes(2, order) + (tag & 0xFFFF).to_bytes(2, order) + vr
        for tag, entry in DicomDictionary.items()
        if tag <= stop_after and tag not in wanted
        for vr in (entry[0][:2].encode("ascii"),)
        if vr in SHORT_VRS
    )


def _begins_explicit(buffer: bytes) -> bool:
    """Declared implicit but written explicit (the reverse is seen in each element) is a common slip: the first
    element shows it."""
    return len(buffer) >= SHORT_HEADER_BYTES and buffer[4:6] in SHORT_VRS and buffer[0] in (2, 8)


def _other_form(buffer: bytes, place: int, encoding: Encoding, vr: bytes, length: int) -> tuple[bytes, int, int]:
    """VR, place of the value and its length, of an explicit element whose VR is not one of 16-bit lengths.

    PS3.5 7.1.2 says that VRs yet to come have 32-bit lengths, and reserved bytes of zero before them. Elements
    written implicit inside an explicit data set are seen too: they have no VR.
    """
    unpack_length = _UNPACK[encoding.little][3]
    if vr in LONG_VRS or (length == 0 and _is_vr(vr)):
        value = place + LONG_HEADER_BYTES
        is_there = value <= len(buffer)
        return vr, value, unpack_length(buffer, place + 8)[0] if is_there else 0
    if _is_vr(vr):
        return vr, place + SHORT_HEADER_BYTES, length
    return b"", place + SHORT_HEADER_BYTES, unpack_length(buffer, place + 4)[0]


def _is_vr(vr: bytes) -> bool:
    return vr.isalpha() and vr.isupper()


def _skip_undefined(window: _Window, place: int, encoding: Encoding, implicit: bool, steps: int) -> tuple[int, int]:
    """The place behind the delimiter of an undefined-length value, and the steps left, 0 where they do not suffice.

    Iterative, so that no nesting can exhaust the interpreter's stack. UN of undefined length is implicit VR
    little endian inside (PS3.5 6.2.2); a known VR code in its place is believed more.
    """
    _, _, unpack, unpack_length = _UNPACK[encoding.little]
    low, high = (6, 7) if encoding.little else (7, 6)
    buffer, last = window.buffer, window.last
    in_item = [False]  # for each value that is open: whether its next header is that of an element, or of an item
    while in_item:
        if place > last:
            place = window.move(place)
            buffer, last = window.buffer, window.last
            if place + SHORT_HEADER_BYTES > len(buffer):
                return place, steps  # cut off: the walk ends at the end of the bytes
        steps -= 1
        if steps <= 0:
            return place, 0
        group, number, length = unpack(buffer, place)
        tag = group << 16 | number
        value = place + SHORT_HEADER_BYTES
        if not in_item[-1]:
            if tag == SEQUENCE_DELIMITATION:
                in_item.pop()
                length = 0
            elif tag != ITEM:
                found = f"({group:04X},{number:04X})"
                raise UnreadableInstance(f"a sequence holds {found} where an item belongs; write the instance again")
            elif length == UNDEFINED:
                in_item.append(True)
                length = 0
        elif tag == ITEM_DELIMITATION:
            in_item.pop()
            length = 0
        else:
            if not implicit:
                vr = buffer[place + 4 : place + 6]
                if vr in SHORT_VRS:
                    length = buffer[place + low] | buffer[place + high] << 8
                elif vr in LONG_VRS:
                    value = place + LONG_HEADER_BYTES
                    if value > len(buffer):
                        return len(buffer), steps
                    length = unpack_length(buffer, place + 8)[0]
            if length == UNDEFINED:
                in_item.append(False)
                length = 0
                if len(in_item) > 2 * MAX_DEPTH:
                    raise UnreadableInstance(
                        f"sequences nested deeper than {MAX_DEPTH}; send the instance without them"
                    )
        place = value + length
    return place, steps


def excerpt(elements: dict[int, Element], encoding: Encoding) -> Dataset:
    """The found elements as a pydicom data set with raw, unconverted values.

    Raises
    ------
    UnreadableInstance
        A sequence among them is damaged.
    """
    encoded = b"".join(part for element in elements.values() for part in element)
    try:
        return read_dataset(BytesIO(encoded), encoding.implicit, encoding.little)
    except DAMAGE_IN_MEMORY as error:
        raise UnreadableInstance(
            f"an element of the header is damaged ({type(error).__name__}); write the instance again"
        ) from error
