"""A whole node as its users run it: `iap-node serve` in processes of its own, watched through its tables and logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from iap_node.cli.output import as_json
from iap_node.config import NodeConfig, load_config
from iap_node.database import archive
from iap_node.database.engine import Database
from iap_node.listener.address import read_port
from tests.acceptance.commands import run_command

WAIT_S = 120.0  # a condition that has not come true by then never will


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """The first true value of `condition`; fails the test by name when it does not come."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout_s:.0f} s in vain for {what}")


class RunningNode:
    """One node in a folder of its own; `start` and `kill_role` as often as a test needs."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.config_path = folder / "config.yaml"
        content: dict[str, Any] = {
            "data_dir": "data",
            "listener": {"port": 0},
            "spool": {"prepared_mb": 0},  # a node per test: none is worth half a gigabyte of zeros
            "series": {"quiet_period_s": 1.0},
            "jobs": {"lease_s": 3.0, "poll_s": 0.1, "backoff_s": 0.2, "breaker_s": 0.2},
            "web": {"enabled": False},
            "log": {"format": "json"},
        }
        for section, values in settings.items():
            content[section] = {**content.get(section, {}), **values} if isinstance(values, dict) else values
        self.config_path.write_text(yaml.safe_dump(content))
        self.log_path = folder / "node.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> NodeConfig:
        return load_config(self.config_path)

    def start(self) -> None:
        with self.log_path.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "iap_node", "serve", "--config", str(self.config_path)],
                stderr=stream,
                stdout=stream,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        wait_for(self.port_or_none, "the listener's port")

    def port_or_none(self) -> int | None:
        assert self._process is not None
        assert self._process.poll() is None, self.log_path.read_text()
        return read_port(self.config.data_dir)

    @property
    def port(self) -> int:
        return int(wait_for(self.port_or_none, "the listener's port"))

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log events of one kind, in order."""
        events = []
        for line in self.log_path.read_text().splitlines():
            if line.startswith("{"):
                event = json.loads(line)
                if event.get("event") == name:
                    events.append(event)
        return events

    @property
    def pid(self) -> int:
        """Process of the supervisor."""
        assert self._process is not None
        return self._process.pid

    def role_pid(self, role: str) -> int:
        """Process of a role as the supervisor last started it."""
        return int([event["pid"] for event in self.events("role started") if event.get("role") == role][-1])

    def kill_role(self, role: str) -> None:
        """SIGKILL to one role; returns when the supervisor has started the next one."""
        before = self.role_pid(role)
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: self.role_pid(role) != before, f"a new {role} process")

    def stop(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def kill(self) -> None:
        """SIGKILL to the supervisor alone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()

    def database(self) -> Database:
        return Database(self.config.database_url)

    def series(self) -> list[dict[str, Any]]:
        """What `iap-node series --json` prints, without starting it: for waiting."""
        database = self.database()
        try:
            with database.reading() as session:
                return list(as_json(archive.list_series(session, None, 1000)))
        finally:
            database.dispose()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one `iap-node` command on this node."""
        return run_command([*arguments, "--config", str(self.config_path)])

    def json(self, *arguments: str) -> Any:
        """What a command prints with --json."""
        run = self.command(*arguments, "--json")
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., RunningNode]]:
    """Factory of nodes: `make_node(series={...}, destinations={...})`; each is stopped at the end."""
    nodes: list[RunningNode] = []

    def make(**settings: Any) -> RunningNode:
        folder = tmp_path / f"node{len(nodes)}"
        folder.mkdir()
        nodes.append(RunningNode(folder, settings))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()
