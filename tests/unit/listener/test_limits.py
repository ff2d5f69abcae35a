"""Size, pace and room, each by itself; tests/integration/listener/test_limits.py tests them over the network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from iap_node.errors import RetriableError
from iap_node.listener.limits import (
    LOOK_AGAIN_S,
    MIB,
    ROOM_AGAIN_BYTES,
    DiskReserve,
    InstanceTooLarge,
    Pace,
    PeerOutOfBounds,
    SizeLimit,
)
from tests.disk import free_bytes, occupied

MARGIN = 1024 * MIB  # more than whatever else writes to this disk meanwhile


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


# ---------------------------------------------------------------- size


def test_instance_of_the_largest_size_is_not_too_large() -> None:
    SizeLimit(1000).check(1000)


def test_instance_beyond_the_largest_size_is_read_to_its_end_but_not_without_end() -> None:
    limit = SizeLimit(3 * MIB)
    with pytest.raises(InstanceTooLarge, match=r"larger than 3 MB \(listener.max_instance_mb\)"):
        limit.check(3 * MIB + 1)
    with pytest.raises(InstanceTooLarge):
        limit.check(6 * MIB)
    with pytest.raises(PeerOutOfBounds, match="more than 2 times 3 MB"):
        limit.check(6 * MIB + 1)


# ---------------------------------------------------------------- pace


def test_peer_that_trickles_is_too_slow_when_a_window_of_waiting_is_over() -> None:
    pace = Pace(min_bytes_per_s=1000, window_s=60)
    with pytest.raises(PeerOutOfBounds, match=r"60 bytes while we waited for 60 s.*listener.min_bytes_per_s"):
        for second in range(61):
            assert second < 60
            pace.received(1)
            pace.waited(1.0)


def test_peer_at_the_least_pace_goes_on_for_ever() -> None:
    pace = Pace(min_bytes_per_s=1000, window_s=60)
    for _ in range(1000):
        pace.received(1000)
        pace.waited(1.0)


def test_time_in_which_we_do_not_wait_does_not_count() -> None:
    """However long filing takes, only `waited` counts; there is no clock in a pace."""
    pace = Pace(min_bytes_per_s=1000, window_s=60)
    for _ in range(10_000):
        pace.received(1)


def test_fast_window_buys_no_time_in_the_next() -> None:
    pace = Pace(min_bytes_per_s=1000, window_s=60)
    pace.received(10**9)
    pace.waited(60.0)
    with pytest.raises(PeerOutOfBounds):
        pace.waited(60.0)


def test_next_message_begins_a_window_of_its_own() -> None:
    pace = Pace(min_bytes_per_s=1000, window_s=60)
    for _ in range(100):
        pace.begin()
        pace.waited(59.0)


def test_least_pace_of_zero_is_no_limit() -> None:
    pace = Pace(min_bytes_per_s=0, window_s=60)
    for _ in range(100):
        pace.waited(60.0)


# ---------------------------------------------------------------- room


def test_stores_are_refused_while_the_disk_is_low_and_taken_when_there_is_room_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    reserve = DiskReserve(tmp_path, free_bytes(tmp_path) - MARGIN, now=clock)
    assert reserve.refusal() is None
    with occupied(tmp_path, 2 * MARGIN):
        clock.seconds += LOOK_AGAIN_S
        for _ in range(100):
            assert "make room, or lower spool.disk_reserve_mb" in (reserve.refusal() or "")
    clock.seconds += LOOK_AGAIN_S
    for _ in range(100):
        assert reserve.refusal() is None
    logged = "".join(capsys.readouterr())
    assert logged.count("disk low") == 1
    assert logged.count("disk has room again") == 1


def test_what_is_being_received_counts_as_if_it_lay_on_the_disk(tmp_path: Path) -> None:
    reserve = DiskReserve(tmp_path, free_bytes(tmp_path) - MARGIN)
    assert reserve.refusal(expected_bytes=0) is None
    assert reserve.refusal(expected_bytes=2 * MARGIN) is not None


def test_disk_is_asked_a_few_times_per_second_however_many_stores_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    statvfs = os.statvfs

    def counted(path: Path) -> os.statvfs_result:
        asked.append(path)
        return statvfs(path)

    monkeypatch.setattr(os, "statvfs", counted)
    clock = Clock()
    reserve = DiskReserve(tmp_path, 0, now=clock)
    for _ in range(1000):
        clock.seconds += 0.001
        reserve.refusal()
        reserve.refusal_of_running()
    assert 1 <= len(asked) <= 1 / LOOK_AGAIN_S + 1


def test_running_store_may_use_half_of_the_reserve_and_no_more(tmp_path: Path) -> None:
    free = free_bytes(tmp_path)
    in_upper_half = DiskReserve(tmp_path, free + MARGIN)
    assert in_upper_half.refusal() is not None
    assert in_upper_half.refusal_of_running() is None
    assert DiskReserve(tmp_path, 2 * free + 2 * MARGIN).refusal_of_running() is not None


def test_disk_about_at_the_reserve_is_not_told_again_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reserve = DiskReserve(tmp_path, free_bytes(tmp_path) - MARGIN, now=Clock())
    assert reserve.refusal(2 * MARGIN) is not None
    for _ in range(100):
        assert reserve.refusal(MARGIN - ROOM_AGAIN_BYTES // 2) is not None
    logged = "".join(capsys.readouterr())
    assert logged.count("disk low") == 1
    assert "disk has room again" not in logged


def test_disk_that_cannot_be_asked_is_an_error_that_may_pass(tmp_path: Path) -> None:
    with pytest.raises(RetriableError, match="check the disk below"):
        DiskReserve(tmp_path / "gone", 0).refusal()
