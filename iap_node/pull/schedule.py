"""Pulls by the clock: each source with a schedule in its turn, in a process of its own. Called by `pull-schedule`.

Two pulls of one source never run at a time; one that is missed is made up for once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from iap_node.config import NodeConfig, PullScheduleConfig
from iap_node.config.crontab import crontab
from iap_node.errors import NodeError
from iap_node.pull.run import PulledSeries
from iap_node.pull.search import Wanted, days_back

log = structlog.get_logger("pull")

RunPull = Callable[[str, Wanted], list[PulledSeries]]


def scheduled_sources(config: NodeConfig) -> dict[str, PullScheduleConfig]:
    """The sources that are pulled from by the clock, by name."""
    return {name: source.schedule for name, source in config.sources.items() if source.schedule is not None}


def wanted_by(schedule: PullScheduleConfig, now: datetime) -> Wanted:
    """What a schedule pulls when it runs now."""
    study_date = "" if schedule.days is None else days_back(schedule.days, now.astimezone().date())
    return Wanted(schedule.modalities, study_date, schedule.description)


def run_schedule(config: NodeConfig, run_pull: RunPull, stop: threading.Event) -> None:
    """Run the schedules until `stop` is set.

    Parameters
    ----------
    run_pull
        Pulls what is wanted from the source of a name.
    """
    scheduler = BackgroundScheduler(timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1})
    for name, schedule in scheduled_sources(config).items():
        scheduler.add_job(
            partial(run_scheduled, name, schedule, run_pull),
            crontab(schedule.cron),
            id=name,
            misfire_grace_time=None,
        )
        log.info("pull scheduled", source=name, cron=schedule.cron)
    scheduler.start()
    try:
        stop.wait()
    finally:
        scheduler.shutdown(wait=False)


def run_scheduled(name: str, schedule: PullScheduleConfig, run_pull: RunPull) -> None:
    """One turn; what goes wrong is logged, and the next turn tries again."""
    try:
        pulled = run_pull(name, wanted_by(schedule, datetime.now(UTC)))
    except NodeError as error:
        log.error("scheduled pull failed", source=name, error=str(error))
        return
    log.info(
        "scheduled pull done", source=name, n_series=len(pulled), n_instances=sum(one.n_pulled for one in pulled),
        n_incomplete=sum(bool(one.problem) for one in pulled),
    )  # fmt: skip
