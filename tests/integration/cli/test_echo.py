"""`iap-node echo`: each kind of destination tried without sending a series."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from typer.testing import CliRunner

from iap_node.cli import app


def test_echo_says_which_destination_answers_and_which_does_not(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    destinations = {
        "good": {"kind": "folder", "path": "out"},
        "bad": {"kind": "folder", "path": "unmounted"},
        "nobody": {"ae_title": "X", "host": "127.0.0.1", "port": 1, "timeout_s": 2},
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"destinations": destinations}))
    run = CliRunner().invoke(app, ["echo", "--json", "-c", str(config)])
    assert run.exit_code == 1
    tried = {one["destination"]: one for one in json.loads(run.stdout)}
    assert tried["good"]["error"] is None
    assert "mount its disk" in tried["bad"]["error"]
    assert "cannot be reached" in tried["nobody"]["error"]
    assert CliRunner().invoke(app, ["echo", "good", "-c", str(config)]).exit_code == 0
    assert CliRunner().invoke(app, ["echo", "god", "-c", str(config)]).exit_code == 2
