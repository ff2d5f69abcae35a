"""Who sends: the minimal sender (`sender.c`), DCMTK's dcmsend and storescu."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tests.benchmarks.ingest.workloads import PreparedInstance

SenderName = Literal["minimal", "dcmsend", "storescu"]
LONGEST_PDU_BYTES = 131_072  # of the minimal sender, where the receiver announces more; DCMTK's own limit
SOURCE = Path(__file__).with_name("sender.c")
POLL_S = 0.02
TIMEOUT_S = 600.0


class SendFailed(Exception):
    """The sender did not get Success for everything."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What one run of a sender came to, by its own clock."""

    instances: int
    n_bytes: int
    seconds: float
    ended_at: float  # on the monotonic clock
    sender_cpu_s: float | None = None  # of the minimal sender, while it sent
    announced_pdu_bytes: int | None = None
    begun_s: np.ndarray | None = None  # per instance, in order of the associations
    answered_s: np.ndarray | None = None


class MinimalSender:
    """The compiled `sender.c`.

    Raises
    ------
    FileNotFoundError
        No C compiler is there.
    """

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise FileNotFoundError("no C compiler; apt-get install gcc libc6-dev")
        folder.mkdir(parents=True, exist_ok=True)
        self._program, self._times = folder / "sender", folder / "sender.times"
        if not self._program.is_file() or self._program.stat().st_mtime < SOURCE.stat().st_mtime:
            subprocess.run([compiler, "-O2", "-o", str(self._program), str(SOURCE), "-lpthread"], check=True)

    def send(
        self,
        instances: Sequence[PreparedInstance],
        *,
        port: int,
        called: str,
        associations: int,
        tag: int,
        repeats: int = 1,
        watch: Callable[[], None] = lambda: None,
    ) -> Sent:
        """Send all instances `repeats` times under UIDs of their own; `watch` is called again and again meanwhile.

        Raises
        ------
        SendFailed
            An answer was not Success, or the association ended.
        """
        words = [port, called, associations, tag, repeats, LONGEST_PDU_BYTES, self._times]
        lines = "".join(
            f"{one.path} {one.dataset_offset} {one.dataset_length} {one.head_length} {one.sop_class_uid} "
            f"{one.sop_instance_uid} {one.sop_tag_offset} {one.series_tag_offset}\n"
            for one in instances
        )
        process = subprocess.Popen(
            [str(self._program), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(lines)
        process.stdin.close()
        process.stdin = None
        ended_at = _wait([process], watch)
        output, errors = process.communicate()
        if process.returncode != 0:
            raise SendFailed(errors.strip())
        said = json.loads(output)
        if said["failed"] or said["stored"] != repeats * len(instances):
            raise SendFailed(f"{said['failed']} of {len(instances)} refused, last with {said['last_failure']:04X}H")
        times = np.fromfile(self._times).reshape(-1, 2)
        return Sent(
            instances=said["stored"],
            n_bytes=said["bytes"],
            seconds=said["seconds"],
            ended_at=ended_at,
            sender_cpu_s=said["cpu_s"],
            announced_pdu_bytes=said["announced_pdu_bytes"],
            begun_s=times[:, 0],
            answered_s=times[:, 1],
        )


def send_with_dcmtk(
    program: SenderName,
    files: Sequence[Path],
    *,
    port: int,
    called: str,
    associations: int,
    environment: dict[str, str],
    watch: Callable[[], None] = lambda: None,
) -> Sent:
    """Send files with dcmsend or storescu, one process per association; the clock runs from start to end of them.

    Raises
    ------
    SendFailed
        One of them says that something was not stored.
    """
    words = {
        "dcmsend": ["dcmsend", "-aec", called, "-ll", "error", "127.0.0.1", str(port)],
        "storescu": ["storescu", "-aec", called, "-ll", "error", "-R", "-xe", "127.0.0.1", str(port)],
    }[program]
    shares = [files[len(files) * n // associations : len(files) * (n + 1) // associations] for n in range(associations)]
    started = time.monotonic()
    processes = [
        subprocess.Popen(
            [*words, *map(str, share)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for share in shares
    ]
    ended_at = _wait(processes, watch)
    for process in processes:
        output, _ = process.communicate()
        if process.returncode != 0 or output.strip():
            raise SendFailed(f"{program}: {output.strip()[:500] or process.returncode}")
    return Sent(
        instances=len(files),
        n_bytes=sum(path.stat().st_size for path in files),
        seconds=ended_at - started,
        ended_at=ended_at,
    )


def _wait(processes: Sequence[subprocess.Popen[str]], watch: Callable[[], None]) -> float:
    """Wait for the end of all, which is returned; their outputs are short enough for a pipe."""
    deadline = time.monotonic() + TIMEOUT_S
    running = {os.pidfd_open(process.pid): process for process in processes}
    while running:
        ended, _, _ = select.select(list(running), [], [], POLL_S)
        for descriptor in ended:
            os.close(descriptor)
            running.pop(descriptor)
        watch()
        if time.monotonic() > deadline:
            for process in running.values():
                process.kill()
            raise SendFailed("the sender hung")
    return time.monotonic()
