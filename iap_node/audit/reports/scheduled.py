"""The physicist's report as the scheduler writes it: once for each month, also for those that were missed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from iap_node.audit.reports import files, month
from iap_node.audit.reports.period import Month
from iap_node.config import AuditConfig, ReportsConfig
from iap_node.config.crontab import crontab
from iap_node.database import report_figures
from iap_node.database.engine import Database
from iap_node.errors import RetriableError

MONTHS_MADE_UP = 3  # at most so many months back, when the node was off


def due(config: ReportsConfig, now: datetime, first_series_at: datetime | None) -> list[Month]:
    """Months whose report is missing in the folder although its time has come, the oldest first.

    The report of a month is made when the schedule fires for the first time in the month after it.
    """
    if config.folder is None or first_series_at is None:
        return []
    trigger = crontab(config.cron)
    missing = []
    for back in range(MONTHS_MADE_UP, 0, -1):
        about = Month.of(now).plus(-back)
        fires_at = trigger.get_next_fire_time(None, about.until)
        in_time = fires_at is not None and fires_at <= now and fires_at < about.plus(1).until
        if in_time and about.until > first_series_at and not _is_there(config.folder, about):
            missing.append(about)
    return missing


def write_due(config: AuditConfig, database: Database, now: datetime) -> list[Path]:
    """Write the reports that are due; their files.

    Raises
    ------
    RetriableError
        The folder cannot be written to, or the database does not answer.
    """
    with database.reading() as session:
        months = due(config.reports, now, report_figures.first_series_at(session))
    written = []
    for about in months:
        with database.reading() as session:
            figures = month.gather(session, about, config.joint_alpha)
        folder = config.reports.folder or Path()
        try:
            written += files.write(folder, month.name(about), files.forms(month, figures, now))
        except OSError as error:
            text = f"the report of {about} cannot be written to {folder}: {error.strerror}; see audit.reports.folder"
            raise RetriableError(text) from error
    return written


def _is_there(folder: Path, about: Month) -> bool:
    return (folder / f"{month.name(about)}.json").exists()
