"""Rows against bytes, both ways, and back in order. Called by `iap-node fsck`.

A node may go on working meanwhile: what looks wrong is asked for again before it is believed, and bytes that came a
moment ago are left for their row to follow. Nothing is deleted silently: bytes without a row are filed, damaged ones go
to the quarantine, rows whose bytes are gone are marked as lost until they come again. Memory does not grow with the
archive: both sides are walked in batches.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TypeVar

from iap_node.database.consistency import HeldBytes, all_held_bytes, note_bytes, unchanged
from iap_node.database.engine import Database
from iap_node.database.quarantine import (
    QuarantineEntry,
    all_entries,
    find_entries,
    mark_entry_lost,
    paths_without_entry,
)
from iap_node.database.spooled import paths_without_row
from iap_node.database.tables import BytesState
from iap_node.errors import PermanentError, UnreadableInstance
from iap_node.spool import Facts, Quarantine, RecordKind, Spool, SpooledFile
from iap_node.upkeep.quarantine import enter_again, put_aside_copy

# Bytes younger than this may belong to a store that is between its sync and its row, which takes a fraction of a second
# unless the database is away.
SETTLED_AFTER_S = 600.0

Adopt = Callable[[str, Facts | None], bool]

PATHS_AT_ONCE = 500

Item = TypeVar("Item")


class Fault(StrEnum):
    """What can be wrong."""

    MISSING = "the bytes of a row are gone"
    WRONG_SIZE = "the bytes of a row have another size"
    WRONG_CONTENT = "the bytes of a row are not those that came"  # found by a deep look only
    FOUND_AGAIN = "bytes that were lost are there again"
    LOST = "lost, as noted before"
    NOT_REMOVED = "bytes that were deleted are there"
    NO_ROW = "bytes without a row"
    TORN = "a torn temporary file"
    DEAD_SEGMENT = "a segment in which nothing lives"
    QUARANTINE_MISSING = "the bytes of a quarantine entry are gone"
    QUARANTINE_NO_ROW = "quarantined bytes without an entry"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and what was done about it."""

    fault: Fault
    spool_path: str
    sop_instance_uid: str = ""
    done: str = ""  # by --repair
    mended: bool = False  # False: a person must act, or run --repair


@dataclass(frozen=True, slots=True)
class _Found:
    """An instance that lies in the spool."""

    spool_path: str
    received_at_s: float  # seconds since the epoch
    facts: Facts | None  # of its record


