"""`serve` and the roles alone: `listen`, `infer`, `deliver`, `schedule`. Here the rooms are wired together."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import typer

from iap_node.cli.logs import start_logging
from iap_node.cli.options import CONFIG, SUPERVISED, open_database
from iap_node.cli.output import as_json
from iap_node.cli.setup import prepare
from iap_node.config import NodeConfig, load_config
from iap_node.records import JobKind
from iap_node.supervisor import Supervisor, watch_supervisor

if TYPE_CHECKING:
    from iap_node.database.engine import Database

SWITCH_INTERVAL_S = 0.0001
ROWS_AT_STOP_S = 10.0  # for the rows of what is acknowledged; the next start writes those that are missing

ROLES = ("listen", "infer", "deliver", "schedule")

log = structlog.get_logger("role")


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    for command in (serve, listen, infer, deliver, schedule):
        app.command(command.__name__)(command)


def serve(config_path: Path = CONFIG) -> None:
    """Run the whole node: all roles, each a process of its own, restarted when one crashes.

    Makes what `init` makes if it is not there. Ctrl-C or SIGTERM stops everything: stores that run are finished.
    """
    config = load_config(config_path)
    start_logging(config.log, "serve")
    prepare(config)
    stop = _stop_on_signals()
    log.info("node starts", ae_title=config.listener.ae_title, bind=config.listener.bind, port=config.listener.port)
    # the roles get their own stop time, and two seconds to write down what they did
    Supervisor(ROLES, config_path.resolve(), config.listener.stop_timeout_s + 2.0).run(stop)


def listen(config_path: Path = CONFIG, supervised: bool = SUPERVISED) -> None:
    """Receive instances: C-STORE and C-ECHO SCP."""
    config, database, stop = _start_role("listen", config_path, supervised)
    from iap_node.database import archive
    from iap_node.listener.address import noted_port
    from iap_node.listener.intake import Intake
    from iap_node.listener.patients import load_or_create_patient_key
    from iap_node.listener.recovery import recover
    from iap_node.listener.scp import StoreScp
    from iap_node.spool import Spool

    def complete_at_release(series_instance_uids: list[str]) -> None:
        with database.transaction() as session:
            archive.complete_series(session, series_instance_uids, datetime.now(UTC))

    # Threads that receive hold Python's lock for some 50 us at a time; with the default of 5 ms the thread that writes
    # the rows would make each of them wait a hundred times as long.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    is_durable = config.spool.durability == "strict"
    spool = Spool(config.spool_dir, durable=is_durable, prepared_bytes=config.spool.prepared_mb * 1024**2)
    intake = Intake(spool, database, load_or_create_patient_key(config.patient_key_path))
    recover(spool, database, intake)
    spool.start_preparing()
    scp = StoreScp(config.listener, intake, complete_at_release if config.series.complete_on_release else None)
    scp.start()
    try:
        with noted_port(config.data_dir, scp.port):
            stop.wait()
    finally:
        scp.stop()
        intake.close(ROWS_AT_STOP_S)
        database.dispose()


def infer(config_path: Path = CONFIG, supervised: bool = SUPERVISED) -> None:
    """Judge complete series: pixels to prediction, header comparison and route."""
    config, database, stop = _start_role("infer", config_path, supervised)
    from iap_node.database import models
    from iap_node.inference.package import load_package, package_folder
    from iap_node.inference.predictor import Predictor
    from iap_node.spool import Spool
    from iap_node.worker.infer import InferHandler
    from iap_node.worker.loop import run_worker

    package = load_package(package_folder(config.inference.model))
    predictor = Predictor(package, device=config.inference.device, batch_size=config.inference.batch_size)
    with database.transaction() as session:
        models.register_model(session, package.model_id, as_json(package.manifest), datetime.now(UTC))
    log.info("model loaded", model=package.model_id, training_data=package.training_data, device=str(predictor.device))
    handler = InferHandler(database, Spool(config.spool_dir), predictor, config)
    run_worker(JobKind.INFER, handler, database, config.jobs, _worker_name("infer"), stop)
    database.dispose()


def deliver(config_path: Path = CONFIG, supervised: bool = SUPERVISED) -> None:
    """Send routed series to their destinations."""
    config, database, stop = _start_role("deliver", config_path, supervised)
    from iap_node.spool import Spool
    from iap_node.worker.deliver import DeliverHandler
    from iap_node.worker.loop import run_worker

    handler = DeliverHandler(database, Spool(config.spool_dir), config)
    run_worker(JobKind.DELIVER, handler, database, config.jobs, _worker_name("deliver"), stop)
    database.dispose()


def schedule(config_path: Path = CONFIG, supervised: bool = SUPERVISED) -> None:
    """Run what runs by the clock: completes series whose quiet period is over."""
    config, database, stop = _start_role("schedule", config_path, supervised)
    from iap_node.scheduler import run_scheduler

    run_scheduler(config, database, stop)
    database.dispose()


def _start_role(role: str, config_path: Path, supervised: bool) -> tuple[NodeConfig, Database, threading.Event]:
    stop = _stop_on_signals()
    if supervised:
        watch_supervisor(stop)
    config = load_config(config_path)
    start_logging(config.log, role)
    return config, open_database(config), stop


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _worker_name(role: str) -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{role}"
