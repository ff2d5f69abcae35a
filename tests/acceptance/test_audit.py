"""`iap-node audit`: a stranger points it at a folder, and at nothing else."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.acceptance.commands import run_command
from tests.integration.listener.conftest import make_instance


def audit(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_command(["audit", *arguments], cwd=cwd)


def folder_with(tmp_path: Path, **elements: object) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    make_instance(**elements).save_as(folder / "image", enforce_file_format=True)
    return folder


def test_folder_is_audited_without_a_node_and_reports_are_written(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, MagneticFieldStrength="15000")  # in gauss
    done = audit(str(folder), "--out", "reports", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "MagneticFieldStrength" in done.stdout and "1 series, 1 instances" in done.stdout
    written = {path.name for path in (tmp_path / "reports").iterdir()}
    assert written == {"audit.html", "audit.csv", "audit.json", "audit.groups.csv"}
    content = json.loads((tmp_path / "reports" / "audit.json").read_text())
    assert content["n_findings"] >= 1
    assert {path.name for path in tmp_path.iterdir()} == {"images", "reports"}  # and nothing else


def test_exit_code_says_on_request_whether_something_is_wrong(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, MagneticFieldStrength="15000")
    assert audit(str(folder), "--check", cwd=tmp_path).returncode == 5
    assert json.loads(audit(str(folder), "--json", cwd=tmp_path).stdout)["n_instances"] == 1
    missing = audit("nowhere", cwd=tmp_path)
    assert missing.returncode == 2 and "nowhere" in missing.stderr
