"""When the disk will be full, from what came lately and what retention takes. Pure; for `iap-node status`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HORIZON_DAYS = 3650
SECONDS_PER_DAY = 86_400.0
SHORTEST_WEEK_DAYS = 1.0  # a node that began an hour ago is not thought to go on at that hour's rate all day


@dataclass(frozen=True, slots=True)
class Ingest:
    """What came lately, by the rows."""

    last_day_bytes: int
    last_week_bytes: int
    observed_days: float  # since the first instance that is known of; 0 where none is

    @property
    def bytes_per_day(self) -> float:
        """The rate to reckon with: of the last day, or of the last week where that was more."""
        week_days = min(7.0, max(SHORTEST_WEEK_DAYS, self.observed_days))
        return max(float(self.last_day_bytes), self.last_week_bytes / week_days)


@dataclass(frozen=True, slots=True)
class Outflow:
    """What retention takes; the default takes nothing.

    `leaving_bytes[d]` of what is here now go on the d-th day from now, 0 being the coming 24 hours. Of what comes from
    now on, `share_by_age` goes after `after_days` (None: never by age). Above `max_bytes` (None: no limit) the oldest
    goes, as far as `share_by_size` of all that is here allows.
    """

    leaving_bytes: Sequence[float] = ()
    after_days: float | None = None
    share_by_age: float = 1.0
    max_bytes: float | None = None
    share_by_size: float = 1.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """When the room for instances is used up, if things go on like this."""

    bytes_per_day: float
    full_in_days: float | None  # None: not within `HORIZON_DAYS`
    text: str  # for people


def forecast(
    free_bytes: int, reserve_bytes: int, kept_bytes: int, ingest: Ingest, outflow: Outflow | None = None
) -> Forecast:
    """When the disk is full, day by day.

    Parameters
    ----------
    free_bytes
        Free on the spool's file system, for this user.
    reserve_bytes
        Never used: below it the listener answers A700H.
    kept_bytes
        Of all instances that lie in the spool now.
    ingest, outflow
        What comes and what retention takes.

    Returns
    -------
    Forecast
        `full_in_days` is 0 when the room is used up already.
    """
    outflow = outflow or Outflow()
    rate = ingest.bytes_per_day
    days = _days_until_full(float(free_bytes - reserve_bytes), float(kept_bytes), rate, outflow)
    return Forecast(rate, days, _text(days, rate, outflow))


def _days_until_full(room: float, kept: float, rate: float, outflow: Outflow) -> float | None:
    if room <= 0:
        return 0.0
    for day in range(HORIZON_DAYS):
        gone = outflow.leaving_bytes[day] if day < len(outflow.leaving_bytes) else 0.0
        if outflow.after_days is not None and day >= outflow.after_days:
            gone += outflow.share_by_age * rate
        gone = min(gone, kept + rate)
        above = 0.0 if outflow.max_bytes is None else kept + rate - gone - outflow.max_bytes
        if above > 0:
            gone += min(above, outflow.share_by_size * (kept + rate - gone))
        net = rate - gone
        if net >= room:
            return day + room / net
        room -= net
        kept += net
    return None


def _text(days: float | None, rate: float, outflow: Outflow) -> str:
    at = f"at {size_text(rate)} a day"
    if days == 0.0:
        return "full: stores are refused until there is room"
    if days is not None:
        return f"full in about {_days_text(days)} {at}"
    if rate <= 0:
        return "not filling: nothing came in the last week"
    if outflow.after_days is not None or outflow.max_bytes is not None:
        return f"not filling: retention keeps up {at}"
    return f"not full within {HORIZON_DAYS // 365} years {at}"


def _days_text(days: float) -> str:
    if days < 2.0:
        hours = max(1, round(days * 24.0))
        return f"{hours} hour" + "s" * (hours > 1)
    return f"{days:.0f} days" if days < 730.0 else f"{days / 365.0:.0f} years"


def size_text(n_bytes: float) -> str:
    """A number of bytes for people, in decimal units, two digits at least: 950 B, 4.1 GB, 41 GB."""
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.5 or unit == "TB":
            break
        value /= 1000.0
    return f"{value:.1f} {unit}" if abs(value) < 9.95 and unit != "B" else f"{value:.0f} {unit}"
