"""Power cuts at any point of what a listener does: nothing that was acknowledged by then is lost.

Does not cover disks that lie about a flush, nor PostgreSQL, whose flushes are its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.drill.count import Count
from tests.acceptance.drill.power_cut import Finding, choose_cuts, cut_after_cuts, cut_everywhere, cut_power
from tests.acceptance.drill.recorder import Operation, build_recorder
from tests.acceptance.drill.recording import Recording, record_listener

SEED = 20240  # `make soak` takes others
PREPARED = {"prepared_mb": 64}  # segments filled with zeros ahead, beside the stores

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("drill")]


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]) -> Path:
    """The library that records a listener."""
    program("cc", "gcc libc6-dev")
    return build_recorder(tmp_path_factory.mktemp("recorder"))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, recorder: Path) -> Recording:
    """A listener on an empty node, from its start to its end."""
    folder = tmp_path_factory.mktemp("drill") / "first"
    return record_listener(folder, recorder, SEED, n_acknowledged=400, spool=PREPARED, large_every=150)


def test_nothing_acknowledged_is_lost_wherever_the_power_fails(
    recording: Recording, tmp_path: Path, report: Callable[[Count], None]
) -> None:
    report(cut_everywhere(recording, tmp_path, SEED, 90))


def test_nothing_acknowledged_is_lost_when_several_processes_served(
    recorder: Path, tmp_path: Path, report: Callable[[Count], None]
) -> None:
    recording = record_listener(
        tmp_path / "two", recorder, SEED, n_acknowledged=300, spool=PREPARED, n_processes=2, n_senders=4
    )
    report(cut_everywhere(recording, tmp_path, SEED, 50))


def test_nothing_is_lost_when_the_power_fails_again_during_recovery_or_after_it(
    recording: Recording, recorder: Path, tmp_path: Path, report: Callable[[Count], None]
) -> None:
    report(cut_after_cuts(recording, recorder, tmp_path, SEED, n_runs=3, n_cuts=20))


def test_the_drill_finds_what_a_listener_that_does_not_flush_would_lose(recording: Recording, tmp_path: Path) -> None:
    unflushed = [entry for entry in recording.entries() if entry.operation is not Operation.SYNCED]
    assert lost(cut_power(recording, choose_cuts(unflushed, 8, SEED), tmp_path, entries=unflushed))


def test_the_drill_finds_what_relaxed_durability_may_lose(recorder: Path, tmp_path: Path) -> None:
    relaxed = {"durability": "relaxed", "prepared_mb": 0}
    recording = record_listener(tmp_path / "relaxed", recorder, SEED, n_acknowledged=100, spool=relaxed)
    assert lost(cut_power(recording, choose_cuts(recording.check(), 12, SEED), tmp_path))


def lost(findings: list[Finding]) -> list[str]:
    return [fault for finding in findings for fault in finding.faults if fault.endswith("acknowledged and lost")]
