"""The table of places: its two limits, over threads and processes, and what a killed process leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from iap_node.listener.places import Full, Places

TAKES_AND_WAITS = """
import sys
from iap_node.listener.places import Places
places = Places(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
for peer in sys.argv[4:]:
    print(places.take(peer), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def places() -> Iterator[Places]:
    table = Places(4, 2)
    yield table
    table.close()


def other_process(places: Places, *peers: str) -> tuple[subprocess.Popen[str], list[str]]:
    """Another process that takes a place for each of these; what it got. It keeps them until it ends."""
    command = [sys.executable, "-c", TAKES_AND_WAITS, "4", "2", str(places.handle), *peers]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[places.handle]
    )
    assert process.stdout is not None
    return process, [process.stdout.readline().strip() for _ in peers]


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_peer_gets_its_share_and_leaves_the_rest_to_others(places: Places) -> None:
    assert [places.take("flood") for _ in range(3)] == [0, 1, Full.PEER]
    assert places.take("scanner") == 2


def test_listener_that_is_full_refuses_everybody_as_such(places: Places) -> None:
    assert [places.take(peer) for peer in ("a", "a", "b", "c")] == [0, 1, 2, 3]
    assert places.take("d") is Full.LISTENER
    assert places.take("a") is Full.LISTENER


def test_place_given_back_is_taken_again_by_whoever_comes(places: Places) -> None:
    for peer in ("a", "a", "b", "b"):
        places.take(peer)
    places.give_back(1)
    assert places.take("b") is Full.PEER
    assert places.take("c") == 1


def test_giving_back_after_the_end_disturbs_nobody() -> None:
    table = Places(4, 2)
    place = table.take("a")
    assert isinstance(place, int)
    table.close()
    table.give_back(place)


def test_limits_hold_over_processes(places: Places) -> None:
    places.take("a")
    process, got = other_process(places, "a", "a", "b", "c", "d")
    try:
        assert got == ["1", "Full.PEER", "2", "3", "Full.LISTENER"]
        assert places.take("e") is Full.LISTENER
    finally:
        end(process)


@pytest.mark.parametrize("how", ["kill", "end"])
def test_process_that_dies_loses_no_place(places: Places, how: str) -> None:
    process, got = other_process(places, "a", "a", "b", "b")
    assert got == ["0", "1", "2", "3"]
    assert places.take("c") is Full.LISTENER
    if how == "end":
        process.communicate()
    else:
        end(process)
    assert [places.take(peer) for peer in ("a", "a", "b", "b")] == [0, 1, 2, 3]


def test_process_that_ends_takes_only_its_own_places_with_it(places: Places) -> None:
    process, _ = other_process(places, "a")
    assert places.take("a") == 1
    end(process)
    second, got = other_process(places, "a", "a")
    try:
        assert got == ["0", "Full.PEER"]
    finally:
        end(second)


def test_table_leaves_no_handle_open() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    first = Places(4, 2)
    second = Places(4, 2, os.dup(first.handle))
    second.close()
    first.close()
    assert set(Path("/proc/self/fd").iterdir()) == before
