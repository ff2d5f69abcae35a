"""`serve` and the roles alone: `listen`, `infer`, `deliver`, `schedule`, `web`. Here the rooms are wired together."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import typer

from iap_node.cli.accounts import make_first_admin
from iap_node.cli.logs import start_logging
from iap_node.cli.options import CONFIG, SUPERVISED, open_database
from iap_node.cli.setup import prepare
from iap_node.config import NodeConfig, load_config
from iap_node.records import JobKind
from iap_node.supervisor import Role, Supervisor, watch_supervisor

if TYPE_CHECKING:
    from iap_node.database.engine import Database
    from iap_node.listener.intake import Intake
    from iap_node.listener.scp import StoreScp
    from iap_node.listener.shared_port import SharedPort
    from iap_node.spool import Spool

SWITCH_INTERVAL_S = 0.0001
GARBAGE_THRESHOLDS = 20_000, 20, 20  # allocations, and collections of younger ones; the default begins with 700
ROWS_AT_STOP_S = 10.0  # for the rows of what is acknowledged; the next start writes those that are missing

DELIVERIES_AT_ONCE = 32  # threads of one process; each needs a connection to the database for moments

ROLES = ("listen", "infer", "deliver", "schedule")

log = structlog.get_logger("role")


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    for command in (serve, listen, infer, deliver, schedule, web):
        app.command(command.__name__)(command)


def serve(config_path: Path = CONFIG) -> None:
    """Run the whole node: all roles, each a process of its own, restarted when one crashes.

    Makes what `init` makes if it is not there. Ctrl-C or SIGTERM stops everything: stores that run are finished.
    """
    config = load_config(config_path)
    start_logging(config.log, "serve")
    prepare(config)
    if config.web.enabled:
        make_first_admin(config)
    stop = _stop_on_signals()
    log.info("node starts", ae_title=config.listener.ae_title, bind=config.listener.bind, port=config.listener.port)
    arguments = ("--config", str(config_path.resolve()))
    names = (*ROLES, "web") if config.web.enabled else ROLES
    if any(source.schedule is not None for source in config.sources.values()):
        names = (*names, "pull-schedule")
    supervisor = Supervisor([Role(name, (name, *arguments)) for name in names], _stop_timeout_s(config) + 2.0)
    try:
        supervisor.run(stop)
    finally:
        supervisor.stop_all()


def listen(
    config_path: Path = CONFIG,
    supervised: bool = SUPERVISED,
    shared_port: tuple[int, int, int] = typer.Option(
        (0, 0, 0), hidden=True, help="Serve a port with others: own number, what is shared (set by listen)."
    ),
) -> None:
    """Receive instances and answer their senders: SCP of C-STORE, C-ECHO, C-FIND and storage commitment."""
    number, *handles = shared_port
    config, database, stop = start_role(f"listen-{number}" if number else "listen", config_path, supervised)
    from iap_node.listener.address import noted_port
    from iap_node.listener.shared_port import SharedPort

    try:
        if number:
            port = SharedPort.inherit(config.listener, *handles)
            with _serving(config, database, port):
                stop.wait()
        elif config.listener.processes > 1:
            _listen_in_processes(config, config_path, database, stop)
        else:
            with _serving(config, database) as scp, noted_port(config.data_dir, scp.port):
                stop.wait()
    finally:
        database.dispose()


@contextmanager
def _serving(config: NodeConfig, database: Database, port: SharedPort | None = None) -> Iterator[StoreScp]:
    """A listener that serves, in this process."""
    from iap_node.database import archive
    from iap_node.listener.commitment import Commitments
    from iap_node.listener.limits import DiskReserve
    from iap_node.listener.query import Finder
    from iap_node.listener.recovery import recover
    from iap_node.listener.reporter import Reporter
    from iap_node.listener.scp import StoreScp

    def complete_at_release(series_instance_uids: list[str]) -> None:
        with database.transaction() as session:
            archive.complete_series(session, series_instance_uids, datetime.now(UTC))

    on_release = complete_at_release if config.series.complete_on_release else None
    # Threads that receive hold Python's lock for moments; with the default of 5 ms the thread that writes the rows
    # would make each of them wait that long for its next one.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # What is loaded by now stays: no need to look through it again and again for what is garbage.
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    spool = _spool(config, prepared_bytes=config.spool.prepared_mb * 1024**2 // config.listener.processes)
    disk = DiskReserve(config.spool_dir, config.spool.disk_reserve_mb * 1024**2)
    intake = _intake(config, database, spool)
    commitments = Commitments(config.storage_commitment, database, spool, intake)
    reporter = Reporter(commitments, config.listener.ae_title)
    try:
        if port is None:
            recover(spool, database, intake)
        finder = Finder(config.query, database, intake)
        scp = StoreScp(config.listener, intake, on_release, port, disk, commitments, finder)
        scp.start()
        spool.start_preparing()
        reporter.start()
        try:
            yield scp
        finally:
            scp.stop()
            reporter.stop()
    finally:
        intake.close(ROWS_AT_STOP_S)


def _listen_in_processes(config: NodeConfig, config_path: Path, database: Database, stop: threading.Event) -> None:
    """Bind the port and keep the processes running that serve it."""
    from iap_node.listener.address import noted_port
    from iap_node.listener.scp import server_tls_context
    from iap_node.listener.shared_port import SharedPort

    if config.listener.tls.enabled:
        server_tls_context(config.listener.tls)  # told once, here, and not by every process again and again
    with closing(SharedPort.open(config.listener)) as port:
        _recover(config, database)
        arguments = ("listen", "--config", str(config_path.resolve()), "--shared-port")
        handles = tuple(map(str, port.handles))
        roles = [
            Role(f"listen-{number}", (*arguments, str(number), *handles), port.handles)
            for number in range(1, config.listener.processes + 1)
        ]
        # what a process that crashed had acknowledged must be in the archive, before its senders ask for it
        supervisor = Supervisor(roles, _stop_timeout_s(config), lambda: _recover(config, database))
        try:
            with noted_port(config.data_dir, port.number):
                supervisor.run(stop)
        finally:
            port.end()  # no process accepts another one, while they finish what runs
            supervisor.stop_all()


def _recover(config: NodeConfig, database: Database) -> None:
    """Put in order what a crash left in the spool."""
    from iap_node.listener.recovery import recover

    spool = _spool(config)
    with closing(_intake(config, database, _spool(config))) as intake:
        recover(spool, database, intake)


def _spool(config: NodeConfig, prepared_bytes: int = 0) -> Spool:
    from iap_node.spool import Spool

    return Spool(
        config.spool_dir,
        durable=config.spool.durability == "strict",
        prepared_bytes=prepared_bytes,
        reserve_bytes=config.spool.disk_reserve_mb * 1024**2,
    )


def _intake(config: NodeConfig, database: Database, spool: Spool) -> Intake:
    from iap_node.listener.intake import Intake
    from iap_node.listener.patients import load_or_create_patient_key

    return Intake(spool, database, load_or_create_patient_key(config.patient_key_path))


def infer(config_path: Path = CONFIG, supervised: bool = SUPERVISED) -> None:
    """Judge complete series: pixels to prediction, header comparison and route."""
    config, database, stop = start_role("infer", config_path, supervised)
    from iap_node.inference.predictor import Predictor, predictor_of
    from iap_node.inference.registry import begin_with
    from iap_node.inference.store import load_installed
    from iap_node.routing.rules_file import RulesFile
    from iap_node.spool import Spool
    from iap_node.worker.infer import InferHandler
    from iap_node.worker.loop import run_worker
    from iap_node.worker.models_at_work import ModelsAtWork

    def load(folder: str | None, model_id: str) -> Predictor:
        package = load_installed(config.data_dir, folder, model_id)
        return predictor_of(package, config.inference)

    begin_with(config.inference.model, config.data_dir, database, datetime.now(UTC))
    at_work = ModelsAtWork(database, load, f"{socket.gethostname()}:infer", config.retraining)
    rules = RulesFile(config_path, config, database)
    handler = InferHandler(database, Spool(config.spool_dir), at_work, config, rules, at_work.after)
    run_worker(JobKind.INFER, handler, database, config.jobs, _worker_name("infer"), stop)
    database.dispose()


def deliver(config_path: Path = CONFIG, supervised: bool = SUPERVISED) -> None:
    """Send routed series to their destinations."""
    config, database, stop = start_role("deliver", config_path, supervised)
    from iap_node.spool import Spool
    from iap_node.worker.deliver import DeliverHandler
    from iap_node.worker.loop import run_worker

    handler = DeliverHandler(database, Spool(config.spool_dir), config)
    limits = {name: one.concurrency for name, one in config.destinations.items()}
    # as many as all destinations take together, so that one that crawls keeps no other waiting
    at_once = max(1, min(sum(limits.values()), DELIVERIES_AT_ONCE))
    run_worker(JobKind.DELIVER, handler, database, config.jobs, _worker_name("deliver"), stop, limits, at_once)
    database.dispose()


def schedule(config_path: Path = CONFIG, supervised: bool = SUPERVISED) -> None:
    """Run what runs by the clock: completes series whose quiet period is over, lets old bytes go (`retention`), writes
    the physicist's report (`audit.reports`), starts the training of models (`retraining`).
    """
    config, database, stop = start_role("schedule", config_path, supervised)
    from iap_node.scheduler import run_scheduler

    run_scheduler(config, database, stop, config_path)
    database.dispose()


def web(config_path: Path = CONFIG, supervised: bool = SUPERVISED) -> None:
    """Serve the console and the API."""
    config, database, stop = start_role("web", config_path, supervised)
    from iap_node.listener.address import WEB_FILE_NAME, noted_port
    from iap_node.listener.folder import ImportedFile, import_files
    from iap_node.listener.limits import DiskReserve
    from iap_node.listener.stow import StowIntake
    from iap_node.web.app import create_app
    from iap_node.web.node import WebNode
    from iap_node.web.server import listening
    from iap_node.web.server import serve as serve_web

    if not supervised:
        make_first_admin(config)
    spool = _spool(config)
    disk = DiskReserve(config.spool_dir, config.spool.disk_reserve_mb * 1024**2)
    filing = threading.Lock()  # an upload after the other

    def ingest(paths: list[Path]) -> Iterator[ImportedFile]:
        with filing, closing(_intake(config, database, _spool(config))) as intake:
            yield from import_files(paths, intake, disk)

    with ExitStack() as life:
        stow = None
        if config.web.stow.enabled:
            _recover(config, database)  # what a process that crashed had acknowledged, before its senders ask for it
            intake = _intake(config, database, _spool(config))
            life.callback(intake.close, ROWS_AT_STOP_S)
            stow = StowIntake(intake, disk, config.listener, config.web.stow)
        node = WebNode(config, config_path.resolve(), database, spool, ingest, stow)
        bound = life.enter_context(listening(config.web))
        life.enter_context(noted_port(config.data_dir, bound.getsockname()[1], WEB_FILE_NAME))
        serve_web(create_app(node), config.web, bound, stop)
    database.dispose()


def start_role(role: str, config_path: Path, supervised: bool) -> tuple[NodeConfig, Database, threading.Event]:
    """Configuration, database and what is set when the role is to stop, as every role begins."""
    stop = _stop_on_signals()
    if supervised:
        watch_supervisor(stop)
    config = load_config(config_path)
    start_logging(config.log, role)
    return config, open_database(config), stop


def _stop_timeout_s(config: NodeConfig) -> float:
    """How long a role may take to stop: `listen`, the slowest, finishes running stores and writes down what came."""
    return config.listener.stop_timeout_s + ROWS_AT_STOP_S + 2.0


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _worker_name(role: str) -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{role}"
