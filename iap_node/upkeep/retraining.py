"""Starts retraining runs as processes of their own, ends them, and notices those that are gone.

Called by the scheduler. The process is `python -m training.retrain`; nothing of it is imported here. Whatever is under
way stands in the table of runs: a scheduler that is started again, or another one, goes on from there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from iap_node.config import NodeConfig
from iap_node.config.crontab import crontab
from iap_node.config.notifications import TroubleKind
from iap_node.database import retraining
from iap_node.database.engine import Database
from iap_node.database.learning import count_settled
from iap_node.database.notifications import announce
from iap_node.database.retraining import SCHEDULE, SILENT_S, NotRunning, RetrainingRun, RetrainingUnderWay
from iap_node.database.tables import RetrainingState

NEEDED = ("training", "torch", "scipy", "pyarrow")  # modules; some come with the extra `training` only
MADE_UP_FOR = timedelta(hours=12)  # a turn of the clock that nobody was there for; an older one is left out
MOST_STARTS = 5  # of one run: what is interrupted so often is not gone on with
CANCEL_S = 60.0  # how long a cancelled run may take to end itself

log = structlog.get_logger("retraining")


class Trainer:
    """Looks after retraining; one per scheduler.

    Parameters
    ----------
    config_path
        Handed to the process.
    started_at
        When this scheduler began.
    command
        What is started; tests have their own.
    """

    def __init__(
        self,
        config: NodeConfig,
        config_path: Path,
        database: Database,
        started_at: datetime,
        command: Sequence[str] = (sys.executable, "-m", "training.retrain"),
        is_there: Callable[[str], bool] = lambda name: importlib.util.find_spec(name) is not None,
    ) -> None:
        self._config, self._path, self._database = config, config_path, database
        self._command, self._is_there = tuple(command), is_there
        self._looked_at = started_at - MADE_UP_FOR  # by the clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started_run: int | None = None
        self._cancelled_since: tuple[int, datetime] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that it has started and that still runs."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def look(self, now: datetime) -> None:
        """Start what was asked for, end what is gone, ask by the clock.

        Raises
        ------
        DatabaseUnavailable
            The next look goes on.
        """
        self._reap(now)
        with self._database.reading() as session:
            run = retraining.current_run(session)
        if run is None:
            self._resume(now)
            self._ask_by_the_clock(now)
        elif run.state is RetrainingState.REQUESTED:
            if self._process is None:
                self._start(run, now)
        elif is_gone(run, now):
            self._end(run, RetrainingState.INTERRUPTED, "its process is gone", now)
        else:
            self._make_it_heed_the_cancellation(run, now)

    def stop(self, timeout_s: float) -> None:
        """Tell the process to stop, and return when it has ended; the next scheduler goes on with its run."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            log.warning("training did not stop in time; killed", pid=process.pid)
            _kill(process)
        self._process = None

    def _reap(self, now: datetime) -> None:
        process, run_id = self._process, self._started_run
        if process is None or run_id is None:
            return
        code = process.poll()
        if code is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        self._process = self._started_run = None
        log.info("training process ended", run=run_id, exit_code=code)
        with self._database.reading() as session:
            run = retraining.retraining_run(session, run_id)
        if run is None or not run.under_way:
            return
        if run.state is RetrainingState.RUNNING and run.pid == process.pid:
            self._end(run, RetrainingState.INTERRUPTED, f"its process ended with exit code {code}", now)
        elif run.state is RetrainingState.REQUESTED:
            why = f"its process ended with exit code {code} before it began; the log of the scheduler says why"
            self._end(run, RetrainingState.FAILED, why, now)

    def _start(self, run: RetrainingRun, now: datetime) -> None:
        missing = [name for name in NEEDED if not self._is_there(name)]
        if missing:
            why = f"training needs {', '.join(missing)}: pip install 'iap-node[training]' for the scheduler's Python"
            self._end(run, RetrainingState.FAILED, why, now)
            return
        threads = str(self._config.retraining.threads)
        variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        arguments = ("--config", str(self._path.resolve()), "--run", str(run.id), "--supervised")
        self._process = subprocess.Popen(
            [*self._command, *arguments],
            stdin=subprocess.PIPE,
            start_new_session=True,  # a group of its own, that ends as one
            env={**os.environ, **variables},
        )
        self._started_run = run.id
        log.info("training process started", run=run.id, pid=self._process.pid, requested_by=run.requested_by)

    def _make_it_heed_the_cancellation(self, run: RetrainingRun, now: datetime) -> None:
        """It ends itself when it sees that it is cancelled; what does not, within `CANCEL_S`, is killed."""
        if run.cancelled_by is None:
            return
        if self._cancelled_since is None or self._cancelled_since[0] != run.id:
            self._cancelled_since = (run.id, now)
        elif now - self._cancelled_since[1] > timedelta(seconds=CANCEL_S):
            if self._process is not None and self._process.pid == run.pid:
                _kill(self._process)
            self._end(run, RetrainingState.INTERRUPTED, f"cancelled by {run.cancelled_by}", now)

    def _resume(self, now: datetime) -> None:
        """Go on with the newest run where it was interrupted, unless somebody cancelled it."""
        with self._database.reading() as session:
            newest = next(iter(retraining.list_runs(session, 1)), None)
            if newest is None or newest.state is not RetrainingState.INTERRUPTED or newest.work is None:
                return
            starts = retraining.count_runs_of(session, newest.work)
        if newest.cancelled_by is not None or starts >= MOST_STARTS:
            return
        self._request(newest.requested_by, now, newest.work)

    def _ask_by_the_clock(self, now: datetime) -> None:
        config = self._config.retraining
        if config.cron is None:
            return
        with self._database.reading() as session:
            asked = retraining.newest_request_by(session, SCHEDULE)
            due = is_due(config.cron, max(self._looked_at, asked or self._looked_at), now)
            n_new = count_settled(session, retraining.newest_data_until(session)) if due else 0
        if not due:
            return
        self._looked_at = now
        if n_new < config.min_new_series:
            log.info("too few new series to train on", n_new=n_new, min_new_series=config.min_new_series)
            return
        self._request(SCHEDULE, now)

    def _request(self, requested_by: str, now: datetime, work: str | None = None) -> None:
        try:
            with self._database.transaction() as session:
                run = retraining.request_run(session, requested_by, now, work)
        except RetrainingUnderWay:  # somebody was faster
            return
        log.info("training asked for", run=run.id, requested_by=requested_by, resumes=work)

    def _end(self, run: RetrainingRun, state: RetrainingState, message: str, now: datetime) -> None:
        log.warning("retraining ends", run=run.id, state=state, message=message)
        try:
            with self._database.transaction() as session:
                ended = retraining.end_run(session, run.id, state, message, now)
                given_up = ended.work is not None and retraining.count_runs_of(session, ended.work) >= MOST_STARTS
                if state is RetrainingState.FAILED or (given_up and ended.cancelled_by is None):
                    summary = f"retraining {run.id} {state} for good: {message}"
                    announce(session, TroubleKind.TRAINING_ENDED, summary, "`iap-node retrain status` says more", now)
        except NotRunning:  # it ended itself meanwhile
            log.info("the run is over", run=run.id)


def is_due(cron: str, since: datetime, now: datetime) -> bool:
    """Whether a line of a crontab has fired after one time and until the other."""
    fires_at = crontab(cron).get_next_fire_time(None, since + timedelta(microseconds=1))
    return fires_at is not None and fires_at <= now


def is_gone(run: RetrainingRun, now: datetime) -> bool:
    """Whether nobody works on a run that is running: silent for too long, or of this host and without a process."""
    last = run.heartbeat_at or run.started_at or run.requested_at
    if (now - last).total_seconds() > SILENT_S:
        return True
    if run.host != socket.gethostname() or run.pid is None:
        return False
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's: it is there
        return False
    return False


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The whole group: what reads the archive for it too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
