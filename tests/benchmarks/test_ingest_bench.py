"""That the bench of C-STORE ingest works: everything it measures, on a twentieth of it. No figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run_quickly(folder: Path, *words: str) -> dict[str, Any]:
    """What `--quick` writes into `ingest.json`."""
    command = [sys.executable, "-m", "tests.benchmarks.ingest", "--quick", "--rounds", "1", "--folder", str(folder)]
    done = subprocess.run([*command, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads((folder / "ingest.json").read_text())
    return content


@pytest.mark.slow
def test_the_bench_measures_node_and_peers_and_all_that_is_sent_is_stored(
    tmp_path: Path, program: Callable[[str, str], str]
) -> None:
    for name, package in (("storescp", "dcmtk"), ("cc", "gcc")):
        program(name, package)
    receivers = ["node-strict", "node-strict-2", "storescp", "pynetdicom"]
    found = run_quickly(
        tmp_path, "--receivers", ",".join(receivers), "--workloads", "mr320,bulk", "--parts", "rates,floor"
    )
    assert found["left_out"] == []  # a run where stored and acknowledged differ would be here
    rates = [one for one in found["measurements"] if one["part"] == "rates"]
    minimal = {(one["receiver"], one["workload"], one["associations"]) for one in rates if one["sender"] == "minimal"}
    assert minimal == {
        (receiver, workload, n)
        for receiver in receivers
        for workload in ("mr320", "bulk")
        for n in (1, 4)
        if receiver != "node-strict-2" or n == 4
    }
    assert {one["sender"] for one in rates} == {"minimal", "dcmsend", "storescu"}
    assert all(one["cpu_s_per_gb"] > 0 and min(one["peak_mb"]) > 0 for one in rates)
    assert {one["text"]: one["value"] for one in found["goals"]}["rate as dcmsend sees it, strict / DCMTK storescp"] > 0


@pytest.mark.slow
def test_the_node_is_measured_on_a_prefilled_archive(tmp_path: Path, program: Callable[[str, str], str]) -> None:
    program("cc", "gcc")
    found = run_quickly(tmp_path, "--receivers", "node-strict", "--parts", "prefilled")
    assert found["left_out"] == []
    measured = {(one["archive"], one["associations"]) for one in found["measurements"]}
    assert measured == {(archive, n) for archive in ("empty", "prefilled") for n in (1, 4)}
