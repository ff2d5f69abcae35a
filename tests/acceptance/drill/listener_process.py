"""`iap-node listen` as a process of its own, for the drill to kill."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from iap_node.cli.setup import prepare
from iap_node.config import NodeConfig, load_config
from iap_node.listener.address import read_port
from tests.acceptance.conftest import wait_for


class ListenerProcess:
    """A listener on a folder: `start`, `kill` and `start` again as often as a drill needs."""

    def __init__(self, folder: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
        self.config_path = folder / "config.yaml"
        content: dict[str, dict[str, Any]] = {
            "listener": {"port": 0},
            "spool": {"prepared_mb": 0},
            "series": {"complete_on_release": True},
            "log": {"format": "json", "level": "warning"},
        }
        for section, values in settings.items():
            content[section] = {**content.get(section, {}), **values}
        self.config_path.write_text(yaml.safe_dump({"data_dir": "data", **content}))
        self.log_path = folder / "listener.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> NodeConfig:
        return load_config(self.config_path)

    @property
    def pid(self) -> int:
        return self._running().pid

    def prepare(self) -> None:
        """As `iap-node init`."""
        prepare(self.config)

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Returns when the process exists, which is long before it listens."""
        with self.log_path.open("ab") as stream:
            command = [sys.executable, "-m", "iap_node", "listen", "--config", str(self.config_path)]
            self._process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)

    def port_or_none(self) -> int | None:
        """The port, once it listens."""
        process = self._process
        if process is None or process.poll() is not None:
            return None
        return read_port(self.config.data_dir)

    def wait_until_it_listens(self) -> None:
        wait_for(lambda: self.port_or_none() or self._has_ended(), "the listener's port")
        assert not self._has_ended(), self.log_path.read_text()

    def wait_for_end(self, timeout_s: float) -> None:
        """Let it run for so long, unless it ends before."""
        try:
            self._running().wait(timeout_s)
        except subprocess.TimeoutExpired:
            return

    def kill(self) -> None:
        """SIGKILL."""
        self._running().kill()
        self._running().wait()

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        self._running().terminate()
        return self._running().wait(60)

    def close(self) -> None:
        """Leave no process behind."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def _has_ended(self) -> bool:
        return self._running().poll() is not None

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process
