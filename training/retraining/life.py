"""The process of a run: lowest priority, signs of life, progress, and how it is told to stop.

Everything that takes long calls `Life.tell` again and again; when somebody cancelled the run, took it away, or stops
the node, that raises `Stopped`, wherever the run is. A kill that asks nobody is no different to what stands on the
disk.
Called by `training.retrain`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import structlog

from iap_node.config.retraining import RetrainingConfig
from iap_node.database import retraining
from iap_node.database.engine import Database, DatabaseUnavailable
from iap_node.database.retraining import HEARTBEAT_S, NotRunning
from iap_node.errors import NodeError

TELL_S = 1.0  # progress is told no more often
FIRST_TO_KILL = 900  # of 1000: when memory runs out, the kernel ends a training before a listener

log = structlog.get_logger("retraining")

# Shares of a whole run, so that one bar goes on from stage to stage: rough, measured on small archives.
STAGES: dict[str, float] = {
    "preparing": 0.25,
    "checking labels": 0.05,
    "training": 0.55,
    "calibrating": 0.05,
    "evaluating": 0.08,
    "registering": 0.02,
}


class Stopped(NodeError):
    """The run is to end: cancelled, taken away, or the node stops. What it has made so far stays for who resumes it."""


def lower_priority(config: RetrainingConfig) -> None:
    """Give way to everything else on this machine: processor, disk, memory, cores."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(config.threads)  # of processes that it starts
    with contextlib.suppress(OSError):  # a service manager may forbid it; the run is worth more
        os.nice(max(0, config.niceness - os.nice(0)))
    program = shutil.which("ionice")
    if program is not None:  # class 3: idle
        subprocess.run([program, "-c", "3", "-p", str(os.getpid())], check=False, capture_output=True)
    with contextlib.suppress(OSError):  # no such file, or not ours to raise
        Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_KILL))
    import torch

    torch.set_num_threads(config.threads)


class Life:
    """Tells how far a run is, and hears when it is to stop.

    Parameters
    ----------
    stop
        Set from outside: by a signal, or when the supervisor is gone.
    now
        The time; tests have their own.
    """

    def __init__(
        self,
        database: Database,
        run_id: int,
        stop: threading.Event,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database, self._run_id, self._stop, self._now = database, run_id, stop, now
        self._reason = "the node stops"
        self._told: tuple[str, float] = ("", 0.0)
        self._reached = 0.0
        self._stage_began = time.monotonic()

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Signs of life in the background, while one call takes longer than anybody would wait for another one."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT_S):
                self._look()

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def tell(self, stage: str, share: float, message: str = "") -> None:
        """Say how far a stage is, 0..1.

        Raises
        ------
        Stopped
            The run is to end.
        """
        self.check()
        if stage != self._told[0]:
            self._stage_began = time.monotonic()
            log.info("stage", stage=stage)
        elif time.monotonic() - self._told[1] < TELL_S:
            return
        self._told = (stage, time.monotonic())
        self._reached = max(self._reached, _overall(stage, share))  # a second data set does not set it back
        said = "; ".join(part for part in (message, self._time_left(share)) if part)
        try:
            with self._database.transaction() as session:
                retraining.tell_progress(session, self._run_id, stage, self._reached, said, self._now())
        except NotRunning as error:
            raise Stopped(str(error)) from error
        except DatabaseUnavailable as error:  # progress is worth nothing to stop for
            log.warning("progress not told", error=str(error))

    def check(self) -> None:
        """Whether to go on.

        Raises
        ------
        Stopped
            The run is to end.
        """
        if self._stop.is_set():
            raise Stopped(self._reason)

    def _look(self) -> None:
        try:
            with self._database.transaction() as session:
                run = retraining.beat(session, self._run_id, self._now())
        except NotRunning as error:
            self._reason = str(error)
            self._stop.set()
        except DatabaseUnavailable as error:
            log.warning("no sign of life could be given", error=str(error))
        else:
            if run.cancelled_by is not None and not self._stop.is_set():
                self._reason = f"cancelled by {run.cancelled_by}"
                self._stop.set()

    def _time_left(self, share: float) -> str:
        elapsed = time.monotonic() - self._stage_began
        if share < 0.02 or elapsed < 5.0:
            return ""
        return f"about {_duration(elapsed * (1 - share) / share)} left of this stage"


def stop_on_signals(stop: threading.Event) -> None:
    """SIGTERM and SIGINT set `stop`."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def _overall(stage: str, share: float) -> float:
    names = list(STAGES)
    before = sum(STAGES[name] for name in names[: names.index(stage)])
    return min(1.0, before + STAGES[stage] * min(max(share, 0.0), 1.0))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
