"""The elements of an encoded data set by where they stand, and a file that is put together from them.

A copy is its original with a few elements exchanged: everything else (pixel data, private elements, whatever a vendor
wrote) is passed on as bytes that nobody decoded. Called by `iap_node.correction`, `iap_node.deidentification` and
`transcoding`. Source: PS3.5 section 7, PS3.10 section 7.1.
"""

from __future__ import annotations

import io
import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_data_element

from iap_node.dicom import elements as el
from iap_node.dicom.elements import Encoding
from iap_node.errors import UnreadableInstance

_MOST_VALUE_BYTES = 512 * 1024**2  # of an element that is looked into; functional groups of many frames are some 50 MB
_LAST_TAG = 0xFFFFFFFF
_PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})

Part = bytes | tuple[int, int]  # bytes of its own, or from where to where of the original's stream


@dataclass(frozen=True, slots=True)
class Span:
    """One top-level element where it stands, bytes from the start of the stream."""

    tag: int
    vr: str  # "" in implicit VR
    start: int
    value_start: int
    end: int
    undefined_length: bool


class EncodedInstance:
    """A data set that is open at its first element, already inflated where it was deflated.

    Raises
    ------
    UnreadableInstance
        It is damaged beyond being stepped through.
    """

    def __init__(self, stream: BinaryIO, transfer_syntax_uid: str) -> None:
        self._stream = stream
        begin = stream.tell()
        self._end = stream.seek(0, io.SEEK_END)
        stream.seek(begin)
        head = stream.read(el.SHORT_HEADER_BYTES)
        declared = el.encoding_of(transfer_syntax_uid)
        # declared implicit but written explicit is a common slip, which `el.walk` believes too
        explicit = head[4:6] in el.SHORT_VRS and head[:1] in (b"\x02", b"\x08")
        self.encoding = Encoding(implicit=declared.implicit and not explicit, little=declared.little)
        stream.seek(begin)
        starts: list[int] = []
        el.walk(stream, declared, frozenset(), _LAST_TAG, places=starts)
        self.spans = tuple(self._span(start, end) for start, end in itertools.pairwise([*starts, self._end]))
        self._by_tag = {span.tag: span for span in reversed(self.spans)}
        self.specific_character_set = self.value(0x00080005).strip(b" \0")

    @property
    def has_pixels(self) -> bool:
        """Whether it is an image."""
        return not _PIXEL_DATA.isdisjoint(self._by_tag)

    def span(self, tag: int) -> Span | None:
        """Where an element stands; None when it is absent.

        Raises
        ------
        UnreadableInstance
            It stands there twice: which one counts, nobody knows.
        """
        span = self._by_tag.get(tag)
        if span is not None and sum(other.tag == tag for other in self.spans) > 1:
            raise UnreadableInstance(f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) stands in it twice")
        return span

    def element(self, tag: int) -> bytes | None:
        """A whole element as it is written; None when it is absent."""
        span = self.span(tag)
        return None if span is None else self._read(span.start, span.end)

    def value(self, tag: int) -> bytes:
        """The value of an element as it is written, of a sequence of undefined length without its delimiter."""
        span = self.span(tag)
        if span is None:
            return b""
        return self._read(span.value_start, span.end - (el.SHORT_HEADER_BYTES if span.undefined_length else 0))

    def dataset(self, tags: Iterable[int]) -> Dataset:
        """Some elements, decoded as far as they are looked at.

        Raises
        ------
        UnreadableInstance
            A sequence among them is damaged.
        """
        encoded = b"".join(self.element(tag) or b"" for tag in sorted(set(tags)))
        with damage_is_told():
            return read_dataset(BytesIO(encoded), self.encoding.implicit, self.encoding.little)

    def encode(self, ds: Dataset, tag: int) -> bytes:
        """A changed sequence of `dataset` as it is to be written; what was not looked at keeps its bytes."""
        stream = DicomBytesIO()
        stream.is_implicit_VR, stream.is_little_endian = self.encoding
        with damage_is_told():
            write_data_element(stream, ds.get_item(tag))  # text within is raw: no character set comes into play
        return stream.getvalue()

    def exchanged(self, new: Mapping[int, bytes]) -> list[Part]:
        """The data set with other elements: those of `new` replace or join what is there, b"" removes."""
        touched = {tag >> 16 for tag in new}
        waiting = sorted(tag for tag, encoded in new.items() if encoded)
        parts: list[Part] = []
        for span in self.spans:
            while waiting and waiting[0] < span.tag:
                parts.append(new[waiting.pop(0)])
            if span.tag in new:
                if waiting and waiting[0] == span.tag:
                    parts.append(new[waiting.pop(0)])
                continue
            if span.tag & 0xFFFF == 0 and span.tag >> 16 in touched:
                continue  # a group length (retired, PS3.5 7.2) would be wrong now
            if parts and isinstance(parts[-1], tuple) and parts[-1][1] == span.start:
                parts[-1] = (parts[-1][0], span.end)
            else:
                parts.append((span.start, span.end))
        if waiting and self.is_cut_off:
            raise UnreadableInstance("its last element is cut off")
        return parts + [new[tag] for tag in waiting]

    @property
    def is_cut_off(self) -> bool:
        """Whether the data set ends within its last element."""
        if not self.spans or self.spans[-1].undefined_length:
            return False
        last = self.spans[-1]
        return last.value_start + self.length(last) > last.end

    def length(self, span: Span) -> int:
        """The length of an element's value as it is written, of defined length: the last one's may not be there."""
        short = span.vr and span.value_start - span.start == el.SHORT_HEADER_BYTES
        length = self._read(span.start, span.value_start)[-2 if short else -4 :]
        return int.from_bytes(length, "little" if self.encoding.little else "big")

    def _span(self, start: int, end: int) -> Span:
        header = self._read(start, min(end, start + el.LONG_HEADER_BYTES))
        order = "little" if self.encoding.little else "big"
        group, number = (int.from_bytes(header[place : place + 2], order) for place in (0, 2))  # type: ignore[arg-type]
        vr = header[4:6]
        long_form = not self.encoding.implicit and vr in el.LONG_VRS
        implicit_form = self.encoding.implicit or not (vr.isalpha() and vr.isupper())
        size = el.LONG_HEADER_BYTES if long_form else el.SHORT_HEADER_BYTES
        length = header[8:12] if long_form else header[4:8] if implicit_form else b""
        return Span(
            tag=group << 16 | number,
            vr="" if implicit_form else vr.decode("ascii"),
            start=start,
            value_start=min(end, start + size),
            end=end,
            undefined_length=length == b"\xff\xff\xff\xff",
        )

    def _read(self, start: int, end: int) -> bytes:
        if end - start > _MOST_VALUE_BYTES:
            raise UnreadableInstance(f"an element of its header has {end - start} bytes")
        self._stream.seek(start)
        return self._stream.read(end - start)


