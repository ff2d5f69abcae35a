"""`iap-node echo`: each kind of destination tried without sending a series."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import yaml
from sqlalchemy import insert
from typer.testing import CliRunner

from iap_node.cli import app
from iap_node.database.engine import Database, migrate
from iap_node.database.tables import DestinationHealthRow


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
    assert tried["good"]["left_alone_until"] is None
    assert CliRunner().invoke(app, ["echo", "good", "-c", str(config)]).exit_code == 0
    assert CliRunner().invoke(app, ["echo", "god", "-c", str(config)]).exit_code == 2


def test_echo_and_status_say_which_destination_is_left_alone(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    (tmp_path / "out").mkdir()
    config.write_text(yaml.safe_dump({"destinations": {"share": {"kind": "folder", "path": "out"}}}))
    (tmp_path / "var" / "spool").mkdir(parents=True)
    database = Database(f"sqlite:///{tmp_path / 'var' / 'node.sqlite'}")
    migrate(database)
    with database.transaction() as session:
        session.execute(
            insert(DestinationHealthRow).values(
                destination="share", failures=7, paused_until=datetime(2099, 1, 1, tzinfo=UTC), error="it is gone"
            )
        )
    database.dispose()
    run = CliRunner().invoke(app, ["echo", "--json", "-c", str(config)])
    assert (run.exit_code, json.loads(run.stdout)[0]["left_alone_until"][:4]) == (0, "2099")
    run = CliRunner().invoke(app, ["status", "--json", "-c", str(config)])
    shown = json.loads(run.stdout)
    assert [one["error"] for one in shown["paused_destinations"]] == ["it is gone"]
