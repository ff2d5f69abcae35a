"""`iap-node` commands in processes of their own that need not import everything first.

A server with the rooms imported forks each of them: as separate as processes are, without the second or two that
importing takes. What goes on running (`serve`, `listen`), the demo and one command of `test_cli` are started as users
start them.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_ROOMS = (
    "iap_node.cli",
    "iap_node.database.archive",
    "iap_node.database.status",
    "alembic.command",
    "iap_node.spool",
    "iap_node.upkeep.fsck",
    "iap_node.listener.intake",
)
TIMEOUT_S = 300


def run_command(
    arguments: Sequence[str], *, cwd: Path | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """`iap-node` with these arguments, from this process's environment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_ROOMS])
    with tempfile.TemporaryDirectory(prefix="iap-command-") as folder:
        given, said, complained = (Path(folder) / name for name in ("in", "out", "err"))
        given.write_text(stdin)
        where = str(cwd or Path.cwd())
        process = context.Process(
            target=_be_a_command,
            args=(tuple(arguments), where, dict(os.environ), str(given), str(said), str(complained)),
        )
        process.start()
        process.join(TIMEOUT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), TIMEOUT_S)
        return subprocess.CompletedProcess(list(arguments), process.exitcode, said.read_text(), complained.read_text())


def _be_a_command(
    arguments: tuple[str, ...], cwd: str, environment: Mapping[str, str], given: str, said: str, complained: str
) -> None:
    for number, (path, flags) in enumerate(
        ((given, os.O_RDONLY), (said, os.O_WRONLY | os.O_CREAT), (complained, os.O_WRONLY | os.O_CREAT))
    ):
        handle = os.open(path, flags, 0o600)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = os.fdopen(0, closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["iap-node", *arguments]
    from iap_node.cli import main

    main()
