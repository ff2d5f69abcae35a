"""What a receiver costs: CPU time and peak memory of its process and of all that it starts. Linux's /proc tells."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

POLL_S = 0.02
IDLE_WINDOW_S = 0.3
IDLE_SHARE = 0.03  # of one core: what the accepting thread and the like may use and still be idle
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def stolen_s() -> float:
    """Seconds of all cores that the hypervisor gave to other machines since this one started."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) * _TICK_S


def busy_s() -> float:
    """Seconds that all cores have worked since this machine started, for whomever."""
    user, nice, system, _, _, irq, soft_irq = map(int, Path("/proc/stat").read_text().split(maxsplit=9)[1:8])
    return (user + nice + system + irq + soft_irq) * _TICK_S


class NotIdle(Exception):
    """The receiver did not finish in time."""


class ProcessGroup:
    """A process and what it started, and what that started."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self.peak_bytes: dict[int, int] = {}  # process id: VmHWM

    def cpu_s(self) -> float:
        """CPU seconds used so far, those of ended and awaited children included."""
        total = 0.0
        for pid, fields in self._processes():
            with contextlib.suppress(OSError):
                total += time.clock_gettime((~pid << 3) | 2)  # CPUCLOCK_SCHED of another process: nanoseconds
                total += (int(fields[13]) + int(fields[14])) * _TICK_S  # cutime, cstime (proc(5), from field 3)
        return total

    def note_memory(self) -> None:
        """Remember the peak of every process that is there now."""
        for pid, _ in self._processes():
            with contextlib.suppress(OSError, ValueError):
                status = Path(f"/proc/{pid}/status").read_text()
                line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
                if line is not None:
                    self.peak_bytes[pid] = max(self.peak_bytes.get(pid, 0), int(line.split()[1]) * 1024)

    def wait_idle(self, finished: Callable[[], bool], timeout_s: float) -> float:
        """Wait until `finished` and until the processes do nothing any more; when, on the monotonic clock, it was
        first finished.

        Raises
        ------
        NotIdle
            That did not come in time.
        """
        deadline = time.monotonic() + timeout_s
        while not finished():
            if time.monotonic() > deadline:
                raise NotIdle(f"what was acknowledged is not stored after {timeout_s:.0f} s")
            time.sleep(POLL_S)
        finished_at = time.monotonic()
        while time.monotonic() < deadline:
            before, since = self.cpu_s(), time.monotonic()
            time.sleep(IDLE_WINDOW_S)
            if self.cpu_s() - before < IDLE_SHARE * (time.monotonic() - since):
                self.note_memory()
                return finished_at
        raise NotIdle(f"still busy after {timeout_s:.0f} s")

    def _processes(self) -> list[tuple[int, list[str]]]:
        """Process id, and the fields of its `stat` from the third (state) on, of the leader and its descendants."""
        everything: dict[int, list[str]] = {}
        for entry in os.listdir("/proc"):  # noqa: PTH208 - names only; called many times a second
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    everything[int(entry)] = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        ours = {self._leader}
        while more := {pid for pid, fields in everything.items() if int(fields[1]) in ours} - ours:
            ours |= more
        return [(pid, everything[pid]) for pid in ours if pid in everything]
