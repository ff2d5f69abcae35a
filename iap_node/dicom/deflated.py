"""Deflated data sets, inflated within bounds: a few kilobytes can inflate to gigabytes.

Called by part10. Source: PS3.5 A.5, RFC 1951.
"""

from __future__ import annotations

import zlib
from io import BytesIO, RawIOBase
from typing import BinaryIO

from iap_node.errors import UnreadableInstance

_DEFLATED_AT_ONCE = 65_536  # bytes
_INFLATED_AT_ONCE = 1024**2  # bytes
_INFLATED_KEPT = 65_536  # bytes; `walk` goes back by 8 and by one value
_DAMAGED_DEFLATE = "the deflated data set is damaged; send it again"


def inflate(data: bytes | BinaryIO, max_bytes: int) -> tuple[BytesIO, bool]:
    """At most `max_bytes` of a deflated data set, and whether that is all of it. They are in memory once.

    Raw deflate as PS3.5 A.5 says; a zlib header, which some writers add, is tolerated. Of a stream no more is
    read than that takes; it must be seekable.

    Raises
    ------
    UnreadableInstance
        The bytes are not a deflate stream.
    """
    stream = BytesIO(data) if isinstance(data, bytes) else data
    inflater = _inflater_of(stream)
    plain, left = BytesIO(), max_bytes
    try:
        while left and not inflater.eof:
            deflated = inflater.unconsumed_tail or stream.read(_DEFLATED_AT_ONCE)
            if not deflated:
                break
            left -= plain.write(inflater.decompress(deflated, min(left, _INFLATED_AT_ONCE)))
    except zlib.error as error:
        raise UnreadableInstance(_DAMAGED_DEFLATE) from error
    plain.seek(0)
    return plain, inflater.eof


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
