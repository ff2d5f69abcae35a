"""`iap-node models`: a package is added, tried, promoted and rolled back at the terminal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from iap_node.cli import app
from iap_node.database import accounts, models
from iap_node.database.engine import Database
from iap_node.errors import ModelPackageError
from iap_node.inference.package import WEIGHTS_FILE, package_folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The shipped package with another version."""
    folder = Path(shutil.copytree(package_folder("reference"), tmp_path / "other"))
    manifest = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(manifest | {"version": "9"}))
    return folder


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_package_is_added_tried_promoted_and_rolled_back(tmp_path: Path, database: Database, other: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"data_dir: {tmp_path / 'data'}\ndatabase: {{url: '{database.engine.url}'}}\n")
    runner = CliRunner()

    def run(*arguments: str) -> str:
        result = runner.invoke(app, ["models", *arguments, "--config", str(config)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    first = run("add", str(package_folder("reference"))).split()[0]
    second = run("add", str(other), "--reason", "trained on our scanners").split()[0]
    assert second.startswith("reference-9-")
    run("promote", first)
    assert "is in shadow for the next 7 series" in run("shadow", second, "--series", "7")
    assert "judged no series" in run("agreement", second)
    run("shadow", second, "--end")
    assert f"returns to {first}" in run("promote", "reference-9")  # the beginning of a name will do
    assert f"{first} is champion again" in run("rollback", "--reason", "worse at 7 T")
    assert "is retired" in run("shadow", second, "--series", "7") + run("retire", second)
    found = json.loads(run("list", "--json"))
    assert [(one["model_id"], one["state"]) for one in found] == [(first, "champion"), (second, "retired")]
    assert "worse at 7 T" in run("show", second)
    assert "rolled back" in run("events")
    nobody = runner.invoke(app, ["models", "show", "reference", "--config", str(config)])
    assert nobody.exit_code == 4
    with database.reading() as session:
        trail = {one.action for one in accounts.trail(session)}
        assert len(models.list_models(session)) == 2
    assert trail >= {"add model", "promote model", "roll back model", "begin shadow", "end shadow", "retire model"}
    (other / WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(ModelPackageError, match="SHA-256"):
        runner.invoke(app, ["models", "add", str(other), "--config", str(config)], catch_exceptions=False)
