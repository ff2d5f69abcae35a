"""`python -m training.retrain --config config.yaml`: one run of retraining, in a process of its own.

Started by the scheduler, with the number of the run that was asked for; by a person it asks for one itself. Everything
about the run stands in its row: `iap-node retrain status`. Exit code 0 when it came to an end that says something
(candidate, refused, cancelled, or another process has it), 1 when it failed.
"""

from __future__ import annotations

import argparse
import getpass
import os
import socket
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from iap_node.cli.logs import start_logging
from iap_node.cli.options import open_database
from iap_node.config import load_config
from iap_node.database import retraining
from iap_node.database.engine import Database
from iap_node.database.retraining import NotRunning, RetrainingRun
from iap_node.database.tables import RetrainingState
from iap_node.errors import NodeError
from iap_node.supervisor import watch_supervisor
from training.retraining.life import Life, Stopped, lower_priority, stop_on_signals
from training.retraining.publish import end, remove_work
from training.retraining.run import Refused, Retraining, model_at_work, retrain

log = structlog.get_logger("retraining")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.retrain", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="configuration file of the node")
    parser.add_argument("--run", type=int, help="number of a run that was asked for; without it one is asked for")
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)  # stop when standard input closes
    given = parser.parse_args(arguments)
    stop = threading.Event()
    stop_on_signals(stop)
    if given.supervised:
        watch_supervisor(stop)
    try:
        return _run(given.config, given.run, stop)
    except NodeError as error:
        print(f"training.retrain: {error}", file=sys.stderr)
        return 1


def _run(config_path: Path, run_id: int | None, stop: threading.Event) -> int:
    node = load_config(config_path)
    start_logging(node.log, "retraining")
    lower_priority(node.retraining)
    database = open_database(node)
    try:
        if run_id is None:
            with database.transaction() as session:
                run_id = retraining.request_run(session, getpass.getuser(), datetime.now(UTC)).id
        return run_one(config_path, run_id, database, stop)
    finally:
        database.dispose()


def run_one(config_path: Path, run_id: int, database: Database, stop: threading.Event) -> int:
    """Take a run that was asked for, do it, and end it however it goes; the exit code."""
    node = load_config(config_path)
    now = datetime.now(UTC)
    try:
        champion, registered = model_at_work(node, database)
    except NodeError as error:
        return _end_unbegun(database, run_id, str(error))
    try:
        with database.transaction() as session:
            run = retraining.begin_run(
                session,
                run_id,
                champion.model_id if registered else None,
                socket.gethostname(),
                os.getpid(),
                now,
                work=f"run-{run_id}",
            )
    except NotRunning as error:
        log.info("nothing to do", run=run_id, reason=str(error))
        return 0
    log.info("retraining begins", run=run.id, champion=champion.model_id, requested_by=run.requested_by)
    life = Life(database, run.id, stop)
    try:
        with life.beating():
            ended = retrain(Retraining(node, database, run, champion, life))
    except (Stopped, NotRunning) as error:
        return _end(database, run, RetrainingState.INTERRUPTED, str(error))
    except Refused as error:
        remove_work(node, run)
        return _end(database, run, RetrainingState.REFUSED, str(error))
    except MemoryError:
        return _end(database, run, RetrainingState.FAILED, "not enough memory; give the machine more")
    except Exception as error:  # the row must say how it ended, whatever it was
        log.exception("retraining failed", run=run.id)
        return _end(database, run, RetrainingState.FAILED, f"{type(error).__name__}: {error}")
    remove_work(node, ended)
    return 0


def _end(database: Database, run: RetrainingRun, state: RetrainingState, message: str) -> int:
    log.info("retraining ended", run=run.id, state=state, message=message)
    try:
        with database.transaction() as session:
            end(session, run, state, message, datetime.now(UTC))
    except NotRunning:  # ended from outside already
        log.info("its row was ended by somebody else", run=run.id)
    return 1 if state is RetrainingState.FAILED else 0


def _end_unbegun(database: Database, run_id: int, message: str) -> int:
    with database.transaction() as session:
        run = retraining.retraining_run(session, run_id)
        if run is not None and run.under_way:
            end(session, run, RetrainingState.FAILED, message, datetime.now(UTC))
    log.error("retraining cannot begin", run=run_id, error=message)
    return 1


if __name__ == "__main__":
    sys.exit(main())