@contextmanager
def damage_is_told() -> Iterator[None]:
    """What pydicom raises over bytes in memory, as an error of the instance; nothing is read from a disk within.

    Raises
    ------
    UnreadableInstance
        The bytes are damaged.
    """
    try:
        yield
    except el.DAMAGE_IN_MEMORY as error:
        raise UnreadableInstance(f"a sequence of its header is damaged ({type(error).__name__})") from error


def deflated(parts: Sequence[Part], stream: BinaryIO) -> bytes:
    """Parts of an inflated data set, deflated again (PS3.5 A.5: raw deflate, of even length)."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    pieces = []
    for part in parts:
        if isinstance(part, tuple):
            stream.seek(part[0])
            part = stream.read(part[1] - part[0])
        pieces.append(deflater.compress(part))
    whole = b"".join([*pieces, deflater.flush()])
    return whole + b"\0" * (len(whole) % 2)


class PartsStream(io.RawIOBase):
    """Parts of another stream and bytes between them, read as one; closes that stream with itself."""

    def __init__(self, parts: Sequence[Part], stream: BinaryIO) -> None:
        super().__init__()
        self._parts = list(parts)
        self._stream = stream
        self._starts: list[int] = []
        self._length = 0
        for part in parts:
            self._starts.append(self._length)
            self._length += part[1] - part[0] if isinstance(part, tuple) else len(part)
        self._position = self._index = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise ValueError("a position before the start")
        self._position, self._index = base + offset, 0
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is not in 3.11
        view = memoryview(buffer).cast("B")
        while self._index < len(self._parts):
            part, within = self._parts[self._index], self._position - self._starts[self._index]
            length = part[1] - part[0] if isinstance(part, tuple) else len(part)
            if within < length:
                wanted = min(len(view), length - within)
                if isinstance(part, tuple):
                    self._stream.seek(part[0] + within)
                    piece = self._stream.read(wanted)
                    if not piece:
                        raise OSError(f"the file ends {length - within} bytes too early")
                else:
                    piece = part[within : within + wanted]
                view[: len(piece)] = piece
                self._position += len(piece)
                return len(piece)
            self._index += 1
        return 0

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
