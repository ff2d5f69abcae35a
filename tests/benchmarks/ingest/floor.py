"""What this disk allows: the cost of making bytes durable one after the other, without any receiver.

Two floors: a new file with fsync per instance, and fdatasync into blocks that were written before, per instance.
"""

from __future__ import annotations

import os
import time
from pathlib import Path


def synced_files_per_s(folder: Path, size: int, count: int) -> float:
    """New files of `size` bytes, each synced before the next is begun."""
    folder.mkdir()
    content = os.urandom(size)
    started = time.perf_counter()
    for number in range(count):
        handle = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT)
        os.write(handle, content)
        os.fsync(handle)
        os.close(handle)
    return count / (time.perf_counter() - started)


def synced_blocks_per_s(path: Path, size: int, count: int) -> float:
    """Writes of `size` bytes into one file whose blocks were written before, each synced before the next."""
    step = -(-size // 4096) * 4096
    content = os.urandom(size)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for number in range(count):
            os.pwrite(handle, bytes(step), number * step)
        os.fsync(handle)
        started = time.perf_counter()
        for number in range(count):
            os.pwrite(handle, content, number * step)
            os.fdatasync(handle)
        return count / (time.perf_counter() - started)
    finally:
        os.close(handle)
