"""Instances copied from one spool to another under the same names, as the rows know them. For backup and restore.

Each copy's checksum is compared with its row before it counts. A copy that was cut off goes on where it was: a file
gets its name, and a record in a segment its first bytes, only when the rest has reached the disk; what has them is
not copied again. Originals are only read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

from iap_node.database.consistency import HeldBytes
from iap_node.database.quarantine import QuarantineEntry
from iap_node.database.tables import BytesState
from iap_node.dicom.file_slice import FileSlice
from iap_node.dicom.part10 import read_file_meta
from iap_node.errors import UnreadableInstance
from iap_node.spool import PREAMBLE_BYTES, Spool, content_checksum, disk_errors_are_retriable
from iap_node.spool.files import sync_directory

ROWS_AT_ONCE = 500
PROBLEMS_NAMED = 100
_READ_AT_ONCE = 1024**2

Item = TypeVar("Item")


@dataclass(slots=True)
class Copied:
    """What became of the instances that the rows name."""

    instances: int = 0  # that are in the copy now, earlier runs included
    size_bytes: int = 0
    copied: int = 0  # by this run
    gone: int = 0  # that retention removed meanwhile
    missing: int = 0  # that were not there
    damaged: int = 0  # whose bytes are not those of the row
    named: list[str] = field(default_factory=list)  # spool paths of some that are missing or damaged

    @property
    def is_whole(self) -> bool:
        """Whether all are there."""
        return not self.missing and not self.damaged


def copy_spool(
    source: Spool,
    target: Spool,
    rows: Iterable[HeldBytes],
    entries: Iterable[QuarantineEntry],
    progress: Callable[[Copied], None] = lambda _: None,
    still: Callable[[HeldBytes], bool] = lambda _: True,
) -> Copied:
    """Copy what the rows name, instances and conflicts first, then the quarantine.

    Parameters
    ----------
    still
        Asked about a row whose bytes are not there: False when they went with good reason since the row was read.

    Raises
    ------
    RetriableError
        A disk fails or is full; run it again when that is mended.
    """
    copied = Copied()
    with disk_errors_are_retriable(target.root):
        target.root.mkdir(mode=0o750, parents=True, exist_ok=True)
        present = (row for row in rows if row.bytes_state is BytesState.PRESENT)
        for batch in _batches(present):
            records: defaultdict[Path, list[tuple[HeldBytes, FileSlice]]] = defaultdict(list)
            for row in batch:
                where = source.locate(row.spool_path)
                if isinstance(where, FileSlice):
                    records[where.path].append((row, where))
                else:
                    outcome = _copy_file(where, target, row.spool_path, row.size_bytes, row.checksum)
                    _note(copied, source, row, outcome, still)
            for path, group in records.items():
                for row, is_right in _copy_records(source, target, path, group):
                    _note(copied, source, row, is_right, still)
            progress(copied)
        for entry in entries:
            if entry.bytes_state is BytesState.PRESENT:
                where = source.path(entry.spool_path)
                outcome = _copy_file(where, target, entry.spool_path, entry.size_bytes, None)
                _note(copied, source, entry, outcome)
                if (beside := where.with_suffix(".json")).exists():
                    name = beside.relative_to(source.root).as_posix()
                    _copy_file(beside, target, name, beside.stat().st_size, None)
        progress(copied)
    return copied


def checksum_of(stream: BinaryIO) -> str:
    """The checksum that a row has for an instance.

    Raises
    ------
    UnreadableInstance
        It is none.
    """
    checksum = content_checksum(read_file_meta(stream))
    while piece := stream.read(_READ_AT_ONCE):
        checksum.update(piece)
    return checksum.hexdigest()


def _copy_file(where: Path, target: Spool, spool_path: str, size_bytes: int, checksum: str | None) -> bool | None:
    """Whether it was copied by now; None: it was there before. Without a checksum its name has its hash, or none."""
    if target.size_bytes(spool_path) == size_bytes:
        return None
    try:
        original = where.open("rb")
    except FileNotFoundError:
        return False
    with original, contextlib.ExitStack() as undo:
        file = target.new_file()
        undo.callback(file.discard)
        digest = hashlib.sha256()
        while piece := original.read(_READ_AT_ONCE):
            digest.update(piece)
            file.write(piece)
        if file.size_bytes != size_bytes:
            return False
        if checksum is None:
            if where.suffix == ".dcm" and not digest.hexdigest().startswith(where.stem):
                return False
        else:
            with file.reader() as stream:
                if not _agrees(stream, checksum):
                    return False
        target.path(spool_path).unlink(missing_ok=True)
        target.keep_file(file, spool_path)
        undo.pop_all()
    return True


def _copy_records(
    source: Spool, target: Spool, path: Path, group: list[tuple[HeldBytes, FileSlice]]
) -> list[tuple[HeldBytes, bool | None]]:
    """Records of one segment: all but their first bytes, then, when that is durable, those. Answers as `_copy_file`."""
    copy = target.root / path.relative_to(source.root)
    copy.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    try:
        original = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return [(row, False) for row, _ in group]
    outcomes: list[tuple[HeldBytes, bool | None]] = []
    handle = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        finished: list[tuple[int, bytes]] = []
        for row, where in group:
            preamble = os.pread(original, PREAMBLE_BYTES, where.offset)
            if any(preamble) and os.pread(handle, PREAMBLE_BYTES, where.offset) == preamble:
                outcomes.append((row, None))
                continue
            _copy_range(original, handle, where.offset + PREAMBLE_BYTES, where.offset + where.length)
            with FileSlice(copy, where.offset, where.length).open() as stream:
                is_right = any(preamble) and _agrees(stream, row.checksum)
            if is_right:
                finished.append((where.offset, preamble))
            outcomes.append((row, is_right))
        if finished:
            os.fsync(handle)
            for offset, preamble in finished:
                os.pwrite(handle, preamble, offset)
            os.fsync(handle)
    finally:
        os.close(handle)
        os.close(original)
    for folder in (copy.parent, copy.parent.parent, target.root):
        sync_directory(folder)
    return outcomes


def _copy_range(original: int, handle: int, begin: int, end: int) -> None:
    while begin < end:
        piece = os.pread(original, min(_READ_AT_ONCE, end - begin), begin)
        if not piece:
            return
        begin += os.pwrite(handle, piece, begin)


def _agrees(stream: BinaryIO, checksum: str) -> bool:
    try:
        return checksum_of(stream) == checksum
    except UnreadableInstance:
        return False


def _note(
    copied: Copied,
    source: Spool,
    row: HeldBytes | QuarantineEntry,
    outcome: bool | None,
    still: Callable[[HeldBytes], bool] = lambda _: True,
) -> None:
    if outcome is not False:
        copied.instances += 1
        copied.size_bytes += row.size_bytes
        copied.copied += outcome is True
        return
    if isinstance(row, HeldBytes) and not still(row):
        copied.gone += 1
        return
    if source.exists(row.spool_path):
        copied.damaged += 1
    else:
        copied.missing += 1
    if len(copied.named) < PROBLEMS_NAMED:
        copied.named.append(row.spool_path)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    walk = iter(items)
    while batch := list(islice(walk, ROWS_AT_ONCE)):
        yield batch
