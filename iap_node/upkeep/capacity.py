"""How much room the spool has, and for how long: the disk, the rows and retention together. For `iap-node status`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from iap_node.config import RetentionConfig
from iap_node.database import retention as rows
from iap_node.database.engine import Database
from iap_node.database.retention import Hold
from iap_node.records import SeriesState
from iap_node.upkeep.forecast import SECONDS_PER_DAY, Ingest, Outflow, forecast

HOLDS_UNTIL_A_PERSON_ACTS = frozenset({Hold.JUDGEMENT_FAILED, Hold.UNDELIVERED, Hold.HELD, Hold.UNROUTED})
STILL_ON_THEIR_WAY = frozenset({SeriesState.RECEIVING, SeriesState.COMPLETE})  # may end in either final state


@dataclass(frozen=True, slots=True)
class Capacity:
    """Room on the spool's disk, and what becomes of it."""

    total_bytes: int
    free_bytes: int
    reserve_bytes: int  # below it stores are refused
    last_day_bytes: int  # received
    last_week_bytes: int
    bytes_per_day: float  # that the forecast reckons with
    full_in_days: float | None  # None: not filling
    forecast: str  # the same for people


def capacity(
    database: Database, spool_dir: Path, reserve_bytes: int, config: RetentionConfig, now: datetime
) -> Capacity:
    """Look at the disk and the rows.

    Raises
    ------
    OSError
        The spool's directory is not there.
    DatabaseUnavailable
        The database did not answer.
    """
    disk = shutil.disk_usage(spool_dir)
    with database.reading() as session:
        first = rows.first_received_at(session)
        ingest = Ingest(
            rows.received_since(session, now - timedelta(days=1)),
            rows.received_since(session, now - timedelta(days=7)),
            0.0 if first is None else (now - first).total_seconds() / SECONDS_PER_DAY,
        )
    kept, outflow = _outflow(database, config, now)
    answer = forecast(disk.free, reserve_bytes, kept, ingest, outflow)
    return Capacity(
        total_bytes=disk.total,
        free_bytes=disk.free,
        reserve_bytes=reserve_bytes,
        last_day_bytes=ingest.last_day_bytes,
        last_week_bytes=ingest.last_week_bytes,
        bytes_per_day=answer.bytes_per_day,
        full_in_days=answer.full_in_days,
        forecast=answer.text,
    )


def _outflow(database: Database, config: RetentionConfig, now: datetime) -> tuple[int, Outflow]:
    """Bytes that are here, and what retention takes of them and of what comes."""
    days = rows.days_by_state(config)
    if not days and config.max_gb is None:
        return 0, Outflow()
    with database.reading() as session:
        groups = rows.kept_series(session, config, now)
        leaving = rows.leaving_by_day(session, config, now)
    kept = sum(group.size_bytes for group in groups)
    may_go = [group for group in groups if group.hold not in HOLDS_UNTIL_A_PERSON_ACTS]
    by_size = sum(group.size_bytes for group in may_go)
    by_age = sum(group.size_bytes for group in may_go if group.state in STILL_ON_THEIR_WAY | days.keys())
    return kept, Outflow(
        leaving_bytes=[leaving.get(day, 0) for day in range(max(leaving, default=-1) + 1)],
        after_days=max(days.values(), default=None),
        share_by_age=by_age / kept if kept else 1.0,
        max_bytes=None if config.max_gb is None else config.max_gb * 1e9,
        share_by_size=by_size / kept if kept else 1.0,
    )
