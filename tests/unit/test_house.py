"""Guards of the house: configuration documented, torch kept in its rooms, README true, versions pinned."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from iap_node.config import NodeConfig, destinations, routing
from iap_node.config.section import Section, keys_of

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG_TEXT = (REPOSITORY / "config.yaml").read_text(encoding="utf-8")
NAMED_SECTIONS: tuple[type[Section], ...] = (
    routing.DomainConfig, routing.DownstreamModelConfig, routing.RuleConfig, routing.ConditionConfig,
    routing.HeaderConditionConfig, routing.SeriesConditionConfig, routing.FindingConditionConfig,
    destinations.DestinationConfig, destinations.FolderConfig, destinations.ResultWebhookConfig,
    destinations.DicomwebConfig, destinations.ObjectStorageConfig,
)  # fmt: skip
TORCH_MODULES = re.compile(r"^\s*(import torch|from torch)", re.MULTILINE)


def _defaults(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(mode="json")


def _leaf_keys(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        return {prefix: content}
    return {
        path: value
        for key, item in content.items()
        for path, value in _leaf_keys(item, f"{prefix}.{key}" if prefix else key).items()
    }


def test_config_yaml_holds_every_key_with_its_default() -> None:
    written = _leaf_keys(yaml.safe_load(CONFIG_TEXT))
    defaults = _leaf_keys(_defaults(NodeConfig()))
    assert written == defaults


def test_config_yaml_gives_a_reason_for_every_key() -> None:
    """A leaf line of config.yaml carries a comment behind its value."""
    without = [
        line
        for line in CONFIG_TEXT.splitlines()
        if re.match(r"^\s*[a-z_]+:\s+\S", line) and not re.match(r"^\s*[a-z_]+:\s+#", line) and " # " not in line
    ]
    assert without == []


@pytest.mark.parametrize("section", NAMED_SECTIONS, ids=lambda section: section.__name__)
def test_config_yaml_shows_every_key_of_the_named_sections(section: type[Section]) -> None:
    assert [key for key in keys_of(section) if not re.search(rf"\b{key}\b", CONFIG_TEXT)] == []


def _modules_without_torch() -> list[str]:
    """Every module of iap_node that does not itself import torch, or import such a module, when it is loaded."""
    sources = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path.read_text("utf-8")
        for path in (REPOSITORY / "iap_node").rglob("*.py")
    }
    heavy = {name for name, source in sources.items() if TORCH_MODULES.search(source)}
    return sorted(name for name in sources if name not in heavy and not name.endswith("__main__"))


def test_torch_is_imported_only_by_inference() -> None:
    offenders = [
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "iap_node").rglob("*.py")
        if TORCH_MODULES.search(path.read_text("utf-8")) and "inference" not in path.parts
    ]
    assert offenders == []


def test_listener_cli_and_every_other_room_import_with_torch_blocked() -> None:
    rooms = [name for name in _modules_without_torch() if not name.startswith("iap_node.inference.")]
    assert {"iap_node.listener", "iap_node.cli", "iap_node.worker", "iap_node.database"} <= set(rooms)
    program = (
        "import importlib, sys; sys.modules['torch'] = None\n"
        f"for name in {rooms!r}: importlib.import_module(name)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def _documents() -> str:
    files = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    return "\n".join(path.read_text("utf-8") for path in files)


def test_every_make_target_that_the_documents_name_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", _documents())) | set(re.findall(r"^make ([a-z-]+)", _documents(), re.M))
    assert named and named <= targets


@pytest.mark.parametrize("program", ["iap-node", "iap-train"])
def test_every_command_that_the_documents_name_exists(program: str) -> None:
    from typer.main import get_command

    if program == "iap-node":
        from iap_node.cli import app
    else:
        from training.__main__ import app
    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(rf"{program} ([a-z][a-z-]+)", _documents()))
    assert named and named <= known


def test_every_requirement_is_pinned_in_constraints() -> None:
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line
    }
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    required = setup["options"]["install_requires"].split("\n") + setup["options.extras_require"]["test"].split("\n")
    names = {re.split(r"[\[<>=]", line.strip())[0].lower().replace("_", "-") for line in required if line.strip()}
    assert names - pinned == set()


def test_no_broad_except_outside_the_edges() -> None:
    """`except Exception` stands only where a DIMSE handler, a thread of the listener or a worker's run_once ends, and
    where a thread hands over to who waits for it whatever ended it."""
    edges = {
        "iap_node/listener/commitment.py",
        "iap_node/listener/handlers.py",
        "iap_node/listener/query.py",
        "iap_node/listener/receiver.py",
        "iap_node/listener/registrar.py",
        "iap_node/listener/reporter.py",
        "iap_node/pull/retrieve.py",
        "iap_node/spool/write_behind.py",
        "iap_node/worker/loop.py",
        "iap_node/worker/models_at_work.py",
    }
    offenders = []
    for path in (REPOSITORY / "iap_node").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            caught = node.type if isinstance(node, ast.ExceptHandler) else None
            if isinstance(caught, ast.Name) and caught.id in {"Exception", "BaseException"}:
                offenders.append(str(path.relative_to(REPOSITORY)))
    assert set(offenders) <= edges


def test_queries_stand_in_the_database_room_alone() -> None:
    """`from sqlalchemy import ...` brings SQL; the session, which others hand on, comes from sqlalchemy.orm."""
    offenders = [
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "iap_node").rglob("*.py")
        if "database" not in path.relative_to(REPOSITORY / "iap_node").parts
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.ImportFrom) and node.module == "sqlalchemy")
        or (isinstance(node, ast.Import) and any(name.name == "sqlalchemy" for name in node.names))
    ]
    assert offenders == []
