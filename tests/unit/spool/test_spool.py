"""The spool on a real file system. Not covered: what a disk does with fsync when the power goes."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from iap_node.errors import PermanentError, RetriableError
from iap_node.spool import Quarantine, Spool
from tests.spooled import write_file

SERIES = "1.2.840.99.1"
INSTANCE = "1.2.840.99.1.7"
RECEIVED_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def files_below(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_written_instance_holds_the_parts_and_nothing_else_is_left(spool: Spool) -> None:
    name = spool.new_name(SERIES, INSTANCE)
    size = write_file(spool, name, [b"preamble", memoryview(b"data set")])
    assert spool.path(name).read_bytes() == b"preambledata set"
    assert size == len(b"preambledata set")
    assert files_below(spool.root) == [spool.path(name)]


def test_two_receptions_of_one_instance_never_share_a_name(spool: Spool) -> None:
    names = {spool.new_name(SERIES, INSTANCE) for _ in range(200)}
    assert len(names) == 200
    assert len({Path(name).parent for name in names}) == 1


def test_names_are_made_of_uids_only(spool: Spool) -> None:
    for unfit in ("../../etc/passwd", "1.2/3", "", "A^B", "1." * 40):
        with pytest.raises(ValueError, match="not fit"):
            spool.new_name(SERIES, unfit)
        with pytest.raises(ValueError, match="not fit"):
            spool.new_name(unfit, INSTANCE)


@pytest.mark.parametrize("name", ["/etc/passwd", "series/../../secret", "", "."])
def test_a_path_never_leads_out_of_the_spool(spool: Spool, name: str) -> None:
    with pytest.raises(PermanentError, match="repair the row"):
        spool.path(name)


def test_file_and_every_new_directory_are_synced_in_the_right_order(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    fsync = os.fsync

    def recording_fsync(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    name = spool.new_name(SERIES, INSTANCE)
    write_file(spool, name, [b"bytes"])
    series = spool.path(name).parent
    assert series.parent in synced  # names the series' directory
    assert series.parent.parent in synced
    assert spool.root in synced
    assert synced[-2].parent == spool.root / "incoming"  # the bytes, under their temporary name
    assert synced[-1] == series  # then the final name
    synced.clear()
    write_file(spool, spool.new_name(SERIES, INSTANCE), [b"bytes"])
    assert len(synced) == 2  # the directories are known to be durable


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "make room"), (errno.EIO, "check the disk")])
@pytest.mark.parametrize("failing_sync", [0, 1])
def test_failing_disk_leaves_nothing_behind(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str, failing_sync: int
) -> None:
    write_file(spool, spool.new_name(SERIES, INSTANCE), [b"first"])
    before = files_below(spool.root)
    fsync, calls = os.fsync, iter(range(1000))

    def failing_fsync(handle: int) -> None:
        if next(calls) == failing_sync:  # 0: of the file, 1: of its directory
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", failing_fsync)
    with pytest.raises(RetriableError, match=remedy):
        write_file(spool, spool.new_name(SERIES, INSTANCE), [b"second"])
    assert files_below(spool.root) == before


def test_series_directory_that_was_removed_meanwhile_is_made_again(spool: Spool) -> None:
    first = spool.new_name(SERIES, INSTANCE)
    write_file(spool, first, [b"first"])
    spool.remove(first)
    spool.path(first).parent.rmdir()
    second = spool.new_name(SERIES, INSTANCE)
    write_file(spool, second, [b"second"])
    assert spool.path(second).read_bytes() == b"second"


def test_removing_twice_is_no_error(spool: Spool) -> None:
    name = spool.new_name(SERIES, INSTANCE)
    write_file(spool, name, [b"bytes"])
    spool.remove(name)
    spool.remove(name)
    assert files_below(spool.root) == []


def test_many_threads_write_one_series_at_once(spool: Spool) -> None:
    failures: list[BaseException] = []

    def write_some(worker: int) -> None:
        try:
            for index in range(10):
                uid = f"{INSTANCE}.{worker}.{index}"
                name = Spool(spool.root).new_name(SERIES, uid)
                write_file(spool, name, [uid.encode()])
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test is to see it
            failures.append(error)

    threads = [threading.Thread(target=write_some, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    files = list(spool.instances())
    assert len(files) == 80
    for file in files:
        content = spool.path(file.spool_path).read_text()
        assert Path(file.spool_path).name.startswith(f"{content}.")


def test_sweep_removes_old_temporary_files_and_nothing_else(spool: Spool) -> None:
    name = spool.new_name(SERIES, INSTANCE)
    write_file(spool, name, [b"bytes"])
    os.utime(spool.path(name), (0, 0))
    torn, being_written = spool.root / "incoming" / "old.part", spool.root / "incoming" / "new.part"
    torn.write_bytes(b"half an inst")
    os.utime(torn, (0, 0))
    being_written.write_bytes(b"half an inst")
    removed = spool.sweep(older_than_s=3600)
    assert [file.spool_path for file in removed] == ["incoming/old.part"]
    assert files_below(spool.root) == [being_written, spool.path(name)]


def test_instances_of_series_that_did_not_change_can_be_left_out(spool: Spool) -> None:
    old, new = spool.new_name(SERIES, INSTANCE), spool.new_name("1.2.3", "1.2.3.4")
    for name in (old, new):
        write_file(spool, name, [b"bytes"])
    os.utime(spool.path(old).parent, (0, 0))
    assert [file.spool_path for file in spool.instances(changed_since_s=time.time() - 3600)] == [new]
    assert {file.spool_path for file in spool.instances()} == {old, new}


def test_an_empty_spool_has_no_instances(spool: Spool) -> None:
    assert list(spool.instances()) == []
    assert spool.sweep(older_than_s=0) == []
    assert spool.looked_through_at_s() == 0.0


def test_looking_through_is_remembered(spool: Spool) -> None:
    spool.note_looked_through(1_700_000_000.0)
    assert Spool(spool.root).looked_through_at_s() == 1_700_000_000.0


def test_others_cannot_read_instances(spool: Spool) -> None:
    name = spool.new_name(SERIES, INSTANCE)
    write_file(spool, name, [b"bytes"])
    assert spool.path(name).stat().st_mode & 0o007 == 0
    assert spool.root.stat().st_mode & 0o007 == 0


def test_quarantine_keeps_bytes_and_reason(spool: Spool) -> None:
    spool_path, new = Quarantine(spool).put([b"not ", b"DICOM"], {"reason": "no such element"}, RECEIVED_AT)
    assert new
    assert spool_path.startswith("quarantine/2026-03-01/")
    assert spool.path(spool_path).read_bytes() == b"not DICOM"
    sidecar = spool.path(spool_path).with_suffix(".json")
    assert json.loads(sidecar.read_text()) == {"reason": "no such element"}


def test_quarantine_keeps_the_same_bytes_once_a_day(spool: Spool) -> None:
    quarantine = Quarantine(spool)
    first = quarantine.put([b"bytes"], {"reason": "r"}, RECEIVED_AT)
    again = quarantine.put([b"by", b"tes"], {"reason": "r"}, RECEIVED_AT.replace(hour=18))
    other_day = quarantine.put([b"bytes"], {"reason": "r"}, RECEIVED_AT.replace(day=2))
    assert again == (first[0], False)
    assert other_day[1]
    assert len(files_below(spool.root)) == 4


def test_quarantine_on_a_full_disk_leaves_nothing_behind(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RetriableError, match="make room"):
        Quarantine(spool).put([b"bytes"], {"reason": "r"}, RECEIVED_AT)
    assert files_below(spool.root) == []


def test_removing_from_the_quarantine_takes_the_reason_along(spool: Spool) -> None:
    quarantine = Quarantine(spool)
    spool_path, _ = quarantine.put([b"bytes"], {"reason": "r"}, RECEIVED_AT)
    quarantine.remove(spool_path)
    quarantine.remove(spool_path)
    assert files_below(spool.root) == []
