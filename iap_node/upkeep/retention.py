"""Retention: bytes leave the spool by age and by size, once their series is judged and delivered.

Nothing goes unless `retention` in the configuration says so, and nothing of what was found out goes: rows stay, with
judgements, comparisons and routes; only the bytes go. What is kept aside (conflicts, quarantine) goes with its row,
after days of its own. Called by the scheduler and by `iap-node retention`.
"""

from __future__ import annotations

import heapq
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from iap_node.config import RetentionConfig
from iap_node.database import retention as rows
from iap_node.database.engine import Database
from iap_node.database.quarantine import all_entries
from iap_node.database.retention import KeptSeries, RemovableSeries
from iap_node.records import SeriesState
from iap_node.spool import Spool
from iap_node.upkeep.quarantine import discard

FILES_AT_ONCE = 500  # between two commits
SERIES_AT_ONCE = 100
BYTES_PER_GB = 10**9

log = structlog.get_logger("retention")


@dataclass(slots=True)
class Removed:
    """What a run removed."""

    series: int = 0  # decided in this run; their files may take further runs
    instances: int = 0
    conflicts: int = 0
    quarantined: int = 0
    size_bytes: int = 0
    complete: bool = True  # False: there may be more, for the next run

    @property
    def files(self) -> int:
        """All files together."""
        return self.instances + self.conflicts + self.quarantined

    def add(self, later: Removed) -> None:
        """Count a later run in, whose word on completeness counts."""
        self.series += later.series
        self.instances += later.instances
        self.conflicts += later.conflicts
        self.quarantined += later.quarantined
        self.size_bytes += later.size_bytes
        self.complete = later.complete


