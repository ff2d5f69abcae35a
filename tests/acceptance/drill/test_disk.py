"""The disk of the power-cut drill: what a flush vouches for survives, what it does not may go, and nothing else is
ever there."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.drill.disk import Disk, RecordIncomplete
from tests.acceptance.drill.recorder import Entry, Operation

ROOT = "/node"
NEW = os.O_RDWR | os.O_CREAT


def entry(operation: Operation, descriptor: int = -1, offset: int = 0, data: bytes = b"", **facts: object) -> Entry:
    defaults: dict[str, object] = {"length": len(data), "path": "", "other": ""}
    return Entry(operation=operation, process=1, descriptor=descriptor, offset=offset, time_ns=1, data=data,
                 **(defaults | facts))  # type: ignore[arg-type]  # fmt: skip


def opened(path: str, descriptor: int, flags: int = NEW) -> Entry:
    return entry(Operation.OPEN, descriptor, flags, path=f"{ROOT}{path}")


def synced(descriptor: int, number: int) -> list[Entry]:
    return [entry(Operation.SYNC_BEGINS, descriptor, number), entry(Operation.SYNCED, descriptor, number)]


def folder_synced(path: str, number: int) -> list[Entry]:
    return [opened(path, 9, os.O_RDONLY), *synced(9, number), entry(Operation.CLOSE, 9)]


def written(data: bytes, offset: int = 0, descriptor: int = 3) -> Entry:
    return entry(Operation.WRITE, descriptor, offset, data)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    (tmp_path / "before").mkdir()
    return tmp_path / "before"


def states(before: Path, entries: list[Entry], n: int = 60) -> Iterator[dict[str, bytes | None]]:
    """What `n` power cuts after `entries` leave: content by path, None for folders."""
    disk = Disk(Path(ROOT), before)
    for one in entries:
        disk.replay(one)
    for seed in range(n):
        folder = before.parent / f"after-{seed}"
        disk.cut_power(random.Random(seed), folder)
        paths = sorted(folder.rglob("*"))
        found = {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in paths}
        shutil.rmtree(folder)
        yield found


def test_what_was_flushed_with_its_name_is_always_there(before: Path) -> None:
    entries = [opened("/a", 3), written(b"one" * 3000), *synced(3, 1), *folder_synced("", 2)]
    assert all(state == {"a": b"one" * 3000} for state in states(before, entries))


def test_a_flushed_file_whose_name_is_not_may_be_gone(before: Path) -> None:
    entries = [opened("/a", 3), written(b"one"), *synced(3, 1)]
    assert {len(state) for state in states(before, entries)} == {0, 1}


def test_a_named_file_that_is_not_flushed_may_hold_any_part_of_itself(before: Path) -> None:
    content = bytes(range(1, 256)) * 32  # 16 sectors of 512 bytes, the last one short
    entries = [opened("/a", 3), *folder_synced("", 1), written(content)]
    found = [state["a"] for state in states(before, entries)]
    assert {b"", content} < set(found)
    for state in found:
        assert state is not None
        for start in range(0, len(state), 512):
            piece = state[start : start + 512]
            assert piece in (content[start : start + 512], bytes(len(piece)))
    assert len(set(found)) > 10


def test_a_flush_vouches_only_for_what_was_written_before_it_began(before: Path) -> None:
    begins, ends = synced(3, 2)
    first, second = b"1" * 512, b"2" * 512
    entries = [opened("/a", 3), *folder_synced("", 1), written(first), begins, written(second, 512), ends]
    found = {state["a"] for state in states(before, entries)}
    assert all(state is not None and state.startswith(first) for state in found)
    assert {first, first + second} <= found


def test_a_flush_that_did_not_end_vouches_for_nothing(before: Path) -> None:
    entries = [opened("/a", 3), *folder_synced("", 1), written(b"one"), entry(Operation.SYNC_BEGINS, 3, 2)]
    assert b"" in {state["a"] for state in states(before, entries)}


def test_an_overwritten_sector_is_old_or_new(before: Path) -> None:
    (before / "a").write_bytes(b"old" * 170 + b"..")
    entries = [opened("/a", 3, os.O_RDWR), written(b"new")]
    assert {state["a"] for state in states(before, entries)} == {
        b"old" * 170 + b"..",
        b"new" + b"old" * 169 + b"..",
    }


def test_a_rename_is_there_as_a_whole_or_not_at_all(before: Path) -> None:
    (before / "incoming").mkdir()
    (before / "incoming" / "x").write_bytes(b"content")
    (before / "final").mkdir()
    rename = entry(Operation.RENAME, path=f"{ROOT}/incoming/x", other=f"{ROOT}/final/y")
    here = {"final": None, "incoming": None, "incoming/x": b"content"}
    there = {"final": None, "final/y": b"content", "incoming": None}
    found = list(states(before, [rename]))
    assert here in found and there in found
    assert all(state in (here, there) for state in found)
    assert all(state == there for state in states(before, [rename, *folder_synced("/final", 1)]))


def test_names_in_a_folder_whose_own_name_is_not_flushed_may_be_gone(before: Path) -> None:
    made = entry(Operation.MKDIR, path=f"{ROOT}/d")
    entries = [made, opened("/d/a", 3), written(b"one"), *synced(3, 1), *folder_synced("/d", 2)]
    found = list(states(before, entries))
    assert {} in found
    assert all(state in ({}, {"d": None, "d/a": b"one"}) for state in found)
    assert all(len(state) == 2 for state in states(before, [*entries, *folder_synced("", 3)]))


def test_a_removed_file_may_come_back_until_its_folder_is_flushed(before: Path) -> None:
    (before / "a").write_bytes(b"old")
    removed = entry(Operation.UNLINK, path=f"{ROOT}/a")
    assert {"a" in state for state in states(before, [removed])} == {True, False}
    assert not any(states(before, [removed, *folder_synced("", 1)]))


def test_a_cut_file_and_a_hole_are_old_or_new_sector_by_sector(before: Path) -> None:
    (before / "a").write_bytes(b"x" * 2048)
    entries = [opened("/a", 3, os.O_RDWR), entry(Operation.PUNCH, 3, 512, length=512)]
    assert {state["a"] for state in states(before, entries)} == {
        b"x" * 2048,
        b"x" * 512 + bytes(512) + b"x" * 1024,
    }
    (before / "a").write_bytes(b"x" * 2048)
    entries = [opened("/a", 3, os.O_RDWR), entry(Operation.TRUNCATE, 3, 512), *synced(3, 1)]
    assert all(state["a"] == b"x" * 512 for state in states(before, entries))


def test_zeros_that_were_flushed_ahead_make_room_and_nothing_else(before: Path) -> None:
    size = 1 << 20
    ahead = [entry(Operation.OPEN, 3, NEW, path=f"{ROOT}/s"), entry(Operation.ZERO, 3, 0, length=size)]
    entries = [*ahead, *synced(3, 1), *folder_synced("", 2), written(b"record" * 1000, 4096)]
    found = [state["s"] for state in states(before, entries, 30)]
    assert all(state is not None and len(state) == size for state in found)
    assert {bytes(size), bytes(4096) + b"record" * 1000 + bytes(size - 4096 - 6000)} < set(found)


def test_a_record_that_does_not_explain_the_files_is_refused(before: Path, tmp_path: Path) -> None:
    disk = Disk(Path(ROOT), before)
    with pytest.raises(RecordIncomplete):
        disk.replay(written(b"to a file that was never opened"))
    with pytest.raises(RecordIncomplete):
        disk.replay(entry(Operation.UNMODELLED, path="sendfile"))
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_bytes(b"nobody wrote this")
    with pytest.raises(RecordIncomplete):
        disk.compare(tmp_path / "real")
