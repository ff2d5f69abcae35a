"""What of the troubles of now is news to a channel. Pure; called by `watch`, and by tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from iap_node.config.notifications import NotificationsConfig, TroubleKind
from iap_node.notify.message import Event, Trouble

GROWN = 2  # so many times what was told is news


@dataclass(frozen=True, slots=True)
class Told:
    """What a channel was last told of a kind."""

    amounts: dict[str, int] = field(default_factory=dict)  # empty: nothing yet, or that it is over
    at: datetime | None = None
    begun_at: datetime | None = None  # when trouble was told, not the end of it


def news(
    kind: TroubleKind, trouble: Trouble | None, told: Told, config: NotificationsConfig, now: datetime
) -> Event | None:
    """What is to be told now; None: nothing.

    The end is told at once, so that nobody goes to mend what is well again; what begins anew, or grows, waits until
    `interval_min` after the last time that trouble was told. What comes and goes costs two messages in that time, then.
    What begins and ends within quiet hours is never told.
    """
    if is_quiet(config, now) and kind not in config.quiet_exempt:
        return None
    if trouble is None:
        return Event.OVER if told.amounts else None
    if told.amounts.keys() - trouble.amounts.keys() and not trouble.amounts.keys() - told.amounts.keys():
        return Event.BETTER
    if told.begun_at is not None and now - told.begun_at < timedelta(minutes=config.interval_min):
        return None
    if not told.amounts:
        return Event.BEGUN
    if any(amount >= GROWN * told.amounts.get(name, 0) for name, amount in trouble.amounts.items()):
        return Event.WORSE
    repeat = None if config.repeat_h is None else timedelta(hours=config.repeat_h)
    return Event.STILL if repeat is not None and told.at is not None and now - told.at >= repeat else None


def is_quiet(config: NotificationsConfig, now: datetime) -> bool:
    """Whether these are quiet hours, by the clock on the wall."""
    if config.quiet is None:
        return False
    begin, end = config.quiet
    clock = now.astimezone(ZoneInfo(config.time_zone)).time()
    return begin <= clock < end if begin < end else clock >= begin or clock < end
