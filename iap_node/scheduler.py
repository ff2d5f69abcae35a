"""What runs by the clock, in one process of its own. Called by the command `schedule`.

Each entry of the table below runs alone, in its turn and never twice at a time; a run that is missed is
made up for once. What runs here is quick and may run anywhere: long work becomes a job in the queue, and the training
of a model a process of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import structlog
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from iap_node.config import NodeConfig, SeriesConfig
from iap_node.database import archive
from iap_node.database.engine import Database
from iap_node.errors import RetriableError
from iap_node.spool import Spool
from iap_node.upkeep import retention
from iap_node.upkeep.retraining import Trainer

# Looking for quiet series costs one indexed query: often enough that the quiet period is hardly lengthened.
SHORTEST_LOOK_S = 0.05
LONGEST_LOOK_S = 1.0
# Whether a report is due is asked of its files, not of the clock alone: what was missed is made up for, and what failed
# is tried again.
LOOK_FOR_REPORTS = timedelta(minutes=5)
LOOK_FOR_TROUBLE = timedelta(minutes=1)
LOOK_FOR_TRAININGS = timedelta(seconds=2)
STOP_TRAINING_S = 20.0  # it has a checkpoint, and goes on from there

log = structlog.get_logger("scheduler")


class _Entry(NamedTuple):
    name: str
    every: timedelta
    run: Callable[[], None]


def run_scheduler(
    config: NodeConfig, database: Database, stop: threading.Event, config_path: Path | None = None
) -> None:
    """Run the table until `stop` is set; what runs then is finished first.

    Parameters
    ----------
    config_path
        Handed to the processes that train models; None: this scheduler starts none.
    """
    trainer = None if config_path is None else Trainer(config, config_path, database, datetime.now(UTC))
    scheduler = BackgroundScheduler(timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1})
    for entry in _table(config, database, trainer):
        scheduler.add_job(
            _reported(entry),
            IntervalTrigger(seconds=entry.every.total_seconds(), timezone=UTC),
            id=entry.name,
            misfire_grace_time=None,
            next_run_time=datetime.now(UTC),
        )
        log.info("scheduled", name=entry.name, every_s=entry.every.total_seconds())
    scheduler.start()
    try:
        stop.wait()
    finally:
        scheduler.shutdown(wait=True)
        if trainer is not None:
            trainer.stop(STOP_TRAINING_S)
        log.info("scheduler stops")


def _table(config: NodeConfig, database: Database, trainer: Trainer | None) -> list[_Entry]:
    """Everything that runs by the clock."""

    def complete_quiet_series() -> None:
        with database.transaction() as session:
            completed = archive.complete_quiet_series(
                session, datetime.now(UTC), config.series.quiet_period_s
            )
        for series_instance_uid in completed:
            log.info("series complete", series_instance_uid=series_instance_uid)

    def remove_expired() -> None:
        retention.remove_expired(Spool(config.spool_dir), database, config.retention, datetime.now(UTC))

    def write_reports() -> None:
        from iap_node.audit.reports.scheduled import write_due  # templates and statistics, for who asks for reports

        for path in write_due(config.audit, database, datetime.now(UTC)):
            log.info("report written", path=str(path))

    def tell_people() -> Callable[[], None]:
        from iap_node.notify.watch import Watch  # statistics, for who is to be told
        from iap_node.upkeep.capacity import capacity

        reserve_bytes = config.spool.disk_reserve_mb * 1024**2
        watch = Watch(
            config,
            database,
            lambda now: capacity(database, config.spool_dir, reserve_bytes, config.retention, now),
        )
        return lambda: watch.look(datetime.now(UTC))

    entries = [_Entry("complete quiet series", _look_every(config.series), complete_quiet_series)]
    if config.retention.enabled:
        entries.append(_Entry("retention", timedelta(seconds=config.retention.every_s), remove_expired))
    if config.audit.reports.folder is not None:
        entries.append(_Entry("physicist's report", LOOK_FOR_REPORTS, write_reports))
    if config.notifications.enabled:
        entries.append(_Entry("notifications", LOOK_FOR_TROUBLE, tell_people()))
    if trainer is not None:
        entries.append(_Entry("training", LOOK_FOR_TRAININGS, lambda: trainer.look(datetime.now(UTC))))
    return entries


def _look_every(config: SeriesConfig) -> timedelta:
    """A tenth of the quiet period, within bounds."""
    return timedelta(seconds=min(LONGEST_LOOK_S, max(SHORTEST_LOOK_S, config.quiet_period_s / 10.0)))


def _reported(entry: _Entry) -> Callable[[], None]:
    def run() -> None:
        try:
            entry.run()
        except RetriableError as error:  # the next turn tries again
            log.warning("scheduled run failed", name=entry.name, error=str(error))

    return run
