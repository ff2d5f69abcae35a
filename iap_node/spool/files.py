"""Durable files: written under a temporary name, synced, renamed, and their directory synced.

Called by `Spool` and `Quarantine` only. What a function here returns from has reached the disk, as far as the
operating system and the disk tell the truth about fsync.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from iap_node.errors import RetriableError

DIRECTORY_MODE = 0o750  # instances hold patient data: nothing for others
FILE_MODE = 0o640

TEMPORARY_SUFFIX = ".part"


@dataclass(frozen=True, slots=True)
class SpooledFile:
    """One file of the spool as it lies on the disk."""

    spool_path: str  # relative to the spool's root, POSIX separators
    size_bytes: int
    modified_at_s: float  # seconds since the epoch, by the clock of the file system


def write_durably(path: Path, parts: Iterable[bytes | memoryview], *, temporary_in: Path) -> int:
    """Write a new file so that it survives a power cut once this returns; return its size in bytes.

    The directory of `path` must exist and be durable itself (`make_directory`). On any error nothing is left
    behind, neither under the temporary nor under the final name.

    Parameters
    ----------
    path
        Final name; must not exist yet, and callers choose names that no one else does.
    parts
        The contents in order. They are written one by one, so that large instances need no second copy.
    temporary_in
        Directory for the temporary file, in the same file system.

    Raises
    ------
    OSError
        As the file system says it; `FileNotFoundError` when one of the directories is gone.
    """
    temporary = temporary_in / f"{secrets.token_hex(16)}{TEMPORARY_SUFFIX}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    with contextlib.ExitStack() as undo:
        undo.callback(temporary.unlink, missing_ok=True)
        size = 0
        try:
            for part in parts:
                size += _write_all(handle, part)
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.rename(path)
        undo.callback(path.unlink, missing_ok=True)
        sync_directory(path.parent)
        undo.pop_all()
    return size


def _write_all(handle: int, part: bytes | memoryview) -> int:
    view = memoryview(part).cast("B")
    written = 0
    while written < len(view):  # one write() takes at most 2 GiB, and may take less
        written += os.write(handle, view[written:])
    return written


def make_directory(path: Path, *, below: Path) -> None:
    """Make `path` and what is missing between `below` and it, and sync every directory that names a new one.

    Directories that exist already are synced into their parents as well: another process may have made them a
    moment ago and not come to its own sync yet.
    """
    below.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    chain = [path, *path.parents]
    for directory in reversed(chain[: chain.index(below)]):
        directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        sync_directory(directory.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors_are_retriable(root: Path) -> Iterator[None]:
    """Turn what the file system says into an error whose text names the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RetriableError(f"the spool's disk is full: make room below {root}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise RetriableError(f"the spool cannot be written ({error.strerror}): check who owns {root}") from error
        raise RetriableError(f"the spool's disk fails ({error}): check the disk below {root}") from error
