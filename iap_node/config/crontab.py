"""Lines of a crontab as configuration has them. Called by the configuration, to say what is wrong, and by schedules."""

from __future__ import annotations

import re
from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apscheduler.triggers.cron import CronTrigger

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEKDAY_NUMBER = re.compile(r"(?<!\w)[0-7](?!\w)")


def crontab(line: str) -> CronTrigger:
    """When a line of five fields (minute, hour, day, month, weekday) fires, in UTC.

    Weekdays are counted as cron does: 0 and 7 are Sunday. APScheduler by itself begins with Monday.

    Raises
    ------
    ValueError
        It is no such line.
    """
    from apscheduler.triggers.cron import CronTrigger  # only who writes reports needs it

    try:
        minute, hour, day, month, weekdays = line.split()
        if "/" in weekdays:  # APScheduler would pass over it
            raise ValueError("name the weekdays instead of a step")
        named = _WEEKDAY_NUMBER.sub(lambda number: _DAYS[int(number[0])], weekdays)
        return CronTrigger.from_crontab(f"{minute} {hour} {day} {month} {named}", timezone=UTC)
    except ValueError as error:
        raise ValueError(f"{line!r} is not minute, hour, day, month and weekday as in a crontab: {error}") from error
