"""One supervisor for all roles: starts each as a process of its own, restarts what crashed, stops all together.

Called by `iap-node serve`, and by `iap-node listen` where several processes serve its port. Each role gets a pipe as
its standard input; when the supervisor dies, however it dies, the pipe closes and the roles stop by themselves
(`watch_supervisor`), so that no orphan holds the port.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from iap_node.errors import RetriableError

RESTART_FIRST_S = 0.5  # wait before the first restart; doubles with every crash in a row
RESTART_MOST_S = 30.0
STEADY_AFTER_S = 60.0  # a role that lived so long starts again with the first wait
POLL_S = 0.2

log = structlog.get_logger("supervisor")


@dataclass(frozen=True, slots=True)
class Role:
    """What is to run in a process of its own."""

    name: str
    arguments: tuple[str, ...]  # of `iap-node`
    handles: tuple[int, ...] = ()  # open files that the process inherits, under the same numbers


@dataclass
class _Running:
    role: Role
    process: subprocess.Popen[bytes] | None = None
    n_starts: int = 0
    started_at: float = 0.0
    start_again_at: float = 0.0
    wait_s: float = RESTART_FIRST_S


class Supervisor:
    """Keeps roles running until told to stop.

    Parameters
    ----------
    stop_timeout_s
        How long the roles may take to finish what they are doing before they are killed.
    before_restart
        Called before a role that ended is started again; when it raises RetriableError, that is tried again later.
    """

    def __init__(
        self, roles: Sequence[Role], stop_timeout_s: float, before_restart: Callable[[], object] = lambda: None
    ) -> None:
        self._all = [_Running(role) for role in roles]
        self._stop_timeout_s = stop_timeout_s
        self._before_restart = before_restart

    def run(self, stop: threading.Event) -> None:
        """Start all roles, restart the crashed ones until `stop` is set; then call `stop_all`, however this ends."""
        while not stop.is_set():
            for one in self._all:
                self._look_after(one)
            stop.wait(POLL_S)

    def stop_all(self) -> None:
        """Tell all roles to stop, and return when they have ended."""
        running = [(one.role, one.process) for one in self._all if one.process and one.process.poll() is None]
        for _, process in running:
            process.terminate()
        deadline = time.monotonic() + self._stop_timeout_s
        for role, process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("role did not stop in time; killed", role=role.name, pid=process.pid)
                process.kill()
                process.wait()
            _close_pipe(process)
            log.info("role stopped", role=role.name, exit_code=process.returncode)

    def _look_after(self, one: _Running) -> None:
        now = time.monotonic()
        if one.process is not None:
            code = one.process.poll()
            if code is None:
                return
            if now - one.started_at > STEADY_AFTER_S:
                one.wait_s = RESTART_FIRST_S
            log.warning("role ended", role=one.role.name, exit_code=code, restart_in_s=one.wait_s)
            _close_pipe(one.process)
            one.process = None
            self._wait(one)
        if now >= one.start_again_at:
            self._start(one)

    def _start(self, one: _Running) -> None:
        if one.n_starts:
            try:
                self._before_restart()
            except RetriableError as error:
                log.warning("role cannot start yet", role=one.role.name, error=str(error), again_in_s=one.wait_s)
                self._wait(one)
                return
        command = [sys.executable, "-m", "iap_node", *one.role.arguments, "--supervised"]
        one.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, start_new_session=True, pass_fds=one.role.handles
        )
        one.n_starts += 1
        one.started_at = time.monotonic()
        log.info("role started", role=one.role.name, pid=one.process.pid)

    @staticmethod
    def _wait(one: _Running) -> None:
        one.start_again_at = time.monotonic() + one.wait_s
        one.wait_s = min(2 * one.wait_s, RESTART_MOST_S)


def _close_pipe(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def watch_supervisor(stop: threading.Event) -> None:
    """Set `stop` when the supervisor's end of our standard input closes. Called by a supervised role."""

    def wait_for_end_of_file() -> None:
        while os.read(0, 1):
            pass
        stop.set()

    threading.Thread(target=wait_for_end_of_file, name="watch-supervisor", daemon=True).start()
