"""The recorder: whatever a process does to its files, the replayed record leads to the same files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.drill.disk import Disk, RecordIncomplete
from tests.acceptance.drill.recorder import Entry, Operation, build_recorder, read_record, recording_environment

FILES = """
import ctypes, os, sqlite3
handle = os.open("a", os.O_RDWR | os.O_CREAT)
os.write(handle, b"one")
os.pwrite(handle, b"two" * 5000, 100_000)
os.pwritev(handle, [b"three", bytes(4096), b"four"], 8192)
os.pwritev(handle, [b"flushed"], 50_000, os.RWF_DSYNC)
os.pwrite(handle, bytes(1 << 20), 1 << 20)
os.posix_fallocate(handle, 4 << 20, 4096)
os.fdatasync(handle)
ctypes.CDLL(None).fallocate(handle, 3, ctypes.c_int64(8192), ctypes.c_int64(4096))
os.ftruncate(handle, 5 << 20)
copy = os.open("copy", os.O_RDWR | os.O_CREAT)
os.lseek(handle, 0, os.SEEK_SET)
os.sendfile(copy, handle, None, 120_000)
os.copy_file_range(handle, copy, 50_000, 100_000, 200_000)
os.close(handle)
os.mkdir("folder")
os.rename("a", "folder/b")
os.link("folder/b", "c")
with open("d", "ab") as stream:
    stream.write(b"appended")
    os.fsync(stream.fileno())
os.unlink("d")
with open("d", "w") as stream:
    stream.write("again")
nameless = os.open(".", os.O_TMPFILE | os.O_RDWR)
os.write(nameless, b"nameless")
os.link(f"/proc/self/fd/{nameless}", "named", src_dir_fd=os.open("/", os.O_RDONLY), follow_symlinks=True)
database = sqlite3.connect("database")
database.execute("PRAGMA journal_mode = WAL")
database.execute("CREATE TABLE t (x)")
for n in range(500):
    with database:
        database.execute("INSERT INTO t VALUES (?)", (str(n) * 100,))
"""
NOT_IN_IT = {Operation.SEND, Operation.TIMES, Operation.DUP, Operation.RMDIR, Operation.UNMODELLED}


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]) -> Path:
    program("cc", "gcc libc6-dev")
    return build_recorder(tmp_path_factory.mktemp("recorder"))


def record(recorder: Path, folder: Path, source: str) -> tuple[Path, Disk, list[Entry]]:
    """Run `source` in a folder of its own; that folder, the disk before, the entries."""
    root = folder / "root"
    root.mkdir()
    (root / "was there").write_bytes(b"before")
    shutil.copytree(root, folder / "before")
    environment = recording_environment(recorder, root, folder / "record")
    subprocess.run([sys.executable, "-c", source], cwd=root, env=environment, check=True, timeout=60)
    return root, Disk(root, folder / "before"), list(read_record(folder / "record"))


def test_every_way_to_write_a_file_is_in_the_record(recorder: Path, tmp_path: Path) -> None:
    root, disk, entries = record(recorder, tmp_path, FILES)
    for entry in entries:
        disk.replay(entry)
    disk.compare(root)
    assert {entry.operation for entry in entries} == set(Operation) - NOT_IN_IT


def test_what_is_sent_is_in_the_record_between_the_writes_around_it(recorder: Path, tmp_path: Path) -> None:
    source = """
import os, socket
one, other = socket.socketpair()
handle = os.open("a", os.O_RDWR | os.O_CREAT)
for n in range(3):
    os.write(handle, b"w%d" % n)
    os.fdatasync(handle)
    one.sendall(b"s%d" % n)
"""
    _, _, entries = record(recorder, tmp_path, source)
    wanted = {Operation.WRITE, Operation.SYNCED, Operation.SEND}
    told = [(entry.operation, entry.data) for entry in entries if entry.operation in wanted]
    expected = [
        [(Operation.WRITE, b"w%d" % n), (Operation.SYNCED, b""), (Operation.SEND, b"s%d" % n)] for n in range(3)
    ]
    assert told == [one for group in expected for one in group]


def test_what_the_recorder_cannot_follow_fails_the_replay(recorder: Path, tmp_path: Path) -> None:
    source = """
import mmap, os
handle = os.open("a", os.O_RDWR | os.O_CREAT)
os.ftruncate(handle, 4096)
mmap.mmap(handle, 4096)[:3] = b"new"
"""
    _, disk, entries = record(recorder, tmp_path, source)
    with pytest.raises(RecordIncomplete):
        for entry in entries:
            disk.replay(entry)
