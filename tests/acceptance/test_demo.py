"""`make demo`: the story runs, comes out right and is written down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_demo_passes_and_writes_what_it_shows(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "training.demo", "--folder", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-4000:]
    assert "trained on simulated images" in run.stdout
    studies = json.loads((tmp_path / "demo" / "result.json").read_text())["studies"]
    assert len(studies) >= 8
    assert all(check["holds"] for study in studies for check in study["checks"])
    verdicts = {
        comparison["keyword"]: comparison["verdict"]
        for study in studies
        for comparison in study["comparisons"]
        if comparison["verdict"] in {"contradicts", "missing"}
    }
    assert {"contradicts", "missing"} <= set(verdicts.values())
    suggested = {finding["element"]: finding["suggested_value"] for study in studies for finding in study["findings"]}
    assert suggested["MagneticFieldStrength"] == "1.5"
    assert suggested["RepetitionTime"]
    assert any(study["novel"] for study in studies)
