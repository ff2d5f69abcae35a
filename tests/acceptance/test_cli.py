"""The commands as their users type them: exit codes, JSON, help, and errors that say what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from iap_node.cli import app
from tests.acceptance.commands import run_command
from tests.acceptance.conftest import RunningNode

SCRIPT = Path(sys.executable).with_name("iap-node")
COMMANDS = (
    "serve", "listen", "infer", "deliver", "schedule", "init", "check-config", "migrate", "import", "status",
    "series", "show", "findings", "jobs", "retry", "routes", "quarantine", "retention", "fsck",
    "export", "why", "held", "release", "reroute", "replay", "coverage", "config-schema",
)  # fmt: skip


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_command(arguments, cwd=cwd)


@pytest.fixture
def node(make_node: Callable[..., RunningNode]) -> RunningNode:
    """A node that was initialised and does not run."""
    node = make_node()
    assert node.command("init").returncode == 0
    return node


def test_a_command_started_as_users_start_it_says_what_a_forked_one_says(node: RunningNode) -> None:
    for arguments in (["series"], ["show", "1.2.3"], ["--version"], ["series", "--no-such-option"]):
        command = [*arguments, *(["--config", str(node.config_path)] if arguments != ["--version"] else [])]
        started = subprocess.run([SCRIPT, *command], capture_output=True, text=True, check=False, timeout=120)
        forked = run_command(command)
        assert (started.returncode, started.stdout, started.stderr) == (forked.returncode, forked.stdout, forked.stderr)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_worth_reading(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert len(shown.stdout.split()) > 20


def test_an_invalid_configuration_ends_with_its_own_exit_code_and_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("listener: {prot: 1}\n")
    checked = run("check-config", cwd=tmp_path)
    assert checked.returncode == 3
    assert "listener.prot: unknown key; did you mean 'port'?" in checked.stderr


def test_commands_on_a_node_that_was_never_initialised_say_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}\n")
    refused = run("status", cwd=tmp_path)
    assert refused.returncode == 1
    assert "iap-node init" in refused.stderr


def test_check_config_shows_the_configuration_as_json(node: RunningNode) -> None:
    assert node.json("check-config")["listener"]["ae_title"] == "IAP_NODE"


@pytest.mark.parametrize("command", ["series", "findings", "jobs", "routes"])
def test_lists_of_an_empty_node_are_empty(node: RunningNode, command: str) -> None:
    assert node.json(command) == []
    shown = node.command(command)
    assert shown.returncode == 0 and shown.stdout.strip()


def test_an_unknown_series_ends_with_its_own_exit_code(node: RunningNode) -> None:
    asked = node.command("show", "1.2.3")
    assert asked.returncode == 4
    assert "iap-node series" in asked.stderr


def test_retry_wants_to_know_what(node: RunningNode) -> None:
    assert node.command("retry").returncode == 2
    assert node.command("retry", "--all").returncode == 4


def test_import_files_a_folder_through_the_same_door_and_names_what_it_could_not(
    node: RunningNode, mr_real: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    source = mr_real / "canon_galan3t_v61_dti_axial"
    for path in sorted(source.iterdir())[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "notes.txt").write_text("not DICOM")
    first = node.command("import", str(folder), "--json")
    assert first.returncode == 0, first.stderr
    counts = json.loads(first.stdout)
    assert counts["stored"] == 3 and counts["not_dicom"] == 1
    again = json.loads(node.command("import", str(folder), "--json").stdout)
    assert again["stored"] == 0 and again["duplicate"] == 3
    assert len(node.json("series")) == 1


def test_import_of_a_broken_instance_puts_it_aside_and_says_so(
    node: RunningNode, mr_real: Path, tmp_path: Path
) -> None:
    source = sorted((mr_real / "canon_galan3t_v61_dti_axial").iterdir())[0]
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "cut.dcm").write_bytes(source.read_bytes()[:300])
    imported = node.command("import", str(folder), "--json")
    assert imported.returncode == 1
    assert json.loads(imported.stdout)["quarantined"] == 1
    assert node.json("status")["quarantine"] == 1


def test_status_check_says_by_its_exit_code_that_a_person_is_needed(
    node: RunningNode, mr_real: Path, tmp_path: Path
) -> None:
    assert node.command("status", "--check").returncode == 0
    folder = tmp_path / "media"
    folder.mkdir()
    source = sorted((mr_real / "canon_galan3t_v61_dti_axial").iterdir())[0]
    (folder / "cut.dcm").write_bytes(source.read_bytes()[:300])
    node.command("import", str(folder))
    assert node.command("status", "--check").returncode == 5


def test_a_role_that_cannot_start_says_why(node: RunningNode) -> None:
    content = yaml.safe_load(node.config_path.read_text())
    content["inference"] = {"model": "no/such/package"}
    node.config_path.write_text(yaml.safe_dump(content))
    refused = node.command("infer")
    assert refused.returncode == 1
    assert "no/such/package" in refused.stderr
