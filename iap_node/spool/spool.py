"""The spool: one Part 10 file per received instance, found by the relative path that its archive row names.

Layout below the root:

- ``series/<2 hex digits>/<Series Instance UID>/<SOP Instance UID>.<8 hex digits>.dcm``: instances. The first
  level spreads series over 256 directories. The last digits are random: no two receptions ever share a name,
  so that two senders, threads, processes or machines that send the same instance at the same moment cannot
  overwrite or remove each other's file. Which file counts is for the archive to say: a duplicate's file is
  removed again, a conflict's (same SOP Instance UID, other bytes) stays beside the first one under its own
  row.
- ``incoming/``: temporary names. What is found there long after is torn, and swept away.
- ``quarantine/``: see `iap_node.spool.quarantine`.
- ``looked-through``: when files without a row were last looked for.

File names carry UIDs and nothing of the patient.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from iap_node.dicom.file_slice import InstanceFile
from iap_node.dicom.part10 import is_safe_uid
from iap_node.errors import PermanentError
from iap_node.spool.files import (
    DIRECTORY_MODE,
    FILE_MODE,
    NewFile,
    SpooledFile,
    disk_errors_are_retriable,
    make_directory,
    sync_directory,
)

INSTANCES = "series"
INCOMING = "incoming"
LOOKED_THROUGH = "looked-through"  # an empty file; its modification time counts

DURABLE_DIRECTORIES_REMEMBERED = 4096  # series that one process writes at the same time, with ample room


class Spool:
    """Instance files below one root, which may be a file system shared by several machines.

    Safe for use by many threads and processes at once. Making one touches nothing on the disk.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._durable_directories: dict[Path, None] = {}  # in order of first use

    @property
    def root(self) -> Path:
        """The absolute root."""
        return self._root

    def path(self, spool_path: str) -> Path:
        """Absolute path of a file that a row names.

        Raises
        ------
        PermanentError
            The name leads out of the spool.
        """
        relative = PurePosixPath(spool_path)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            raise PermanentError(f"{spool_path!r} names no file in the spool; repair the row that says so")
        return self._root / relative

    def locate(self, spool_path: str) -> InstanceFile:
        """Where the instance lies that a row names, to be opened and read.

        Raises
        ------
        PermanentError
            The name leads out of the spool.
        """
        return self.path(spool_path)

    def exists(self, spool_path: str) -> bool:
        """Whether a file that a row names is there."""
        return self.size_bytes(spool_path) is not None

    def size_bytes(self, spool_path: str) -> int | None:
        """Size of a file that a row names; None where it is not there.

        Raises
        ------
        RetriableError
            The disk fails or may not be read.
        """
        path = self.path(spool_path)
        with disk_errors_are_retriable(self._root):
            try:
                return path.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def new_name(self, series_instance_uid: str, sop_instance_uid: str) -> str:
        """A name for one reception of an instance, never given before.

        Raises
        ------
        ValueError
            A UID is not fit for a file name; callers check with `is_safe_uid` before.
        """
        for uid in (series_instance_uid, sop_instance_uid):
            if not is_safe_uid(uid):
                raise ValueError(f"{uid!r} is not fit for a file name")
        shard = hashlib.sha256(series_instance_uid.encode("ascii")).hexdigest()[:2]
        return f"{INSTANCES}/{shard}/{series_instance_uid}/{sop_instance_uid}.{secrets.token_hex(4)}.dcm"

    def write(self, spool_path: str, parts: Iterable[bytes | memoryview]) -> int:
        """Write an instance that is in memory under a name from `new_name`; durable when this returns.

        Returns
        -------
        int
            Its size in bytes.

        Raises
        ------
        RetriableError
            The disk is full, failing or not writable; nothing is left behind.
        """
        file = self.begin()
        with contextlib.ExitStack() as undo, disk_errors_are_retriable(self._root):
            undo.callback(file.discard)
            for part in parts:
                file.write(part)
            self.keep(file, spool_path)
            undo.pop_all()
        return file.size_bytes

    def begin(self) -> NewFile:
        """A new file without a final name, for what is still to come: give it to `keep`, or discard it.

        Raises
        ------
        RetriableError
            The disk is full, failing or not writable.
        """
        incoming = self._root / INCOMING
        with disk_errors_are_retriable(self._root):
            self._make_durable(incoming)
            try:
                return NewFile(incoming)
            except FileNotFoundError:  # somebody removed the directory after we last saw it
                self._durable_directories.clear()
                self._make_durable(incoming)
                return NewFile(incoming)

    def keep(self, file: NewFile, spool_path: str) -> None:
        """Give a file from `begin` its name; durable when this returns.

        Raises
        ------
        RetriableError
            The disk is full, failing or not writable; the caller discards the file.
        """
        path = self.path(spool_path)
        with disk_errors_are_retriable(self._root):
            self._make_durable(path.parent)
            try:
                file.name(path)
            except FileNotFoundError:  # retention removed the directory after we last saw it
                self._durable_directories.clear()
                self._make_durable(path.parent)
                file.name(path)

    def remove(self, spool_path: str) -> None:
        """Remove a file; a missing one is no error.

        The series' directory stays: another process may be about to write into it and know it to be durable.

        Raises
        ------
        RetriableError
            The disk fails or is not writable.
        """
        path = self.path(spool_path)
        with disk_errors_are_retriable(self._root):
            path.unlink(missing_ok=True)

    def remove_empty_directory(self, spool_path: str) -> None:
        """Remove the directory that a file lay in, unless something lies in it.

        Who is about to write into it makes it again (`keep`).
        """
        directory = self.path(spool_path).parent
        if directory.parent.parent == self._root / INSTANCES:
            with contextlib.suppress(OSError):
                directory.rmdir()

    def rename(self, spool_path: str, to: str) -> None:
        """Give a file another name, whose old file is gone; durable when this returns.

        Raises
        ------
        RetriableError
            The disk fails or is not writable; the file has one of the two names.
        """
        source, target = self.path(spool_path), self.path(to)
        with disk_errors_are_retriable(self._root):
            make_directory(target.parent, below=self._root)
            source.rename(target)
            sync_directory(target.parent)

    def instances(self, *, changed_since_s: float = 0.0) -> Iterator[SpooledFile]:
        """All instance files, series by series; those that vanish meanwhile are left out.

        Parameters
        ----------
        changed_since_s
            Leave out series whose directory did not change since (seconds since the epoch): what is new lies
            in the others, and a large archive need not be walked for it.
        """
        for series in sorted(self._root.glob(f"{INSTANCES}/*/*")):
            with contextlib.suppress(FileNotFoundError):
                if series.stat().st_mtime >= changed_since_s:
                    yield from self._files(series, "*.dcm")

    def torn(self, *, older_than_s: float) -> list[SpooledFile]:
        """Temporary files that nobody wrote to for `older_than_s` seconds.

        They are what a crash in the middle of a reception leaves: torn, and never acknowledged. Younger ones
        may belong to another process that is writing now.
        """
        oldest_s = time.time() - older_than_s
        return [file for file in self._files(self._root / INCOMING, "*") if file.modified_at_s < oldest_s]

    def sweep(self, *, older_than_s: float) -> list[SpooledFile]:
        """Remove what is `torn`; return what was removed.

        Raises
        ------
        RetriableError
            The disk fails or is not writable.
        """
        torn = self.torn(older_than_s=older_than_s)
        with disk_errors_are_retriable(self._root):
            for file in torn:
                self.path(file.spool_path).unlink(missing_ok=True)
        return torn

    def looked_through_at_s(self) -> float:
        """When `note_looked_through` was last called, in seconds since the epoch; 0 when it never was."""
        try:
            return (self._root / LOOKED_THROUGH).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def note_looked_through(self, at_s: float) -> None:
        """Note that all instances were looked through at `at_s`, in seconds since the epoch.

        Raises
        ------
        RetriableError
            The disk fails or is not writable.
        """
        with disk_errors_are_retriable(self._root):
            self._root.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            mark = self._root / LOOKED_THROUGH
            mark.touch(mode=FILE_MODE)
            os.utime(mark, (at_s, at_s))

    def _files(self, directory: Path, pattern: str) -> Iterator[SpooledFile]:
        for path in sorted(directory.glob(pattern)):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                yield SpooledFile(path.relative_to(self._root).as_posix(), status.st_size, status.st_mtime)

    def _make_durable(self, directory: Path) -> None:
        if directory not in self._durable_directories:
            make_directory(directory, below=self._root)
            while len(self._durable_directories) >= DURABLE_DIRECTORIES_REMEMBERED:
                with contextlib.suppress(StopIteration, RuntimeError):  # another thread may be forgetting too
                    self._durable_directories.pop(next(iter(self._durable_directories)), None)
            self._durable_directories[directory] = None
