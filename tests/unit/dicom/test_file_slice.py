"""A slice of a file: it reads as a file of its own would, and nothing of what lies around it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iap_node.dicom.file_slice import FileSlice

BEFORE, BEHIND = b"<" * 5000, b">" * 5000
CONTENT = bytes(index * 7 % 251 for index in range(200_001))  # more than two buffers


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("segments") / "a.seg"
    path.write_bytes(BEFORE + CONTENT + BEHIND)
    return path


@pytest.fixture
def part(segment: Path) -> FileSlice:
    return FileSlice(segment, len(BEFORE), len(CONTENT))


@pytest.fixture
def no_handle_is_left() -> Iterator[None]:
    before = open_handles()
    yield
    assert open_handles() == before


def open_handles() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_it_begins_at_its_start_and_ends_at_its_end(part: FileSlice) -> None:
    with part.open("rb") as stream:
        assert stream.tell() == 0
        assert stream.read() == CONTENT
        assert stream.read() == b""
        assert stream.tell() == len(CONTENT)


def test_reads_at_both_ends_and_beyond(part: FileSlice) -> None:
    with part.open() as stream:
        assert stream.seek(-3, os.SEEK_END) == len(CONTENT) - 3
        assert stream.read(10) == CONTENT[-3:]
        assert stream.seek(len(CONTENT) + 100) == len(CONTENT) + 100
        assert stream.read(10) == b""
        assert stream.seek(0) == 0
        assert stream.read(1) == CONTENT[:1]
        with pytest.raises((ValueError, OSError)):
            stream.seek(-1)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(0, 150_000)),
            st.tuples(st.just("seek"), st.integers(0, len(CONTENT) + 10)),
            st.tuples(st.just("skip"), st.integers(-100, 100_000)),
        ),
        max_size=12,
    )
)
def test_any_reading_and_seeking_is_that_of_the_same_bytes_in_memory(
    part: FileSlice, steps: list[tuple[str, int]]
) -> None:
    expected = BytesIO(CONTENT)
    with part.open() as stream:
        for step, number in steps:
            if step == "read":
                assert stream.read(number) == expected.read(number)
            elif step == "seek":
                assert stream.seek(number) == expected.seek(number)
            elif expected.tell() + number >= 0:
                assert stream.seek(number, os.SEEK_CUR) == expected.seek(number, os.SEEK_CUR)
            assert stream.tell() == expected.tell()


def test_streams_of_one_slice_do_not_move_each_other(part: FileSlice) -> None:
    with part.open() as first, part.open() as second:
        assert first.read(100_000) == CONTENT[:100_000]
        assert second.read(4) == CONTENT[:4]
        assert first.read(4) == CONTENT[100_000:100_004]


def test_file_that_ends_within_the_slice_ends_it(segment: Path) -> None:
    beyond = FileSlice(segment, len(BEFORE + CONTENT), 1_000_000)
    with beyond.open() as stream:
        assert stream.read() == BEHIND


def test_empty_slice_is_empty(segment: Path) -> None:
    with FileSlice(segment, 10, 0).open() as stream:
        assert stream.read() == b""


def test_it_is_a_value(segment: Path, part: FileSlice) -> None:
    same = FileSlice(Path(str(segment)), len(BEFORE), len(CONTENT))
    assert {part: "found"}[same] == "found"
    assert part != FileSlice(segment, len(BEFORE), len(CONTENT) - 1)
    assert part != segment


def test_it_is_only_read(part: FileSlice) -> None:
    for mode in ("wb", "r", "r+b", "ab"):
        with pytest.raises(ValueError, match="only read"):
            part.open(mode)
    with part.open() as stream:
        assert not stream.writable()
        with pytest.raises(OSError, match="write"):
            stream.write(b"x")


@pytest.mark.usefixtures("no_handle_is_left")
def test_no_handle_is_left_open(part: FileSlice, segment: Path) -> None:
    for _ in range(20):
        with part.open() as stream:
            stream.read(10)
        with pytest.raises(ValueError, match="closed"):
            stream.read(10)
        with pytest.raises(KeyError), part.open():
            raise KeyError
        with pytest.raises(FileNotFoundError):
            FileSlice(segment.parent / "gone.seg", 0, 10).open()


@pytest.mark.usefixtures("no_handle_is_left")
def test_stream_that_nobody_closed_is_closed_with_its_last_reference(part: FileSlice) -> None:
    assert part.open().read(4) == CONTENT[:4]
