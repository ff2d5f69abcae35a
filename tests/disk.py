"""Room on the real disk, for tests of what happens where it is short."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder, for those who are not root."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


@contextmanager
def occupied(folder: Path, n_bytes: int) -> Iterator[None]:
    """Room on the disk that is taken, without a byte being written."""
    path = folder / "occupied"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, n_bytes)
        os.fsync(file.fileno())
    try:
        yield
    finally:
        path.unlink()
