"""The spool: every received instance as a Part 10 file, found by the spool path that its archive row names.

Layout below the root:

- ``segments/<2 hex digits>/<16 hex digits>.seg``: many instances in one file (`segments`, `lanes`). Their spool paths
  end with ``#<offset>+<length>``. ``segments/unsettled/`` marks those whose rows may be missing.
- ``series/<2 hex digits>/<Series Instance UID>/<SOP Instance UID>.<8 hex digits>.dcm``: instances that are large. The
  first level spreads series over 256 directories. The last digits are random: no two receptions ever share a name,
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
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from iap_node.dicom.file_slice import FileSlice, InstanceFile
from iap_node.dicom.part10 import is_safe_uid
from iap_node.errors import PermanentError
from iap_node.spool.files import (
    DIRECTORY_MODE,
    FILE_MODE,
    NewFile,
    SpooledFile,
    disk_error,
    disk_errors_are_retriable,
    make_directory,
)
from iap_node.spool.lanes import Lanes
from iap_node.spool.new_instance import NewInstance
from iap_node.spool.segments import (
    MARK,
    PREAMBLE_BYTES,
    SEGMENT_BYTES,
    SUFFIX,
    Facts,
    Record,
    RecordKind,
    aligned,
    erase,
    read_records,
)
from iap_node.spool.settling import SEGMENTS, abandoned, erase_records, is_dead, settle
from iap_node.spool.staging import StagingPool

INSTANCES = "series"
INCOMING = "incoming"
LOOKED_THROUGH = "looked-through"  # an empty file; its modification time counts

DURABLE_DIRECTORIES_REMEMBERED = 4096  # series that one process writes at the same time, with ample room


_RECORD = re.compile(rf"({SEGMENTS}/[0-9a-f]{{2}}/[0-9a-f]{{16}}{re.escape(SUFFIX)})#([0-9]+)\+([0-9]+)", re.ASCII)


class Spool:
    """Instances below one root, which may be a file system shared by several machines.

    Safe for use by many threads and processes at once. Making one touches nothing on the disk.

    Parameters
    ----------
    durable
        Whether what is kept is flushed before `keep` returns. Without, a power cut may take it back.
    prepared_bytes
        How much room is to be written ahead by a process that receives (`start_preparing`).
    reserve_bytes
        Room on the disk that this leaves alone.
    """

    def __init__(
        self, root: Path, *, durable: bool = True, prepared_bytes: int = 0, reserve_bytes: int = 0
    ) -> None:
        self._root = root.absolute()
        self._durable = durable
        self._durable_directories: dict[Path, None] = {}  # in order of first use
        self._lanes = Lanes(self._root, -(-prepared_bytes // SEGMENT_BYTES), reserve_bytes, durable=durable)
        self._staging = StagingPool()
        self._notes: dict[str, str] = {}  # spool path of a file: of the record that tells of it, until it has its row

    @property
    def root(self) -> Path:
        """The absolute root."""
        return self._root

    # ------------------------------------------------------------ reading

    def locate(self, spool_path: str) -> InstanceFile:
        """Where the bytes of an instance are, to be opened.

        Raises
        ------
        PermanentError
            The name leads out of the spool.
        """
        record = _RECORD.fullmatch(spool_path)
        if record is None:
            return self.path(spool_path)
        return FileSlice(self._root / record[1], int(record[2]), int(record[3]))

    def exists(self, spool_path: str) -> bool:
        """Whether the bytes that a row names are there; `size_bytes` says what it raises."""
        return self.size_bytes(spool_path) is not None

    def size_bytes(self, spool_path: str) -> int | None:
        """How many bytes there are of an instance that a row names; None where there are none.

        Raises
        ------
        RetriableError
            The disk fails or may not be read.
        """
        where = self.locate(spool_path)
        with disk_errors_are_retriable(self._root):
            try:
                if isinstance(where, Path):
                    return where.stat().st_size
                with where.open() as stream:
                    if not any(stream.read(len(MARK))):  # erased
                        return None
                    return min(where.length, where.path.stat().st_size - where.offset)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def path(self, spool_path: str) -> Path:
        """Absolute path of a file in the spool; `locate` knows the other instances too.

        Raises
        ------
        PermanentError
            The name leads out of the spool.
        """
        relative = PurePosixPath(spool_path)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            raise PermanentError(f"{spool_path!r} names no file in the spool; repair the row that says so")
        return self._root / relative

    # ------------------------------------------------------------ writing

    def begin(self, head: bytes) -> NewInstance:
        """An instance whose data set is still to come: `keep` it, or discard it.

        Parameters
        ----------
        head
            DICM and file meta.
        """
        return NewInstance(self._lanes, self._staging, head, self.new_file, durable=self._durable)

    def keep(self, instance: NewInstance, facts: Facts, *, series_instance_uid: str, sop_instance_uid: str) -> str:
        """Keep an instance from `begin`; its spool path. Call `registered` with it when its row is durable.

        Raises
        ------
        RetriableError
            The disk is full, failing or not writable; the caller discards the instance.
        """

        def name(file: NewFile) -> str:
            spool_path = self.new_name(series_instance_uid, sop_instance_uid)
            self.keep_file(file, spool_path)
            return spool_path

        try:
            spool_path, record = instance.keep(facts, name)
        except OSError as error:
            raise disk_error(self._root, error) from error
        if record != spool_path:
            self._notes[spool_path] = record
        return spool_path

    def registered(self, spool_path: str) -> None:
        """The archive has a row for these bytes, durably, or needs none."""
        note = self._notes.pop(spool_path, None)
        if note is not None and isinstance(where := self.locate(note), FileSlice):
            self._lanes.erase(where)
        segment, is_record, _ = (note or spool_path).partition("#")
        if is_record:
            self._lanes.registered(segment)

    def start_preparing(self) -> None:
        """Write room ahead from now on; returns at once."""
        self._lanes.start_preparing()

    def wait_until_prepared(self) -> None:
        """Return when the room that is to lie ready does, or the disk refused."""
        self._lanes.wait_until_prepared()

    def close(self) -> None:
        """Receive no more. What has its rows is put in order; the rest waits for recovery."""
        self._lanes.close()

    # ------------------------------------------------------------ files of their own

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

    def new_file(self) -> NewFile:
        """A new file without a final name, for what is still to come: give it to `keep_file`, or discard it.

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

    def keep_file(self, file: NewFile, spool_path: str) -> None:
        """Give a file from `new_file` its name; durable when this returns, unless the spool is not.

        Raises
        ------
        RetriableError
            The disk is full, failing or not writable; the caller discards the file.
        """
        path = self.path(spool_path)
        with disk_errors_are_retriable(self._root):
            self._make_durable(path.parent)
            try:
                file.name(path, durable=self._durable)
            except FileNotFoundError:  # retention removed the directory after we last saw it
                self._durable_directories.clear()
                self._make_durable(path.parent)
                file.name(path, durable=self._durable)

    # ------------------------------------------------------------ removing, and looking through

    def remove(self, *spool_paths: str) -> None:
        """Remove instances; missing ones are no error. Give many at once: each segment is flushed once.

        A file's directory stays: another process may be about to write into it and know it to be durable.

        Raises
        ------
        RetriableError
            The disk fails or is not writable.
        """
        records: defaultdict[Path, list[tuple[int, int]]] = defaultdict(list)
        with disk_errors_are_retriable(self._root):
            for where in map(self.locate, spool_paths):
                if isinstance(where, Path):
                    where.unlink(missing_ok=True)
                else:
                    records[where.path].append((where.offset, where.length))
            for path, places in records.items():
                erase_records(path, places)

    def remove_empty_directory(self, spool_path: str) -> None:
        """Remove the directory that a file lay in, unless something lies in it.

        Who is about to write into it makes it again (`keep`).
        """
        directory = self.path(spool_path).parent
        if directory.parent.parent == self._root / INSTANCES:
            with contextlib.suppress(OSError):
                directory.rmdir()

    def instances(self, *, changed_since_s: float = 0.0) -> Iterator[SpooledFile]:
        """All instances that are files of their own, series by series; those that vanish meanwhile are left out.

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

    def segments(self) -> Iterator[Path]:
        """All segments, marked ones included."""
        yield from sorted(self._root.glob(f"{SEGMENTS}/??/*{SUFFIX}"))

    def records(self, segment: Path, *, verify: bool = True) -> Iterator[tuple[str, Record]]:
        """The whole instances of a segment, by spool path; a note's is that of the file that it tells of.

        None where the segment is gone meanwhile.

        Parameters
        ----------
        verify
            See `read_records`.

        Raises
        ------
        RetriableError
            The disk fails.
        """
        name = segment.relative_to(self._root).as_posix()
        with disk_errors_are_retriable(self._root), contextlib.suppress(FileNotFoundError):
            for record in read_records(segment, verify=verify):
                if record.kind is RecordKind.NOTE:
                    yield _text_of(record), record
                else:
                    yield f"{name}#{record.where.offset}+{record.where.length}", record

    def is_dead(self, segment: Path) -> bool:
        """Whether nothing lies in a segment and nobody will write to it: a crash came before it was removed.

        Raises
        ------
        RetriableError
            The disk fails.
        """
        with disk_errors_are_retriable(self._root):
            try:
                return is_dead(segment)
            except FileNotFoundError:
                return False

    def remove_dead(self, segment: Path) -> None:
        """Remove a segment that `is_dead`; raises as that."""
        with disk_errors_are_retriable(self._root):
            segment.unlink(missing_ok=True)

    @contextlib.contextmanager
    def abandoned_segments(self) -> Iterator[list[Path]]:
        """Segments whose process ended before all their rows were written; each is locked while the block runs.

        When the block ends, all records of all of them must have their rows: they are settled then. When it raises,
        they stay as they are.

        Raises
        ------
        RetriableError
            The disk fails.
        """
        left: dict[Path, tuple[int, list[Record]]] = {}
        with contextlib.ExitStack() as handles:
            with disk_errors_are_retriable(self._root):
                for path, handle in abandoned(self._root):
                    with contextlib.ExitStack() as this:
                        this.callback(os.close, handle)
                        if records := list(read_records(path)):
                            left[path] = handle, records
                            handles.push(this.pop_all())
                        elif self._lanes.adopt(path, handle):
                            this.pop_all()
            yield list(left)
            with disk_errors_are_retriable(self._root):
                for path, (handle, records) in left.items():
                    for record in records:
                        if record.kind is RecordKind.NOTE:
                            erase(handle, record.where.offset, record.where.length)
                    last = records[-1].where
                    settle(path, handle, aligned(last.offset + last.length))

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


def _text_of(record: Record) -> str:
    with record.where.open() as stream:
        return stream.read()[PREAMBLE_BYTES:].decode()
