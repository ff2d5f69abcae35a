"""What becomes of a segment once its records have their rows, and of those whose process ended before that.

A *mark* in `segments/unsettled/` says that rows of a segment may be missing. `lanes` settles what this process wrote,
recovery what a crash left; `Spool` removes records and what is empty.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from iap_node.spool.files import sync_directory
from iap_node.spool.segments import SUFFIX, erase, has_records

SEGMENTS = "segments"
UNSETTLED = "unsettled"


def mark_of(segment: Path) -> Path:
    """Where the mark of a segment is, or would be."""
    return segment.parent.parent / UNSETTLED / segment.name.removesuffix(SUFFIX)


def is_dead(segment: Path) -> bool:
    """Whether nothing lies in a segment and nobody will write to it.

    Raises
    ------
    OSError
        The disk fails, or the segment is gone.
    """
    return not mark_of(segment).exists() and not has_records(segment)


def settle(path: Path, handle: int, used: int) -> None:
    """All records of a segment have their rows: give back what follows `used`, forget the mark.

    A segment in which nothing is left goes altogether.

    Raises
    ------
    OSError
        The disk fails; nothing is lost, the segment stays marked.
    """
    os.ftruncate(handle, used)
    if not has_records(path):
        remove(path)
        return
    os.fsync(handle)
    mark_of(path).unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a segment in which nothing is, then its mark: a power cut must not bring back the segment alone."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        sync_directory(path.parent)
    mark_of(path).unlink(missing_ok=True)


def abandoned(root: Path) -> Iterator[tuple[Path, int]]:
    """The marked segments that no process writes to, each with a handle that locks it; the caller closes it."""
    folder = root / SEGMENTS
    with contextlib.suppress(FileNotFoundError):
        for mark in sorted((folder / UNSETTLED).iterdir()):
            path = folder / mark.name[:2] / f"{mark.name}{SUFFIX}"
            try:
                handle = _lock(path)
            except FileNotFoundError:  # settled to nothing before the mark went, or never made
                remove(path)
                continue
            if handle is not None:
                yield path, handle


def _lock(path: Path) -> int | None:
    """A handle that holds the segment's lock; None while another process does."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def erase_records(path: Path, places: Sequence[tuple[int, int]]) -> None:
    """Remove records, as (offset, length), from a segment; a settled segment in which nothing is left goes.

    Raises
    ------
    OSError
        The disk fails.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        for offset, length in places:
            erase(handle, offset, length)
        os.fdatasync(handle)
        if is_dead(path):
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)