@dataclass(slots=True)
class Summary:
    """What was looked at and found."""

    rows: int = 0
    files: int = 0
    too_young: int = 0  # files without a row that may be on their way
    found: Counter[Fault] = field(default_factory=Counter)
    mended: Counter[Fault] = field(default_factory=Counter)

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong, or nothing is any more."""
        return self.found == self.mended


def check(
    spool: Spool,
    database: Database,
    checksum_of: Callable[[str], str],
    *,
    deep: bool = False,
    adopt: Adopt | None = None,
    settled_after_s: float = SETTLED_AFTER_S,
    report: Callable[[Problem], None] = lambda _: None,
    progress: Callable[[Summary], None] = lambda _: None,
) -> Summary:
    """Look everything through, and repair it where `adopt` is given.

    Parameters
    ----------
    checksum_of
        The checksum, as in the rows, of the instance that lies at a spool path. Raises UnreadableInstance when it is
        none any more, OSError when the disk cannot read it.
    deep
        Read all bytes and compare their checksums, not only whether they are there and how many.
    adopt
        Repair: files the instance that lies at a spool path without a row, with what its segment knows of it; False
        when it cannot be read. None: only look.
    settled_after_s
        Leave files without a row that are younger than this: their row may be about to come.
    report
        Told of every problem, as it is found.
    progress
        Told how far it is, every few rows and files.

    Raises
    ------
    PermanentError
        The spool is not there.
    RetriableError
        The disk or the database does not work.
    """
    run = _Check(spool, database, checksum_of, deep, adopt, time.time() - settled_after_s, report, progress)
    run.look_at_spool()
    for held in all_held_bytes(database):
        run.look_at_row(held)
    for entry in all_entries(database):
        run.look_at_entry(entry)
    for files in _batches(spool.instances()):
        run.look_at_instances([_Found(file.spool_path, file.modified_at_s, None) for file in files])
    for segment in spool.segments():
        run.look_at_segment(segment)
    for files in _batches(Quarantine(spool).files()):
        run.look_at_quarantined(files)
    run.look_at_torn(settled_after_s)
    progress(run.summary)
    return run.summary


@dataclass(slots=True)
class _Check:
    """One run of fsck."""

    spool: Spool
    database: Database
    checksum_of: Callable[[str], str]
    deep: bool
    adopt: Adopt | None
    settled_before_s: float
    report: Callable[[Problem], None]
    progress: Callable[[Summary], None]
    summary: Summary = field(default_factory=Summary)

    @property
    def repairs(self) -> bool:
        """Whether what is wrong is to be mended."""
        return self.adopt is not None

    def look_at_spool(self) -> None:
        """Refuse to take a disk that is not mounted for one that lost everything."""
        if next(iter(all_held_bytes(self.database)), None) is None:
            return
        root = self.spool.root
        if not root.is_dir() or not any(child.is_dir() for child in root.iterdir()):
            raise PermanentError(f"there is no spool at {self.spool.root}: is its disk mounted?")

    def look_at_row(self, held: HeldBytes) -> None:
        """One row of an instance or a conflict against its bytes."""
        self.summary.rows += 1
        if self.summary.rows % PATHS_AT_ONCE == 0:
            self.progress(self.summary)
        match held.bytes_state:
            case BytesState.PRESENT:
                fault = self._fault_of_bytes(held, deep=self.deep)
                if fault is not None and self._still(held):
                    self._found_damage(fault, held)
            case BytesState.LOST:
                if self._fault_of_bytes(held, deep=True) is None and self._still(held):
                    done = self._note(held, BytesState.PRESENT, "noted as present")
                    self._found(Fault.FOUND_AGAIN, held.spool_path, held.sop_instance_uid, done, mended=bool(done))
                elif self._still(held):
                    self._found(Fault.LOST, held.spool_path, held.sop_instance_uid)
            case BytesState.DELETED:
                if self.spool.exists(held.spool_path) and self._still(held):
                    if self.repairs:
                        self.spool.remove(held.spool_path)
                    done = "removed" if self.repairs else ""
                    self._found(Fault.NOT_REMOVED, held.spool_path, held.sop_instance_uid, done, mended=self.repairs)
            case BytesState.DELETING:
                pass  # retention is at it, and finishes it in its next run

    def look_at_entry(self, entry: QuarantineEntry) -> None:
        """One entry of the quarantine against its bytes."""
        self.summary.rows += 1
        if self.spool.exists(entry.spool_path):
            return
        with self.database.reading() as session:
            if not find_entries(session, [entry.id]):  # deleted or filed meanwhile
                return
        done = ""
        if self.repairs and entry.bytes_state is not BytesState.LOST:
            with self.database.transaction() as session:
                mark_entry_lost(session, entry.id)
            done = f"noted as lost; `iap-node quarantine delete {entry.id}` forgets it"
        self._found(Fault.QUARANTINE_MISSING, entry.spool_path, entry.sop_instance_uid, done)

    def look_at_instances(self, found: list[_Found]) -> None:
        """Files, or records of a segment, against the rows."""
        self.summary.files += len(found)
        self.progress(self.summary)
        with self.database.reading() as session:
            unnamed = set(paths_without_row(session, [one.spool_path for one in found]))
        for one in found:
            if one.spool_path not in unnamed or not self.spool.exists(one.spool_path):
                continue
            if one.received_at_s >= self.settled_before_s:
                self.summary.too_young += 1
            elif self.adopt is None:
                self._found(Fault.NO_ROW, one.spool_path)
            elif self._is_whole(one) and self.adopt(one.spool_path, one.facts):
                self._found(Fault.NO_ROW, one.spool_path, done="filed", mended=True)
            else:
                if self.spool.exists(one.spool_path):
                    self._set_aside(one.spool_path, "it had no row and cannot be read")
                self._found(Fault.NO_ROW, one.spool_path, done="cannot be read: put into the quarantine", mended=True)

    def look_at_segment(self, segment: Path) -> None:
        """The records of a segment against the rows; the notes in it tell of files, which are looked at themselves."""
        instances = (
            _Found(spool_path, record.facts.received_at.timestamp(), record.facts)
            for spool_path, record in self.spool.records(segment, verify=False)
            if record.kind is RecordKind.INSTANCE
        )
        for batch in _batches(instances):
            self.look_at_instances(batch)
        if self.spool.is_dead(segment):
            if self.repairs:
                self.spool.remove_dead(segment)
            done = "removed" if self.repairs else ""
            name = segment.relative_to(self.spool.root).as_posix()
            self._found(Fault.DEAD_SEGMENT, name, done=done, mended=self.repairs)

    def look_at_quarantined(self, files: list[SpooledFile]) -> None:
        """Files in the quarantine against its entries."""
        self.summary.files += len(files)
        with self.database.reading() as session:
            unnamed = set(paths_without_entry(session, [file.spool_path for file in files]))
        for file in files:
            if file.spool_path not in unnamed or not self.spool.exists(file.spool_path):
                continue
            if file.modified_at_s >= self.settled_before_s:
                self.summary.too_young += 1
                continue
            if self.repairs:
                enter_again(self.spool, self.database, file)
            done = "entered again" if self.repairs else ""
            self._found(Fault.QUARANTINE_NO_ROW, file.spool_path, done=done, mended=self.repairs)

    def look_at_torn(self, settled_after_s: float) -> None:
        """Temporary files that nobody writes to any more."""
        torn = self.spool.sweep if self.repairs else self.spool.torn
        for file in torn(older_than_s=settled_after_s):
            self._found(Fault.TORN, file.spool_path, done="removed" if self.repairs else "", mended=self.repairs)

    def _fault_of_bytes(self, held: HeldBytes, *, deep: bool) -> Fault | None:
        size = self.spool.size_bytes(held.spool_path)
        if size is None:
            return Fault.MISSING
        if size != held.size_bytes:
            return Fault.WRONG_SIZE
        if not deep:
            return None
        try:
            return None if self.checksum_of(held.spool_path) == held.checksum else Fault.WRONG_CONTENT
        except (UnreadableInstance, OSError):
            return Fault.WRONG_CONTENT

    def _is_whole(self, found: _Found) -> bool:
        """Whether a record's bytes are those that its segment tells of; of a file nobody does."""
        if found.facts is None:
            return True
        try:
            return self.checksum_of(found.spool_path) == found.facts.checksum.hex()
        except (UnreadableInstance, OSError):
            return False

    def _still(self, held: HeldBytes) -> bool:
        with self.database.reading() as session:
            return unchanged(session, held)

    def _found_damage(self, fault: Fault, held: HeldBytes) -> None:
        if not self.repairs:
            self._found(fault, held.spool_path, held.sop_instance_uid)
            return
        done = "noted as lost; send it again to restore it"
        if fault is not Fault.MISSING:
            self._set_aside(held.spool_path, f"{fault}; its row is noted as lost", held, remove=False)
            done = f"put into the quarantine, {done}"
        done = self._note(held, BytesState.LOST, done)
        if done and fault is not Fault.MISSING:
            self.spool.remove(held.spool_path)
        self._found(fault, held.spool_path, held.sop_instance_uid, done)

    def _note(self, held: HeldBytes, state: BytesState, done: str) -> str:
        if not self.repairs:
            return ""
        with self.database.transaction() as session:
            return done if note_bytes(session, held, state, datetime.now(UTC)) else ""

    def _set_aside(
        self, spool_path: str, reason: str, held: HeldBytes | None = None, *, remove: bool = True
    ) -> None:
        """Copy bytes into the quarantine, with an entry; then remove them where they lay."""
        facts = {
            "reason": reason,
            "found_at": spool_path,
            "sop_instance_uid": "" if held is None else held.sop_instance_uid,
            "calling_ae_title": "" if held is None else held.calling_ae_title,
            "source_address": "" if held is None else held.source_address,
        }
        put_aside_copy(self.spool, self.database, spool_path, facts, datetime.now(UTC))
        if remove:
            self.spool.remove(spool_path)

    def _found(
        self, fault: Fault, spool_path: str, sop_instance_uid: str = "", done: str = "", *, mended: bool = False
    ) -> None:
        self.summary.found[fault] += 1
        self.summary.mended[fault] += mended
        self.report(Problem(fault, spool_path, sop_instance_uid, done, mended))


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    walk = iter(items)
    while batch := list(islice(walk, PATHS_AT_ONCE)):
        yield batch
