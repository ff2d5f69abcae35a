"""Segments on a real file system: what counts as a record, what a crash leaves, what goes when."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from iap_node.dicom.file_slice import FileSlice
from iap_node.dicom.part10 import file_preamble
from iap_node.errors import RetriableError
from iap_node.spool import PREAMBLE_BYTES, Facts, RecordKind, Spool, content_checksum
from iap_node.spool.new_instance import MAX_RECORD_BYTES
from iap_node.spool.segments import ALIGNMENT, SEGMENT_BYTES, aligned

SERIES, INSTANCE = "1.2.840.99.1", "1.2.840.99.1.7"
EXPLICIT = "1.2.840.10008.1.2.1"
HEAD = file_preamble("1.2.840.10008.5.1.4.1.1.4", INSTANCE, EXPLICIT, "SCANNER")[PREAMBLE_BYTES:]
RECEIVED_AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path / "spool")
    yield opened
    opened.close()


def keep(spool: Spool, data_set: bytes, *, part_bytes: int = 0, address: str = "10.1.2.3") -> str:
    """Keep an instance that comes in parts; its spool path."""
    instance = spool.begin(HEAD)
    for start in range(0, len(data_set), part_bytes or len(data_set)):
        instance.write(data_set[start : start + part_bytes] if part_bytes else data_set)
    checksum = content_checksum(EXPLICIT)
    checksum.update(data_set)
    facts = Facts(RECEIVED_AT, address, checksum.digest())
    return spool.keep(instance, facts, series_instance_uid=SERIES, sop_instance_uid=INSTANCE)


def content(spool: Spool, spool_path: str) -> bytes:
    with spool.locate(spool_path).open("rb") as file:
        return file.read()


def records(spool: Spool) -> list[str]:
    return [name for segment in spool.segments() for name, _ in spool.records(segment)]


def crash(spool: Spool) -> None:
    """The end of a process: its locks go, and nothing else."""
    for lane in [*spool._lanes._in_use.values(), *spool._lanes._ready]:
        os.close(lane.handle)
    spool._lanes._in_use.clear()
    spool._lanes._ready.clear()
    spool._lanes._free.clear()


def abandoned(spool: Spool) -> list[Path]:
    """What recovery finds; all rows are written then."""
    with spool.abandoned_segments() as segments:
        return segments


def marks(spool: Spool) -> list[Path]:
    return list((spool.root / "segments" / "unsettled").glob("*"))


# ---------------------------------------------------------------- keeping


@pytest.mark.parametrize("part_bytes", [0, 1000, 65_536])
def test_kept_instance_is_a_part_10_file_with_the_bytes_that_came(spool: Spool, part_bytes: int) -> None:
    data_set = os.urandom(200_001)
    spool_path = keep(spool, data_set, part_bytes=part_bytes)
    stored = content(spool, spool_path)
    assert stored[PREAMBLE_BYTES:] == HEAD + data_set
    assert spool.exists(spool_path)
    assert spool.size_bytes(spool_path) == len(stored)


def test_records_begin_at_blocks_and_tell_what_their_rows_need(spool: Spool) -> None:
    paths = [keep(spool, os.urandom(5000), address=address) for address in ("10.1.2.3", "2001:db8::7", "no address")]
    (segment,) = spool.segments()
    found = list(spool.records(segment))
    assert [name for name, _ in found] == paths
    assert all(record.where.offset % ALIGNMENT == 0 for _, record in found)
    assert [record.facts.source_address for _, record in found] == ["10.1.2.3", "2001:db8::7", ""]
    assert {record.facts.received_at for _, record in found} == {RECEIVED_AT}


def test_large_instance_becomes_a_file_with_a_note_until_it_has_its_row(spool: Spool) -> None:
    data_set = os.urandom(MAX_RECORD_BYTES + 1)
    spool_path = keep(spool, data_set, part_bytes=1024**2)
    assert spool_path.startswith("series/")
    assert content(spool, spool_path) == bytes(PREAMBLE_BYTES) + HEAD + data_set
    (segment,) = spool.segments()
    ((name, record),) = spool.records(segment)
    assert (name, record.kind) == (spool_path, RecordKind.NOTE)
    spool.registered(spool_path)
    assert records(spool) == []
    assert not list((spool.root / "incoming").iterdir())


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("durable", [True, False])
def test_large_instance_is_whole_whether_or_not_it_may_go_past_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, refused: bool
) -> None:
    write, n_direct = os.write, 0

    def picky(handle: int, content: bytes) -> int:
        nonlocal n_direct
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT:
            n_direct += 1
            if refused:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return write(handle, content)

    data_set = os.urandom(2 * MAX_RECORD_BYTES + 12_345)
    spool = Spool(tmp_path, durable=durable)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", picky)
        spool_path = keep(spool, data_set, part_bytes=70_001)
    assert content(spool, spool_path) == bytes(PREAMBLE_BYTES) + HEAD + data_set
    assert n_direct == (3 if durable else 0)
    spool.close()


def test_large_instance_is_whole_when_the_disk_takes_a_part_of_a_page_and_refuses_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, is_misaligned = os.write, False

    def in_part(handle: int, content: memoryview) -> int:
        nonlocal is_misaligned
        if not fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT:
            return write(handle, content)
        if is_misaligned:
            is_misaligned = False
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flags = fcntl.fcntl(handle, fcntl.F_GETFL)
        fcntl.fcntl(handle, fcntl.F_SETFL, flags & ~os.O_DIRECT)  # so that the real disk takes a part of a page
        written = write(handle, content[:1000])
        fcntl.fcntl(handle, fcntl.F_SETFL, flags)
        is_misaligned = True
        return written

    data_set = os.urandom(2 * MAX_RECORD_BYTES + 12_345)
    spool = Spool(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", in_part)
        spool_path = keep(spool, data_set)
    assert content(spool, spool_path) == bytes(PREAMBLE_BYTES) + HEAD + data_set
    spool.close()


def test_large_instance_is_not_kept_when_writing_it_breaks_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    spool = Spool(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr("iap_node.spool.files.NewFile.write_from_pages", broken)
        instance = spool.begin(HEAD)
        instance.write(os.urandom(MAX_RECORD_BYTES))
        instance.write(b"more")  # the first piece is on its way
        patch.undo()
        spool.keep(
            instance, Facts(RECEIVED_AT, "", bytes(16)), series_instance_uid=SERIES, sop_instance_uid=INSTANCE
        )
    spool.close()


def test_instances_that_come_in_at_once_stand_one_behind_the_other(spool: Spool) -> None:
    first, second = spool.begin(HEAD), spool.begin(HEAD)
    first.write(b"1" * 100)
    second.write(b"2" * 100)
    facts = Facts(RECEIVED_AT, "", bytes(16))
    names = [
        spool.keep(one, facts, series_instance_uid=SERIES, sop_instance_uid=INSTANCE) for one in (second, first)
    ]
    assert [content(spool, name)[-100:] for name in names] == [b"2" * 100, b"1" * 100]
    for _ in range(10):
        keep(spool, b"3" * 100)
    assert len(list(spool.segments())) == 1


def test_many_threads_keep_at_once_and_nothing_is_mixed_up(spool: Spool) -> None:
    kept: dict[str, bytes] = {}
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(20):
                data_set = bytes([seed, number]) * 20_000
                kept[keep(spool, data_set)] = data_set
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test is to see it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(kept) == 120
    assert all(content(spool, name)[-len(data_set) :] == data_set for name, data_set in kept.items())


def test_discarded_instance_leaves_no_record_and_its_room_is_used_again(spool: Spool) -> None:
    instance = spool.begin(HEAD)
    instance.write(b"x" * 300_000)
    instance.discard()
    assert records(spool) == []
    spool_path = keep(spool, b"y" * 1000)
    assert spool_path.partition("#")[2].startswith("0+")
    assert records(spool) == [spool_path]


# ---------------------------------------------------------------- what counts


def damage_a_byte(spool: Spool, where: FileSlice, place: int) -> None:
    with where.path.open("r+b") as file:
        file.seek(where.offset + place)
        byte = file.read(1)
        file.seek(where.offset + place)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("place", [0, 9, 20, 30, 60, 79, 130, 200, 5_000, 99_000])
def test_record_with_one_flipped_bit_does_not_count_and_its_neighbours_do(spool: Spool, place: int) -> None:
    before, torn, behind = (keep(spool, bytes([number]) * 100_000) for number in range(3))
    where = spool.locate(torn)
    assert isinstance(where, FileSlice)
    damage_a_byte(spool, where, place)
    assert records(spool) == [before, behind]


def test_record_that_a_sender_writes_into_its_data_set_does_not_count(spool: Spool) -> None:
    victim = keep(spool, b"v" * 10_000)
    record = content(spool, victim)
    where = spool.locate(victim)
    assert isinstance(where, FileSlice)
    # at every place where a record could begin, once the forger's own record is gone
    pad = ALIGNMENT - PREAMBLE_BYTES - len(HEAD)
    forged = keep(spool, b" " * pad + record.ljust(3 * ALIGNMENT, b"\0") * 4)
    assert records(spool) == [victim, forged]
    forger = spool.locate(forged)
    assert isinstance(forger, FileSlice)
    damage_a_byte(spool, forger, 0)  # as if torn: what lies in it is looked at
    assert records(spool) == [victim]


def test_record_copied_to_another_segment_does_not_count_there(spool: Spool, tmp_path: Path) -> None:
    spool_path = keep(spool, b"x" * 1000)
    (segment,) = spool.segments()
    other = segment.with_name("0123456789abcdef.seg")
    other.write_bytes(segment.read_bytes()[: 2 * ALIGNMENT])
    assert [name for name, _ in spool.records(segment)] == [spool_path]
    assert list(spool.records(other)) == []


# ---------------------------------------------------------------- settling and removing


def test_segment_is_settled_when_it_is_full_and_all_its_rows_are_there(spool: Spool) -> None:
    kept = []
    while len(list(spool.segments())) < 2:
        kept.append(keep(spool, bytes(MAX_RECORD_BYTES - ALIGNMENT)))
    full = {name for name in kept if name.partition("#")[0] == kept[0].partition("#")[0]}
    for name in sorted(full)[1:]:
        spool.registered(name)
    assert len(marks(spool)) == 2
    spool.registered(sorted(full)[0])
    assert len(marks(spool)) == 1
    assert set(records(spool)) == set(kept)


def test_closing_settles_what_has_its_rows_and_leaves_the_rest_to_recovery(tmp_path: Path) -> None:
    for is_registered in (True, False):
        spool = Spool(tmp_path / str(is_registered))
        name = keep(spool, b"x" * 1000)
        if is_registered:
            spool.registered(name)
        spool.close()
        assert len(marks(spool)) == (0 if is_registered else 1)
        assert records(spool) == [name]
        (segment,) = spool.segments()
        assert (segment.stat().st_size < SEGMENT_BYTES) == is_registered  # what is not used is given back
        crash(spool)


def test_removed_instances_are_gone_and_their_neighbours_stay(spool: Spool) -> None:
    names = [keep(spool, bytes([number]) * 100_000) for number in range(4)]
    expected = {name: content(spool, name) for name in names}
    spool.remove(names[1], names[2])
    spool.remove(names[1])  # twice is no error
    assert records(spool) == [names[0], names[3]]
    assert [spool.exists(name) for name in names] == [True, False, False, True]
    assert content(spool, names[3]) == expected[names[3]]


def test_removal_gives_room_back_to_the_file_system(spool: Spool) -> None:
    names = [keep(spool, os.urandom(500_000)) for _ in range(4)]
    (segment,) = spool.segments()
    before = segment.stat().st_blocks
    spool.remove(names[0], names[2])
    assert (before - segment.stat().st_blocks) * 512 >= 990_000


def test_settled_segment_goes_when_nothing_is_left_in_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    names = [keep(spool, b"x" * 1000), keep(spool, b"y" * 1000)]
    for name in names:
        spool.registered(name)
    spool.close()
    spool.remove(names[0])
    assert len(list(spool.segments())) == 1
    spool.remove(names[1])
    assert list(spool.segments()) == []
    spool.remove(names[0])


# ---------------------------------------------------------------- after a crash


def test_segment_of_a_process_that_lives_is_left_alone_and_that_of_a_dead_one_is_put_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    living = Spool(tmp_path)
    name = keep(living, b"x" * 1000)
    other = Spool(tmp_path)
    assert abandoned(other) == []
    write = os.pwritev

    def killed(handle: int, parts: tuple[memoryview], position: int, flags: int) -> int:
        write(handle, (parts[0][: 2 * ALIGNMENT],), position, flags)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "pwritev", killed)
        keep(living, b"half" * 10_000)
    crash(living)
    (segment,) = abandoned(other)
    assert records(other) == [name]
    assert segment.stat().st_size == ALIGNMENT  # what was torn is cut off
    assert marks(other) == []
    assert abandoned(other) == []


def test_segment_whose_rows_could_not_be_written_is_found_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    keep(spool, b"x" * 1000)
    crash(spool)
    again = Spool(tmp_path)
    for _ in range(2):
        with pytest.raises(RetriableError), again.abandoned_segments() as segments:
            assert len(segments) == 1
            raise RetriableError("the database is away")
        assert len(marks(again)) == 1


def test_prepared_segment_that_was_not_used_is_used_by_the_next_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path, prepared_bytes=SEGMENT_BYTES)
    spool.start_preparing()
    spool.wait_until_prepared()
    crash(spool)
    again = Spool(tmp_path, prepared_bytes=SEGMENT_BYTES)
    (prepared,) = again.segments()
    assert abandoned(again) == []
    assert keep(again, b"x" * 1000).startswith(prepared.relative_to(tmp_path).as_posix())
    again.close()


def test_prepared_segment_that_nobody_wants_is_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path, prepared_bytes=SEGMENT_BYTES)
    spool.start_preparing()
    spool.wait_until_prepared()
    crash(spool)
    assert abandoned(Spool(tmp_path)) == []
    assert list(spool.segments()) == [] and marks(spool) == []


# ---------------------------------------------------------------- a failing disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_disk_that_is_full_or_fails_leaves_no_record_and_the_next_instance_is_kept(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    before = keep(spool, b"x" * 1000)

    def failing(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    instance = spool.begin(HEAD)
    instance.write(b"y" * 1000)
    with monkeypatch.context() as patch, pytest.raises(RetriableError, match=r"make room|check the disk"):
        patch.setattr(os, "pwritev", failing)
        spool.keep(
            instance, Facts(RECEIVED_AT, "", bytes(16)), series_instance_uid=SERIES, sop_instance_uid=INSTANCE
        )
    instance.discard()
    assert before in records(spool)
    spool.registered(before)
    behind = keep(spool, b"z" * 1000)
    assert set(records(spool)) == {before, behind}


@pytest.mark.parametrize("durable", [True, False])
def test_each_instance_is_one_write_which_is_flushed_where_the_spool_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    spool = Spool(tmp_path, durable=durable)
    keep(spool, b"x" * 1000)  # the segment stands
    flags: list[int] = []
    write = os.pwritev

    def noted(handle: int, parts: list[memoryview], position: int, flag: int) -> int:
        flags.append(flag)
        return write(handle, parts, position, flag)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", noted)
        for _ in range(5):
            keep(spool, b"x" * 1000)
    assert flags == [os.RWF_DSYNC if durable else 0] * 5
    spool.close()


def test_file_system_that_refuses_to_be_written_past_the_page_cache_is_written_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, write_all, refused = os.pwrite, os.pwritev, []

    def is_direct(handle: int) -> bool:
        return bool(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT)

    def picky(handle: int, content: bytes, position: int) -> int:
        if is_direct(handle):
            refused.append(handle)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return write(handle, content, position)

    def picky_too(handle: int, parts: list[memoryview], position: int, flags: int) -> int:
        assert not is_direct(handle)
        return write_all(handle, parts, position, flags)

    monkeypatch.setattr(os, "pwrite", picky)
    monkeypatch.setattr(os, "pwritev", picky_too)
    spool = Spool(tmp_path)
    spool_path = keep(spool, b"x" * 5000)
    assert refused
    assert content(spool, spool_path)[-5000:] == b"x" * 5000
    spool.close()


def test_write_that_the_disk_takes_in_pieces_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwritev
    n_writes = 0

    def in_pieces(handle: int, parts: tuple[memoryview], position: int, flags: int) -> int:
        nonlocal n_writes
        n_writes += 1
        written = write(handle, (parts[0][: 3 * ALIGNMENT],), position, flags)
        return max(written - 5, ALIGNMENT)

    monkeypatch.setattr(os, "pwritev", in_pieces)
    spool = Spool(tmp_path)
    data_set = os.urandom(100_000)
    assert content(spool, keep(spool, data_set))[-100_000:] == data_set
    assert n_writes > 8
    assert len(records(spool)) == 1
    spool.close()


def test_nothing_of_another_instance_lies_between_records(spool: Spool) -> None:
    keep(spool, b"x" * 100_000)
    keep(spool, b"y" * 10)
    behind = keep(spool, b"z" * 10)
    (segment,) = spool.segments()
    end = int(behind.partition("#")[2].partition("+")[0])
    after_first = segment.read_bytes()[aligned(100_000 + PREAMBLE_BYTES + len(HEAD)) : end]
    assert b"x" * 8 not in after_first  # a digest may hold one "x" by chance, never eight
    assert b"y" * 8 in after_first
