"""That the bench of the folder audit works: the node on a handful of simulated series. No figure is judged here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.audit import __main__ as bench
from tests.benchmarks.audit import auditors


@pytest.mark.slow
def test_what_is_planted_is_found_and_sound_series_are_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditors, "PEER", tmp_path / "no peer is installed")
    measured = bench.main(["--quick", "--rounds", "1", "--folder", str(tmp_path)])
    (one,) = measured
    assert (one.auditor, one.folder, one.headers) == ("node", "simulated", bench.archive.QUICK.headers)
    assert not one.last.error and one.seconds > 0
    series = bench.archive.prepare(tmp_path / "audit-quick", bench.archive.QUICK)  # found again, not made anew
    named = {place for place, _ in one.last.found}
    assert {entry.folder for entry in series if entry.kind} == named
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written["left_out"] and len(written["goals"]) == 1
