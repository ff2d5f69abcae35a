"""Copies in a folder: whole under their name or not there, whatever ends the run."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from iap_node.correction.copies import Original
from iap_node.correction.folder import write_copies
from iap_node.errors import PermanentError, RetriableError
from tests.unit.correction.conftest import Copies


@pytest.fixture
def copies(write: Callable[..., Original], copies_of: Callable[..., Copies]) -> Copies:
    return copies_of([write(number) for number in (1, 2, 3)], "RepetitionTime=2500")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_copies_are_named_by_their_uid_and_a_second_run_leaves_them_alone(copies: Copies, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    first = list(write_copies(copies.instances, folder))
    assert names(folder) == {f"{copy.sop_instance_uid}.dcm" for copy in copies.instances}
    assert [one.path.read_bytes() for one in first] == [copies.content(index) for index in range(3)]
    assert not any(one.was_there for one in first)
    times = [one.path.stat().st_mtime_ns for one in first]
    again = list(write_copies(copies.instances, folder))
    assert all(one.was_there for one in again)
    assert [one.path.stat().st_mtime_ns for one in again] == times


def test_another_file_of_the_same_name_is_never_overwritten(copies: Copies, tmp_path: Path) -> None:
    theirs = tmp_path / f"{copies.instances[0].sop_instance_uid}.dcm"
    theirs.write_bytes(b"something else")
    with pytest.raises(PermanentError, match="another file than the copy"):
        list(write_copies(copies.instances, tmp_path))
    assert theirs.read_bytes() == b"something else"


def test_a_full_disk_leaves_whole_copies_only_and_the_next_run_goes_on(
    copies: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    flush, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) >= 5:  # folders are flushed too
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RetriableError, match=r"the disk of .* is full"):
        list(write_copies(copies.instances, folder))
    there = names(folder)
    assert there == {f"{copies.instances[index].sop_instance_uid}.dcm" for index in range(len(there))}
    assert 0 < len(there) < 3
    monkeypatch.undo()
    written = list(write_copies(copies.instances, folder))
    assert sum(one.was_there for one in written) == len(there)
    assert [one.path.read_bytes() for one in written] == [copies.content(index) for index in range(3)]


def test_what_a_killed_run_left_half_is_taken_over(copies: Copies, tmp_path: Path) -> None:
    half = tmp_path / f".{copies.instances[0].sop_instance_uid}.dcm.part"
    half.write_bytes(b"x" * 100_000)
    list(write_copies(copies.instances, tmp_path))
    assert not half.exists()
    assert (tmp_path / f"{copies.instances[0].sop_instance_uid}.dcm").read_bytes() == copies.content(0)


def test_two_runs_do_not_write_one_copy_at_the_same_moment(copies: Copies, tmp_path: Path) -> None:
    with (tmp_path / f".{copies.instances[0].sop_instance_uid}.dcm.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(PermanentError, match="another run writes"):
            list(write_copies(copies.instances, tmp_path))


def test_a_copy_that_another_run_finishes_at_that_moment_is_not_begun_again(
    copies: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"{copies.instances[0].sop_instance_uid}.dcm"
    part = tmp_path / f".{path.name}.part"
    lock, whole = fcntl.flock, copies.content(0)

    def finished(handle: int, how: int) -> None:  # the other run had the lock until here
        monkeypatch.undo()
        part.write_bytes(whole)
        part.rename(path)
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", finished)
    with pytest.raises(PermanentError, match="another run"):
        list(write_copies(copies.instances[:1], tmp_path))
    assert path.read_bytes() == whole
    (again,) = write_copies(copies.instances[:1], tmp_path)
    assert again.was_there


def test_an_original_that_is_gone_is_named(copies: Copies, tmp_path: Path) -> None:
    copies.instances[1].original.file.unlink()
    written = write_copies(copies.instances, tmp_path / "out")
    next(written)
    with pytest.raises(PermanentError, match=f"instance {copies.instances[1].original.sop_instance_uid} are gone"):
        next(written)
    assert len(names(tmp_path / "out")) == 1


def test_a_killed_run_leaves_no_half_copy_under_a_name(copies: Copies, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    flush, calls = os.fsync, []

    def die(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(handle)

    child = os.fork()
    if child == 0:
        os.fsync = die  # type: ignore[assignment]
        list(write_copies(copies.instances, folder))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    whole = {f"{copy.sop_instance_uid}.dcm": copies.content(index) for index, copy in enumerate(copies.instances)}
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(there) > 0
    assert all(whole[name] == content for name, content in there.items() if not name.startswith("."))
    list(write_copies(copies.instances, folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_memory_does_not_grow_with_the_pixel_data(
    write: Callable[..., Original], copies_of: Callable[..., Copies], tmp_path: Path
) -> None:
    n_bytes = 48 * 1024**2
    large = copies_of([write(1, PixelData=bytes(n_bytes))], "RepetitionTime=2500")
    tracemalloc.start()
    (written,) = write_copies(large.instances, tmp_path / "out")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert written.path.stat().st_size > n_bytes
    assert peak < n_bytes / 6
