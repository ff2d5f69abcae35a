"""The supervisor with processes that end as soon as they start: what is restarted, when, and what is inherited."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iap_node import supervisor
from iap_node.errors import RetriableError
from iap_node.supervisor import Role, Supervisor

WAIT_S = 30.0


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RESTART_FIRST_S", 0.01)
    monkeypatch.setattr(supervisor, "RESTART_MOST_S", 0.02)
    monkeypatch.setattr(supervisor, "POLL_S", 0.01)


@pytest.fixture
def run_instead(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[list[str]]]:
    """Run a piece of Python in place of `iap-node`; the commands that were to be run."""

    def replace(code: str) -> list[list[str]]:
        commands: list[list[str]] = []
        popen = subprocess.Popen

        def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
            commands.append(command)
            return popen([sys.executable, "-c", code], **options)

        monkeypatch.setattr(subprocess, "Popen", start)
        return commands

    return replace


def run_until(roles: Supervisor, condition: Callable[[], bool]) -> None:
    stop = threading.Event()
    running = threading.Thread(target=roles.run, args=(stop,))
    running.start()
    deadline = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    came_true = condition()
    stop.set()
    running.join()
    roles.stop_all()
    assert came_true


def test_role_that_ends_is_started_again_after_what_must_precede_a_restart(
    run_instead: Callable[[str], list[list[str]]],
) -> None:
    commands = run_instead("pass")
    n_starts_before: list[int] = []
    role = Role("listen-1", ("listen", "--config", "c"))
    roles = Supervisor([role], 5.0, lambda: n_starts_before.append(len(commands)))
    run_until(roles, lambda: len(commands) >= 3)
    assert commands[0][1:] == ["-m", "iap_node", "listen", "--config", "c", "--supervised"]
    assert n_starts_before[:2] == [1, 2]  # and not before the first start


def test_role_waits_while_what_must_precede_its_restart_fails(run_instead: Callable[[str], list[list[str]]]) -> None:
    commands = run_instead("pass")
    failures = [RetriableError("the database is away")] * 3
    n_starts_at_failures: list[int] = []

    def recover() -> None:
        if failures:
            n_starts_at_failures.append(len(commands))
            raise failures.pop()

    roles = Supervisor([Role("listen-1", ("listen",))], 5.0, recover)
    run_until(roles, lambda: len(commands) >= 2)
    assert n_starts_at_failures == [1, 1, 1]


def test_role_inherits_its_handles_and_no_others(
    run_instead: Callable[[str], list[list[str]]], tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    run_instead(
        "import os, pathlib; "
        f"pathlib.Path({str(seen)!r}).write_text(' '.join(os.listdir('/proc/self/fd'))); "
        "import sys; sys.stdin.read()"
    )
    wanted, other = os.pipe()
    for handle in (wanted, other):
        os.set_inheritable(handle, True)
    try:
        roles = Supervisor([Role("listen-1", ("listen",), (wanted,))], 5.0)
        run_until(roles, lambda: seen.exists() and bool(seen.read_text()))
        handles = seen.read_text().split()
        assert str(wanted) in handles
        assert str(other) not in handles
    finally:
        os.close(wanted)
        os.close(other)


def test_role_that_does_not_stop_in_time_is_killed(
    run_instead: Callable[[str], list[list[str]]], tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    run_instead(
        "import signal, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"pathlib.Path({str(ready)!r}).touch(); signal.pause()"
    )
    roles = Supervisor([Role("stubborn", ("listen",))], 0.1)
    run_until(roles, ready.exists)
    assert roles._all[0].process is not None
    assert roles._all[0].process.returncode == -9
