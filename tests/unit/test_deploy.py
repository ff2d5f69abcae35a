"""What `deploy/` ships: it names what is there, runs as nobody in particular, and stops with patience."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from iap_node.cli import app
from iap_node.cli.roles import _stop_timeout_s
from iap_node.config import ListenerConfig, NodeConfig, load_config

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
PROGRAM = "/opt/iap-node/.venv/bin/iap-node"
STOPS_IN_S = _stop_timeout_s(NodeConfig()) + 2.0  # as `serve` gives its roles


def _instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def _all_of(instruction: str) -> list[str]:
    return [arguments for name, arguments in _instructions() if name == instruction]


def _compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return content


def _seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|min)", text).groups()  # type: ignore[union-attr]
    return float(number) * (60 if unit == "min" else 1)


def test_the_image_copies_what_is_there_and_runs_as_nobody_in_particular() -> None:
    sources = [word for line in _all_of("COPY") for word in shlex.split(line)[:-1] if not word.startswith("--")]
    assert {"iap_node", "migrations", "constraints.txt"} <= set(sources)
    assert [name for name in sources if not (REPOSITORY / name).exists()] == []
    let_in = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    assert [name for name in sources if f"!{name}" not in let_in] == []
    assert _all_of("USER") == ["10001:10001"]
    after_user = _instructions()[_instructions().index(("USER", "10001:10001")) :]
    assert not {"RUN", "COPY", "ADD"} & {name for name, _ in after_user}  # nothing of the program is its own
    (base,) = _all_of("FROM")
    assert base.startswith("python:3.11-slim")
    assert all("--no-cache-dir" in line for line in _all_of("RUN") if "pip install" in line)


def test_the_image_offers_the_ports_of_the_configuration_and_says_whether_it_is_well() -> None:
    defaults = NodeConfig()
    assert _all_of("EXPOSE") == [f"{defaults.listener.port} {defaults.web.port}"]
    (check,) = _all_of("HEALTHCHECK")
    assert "IAP_NODE_HEALTH_URL" in check
    assert any(f"http://127.0.0.1:{defaults.web.port}/healthz" in line for line in _all_of("ENV"))
    (command,) = _all_of("CMD")
    assert json.loads(command)[0] in get_command(app).commands  # type: ignore[attr-defined]
    subprocess.run(["sh", "-n", str(DEPLOY / "iap-node-in-container")], check=True)
    assert (DEPLOY / "iap-node-in-container").stat().st_mode & 0o111


def test_compose_gives_secrets_by_file_publishes_to_this_machine_only_and_stops_with_patience() -> None:
    content = _compose()
    node, database = content["services"]["node"], content["services"]["database"]
    assert node["read_only"] and node["cap_drop"] == ["ALL"] and "no-new-privileges:true" in node["security_opt"]
    assert all(port.startswith("127.0.0.1:") for port in node["ports"]) and "ports" not in database
    for service in (node, database):
        given = {name: value for name, value in service["environment"].items() if "PASSWORD" in name}
        assert given and all(name.endswith("_FILE") for name in given)
        assert all(value.removeprefix("/run/secrets/") in content["secrets"] for value in given.values())
        assert not service.get("privileged")
    assert node["depends_on"]["database"]["condition"] == "service_healthy" and database["healthcheck"]["test"]
    assert _seconds(node["stop_grace_period"]) > STOPS_IN_S
    build = node["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    for volume in node["volumes"] + database["volumes"]:
        source = volume.split(":")[0]
        assert (DEPLOY / source).is_file() if source.startswith(".") else source in content["volumes"]


def test_the_container_s_configuration_is_valid_and_where_compose_says_so() -> None:
    config = load_config(DEPLOY / "config.container.yaml")
    compose = _compose()
    targets = {volume.split(":")[1] for volume in compose["services"]["node"]["volumes"]}
    assert str(config.data_dir) in targets and "/etc/iap-node/config.yaml" in targets
    assert config.database_url.split("@")[1] == "database/iap" and ":" not in config.database_url.split("//")[1]
    assert (config.listener.port, config.web.port) == (NodeConfig().listener.port, NodeConfig().web.port)


def _unit(name: str) -> dict[str, list[str]]:
    settings: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / name).read_text().splitlines():
        key, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            settings.setdefault(key, []).append(value)
    return settings


def test_the_service_is_hardened_and_stops_with_patience() -> None:
    unit = _unit("iap-node.service")
    for key, value in {
        "User": "iap-node",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "CapabilityBoundingSet": "",
        "KillMode": "mixed",
    }.items():
        assert unit[key] == [value]
    assert unit["ReadWritePaths"] == ["/var/lib/iap-node"]
    assert _seconds(unit["TimeoutStopSec"][0]) > STOPS_IN_S
    assert int(unit["LimitNOFILE"][0]) > 4 * ListenerConfig().max_associations


@pytest.mark.parametrize("path", [path for path in UNITS if path.suffix == ".service"], ids=lambda path: path.name)
def test_units_call_commands_that_exist(path: Path) -> None:
    unit = _unit(path.name)
    for line in unit["ExecStart"] + unit.get("ExecStartPre", []):
        program, command, *_ = line.split()
        assert program == PROGRAM and command in get_command(app).commands  # type: ignore[attr-defined]


if shutil.which("systemd-analyze"):  # where everything must run, CI, there need be no systemd

    def test_systemd_understands_the_units(tmp_path: Path) -> None:
        for path in UNITS:
            (tmp_path / path.name).write_text(path.read_text().replace(PROGRAM, sys.executable))
        command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / path.name) for path in UNITS)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        ours = [line for line in done.stderr.splitlines() if "iap-node" in line]
        assert done.returncode == 0 and ours == [], done.stderr


def test_the_capacity_table_has_no_figure_that_the_benchmark_did_not_print() -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    printed = set(re.findall(r"[\d.,]*\d", (REPOSITORY / "docs" / "benchmarks-ingest.md").read_text()))
    capacity = text.partition("## Capacity")[2].partition("\n## ")[0]
    table = [line.strip("|").split("|") for line in capacity.splitlines() if line.startswith("|")]
    figures = {cell.strip() for row in table[2:] for cell in row[1:]} - {"-"}
    assert len(figures) > 10 and figures <= printed, "measured anew? then bring docs/operations.md up to date"


def test_every_file_and_configuration_key_that_the_operations_name_exists() -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    links = [name for name in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in name]
    assert links and [name for name in links if not (REPOSITORY / "docs" / name).exists()] == []
    named = re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", text)
    sections = NodeConfig.model_fields
    keys = [key for key in named if key.split(".")[0] in sections]
    config_text = (REPOSITORY / "config.yaml").read_text()
    assert len(keys) > 10 and [key for key in keys if f"{key.rpartition('.')[2]}:" not in config_text] == []
