"""One supervisor for all roles: starts each as a process of its own, restarts what crashed, stops all together.

Called by `iap-node serve`. Each role gets a pipe as its standard input; when the supervisor dies, however it dies,
the pipe closes and the roles stop by themselves (`watch_supervisor`), so that no orphan holds the port.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

RESTART_FIRST_S = 0.5  # wait before the first restart; doubles with every crash in a row
RESTART_MOST_S = 30.0
STEADY_AFTER_S = 60.0  # a role that lived so long starts again with the first wait
POLL_S = 0.2

log = structlog.get_logger("supervisor")


@dataclass
class _Role:
    name: str
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_again_at: float = 0.0
    wait_s: float = RESTART_FIRST_S


class Supervisor:
    """Keeps the roles of one node running until told to stop.

    Parameters
    ----------
    roles
        Names of the commands to run: `listen`, `infer`, `deliver`, `schedule`.
    config_path
        Configuration file that each role reads.
    stop_timeout_s
        How long the roles may take to finish what they are doing before they are killed.
    """

    def __init__(self, roles: Sequence[str], config_path: Path, stop_timeout_s: float) -> None:
        self._roles = [_Role(name) for name in roles]
        self._config_path = config_path
        self._stop_timeout_s = stop_timeout_s

    def run(self, stop: threading.Event) -> None:
        """Start all roles, restart the crashed ones, return when `stop` is set and all have ended."""
        try:
            while not stop.is_set():
                for role in self._roles:
                    self._look_after(role)
                stop.wait(POLL_S)
        finally:
            self._stop_all()

    def _look_after(self, role: _Role) -> None:
        now = time.monotonic()
        if role.process is not None:
            code = role.process.poll()
            if code is None:
                return
            if now - role.started_at > STEADY_AFTER_S:
                role.wait_s = RESTART_FIRST_S
            log.warning("role ended", role=role.name, exit_code=code, restart_in_s=role.wait_s)
            self._close_pipe(role)
            role.process = None
            role.start_again_at = now + role.wait_s
            role.wait_s = min(2 * role.wait_s, RESTART_MOST_S)
        if now >= role.start_again_at:
            command = [sys.executable, "-m", "iap_node", role.name, "--config", str(self._config_path), "--supervised"]
            role.process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
            role.started_at = now
            log.info("role started", role=role.name, pid=role.process.pid)

    def _stop_all(self) -> None:
        running = [role for role in self._roles if role.process is not None and role.process.poll() is None]
        for role in running:
            assert role.process is not None
            role.process.terminate()
        deadline = time.monotonic() + self._stop_timeout_s
        for role in running:
            assert role.process is not None
            try:
                role.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("role did not stop in time; killed", role=role.name, pid=role.process.pid)
                role.process.kill()
                role.process.wait()
            self._close_pipe(role)
            log.info("role stopped", role=role.name, exit_code=role.process.returncode)

    @staticmethod
    def _close_pipe(role: _Role) -> None:
        if role.process is not None and role.process.stdin is not None:
            role.process.stdin.close()


def watch_supervisor(stop: threading.Event) -> None:
    """Set `stop` when the supervisor's end of our standard input closes. Called by a supervised role."""

    def wait_for_end_of_file() -> None:
        while os.read(0, 1):
            pass
        stop.set()

    threading.Thread(target=wait_for_end_of_file, name="watch-supervisor", daemon=True).start()