@dataclass(frozen=True, slots=True)
class Departure:
    """A series whose bytes go, and why."""

    series: RemovableSeries
    by_age: bool  # False: to get below retention.max_gb


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next runs would remove, and what stays, each with its reason."""

    kept_bytes: int
    series: int
    instances: int
    size_bytes: int
    first: tuple[Departure, ...]  # of the series, the oldest
    stays: tuple[KeptSeries, ...]  # what must, by reason and state
    spared_series: int  # that might go, and are young enough and not too many
    spared_bytes: int
    above_limit_bytes: int  # that no series may be removed for; 0 without retention.max_gb
    conflicts: int
    quarantined: int
    unfinished: bool  # an interrupted run left instances that are decided and not removed yet


def remove_expired(
    spool: Spool, database: Database, config: RetentionConfig, now: datetime, *, max_files: int | None = None
) -> Removed:
    """Remove what may go, the oldest first; safe to interrupt anywhere and to run twice at a time.

    Parameters
    ----------
    max_files
        End after so many; `retention.files_per_run` when None.

    Raises
    ------
    RetriableError
        The disk or the database does not work; the next run goes on where this one ended.
    """
    run = _Run(spool, database, config, now, config.files_per_run if max_files is None else max_files)
    run.finish_marked()
    for departure in _departures(database, config, now):
        if run.is_over:
            break
        run.remove(departure)
    run.remove_conflicts()
    run.remove_quarantined()
    if run.removed.files:
        log.info(
            "retention removed", series=run.removed.series, instances=run.removed.instances,
            conflicts=run.removed.conflicts, quarantined=run.removed.quarantined, size_bytes=run.removed.size_bytes,
            complete=run.removed.complete,
        )  # fmt: skip
    return run.removed


def plan(database: Database, config: RetentionConfig, now: datetime, *, show: int = 50) -> Plan:
    """What `remove_expired` would remove, and why the rest stays; changes nothing.

    Parameters
    ----------
    show
        Name so many series in `first`.
    """
    with database.reading() as session:
        groups = rows.kept_series(session, config, now)
        unfinished = bool(rows.marked_instances(session, 1))
        conflicts = 0
        if config.conflict_days is not None:
            conflicts = rows.count_conflicts(session, now - timedelta(days=config.conflict_days))
    quarantined = 0
    if config.quarantine_days is not None:
        before = now - timedelta(days=config.quarantine_days)
        quarantined = sum(1 for _ in all_entries(database, before))
    kept = sum(group.size_bytes for group in groups)
    first: list[Departure] = []
    series = instances = size = 0
    for departure in _departures(database, config, now):
        series += 1
        instances += departure.series.n_instances
        size += departure.series.size_bytes
        if len(first) < show:
            first.append(departure)
    free_to_go = [group for group in groups if group.hold is None]
    return Plan(
        kept_bytes=kept,
        series=series,
        instances=instances,
        size_bytes=size,
        first=tuple(first),
        stays=tuple(group for group in groups if group.hold is not None),
        spared_series=sum(group.n_series for group in free_to_go) - series,
        spared_bytes=sum(group.size_bytes for group in free_to_go) - size,
        above_limit_bytes=0 if config.max_gb is None else max(0, kept - size - int(config.max_gb * BYTES_PER_GB)),
        conflicts=conflicts,
        quarantined=quarantined,
        unfinished=unfinished,
    )


def _departures(database: Database, config: RetentionConfig, now: datetime) -> Iterator[Departure]:
    """Series whose bytes go: those that are due by age, then the oldest of the others until the rest is small enough.

    The caller may remove what it is given; what nobody removes is not given twice.
    """
    excess = 0
    if config.max_gb is not None:
        with database.reading() as session:
            excess = rows.kept_bytes(session) - int(config.max_gb * BYTES_PER_GB)
    given: set[int] = set()
    for series in _series(database, config, now, by_age=True):
        if excess > 0:  # the second round may meet it again where nobody removes it
            given.add(series.id)
        excess -= series.size_bytes
        yield Departure(series, by_age=True)
    if excess <= 0:
        return
    for series in _series(database, config, now, by_age=False):
        if series.id in given:
            continue
        yield Departure(series, by_age=False)
        excess -= series.size_bytes
        if excess <= 0:
            return


def _series(database: Database, config: RetentionConfig, now: datetime, *, by_age: bool) -> Iterator[RemovableSeries]:
    """Series that may go, whatever their state, the oldest first."""
    states = rows.days_by_state(config) if by_age else rows.FINAL_STATES
    streams = [_series_in(state, database, config, now, by_age=by_age) for state in states]
    return heapq.merge(*streams, key=lambda series: (series.last_received_at, series.id))


def _series_in(
    state: SeriesState, database: Database, config: RetentionConfig, now: datetime, *, by_age: bool
) -> Iterator[RemovableSeries]:
    last: RemovableSeries | None = None
    while True:
        with database.reading() as session:
            batch = rows.removable_series(session, config, now, state, by_age=by_age, limit=SERIES_AT_ONCE, after=last)
        yield from batch
        if len(batch) < SERIES_AT_ONCE:
            return
        last = batch[-1]


@dataclass(slots=True)
class _Run:
    """One run, and how much it may still do."""

    spool: Spool
    database: Database
    config: RetentionConfig
    now: datetime
    left: int  # files
    removed: Removed = field(default_factory=Removed)

    @property
    def is_over(self) -> bool:
        """Whether it has done its share; notes that there is more."""
        if self.left <= 0:
            self.removed.complete = False
        return self.left <= 0

    def remove(self, departure: Departure) -> None:
        """Decide on one series and remove its files."""
        series = departure.series
        with self.database.transaction() as session:
            n_marked = rows.mark_series(session, series, self.config, self.now, by_age=departure.by_age)
        if not n_marked:  # something came in between: it stays
            return
        self.removed.series += 1
        log.info(
            "bytes of a series go",
            series_instance_uid=series.series_instance_uid,
            instances=n_marked,
            size_bytes=series.size_bytes,
            by="age" if departure.by_age else "size",
        )
        self.finish_marked()

    def finish_marked(self) -> None:
        """Remove the files of all marked instances, whoever marked them, as far as this run goes."""
        while not self.is_over:
            with self.database.reading() as session:
                batch = rows.marked_instances(session, min(FILES_AT_ONCE, self.left))
            if not batch:
                return
            self.spool.remove(*(instance.spool_path for instance in batch))
            for spool_path in {posixpath.dirname(one.spool_path): one.spool_path for one in batch}.values():
                self.spool.remove_empty_directory(spool_path)
            with self.database.transaction() as session:
                rows.note_deleted(session, batch, self.now)
            self.removed.instances += len(batch)
            self.removed.size_bytes += sum(instance.size_bytes for instance in batch)
            self.left -= len(batch)

    def remove_conflicts(self) -> None:
        """Remove aged conflicts: the file, then the row, so that what a crash leaves is found again by its row."""
        if self.config.conflict_days is None:
            return
        before = self.now - timedelta(days=self.config.conflict_days)
        while not self.is_over:
            with self.database.reading() as session:
                batch = rows.aged_conflicts(session, before, min(FILES_AT_ONCE, self.left))
            if not batch:
                return
            self.spool.remove(*(conflict.spool_path for conflict in batch))
            with self.database.transaction() as session:
                rows.remove_conflicts(session, [conflict.id for conflict in batch])
            self.removed.conflicts += len(batch)
            self.removed.size_bytes += sum(conflict.size_bytes for conflict in batch)
            self.left -= len(batch)

    def remove_quarantined(self) -> None:
        """Remove aged entries of the quarantine, each after its file."""
        if self.config.quarantine_days is None:
            return
        for entry in all_entries(self.database, self.now - timedelta(days=self.config.quarantine_days)):
            if self.is_over:
                return
            discard(entry, self.spool, self.database)
            self.removed.quarantined += 1
            self.removed.size_bytes += entry.size_bytes
            self.left -= 1
