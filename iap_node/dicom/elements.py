"""A bounded walk over an encoded data set: find a few elements, step over the rest, stop early.

Called by part10, header, mosaic and pixels. pydicom decodes what is found; the walk itself is ours because it
stands in the path of every C-STORE and meets hostile bytes: pydicom's `specific_tags` parses every
undefined-length sequence recursively; this walk steps over them with an explicit stack and never reads a value
that nobody asked for (docs/decisions/0005). Source: PS3.5 section 7 (data set) and 6.2.2 (UN).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Container
from functools import lru_cache
from io import BytesIO, RawIOBase
from typing import BinaryIO, NamedTuple

from pydicom import charset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence

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
_DEFLATED_AT_ONCE = 65_536  # bytes
_INFLATED_KEPT = 65_536  # bytes; `walk` goes back by 8 and by one value

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


_DAMAGED_DEFLATE = "the deflated data set is damaged; send it again"


class Encoding(NamedTuple):
    """How the bytes of a data set are to be read."""

    implicit: bool
    little: bool


class Element(NamedTuple):
    """One top-level element that was asked for, or the one at which the walk stopped."""

    tag: int
    vr: bytes  # b"" in implicit VR
    start: int  # of the element in the stream, bytes
    value_start: int
    length: int  # as written; UNDEFINED possible
    value: bytes  # b"" where only the place was wanted


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """The encoding behind a transfer syntax; all but the named ones are Explicit VR Little Endian."""
    return Encoding(
        implicit=transfer_syntax_uid in (IMPLICIT_VR_LITTLE_ENDIAN, PAPYRUS_3),
        little=transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN,
    )


def inflate(data: bytes | BinaryIO, max_bytes: int) -> tuple[bytes, bool]:
    """At most `max_bytes` of a deflated data set, and whether that is all of it.

    Raw deflate as PS3.5 A.5 says; a zlib header, which some writers add, is tolerated. Of a stream no more is
    read than that takes; it must be seekable.

    Raises
    ------
    UnreadableInstance
        The bytes are not a deflate stream.
    """
    stream = BytesIO(data) if isinstance(data, bytes) else data
    inflater = _inflater_of(stream)
    plain = bytearray()
    try:
        while len(plain) < max_bytes and not inflater.eof and (deflated := stream.read(_DEFLATED_AT_ONCE)):
            plain += inflater.decompress(deflated, max_bytes - len(plain))
    except zlib.error as error:
        raise UnreadableInstance(_DAMAGED_DEFLATE) from error
    return bytes(plain), inflater.eof


def _inflater_of(stream: BinaryIO) -> zlib._Decompress:
    """What inflates a stream, judged by its first bytes; the stream is left where it was."""
    start = stream.tell()
    first = stream.read(_DEFLATED_AT_ONCE)
    stream.seek(start)
    for wbits in (-zlib.MAX_WBITS, zlib.MAX_WBITS):
        try:
            zlib.decompressobj(wbits).decompress(first, _INFLATED_KEPT)
        except zlib.error:
            continue
        return zlib.decompressobj(wbits)
    raise UnreadableInstance(
        "the data set is declared deflated but is no deflate stream; send it again in another transfer syntax"
    )


class InflatedStream(RawIOBase):
    """A deflated data set, inflated as it is read, in bounded memory, for `walk`.

    Goes forward any way, and back only within the last `_INFLATED_KEPT` bytes. Ends after `max_bytes` (of what is
    inflated), since a few kilobytes can inflate to gigabytes. A damaged stream raises `UnreadableInstance` where the
    damage is reached.
    """

    def __init__(self, stream: BinaryIO, max_bytes: int) -> None:
        super().__init__()
        self._stream = stream
        self._inflater = _inflater_of(stream)
        self._left = max_bytes
        self._kept = bytearray()  # what was inflated last, up to `_end`
        self._end = self._position = 0

    def tell(self) -> int:
        """Where the next `read` begins, bytes."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move without inflating yet."""
        self._position = offset + (self._position if whence else 0)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, fewer at the end; `size` must be given, and no more than `_INFLATED_KEPT`."""
        while self._end < self._position + size and self._inflate_more():
            pass
        start = self._position - (self._end - len(self._kept))
        piece = bytes(self._kept[start : start + size]) if start >= 0 else b""
        self._position += len(piece)
        return piece

    def _inflate_more(self) -> bool:
        deflated = self._inflater.unconsumed_tail or self._stream.read(_DEFLATED_AT_ONCE)
        if self._left <= 0 or self._inflater.eof or not deflated:
            return False
        try:
            plain = self._inflater.decompress(deflated, _INFLATED_KEPT)
        except zlib.error as error:
            raise UnreadableInstance(_DAMAGED_DEFLATE) from error
        self._left -= len(plain)
        self._end += len(plain)
        self._kept = (self._kept + plain)[-2 * _INFLATED_KEPT :]
        return True


def walk(
    stream: BinaryIO,
    encoding: Encoding,
    wanted: Callable[[int], object],
    stop_after: int,
    max_value_bytes: int = MAX_VALUE_BYTES,
    max_sequence_bytes: int = MAX_SEQUENCE_BYTES,
    max_steps: int = MAX_STEPS,
) -> tuple[dict[int, Element], Element | None]:
    """The wanted top-level elements with their values, and the first element beyond `stop_after`.

    Values longer than `max_value_bytes` are cut; a sequence of undefined length is kept whole or, beyond
    `max_sequence_bytes`, not at all. The second result is
    None when the data set ended first.

    Raises
    ------
    UnreadableInstance
        Sequences nested deeper than MAX_DEPTH, or more than `max_steps` element and item headers.
    """
    elements: dict[int, Element] = {}
    read, seek = stream.read, stream.seek
    order = "<" if encoding.little else ">"
    unpack, unpack_length = struct.Struct(order + "HHI").unpack, struct.Struct(order + "I").unpack
    low, high = (6, 7) if encoding.little else (7, 6)
    implicit = encoding.implicit
    steps = max_steps
    # Declared implicit but written explicit (and the reverse) is a common slip: the first element shows it.
    if implicit:
        head = read(8)
        seek(-len(head), 1)
        implicit = not (len(head) == 8 and head[4:6] in SHORT_VRS and head[0] in (2, 8))

    while len(head := read(8)) == 8:
        group, number, length = unpack(head)
        tag = group << 16 | number
        header_bytes = 8
        vr = b"" if implicit else head[4:6]
        if vr:
            if vr in SHORT_VRS:
                length = head[low] | head[high] << 8
            elif vr in LONG_VRS or (vr.isalpha() and vr.isupper() and head[6:8] == b"\0\0"):
                rest = read(4)
                if len(rest) < 4:
                    break
                length = unpack_length(rest)[0]
                header_bytes = 12
            elif vr.isalpha() and vr.isupper():
                length = head[low] | head[high] << 8
            else:
                vr = b""  # written implicit inside an explicit data set
        if tag > stop_after:
            value_start = stream.tell()
            return elements, Element(tag, vr, value_start - header_bytes, value_start, length, b"")
        if length == UNDEFINED:
            value_start = stream.tell()
            steps = _skip_undefined(stream, encoding, implicit or vr == b"UN", steps)
            if steps <= 0:
                raise UnreadableInstance(_too_many(max_steps))
            if wanted(tag):
                end = stream.tell()
                value = b""
                if end - value_start <= max_sequence_bytes:
                    seek(value_start)
                    value = read(end - value_start)
                    seek(end)
                elements[tag] = Element(tag, vr, value_start - header_bytes, value_start, length, value)
        elif wanted(tag):
            value_start = stream.tell()
            most = max_sequence_bytes if vr == b"SQ" or tag in SEQUENCES else max_value_bytes
            value = read(min(length, most))
            if length > most:
                seek(length - most, 1)
            elements[tag] = Element(tag, vr, value_start - header_bytes, value_start, length, value)
        else:
            seek(length, 1)
        steps -= 1
        if steps <= 0:
            raise UnreadableInstance(_too_many(max_steps))
    return elements, None


def _too_many(max_steps: int) -> str:
    return f"more than {max_steps} elements before the pixels; send the instance with a smaller header"


# Sequences that are read whole, for implicit VR, where the VR does not say that they are sequences.
SEQUENCES: Container[int] = frozenset({0x00180012, 0x52009229, 0x52009230, 0x00651051})


def _skip_undefined(stream: BinaryIO, encoding: Encoding, implicit: bool, steps: int) -> int:
    """Step behind the delimiter of an undefined-length value; the steps that are left, 0 where they do not suffice.

    Iterative, so that no nesting can exhaust the interpreter's stack. UN of undefined length is implicit VR
    little endian inside (PS3.5 6.2.2); a known VR code in its place is believed more.
    """
    read, seek = stream.read, stream.seek
    order = "<" if encoding.little else ">"
    unpack, unpack_length = struct.Struct(order + "HHI").unpack, struct.Struct(order + "I").unpack
    low, high = (6, 7) if encoding.little else (7, 6)
    really_implicit = encoding.implicit and implicit
    stack = ["sequence"]
    while stack:
        head = read(8)
        if len(head) < 8:
            return steps  # cut off: the walk ends at the end of the bytes
        steps -= 1
        if steps <= 0:
            return 0
        group, number, length = unpack(head)
        tag = group << 16 | number
        if stack[-1] == "sequence":
            if tag == SEQUENCE_DELIMITATION:
                stack.pop()
            elif tag == ITEM and length == UNDEFINED:
                stack.append("item")
            elif tag == ITEM:
                seek(length, 1)
            else:
                found = f"({group:04X},{number:04X})"
                raise UnreadableInstance(f"a sequence holds {found} where an item belongs; write the instance again")
        elif tag == ITEM_DELIMITATION:
            stack.pop()
        else:
            vr = head[4:6]
            if not really_implicit:
                if vr in SHORT_VRS:
                    length = head[low] | head[high] << 8
                elif vr in LONG_VRS:
                    rest = read(4)
                    if len(rest) < 4:
                        return steps
                    length = unpack_length(rest)[0]
            if length == UNDEFINED:
                stack.append("sequence")
                if len(stack) > 2 * MAX_DEPTH:
                    raise UnreadableInstance(
                        f"sequences nested deeper than {MAX_DEPTH}; send the instance without them"
                    )
            else:
                seek(length, 1)
    return steps


def excerpt(stream: BinaryIO, elements: dict[int, Element], encoding: Encoding) -> Dataset:
    """The found elements as a pydicom data set with raw, unconverted values.

    Raises
    ------
    UnreadableInstance
        A sequence among them is damaged.
    """
    parts = []
    for element in elements.values():
        if element.length != UNDEFINED and len(element.value) < element.length:
            continue  # cut: a value this long is none of those that anybody looks for
        stream.seek(element.start)
        parts.append(stream.read(element.value_start - element.start))
        parts.append(element.value)
    try:
        return read_dataset(BytesIO(b"".join(parts)), encoding.implicit, encoding.little)
    except DAMAGE_IN_MEMORY as error:
        raise UnreadableInstance(
            f"an element of the header is damaged ({type(error).__name__}); write the instance again"
        ) from error


_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}


def raw_text(ds: Dataset, tag: int) -> str | None:
    """An element's value as written, values joined by a backslash; "" when empty, None when absent.

    Never converts text to numbers: "1,5" and "nan" come back as they are. Binary numbers are printed
    shortest.
    """
    try:
        element = ds.get_item(tag)
    except KeyError:
        return None
    if element is None:
        return None
    value = element.value
    if isinstance(element, RawDataElement) and isinstance(value, bytes):
        return _raw_bytes_text(ds, element, value)
    if value is None:
        return ""
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    return "\\".join(str(getattr(one, "original_string", one)).strip() for one in values)


def _raw_bytes_text(ds: Dataset, element: RawDataElement, value: bytes) -> str:
    vr = element.VR
    if vr in (None, "UN"):
        try:
            vr = dictionary_VR(element.tag)
        except KeyError:
            vr = "UN"
    code = _BINARY.get(str(vr))
    if code is None:
        character_set = b""
        if not value.isascii() and 0x00080005 in ds:
            found = ds.get_item(0x00080005)
            character_set = found.value if found is not None and isinstance(found.value, bytes) else b""
        return "\\".join(part.strip() for part in decode_text(value, character_set).split("\\"))
    size = struct.calcsize(code)
    if len(value) % size:
        return decode_text(value)
    order = "<" if element.is_little_endian else ">"
    numbers = struct.unpack(f"{order}{len(value) // size}{code}", value)
    return "\\".join(f"{number:.12g}" for number in numbers)


def items(ds: Dataset, tag: int) -> list[Dataset]:
    """The items of a sequence; none where it is absent, empty or damaged."""
    try:
        value = ds[tag].value if tag in ds else None
    except DAMAGE_IN_MEMORY:
        return []
    return list(value) if isinstance(value, DicomSequence) else []


_DELIMITERS = {0x5C, 0x5E, 0x3D}  # backslash, caret, equals: they end an escape (PS3.5 6.1.2.5.3)


@lru_cache(maxsize=64)
def _encodings(specific_character_set: bytes) -> list[str]:
    """Python's names for Specific Character Set (0008,0005)."""
    text = specific_character_set.decode("ascii", "replace").strip(" \0")
    terms = [term.strip() for term in text.split("\\")]
    try:
        return list(charset.convert_encodings(terms if len(terms) > 1 else terms[0]))
    except DAMAGE:
        return ["iso8859"]


def decode_text(value: bytes, specific_character_set: bytes = b"") -> str:
    """Text of an element: decoded, NUL and lone surrogates replaced, ends stripped; never an error."""
    if value.isascii() and b"\x1b" not in value:
        text = value.decode("ascii")
    else:
        try:
            text = charset.decode_bytes(value, _encodings(specific_character_set), _DELIMITERS)
        except DAMAGE:
            text = value.decode("latin-1")
        # Any of Python's codecs may be named, some of which make lone surrogates: nobody can encode or store those.
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\0", " ").strip()
