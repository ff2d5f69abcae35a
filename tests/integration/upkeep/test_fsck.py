"""Rows against bytes: every way in which the two can part, found and mended, and no alarm on a node that works."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from iap_node.database.tables import BytesState, ConflictRow, InstanceRow, QuarantineRow
from iap_node.errors import PermanentError
from iap_node.listener.recovery import adopt, checksum_of
from iap_node.records import StoreOutcome
from iap_node.spool import Quarantine
from iap_node.upkeep.fsck import Fault, Problem, Summary, check
from iap_node.upkeep.retention import remove_expired

from .conftest import NOW, Archive
from .test_retention import THIRTY_DAYS

HOURS_AGO_S = 7200.0


def look(
    node: Archive, *, repair: bool = False, deep: bool = False, **options: object
) -> tuple[Summary, list[Problem]]:
    problems: list[Problem] = []

    summary = check(
        node.spool,
        node.database,
        lambda spool_path: checksum_of(node.spool, spool_path),
        deep=deep,
        adopt=(lambda spool_path, facts: adopt(node.spool, node.intake, spool_path, facts)) if repair else None,
        report=problems.append,
        **options,  # type: ignore[arg-type]
    )
    assert sum(summary.found.values()) == len(problems)
    return summary, problems


def faults(node: Archive, **options: object) -> list[Fault]:
    return sorted(problem.fault for problem in look(node, **options)[1])  # type: ignore[arg-type]


def bytes_of(node: Archive, spool_path: str) -> bytes:
    with node.spool.locate(spool_path).open("rb") as stream:
        return stream.read()


def overwrite(node: Archive, spool_path: str, content: bytes) -> None:
    """Put other bytes where those of an instance are, or were."""
    where = node.spool.locate(spool_path)
    if isinstance(where, Path):
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(content)
        age(where)
    else:
        with where.path.open("r+b") as stream:
            stream.seek(where.offset)
            stream.write(content)


def cut_off(node: Archive, spool_path: str, length: int) -> None:
    """End the file, or the segment, in the middle of an instance."""
    where = node.spool.locate(spool_path)
    if isinstance(where, Path):
        os.truncate(where, length)
    else:
        os.truncate(where.path, where.offset + length)


def age(path: Path) -> None:
    """As if it had been written hours ago."""
    at_s = time.time() - HOURS_AGO_S
    os.utime(path, (at_s, at_s))


def forget(node: Archive, series: int, instance: int = 1) -> str:
    """Leave the bytes of an instance without a row; where they are."""
    row = node.row(series, instance)
    with node.database.transaction() as session:
        session.execute(delete(InstanceRow).where(InstanceRow.id == row.id))
    where = node.spool.locate(row.spool_path)
    if isinstance(where, Path):
        age(where)
    return row.spool_path


def is_well(node: Archive) -> bool:
    summary, problems = look(node, deep=True)
    return summary.is_well and not problems


@pytest.fixture
def busy(kept_as: str, node: Archive) -> Archive:
    """A node with everything that a healthy one has: instances, a conflict, an entry of the quarantine."""
    node.settle(1, instances=2, days_ago=1)
    node.receive(2)
    node.receive(2, comment="other bytes")
    node.receive(3)
    node.refuse()
    return node


def test_a_healthy_node_is_well_and_nothing_is_touched(busy: Archive) -> None:
    before = busy.files()
    summary, problems = look(busy, deep=True, repair=True)
    assert problems == [] and summary.is_well
    assert (summary.rows, summary.files) == (6, 6)  # four instances, a conflict, an entry; and as many files
    assert busy.files() == before


def test_an_empty_node_is_well(node: Archive) -> None:
    assert look(node)[0].is_well


def test_missing_bytes_are_told_by_their_instance_and_noted_as_lost_only_when_repaired(busy: Archive) -> None:
    busy.spool.remove(busy.row(1).spool_path)
    summary, (problem,) = look(busy)
    assert not summary.is_well
    assert (problem.fault, problem.sop_instance_uid) == (Fault.MISSING, busy.row(1).sop_instance_uid)
    assert busy.row(1).bytes_state is BytesState.PRESENT
    summary, (problem,) = look(busy, repair=True)
    assert not summary.is_well and not problem.mended and "send it again" in problem.done
    assert busy.row(1).bytes_state is BytesState.LOST and busy.row(1).bytes_gone_at is not None
    assert faults(busy) == [Fault.LOST]


def test_a_lost_instance_that_is_sent_again_is_whole(busy: Archive) -> None:
    busy.spool.remove(busy.row(1).spool_path)
    look(busy, repair=True)
    assert busy.receive(1, days_ago=0) is StoreOutcome.STORED
    assert is_well(busy)


def test_lost_bytes_that_are_there_again_are_noted_as_present(busy: Archive) -> None:
    spool_path = busy.row(1).spool_path
    content = bytes_of(busy, spool_path)
    busy.spool.remove(spool_path)
    look(busy, repair=True)
    overwrite(busy, spool_path, content)
    assert faults(busy) == [Fault.FOUND_AGAIN]
    assert look(busy, repair=True)[0].is_well
    assert busy.row(1).bytes_state is BytesState.PRESENT and is_well(busy)


@pytest.mark.parametrize("deep", [False, True])
def test_bytes_that_were_cut_off_go_to_the_quarantine_and_their_row_is_noted_as_lost(busy: Archive, deep: bool) -> None:
    spool_path = busy.row(3).spool_path  # the last one of its segment
    damaged = bytes_of(busy, spool_path)[:400]
    cut_off(busy, spool_path, 400)
    assert faults(busy, deep=deep) == [Fault.WRONG_SIZE]
    look(busy, deep=deep, repair=True)
    entry = busy.rows(QuarantineRow)[-1]
    assert entry.sop_instance_uid == busy.row(3).sop_instance_uid and "another size" in entry.reason
    assert busy.spool.path(entry.spool_path).read_bytes() == damaged
    assert not busy.has_bytes(3) and busy.row(3).bytes_state is BytesState.LOST
    assert busy.receive(3) is StoreOutcome.STORED
    assert is_well(busy)


def test_a_bit_that_flipped_is_found_by_a_deep_look_only(busy: Archive) -> None:
    content = bytearray(bytes_of(busy, busy.row(1).spool_path))
    content[-5] ^= 1
    overwrite(busy, busy.row(1).spool_path, content)
    assert faults(busy) == []
    assert faults(busy, deep=True) == [Fault.WRONG_CONTENT]
    look(busy, deep=True, repair=True)
    assert busy.row(1).bytes_state is BytesState.LOST
    entry = busy.rows(QuarantineRow)[-1]
    assert "not those that came" in entry.reason and busy.spool.path(entry.spool_path).read_bytes() == content


def test_bytes_that_are_no_instance_any_more_are_found_by_a_deep_look(busy: Archive) -> None:
    overwrite(busy, busy.row(1).spool_path, b"x" * busy.row(1).size_bytes)
    assert faults(busy, deep=True) == [Fault.WRONG_CONTENT]


def test_bytes_without_a_row_are_filed(busy: Archive, kept_as: str) -> None:
    row = busy.row(3)
    spool_path = forget(busy, 3)
    summary, (problem,) = look(busy)
    assert (problem.fault, problem.spool_path, summary.is_well) == (Fault.NO_ROW, row.spool_path, False)
    assert look(busy, repair=True)[0].is_well
    assert busy.row(3).spool_path == spool_path and busy.has_bytes(3)
    if kept_as == "records":  # a record tells what its row is made of
        again = busy.row(3)
        assert (again.received_at, again.source_address) == (row.received_at, row.source_address)
    assert is_well(busy)


def test_copies_without_a_row_of_bytes_that_have_one_are_removed(busy: Archive) -> None:
    spool_path = forget(busy, 3)
    busy.receive(3)
    assert faults(busy) == [Fault.NO_ROW]
    assert look(busy, repair=True)[0].is_well
    assert busy.has_bytes(3) and busy.row(3).spool_path != spool_path and not busy.spool.exists(spool_path)
    assert is_well(busy)


def test_bytes_without_a_row_that_cannot_be_read_go_to_the_quarantine(busy: Archive) -> None:
    spool_path = forget(busy, 3)
    content = bytes_of(busy, spool_path)
    damaged = content[:400] + b"x" * (len(content) - 400)  # file meta and the first elements are as they were
    overwrite(busy, spool_path, damaged)
    summary, (problem,) = look(busy, repair=True)
    assert problem.fault is Fault.NO_ROW and "quarantine" in problem.done and summary.is_well
    entry = busy.rows(QuarantineRow)[-1]
    assert entry.reason == "it had no row and cannot be read"
    assert busy.spool.path(entry.spool_path).read_bytes() == damaged
    assert not busy.spool.exists(spool_path) and is_well(busy)


def test_bytes_that_came_a_moment_ago_are_left_for_their_row_to_follow(busy: Archive) -> None:
    busy.receive(4, days_ago=(NOW - datetime.now(UTC)) / timedelta(days=1))
    spool_path = forget(busy, 4)
    where = busy.spool.locate(spool_path)
    if isinstance(where, Path):
        where.touch()
    summary, problems = look(busy, repair=True)
    assert problems == [] and summary.too_young == 1 and busy.spool.exists(spool_path)
    assert faults(busy, settled_after_s=-1.0) == [Fault.NO_ROW]


def test_torn_temporary_files_are_removed_and_those_that_are_written_are_not(busy: Archive) -> None:
    torn, writing = busy.spool.new_file(), busy.spool.new_file()
    torn.write(b"half")
    writing.write(b"half")
    age(busy.spool.root / "incoming" / sorted(busy.files("incoming"))[0].split("/")[-1])
    assert faults(busy) == [Fault.TORN]
    assert look(busy, repair=True)[0].is_well
    assert len(busy.files("incoming")) == 1


def test_bytes_that_a_power_cut_brought_back_after_retention_are_removed(busy: Archive) -> None:
    busy.settle(4, days_ago=100)
    spool_path = busy.row(4).spool_path
    content = bytes_of(busy, spool_path)
    remove_expired(busy.spool, busy.database, THIRTY_DAYS, NOW)
    overwrite(busy, spool_path, content)
    assert faults(busy) == [Fault.NOT_REMOVED]  # and not as bytes without a row, which would be filed again
    assert look(busy, repair=True)[0].is_well
    assert not busy.spool.exists(spool_path) and is_well(busy)


def test_a_segment_in_which_nothing_lives_is_removed_unless_somebody_writes_to_it(
    make_archive: Callable[[], Archive],
) -> None:
    node, other = make_archive(), make_archive()
    node.receive(1)
    other.receive(2)
    node.intake.close()
    (segment,) = {node.spool.locate(node.row(1).spool_path).path}  # type: ignore[union-attr]
    with segment.open("r+b") as stream:  # as a crash leaves it: the record is erased, the segment not yet removed
        stream.write(bytes(segment.stat().st_size))
    with node.database.transaction() as session:
        session.execute(delete(InstanceRow).where(InstanceRow.id == node.row(1).id))
    other.spool.remove(other.row(2).spool_path)
    with node.database.transaction() as session:
        session.execute(delete(InstanceRow))
    assert faults(other) == [Fault.DEAD_SEGMENT]
    assert look(other, repair=True)[0].is_well
    assert not segment.exists() and len(list(other.spool.segments())) == 1
    assert other.receive(2) is StoreOutcome.STORED
    assert is_well(other)


def test_an_interrupted_retention_is_none_of_its_business(busy: Archive) -> None:
    with busy.database.transaction() as session:
        session.execute(update(InstanceRow).values(bytes_state=BytesState.DELETING))
    busy.spool.remove(busy.row(1).spool_path)
    assert is_well(busy)


def test_a_conflict_whose_bytes_are_gone_is_noted_as_lost(busy: Archive) -> None:
    (conflict,) = busy.rows(ConflictRow)
    busy.spool.remove(conflict.spool_path)
    assert faults(busy) == [Fault.MISSING]
    look(busy, repair=True)
    assert busy.rows(ConflictRow)[0].bytes_state is BytesState.LOST
    assert busy.receive(2, comment="other bytes") is StoreOutcome.CONFLICT
    assert is_well(busy)


def test_an_entry_of_the_quarantine_whose_bytes_are_gone_is_noted_as_lost(busy: Archive) -> None:
    (entry,) = busy.rows(QuarantineRow)
    Quarantine(busy.spool).remove(entry.spool_path)
    assert faults(busy) == [Fault.QUARANTINE_MISSING]
    summary, (problem,) = look(busy, repair=True)
    assert not summary.is_well and f"quarantine delete {entry.id}" in problem.done
    assert busy.rows(QuarantineRow)[0].bytes_state is BytesState.LOST


@pytest.mark.parametrize("with_notes", [True, False])
def test_quarantined_bytes_without_an_entry_get_one(busy: Archive, with_notes: bool) -> None:
    (entry,) = busy.rows(QuarantineRow)
    with busy.database.transaction() as session:
        session.execute(delete(QuarantineRow))
    path = busy.spool.path(entry.spool_path)
    age(path)
    if not with_notes:
        path.with_suffix(".json").unlink()
    assert faults(busy) == [Fault.QUARANTINE_NO_ROW]
    assert look(busy, repair=True)[0].is_well
    (again,) = busy.rows(QuarantineRow)
    assert (again.spool_path, again.size_bytes) == (entry.spool_path, entry.size_bytes)
    if with_notes:
        assert (again.reason, again.sop_instance_uid) == (entry.reason, entry.sop_instance_uid)
    assert is_well(busy)


def test_what_changes_while_it_looks_is_no_alarm(busy: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    size_bytes = busy.spool.size_bytes
    row = busy.row(1)

    def just_then(spool_path: str) -> int | None:
        if spool_path == row.spool_path:  # retention takes it between the row and the look at its bytes
            with busy.database.transaction() as session:
                session.execute(
                    update(InstanceRow).where(InstanceRow.id == row.id).values(bytes_state=BytesState.DELETING)
                )
            busy.spool.remove(spool_path)
        return size_bytes(spool_path)

    monkeypatch.setattr(busy.spool, "size_bytes", just_then)
    assert faults(busy) == []


def test_a_disk_that_is_not_mounted_is_not_taken_for_one_that_lost_everything(busy: Archive, tmp_path: Path) -> None:
    busy.spool.root.rename(tmp_path / "elsewhere")
    with pytest.raises(PermanentError, match="mounted"):
        look(busy, repair=True)
    busy.spool.root.mkdir()
    with pytest.raises(PermanentError, match="mounted"):
        look(busy, repair=True)
    assert {row.bytes_state for row in busy.rows()} == {BytesState.PRESENT}


def test_many_rows_and_files_are_walked_in_batches(
    kept_as: str, node: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iap_node.database.consistency.ROWS_AT_ONCE", 3)
    monkeypatch.setattr("iap_node.upkeep.fsck.PATHS_AT_ONCE", 3)
    for series in range(1, 4):
        for instance in range(1, 4):
            node.receive(series, instance)
            node.receive(series, instance, comment="other bytes")
    summary, problems = look(node)
    assert (summary.rows, summary.files, problems) == (18, 18, [])
    node.spool.remove(*(node.row(2, number).spool_path for number in (1, 3)))
    assert faults(node) == [Fault.MISSING] * 2


def test_progress_is_told_while_it_looks(busy: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iap_node.upkeep.fsck.PATHS_AT_ONCE", 1)
    told: list[tuple[int, int]] = []
    look(busy, progress=lambda summary: told.append((summary.rows, summary.files)))
    assert told[-1] == (6, 6) and told == sorted(told) and len(told) > 3
