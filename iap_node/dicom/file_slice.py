"""A Part 10 file that is a part of a larger file, read as if it were a file of its own.

The spool keeps most instances so (`iap_node.spool.segments`); readers take an `InstanceFile`, which is that or a path.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

_BUFFER_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class FileSlice:
    """`length` bytes of a file, from `offset` on."""

    path: Path
    offset: int
    length: int

    def open(self, mode: str = "rb") -> BinaryIO:
        """A stream of its own that begins at 0 and ends after `length` bytes; close it.

        Raises
        ------
        OSError
            The file is gone or cannot be read.
        """
        if mode != "rb":
            raise ValueError(f"a slice is only read, not opened as {mode!r}")
        return cast(BinaryIO, io.BufferedReader(_SliceStream(self), _BUFFER_BYTES))

    def __str__(self) -> str:
        return f"{self.path}, {self.length} bytes from {self.offset}"


class _SliceStream(io.RawIOBase):
    """Reads one slice without a position that others could move."""

    def __init__(self, part: FileSlice) -> None:
        self._handle = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
        self._part = part
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._part.length}[whence]
        if base + offset < 0:
            raise ValueError("a position before the start")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is not in 3.11
        view = memoryview(buffer).cast("B")
        left = max(0, self._part.length - self._position)
        read = os.preadv(self._handle, [view[:left]], self._part.offset + self._position) if left else 0
        self._position += read
        return read

    def close(self) -> None:
        if not self.closed:
            os.close(self._handle)
        super().close()


InstanceFile = Path | FileSlice
