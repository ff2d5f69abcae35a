"""The record of what a listener did to its disk and said to its peers: made by `recorder.c`, read here.

Called by the power-cut drill, which replays the record up to any point (`disk`).
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("recorder.c")

_HEADER = struct.Struct("<BIiqQqIII")


class Operation(IntEnum):
    """As in recorder.c."""

    OPEN = 1
    CLOSE = 2
    WRITE = 3
    ZERO = 4  # a long write of zeros; its bytes are not in the record
    TRUNCATE = 5
    ALLOCATE = 6
    SYNC_BEGINS = 7
    SYNCED = 8
    RENAME = 9
    LINK = 10
    UNLINK = 11
    MKDIR = 12
    RMDIR = 13
    SEND = 14
    DUP = 15
    TIMES = 16
    UNMODELLED = 17
    PUNCH = 18


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation of the record."""

    operation: Operation
    process: int
    descriptor: int
    offset: int  # or flags, the number of a flush, another descriptor, a time in ns
    length: int
    time_ns: int
    path: str
    other: str
    data: bytes


def build_recorder(folder: Path) -> Path:
    """Compile the recorder into `folder`; the library to preload.

    Raises
    ------
    FileNotFoundError
        There is no C compiler.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError("cc is not installed; apt-get install gcc libc6-dev")
    library = folder / "recorder.so"
    options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *options, "-o", library, SOURCE, "-ldl", "-pthread"], check=True, timeout=60)
    return library


def recording_environment(library: Path, root: Path, record: Path) -> dict[str, str]:
    """The environment of a process whose operations below `root` are to be appended to `record`."""
    return {**os.environ, "LD_PRELOAD": str(library), "DRILL_ROOT": str(root), "DRILL_RECORD": str(record)}


def read_record(record: Path) -> Iterator[Entry]:
    """All whole entries, in order; a killed process may leave half of one at the end."""
    content = memoryview(record.read_bytes())
    position = 0
    while position + _HEADER.size <= len(content):
        head = _HEADER.unpack_from(content, position)
        position += _HEADER.size
        ends = []
        for size in head[6:]:
            ends.append((position, position + size))
            position += size
        if position > len(content):
            return
        path, other, data = (bytes(content[start:end]) for start, end in ends)
        operation, process, descriptor, offset, length, time_ns = head[:6]
        names = os.fsdecode(path), os.fsdecode(other)
        yield Entry(Operation(operation), process, descriptor, offset, length, time_ns, *names, data)
