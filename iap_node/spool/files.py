"""Durable files: written under a temporary name, synced, renamed, and their directory synced.

Called by `Spool` and `Quarantine` only. What a function here returns from has reached the disk, as far as the
operating system and the disk tell the truth about fsync.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from iap_node.errors import RetriableError

DIRECTORY_MODE = 0o750  # instances hold patient data: nothing for others
FILE_MODE = 0o640

TEMPORARY_SUFFIX = ".part"

PAGE_BYTES = 4096  # no disk asks for more than that of what goes past the page cache


@dataclass(frozen=True, slots=True)
class SpooledFile:
    """One file of the spool as it lies on the disk."""

    spool_path: str  # relative to the spool's root, POSIX separators
    size_bytes: int
    modified_at_s: float  # seconds since the epoch, by the clock of the file system


class NewFile:
    """A file while it is written, under a temporary name that nobody else has: `write`, then `name` or `discard`.

    Not for several threads at once. Errors are those of the file system (OSError); after one, `discard`.

    Parameters
    ----------
    folder
        Directory of the temporary name; in the file system that the final name is to be in.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{secrets.token_hex(16)}{TEMPORARY_SUFFIX}"
        self._handle: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        self.size_bytes = 0

    def write(self, part: bytes | memoryview) -> None:
        """Append; nothing is kept in memory, and nothing is durable yet."""
        view = memoryview(part)
        while view:  # one write() takes at most 2 GiB, and may take less
            written = os.write(self._open_handle(), view)
            self.size_bytes += written
            view = view[written:]

    def write_from_pages(self, memory: memoryview) -> None:
        """As `write`, of memory that begins with a page: its whole pages go past the page cache, where they can."""
        n_whole = len(memory) // PAGE_BYTES * PAGE_BYTES
        handle, begin = self._open_handle(), self.size_bytes
        if n_whole and begin % PAGE_BYTES == 0 and set_direct(handle, True):
            try:
                self.write(memory[:n_whole])
            except OSError as error:
                if error.errno != errno.EINVAL:  # said yes, and meant no; or a part of a page was written
                    raise
            finally:
                set_direct(handle, False)
        self.write(memory[self.size_bytes - begin :])

    def reader(self) -> BufferedReader:
        """What was written, to be read from its start once everything is; closing it leaves this file as it is."""
        stream = os.fdopen(self._open_handle(), "rb", closefd=False)
        stream.seek(0)
        return stream

    def name(self, path: Path, *, durable: bool = True) -> None:
        """Give it its final name; durable when this returns, unless that is not asked for.

        The directory of `path` must exist and be durable itself (`make_directory`). After a
        `FileNotFoundError`, because that directory is gone, this may be called again.

        Parameters
        ----------
        path
            Must not exist yet; callers choose names that no one else does.
        """
        handle = self._open_handle()
        if durable:
            os.fsync(handle)
        self._path.rename(path)
        self._path = path
        if durable:
            sync_directory(path.parent)
        self._close()

    def discard(self) -> None:
        """Leave nothing behind, neither under the temporary nor under the final name."""
        self._close()
        self._path.unlink(missing_ok=True)

    def _open_handle(self) -> int:
        if self._handle is None:
            raise ValueError("the file has its name already, or was discarded")
        return self._handle

    def _close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


def set_direct(handle: int, wanted: bool) -> bool:
    """Whether what is written to a handle goes past the page cache from now on (O_DIRECT)."""
    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return wanted


def write_durably(path: Path, part: bytes, *, temporary_in: Path) -> None:
    """Write a small file so that it survives a power cut once this returns; on any error nothing is left behind.

    Raises
    ------
    OSError
        As the file system says it; see `NewFile`.
    """
    file = NewFile(temporary_in)
    with contextlib.ExitStack() as undo:
        undo.callback(file.discard)
        file.write(part)
        file.name(path)
        undo.pop_all()


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
        raise disk_error(root, error) from error


def disk_error(root: Path, error: OSError) -> RetriableError:
    """What the file system says, with the remedy; for the store path, where a context manager would cost too much."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RetriableError(f"the spool's disk is full: make room below {root}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return RetriableError(f"the spool cannot be written ({error.strerror}): check who owns {root}")
    return RetriableError(f"the spool's disk fails ({error}): check the disk below {root}")
