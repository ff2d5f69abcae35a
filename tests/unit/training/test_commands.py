"""The commands of iap-train: errors say what to do, help names every command."""

import subprocess
import sys

from typer.testing import CliRunner

from training.__main__ import app


def test_a_folder_without_a_data_set_is_an_error_with_its_remedy_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "training", "fit", str(tmp_path), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "iap-train simulate" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_the_commands():
    text = CliRunner().invoke(app, ["--help"]).output
    for command in ("simulate", "fit", "recalibrate", "evaluate", "reference", "import-checkpoint"):
        assert command in text
