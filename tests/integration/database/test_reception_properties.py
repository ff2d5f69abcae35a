"""Instances, duplicates, conflicts, completions and judgements in any order: a model held against SQLite.

PostgreSQL runs the same queries in `test_archive`, `test_jobs` and `test_results`; hundreds of databases are
what this module needs, and a copied file is cheap.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from iap_node.database import archive, jobs
from iap_node.database.engine import Database
from iap_node.database.reception import Arrival, record_instances
from iap_node.database.tables import ConflictRow, InstanceRow, JobRow, SeriesRow
from iap_node.records import (
    JobKind,
    JobState,
    ReceivedInstance,
    RouteDecision,
    SeriesState,
    StoreOutcome,
)
from tests.integration.database.conftest import judge_unseen

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NOWHERE = RouteDecision(None, (), (), "no destination is configured", (), "abc123")

store_step = st.tuples(st.just("store"), st.integers(1, 2), st.integers(1, 4), st.sampled_from("ab"))
series_step = st.tuples(st.sampled_from(["complete", "judge"]), st.integers(1, 2))
steps = st.lists(st.one_of(store_step, store_step, series_step), max_size=20)


@dataclass
class ModelSeries:
    revision: int = 1
    state: SeriesState = SeriesState.RECEIVING
    infer: dict[int, JobState] = field(default_factory=dict)


@dataclass
class Model:
    """What the archive promises, in a few lines."""

    series: dict[int, ModelSeries] = field(default_factory=dict)
    instances: dict[int, tuple[int, str, int]] = field(default_factory=dict)  # series, content, revision
    conflicts: set[tuple[int, str]] = field(default_factory=set)

    def store(self, series: int, instance: int, content: str) -> StoreOutcome:
        if instance in self.instances:
            if content == self.instances[instance][1] or (instance, content) in self.conflicts:
                return StoreOutcome.DUPLICATE
            self.conflicts.add((instance, content))
            return StoreOutcome.CONFLICT
        one = self.series.setdefault(series, ModelSeries())
        if one.state is not SeriesState.RECEIVING:
            for revision, state in one.infer.items():
                if state is JobState.READY:
                    one.infer[revision] = JobState.SUPERSEDED
            one.revision, one.state = one.revision + 1, SeriesState.RECEIVING
        self.instances[instance] = (series, content, one.revision)
        return StoreOutcome.STORED

    def complete(self, series: int) -> bool:
        one = self.series.get(series)
        if one is None or one.state is not SeriesState.RECEIVING:
            return False
        one.state = SeriesState.COMPLETE
        one.infer[one.revision] = JobState.READY
        return True

    def judge(self, series: int) -> None:
        one = self.series[series]
        one.state, one.infer[one.revision] = SeriesState.NOT_ANALYSED, JobState.DONE


def number(uid: str) -> int:
    return int(uid.rpartition(".")[2])


def judge_next(database: Database, model: Model) -> None:
    with database.transaction() as session:
        job = jobs.claim(session, JobKind.INFER, "w", 60, NOON)
        ready = {n for n, one in model.series.items() if JobState.READY in one.infer.values()}
        assert (job is None) == (not ready)
        if job is not None:
            judge_unseen(session, job, NOWHERE)
            model.judge(number(job.series_instance_uid))


def check(database: Database, model: Model) -> None:
    with database.reading() as session:
        uids = {row.id: number(row.series_instance_uid) for row in session.scalars(select(SeriesRow))}
        found = Model()
        for row in session.scalars(select(SeriesRow)):
            found.series[uids[row.id]] = ModelSeries(row.revision, row.state)
        for job in session.scalars(select(JobRow)):
            found.series[uids[job.series_id]].infer[job.revision] = job.state
        names = {row.id: row for row in session.scalars(select(InstanceRow))}
        for instance in names.values():
            key = (uids[instance.series_id], instance.checksum[-1], instance.revision)
            found.instances[number(instance.sop_instance_uid)] = key
        for conflict in session.scalars(select(ConflictRow)):
            found.conflicts.add((number(names[conflict.instance_id].sop_instance_uid), conflict.checksum[-1]))
    assert found == model


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=steps)
def test_any_order_of_events_keeps_the_promises(
    migrated_sqlite: Path, received: Callable[..., ReceivedInstance], sequence: list[tuple[object, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "node.sqlite"
        shutil.copyfile(migrated_sqlite, path)
        database, model = Database(f"sqlite:///{path}"), Model()
        for step in sequence:
            match step:
                case ("store", int(series), int(instance), str(content)):
                    with database.transaction() as session:
                        one = received(series=series, instance=instance, content=content)
                        outcome = record_instances(session, [Arrival(one, "c0ffee")])[0]
                    assert outcome is model.store(series, instance, content)
                case ("complete", int(series)):
                    with database.transaction() as session:
                        completed = archive.complete_series(session, [f"1.2.826.8.{series}"], NOON)
                    assert bool(completed) == model.complete(series)
                case _:
                    judge_next(database, model)
        check(database, model)
        database.dispose()
