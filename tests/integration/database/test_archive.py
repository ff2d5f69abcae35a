"""Late, duplicate and conflicting instances, completion, and several associations at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from iap_node.database import archive, jobs
from iap_node.database.engine import Database
from iap_node.database.quarantine import QuarantineEntry, list_entries, record_quarantine
from iap_node.database.reception import Arrival, record_instances
from iap_node.database.tables import (
    BytesState,
    ConflictRow,
    InstanceRow,
    JobRow,
    PatientRow,
    QuarantineRow,
    SeriesRow,
    StudyRow,
    Table,
)
from iap_node.records import (
    JobKind,
    JobState,
    QuarantinedInstance,
    ReceivedInstance,
    SeriesState,
    StoreOutcome,
)
from tests.integration.database.conftest import record

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
Store = Callable[..., StoreOutcome]
Complete = Callable[..., list[str]]
InThreads = Callable[[int, Callable[[int], None]], None]


def count(database: Database, table: type[Table]) -> int:
    with database.reading() as session:
        return session.scalars(select(func.count()).select_from(table)).one()


def everything(database: Database) -> list[object]:
    with database.reading() as session:
        return [session.execute(select(table)).all() for table in Table.metadata.sorted_tables]


def the_series(database: Database) -> SeriesRow:
    with database.reading() as session:
        return session.scalars(select(SeriesRow)).one()


def infer_states(database: Database) -> list[tuple[int, JobState]]:
    with database.reading() as session:
        found = session.scalars(select(JobRow).where(JobRow.kind == JobKind.INFER).order_by(JobRow.revision))
        return [(job.revision, job.state) for job in found]


def test_a_first_instance_makes_patient_study_series_and_instance(database: Database, store: Store) -> None:
    outcome = store(series_description="t1 fl3d", series_number=4)
    assert outcome is StoreOutcome.STORED
    series = the_series(database)
    assert (series.series_instance_uid, series.revision, series.state) == (
        "1.2.826.8.1",
        1,
        SeriesState.RECEIVING,
    )
    assert (series.series_description, series.series_number, series.calling_ae_title) == (
        "t1 fl3d",
        4,
        "SCANNER",
    )
    assert series.first_received_at == series.last_received_at == NOON
    with database.reading() as session:
        assert session.scalars(select(PatientRow.patient_hash)).one() == "c0ffee"
        instance = session.scalars(select(InstanceRow)).one()
        assert session.scalar(select(StudyRow.study_instance_uid)) == "1.2.826.7.1"
    assert (instance.revision, instance.size_bytes, instance.source_address) == (1, 1000, "127.0.0.1")


def test_the_patient_is_nowhere_but_in_the_hash(database: Database, store: Store) -> None:
    store(patient_id="MRN-4711", issuer_of_patient_id="CLINIC")
    with database.reading() as session:
        for table in Table.metadata.sorted_tables:
            for row in session.execute(select(table)):
                assert "4711" not in repr(row)
                assert "CLINIC" not in repr(row)


def test_instances_of_one_series_share_their_rows(database: Database, store: Store) -> None:
    later = NOON + timedelta(seconds=5)
    store(instance=1)
    store(instance=2, received_at=later)
    assert [count(database, table) for table in (PatientRow, StudyRow, SeriesRow, InstanceRow)] == [
        1,
        1,
        1,
        2,
    ]
    assert the_series(database).last_received_at == later
    assert the_series(database).first_received_at == NOON


def test_a_series_uid_in_two_studies_is_two_series(database: Database, store: Store) -> None:
    store(study=1, instance=1)
    store(study=2, instance=2)
    assert count(database, SeriesRow) == 2


def test_an_identical_resend_changes_nothing(database: Database, store: Store, complete: Complete) -> None:
    store()
    complete()
    before = everything(database)
    assert store(received_at=NOON + timedelta(hours=1)) is StoreOutcome.DUPLICATE
    assert everything(database) == before


def test_other_bytes_under_the_same_uid_are_kept_as_a_conflict(database: Database, store: Store) -> None:
    store(content="a")
    assert store(content="b") is StoreOutcome.CONFLICT
    assert store(content="b") is StoreOutcome.DUPLICATE  # of the conflict
    assert store(content="c", series=2) is StoreOutcome.CONFLICT  # even under another series
    with database.reading() as session:
        conflicts = archive.list_conflicts(session)
        instance = session.scalars(select(InstanceRow)).one()
    assert [conflict.spool_path.partition(".dcm")[0].rpartition(".")[0] for conflict in conflicts] == [
        "2/1.2.826.9.1-c",
        "1/1.2.826.9.1-b",
    ]
    assert conflicts[0].series_instance_uid == "1.2.826.8.2"
    assert conflicts[0].standing_spool_path == instance.spool_path
    assert instance.spool_path.startswith("1/1.2.826.9.1-a.")
    assert count(database, SeriesRow) == 1


def test_a_conflict_does_not_open_a_revision(database: Database, store: Store, complete: Complete) -> None:
    store(content="a")
    complete()
    store(content="b")
    assert (the_series(database).revision, the_series(database).state) == (1, SeriesState.COMPLETE)


def test_a_series_is_complete_after_the_quiet_period_and_not_before(database: Database, store: Store) -> None:
    store(series=1)
    store(series=2, instance=2, received_at=NOON + timedelta(seconds=30))
    with database.transaction() as session:
        assert archive.complete_quiet_series(session, NOON + timedelta(seconds=59.9), 60) == []
    with database.transaction() as session:
        assert archive.complete_quiet_series(session, NOON + timedelta(seconds=60), 60) == ["1.2.826.8.1"]
    with database.transaction() as session:
        assert archive.complete_quiet_series(session, NOON + timedelta(seconds=61), 60) == []
        states = session.scalars(select(SeriesRow.state).order_by(SeriesRow.id)).all()
    assert states == [SeriesState.COMPLETE, SeriesState.RECEIVING]
    assert infer_states(database) == [(1, JobState.READY)]


def test_a_released_association_completes_its_series_at_once(
    database: Database, store: Store, complete: Complete
) -> None:
    store(series=1, instance=1)
    store(series=2, instance=2)
    assert complete(1) == ["1.2.826.8.1"]
    assert complete(1) == []
    with database.transaction() as session:
        assert archive.complete_series(session, [], NOON) == []
    with database.reading() as session:
        done = session.scalars(select(SeriesRow).where(SeriesRow.state == SeriesState.COMPLETE)).one()
    assert (done.series_instance_uid, done.completed_at) == ("1.2.826.8.1", NOON)


def test_a_late_instance_opens_a_new_revision(database: Database, store: Store, complete: Complete) -> None:
    store(instance=1)
    complete()
    store(instance=2, received_at=NOON + timedelta(hours=1))
    series = the_series(database)
    assert (series.revision, series.state, series.completed_at) == (2, SeriesState.RECEIVING, None)
    store(instance=3, received_at=NOON + timedelta(hours=1))
    assert the_series(database).revision == 2
    complete(now=NOON + timedelta(hours=2))
    with database.reading() as session:
        instances = archive.current_instances(session, series.id)
    assert [(instance.sop_instance_uid, instance.revision) for instance in instances] == [
        ("1.2.826.9.1", 1),
        ("1.2.826.9.2", 2),
        ("1.2.826.9.3", 2),
    ]
    assert infer_states(database) == [(1, JobState.SUPERSEDED), (2, JobState.READY)]


def test_a_late_instance_takes_the_job_from_the_worker_that_has_it(
    database: Database, store: Store, complete: Complete
) -> None:
    store(instance=1)
    complete()
    with database.transaction() as session:
        job = jobs.claim(session, JobKind.INFER, "w", 60, NOON)
    assert job is not None
    store(instance=2)
    with database.transaction() as session:
        assert not jobs.renew(session, job, 60, NOON)
    assert infer_states(database) == [(1, JobState.SUPERSEDED)]


def test_instances_come_in_the_order_of_their_numbers(database: Database, store: Store) -> None:
    store(instance=3)
    store(instance=1)
    store(instance=7, instance_number=None)
    store(instance=2)
    with database.reading() as session:
        series_id = session.scalars(select(SeriesRow.id)).one()
        numbers = [found.instance_number for found in archive.current_instances(session, series_id)]
    assert numbers == [1, 2, 3, None]


def test_odd_header_text_and_numbers_are_filed(database: Database, store: Store) -> None:
    outcome = store(
        series_description="t1\0 \udcff fl3d" + "x" * 5000,
        study_date="***",
        series_number=10**30,
        number_of_frames=-(2**62),
    )
    assert outcome is StoreOutcome.STORED
    series = the_series(database)
    assert series.series_description.startswith("t1 ? fl3dxxx")
    assert series.series_number is None


def test_what_could_not_be_filed_is_listed_newest_first(database: Database) -> None:
    made = [
        QuarantinedInstance(f"quarantine/{n}", "no SOP Instance UID", "", "SCANNER", "127.0.0.1", 10, NOON)
        for n in range(3)
    ]
    with database.transaction() as session:
        for quarantined in [*made, made[0]]:
            record_quarantine(session, quarantined)
    with database.reading() as session:
        listed = [entry.spool_path for entry in list_entries(session)]
        (newest,) = list_entries(session, limit=1)
    assert listed == ["quarantine/2", "quarantine/1", "quarantine/0"]
    assert newest == QuarantineEntry(id=newest.id, bytes_state=BytesState.PRESENT, **asdict(made[2]))
    assert count(database, QuarantineRow) == 3


def test_associations_file_one_series_at_once(
    database: Database,
    process: Callable[[], Database],
    received: Callable[..., ReceivedInstance],
    in_threads: InThreads,
) -> None:
    outcomes: list[StoreOutcome] = []
    processes = [database, database, process(), process()]  # two threads in one process, and two alone

    def associate(number: int) -> None:
        for instance in range(10):
            outcomes.append(record(processes[number], received(instance=number * 100 + instance)))

    in_threads(4, associate)
    assert outcomes == [StoreOutcome.STORED] * 40
    assert [count(database, table) for table in (PatientRow, StudyRow, SeriesRow, InstanceRow)] == [1, 1, 1, 40]
    assert the_series(database).revision == 1


def test_associations_that_send_the_same_instances_store_each_once(
    database: Database,
    process: Callable[[], Database],
    received: Callable[..., ReceivedInstance],
    in_threads: InThreads,
) -> None:
    outcomes: list[StoreOutcome] = []
    processes = [database, database, process(), process()]

    def associate(number: int) -> None:
        for instance in range(8):
            outcomes.append(record(processes[number], received(instance=instance)))

    in_threads(4, associate)
    assert outcomes.count(StoreOutcome.STORED) == 8
    assert outcomes.count(StoreOutcome.DUPLICATE) == 24
    assert count(database, InstanceRow) == 8


def test_an_instance_that_meets_completion_opens_a_new_revision(
    database: Database,
    process: Callable[[], Database],
    received: Callable[..., ReceivedInstance],
    store: Store,
    wait_until_blocked: Callable[[], None],
) -> None:
    store(instance=1)

    def file_another() -> StoreOutcome:
        with process().transaction() as session:
            return record_instances(session, [Arrival(received(instance=2), "c0ffee")])[0]

    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as session:
            assert archive.complete_series(session, ["1.2.826.8.1"], NOON) == ["1.2.826.8.1"]
            outcome = pool.submit(file_another)
            wait_until_blocked()
        assert outcome.result() is StoreOutcome.STORED
    assert (the_series(database).revision, the_series(database).state) == (2, SeriesState.RECEIVING)
    assert infer_states(database) == [(1, JobState.SUPERSEDED)]


def test_an_instance_that_another_association_files_under_another_series_leaves_no_empty_series(
    database: Database,
    process: Callable[[], Database],
    received: Callable[..., ReceivedInstance],
    wait_until_blocked: Callable[[], None],
) -> None:
    def file_elsewhere() -> StoreOutcome:
        return record(process(), received(series=2, content="b"))

    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as session:
            assert record_instances(session, [Arrival(received(series=1), "c0ffee")])[0] is StoreOutcome.STORED
            outcome = pool.submit(file_elsewhere)
            wait_until_blocked()
        assert outcome.result() is StoreOutcome.CONFLICT
    assert the_series(database).series_instance_uid == "1.2.826.8.1"
    assert count(database, ConflictRow) == 1


def test_two_instances_never_share_a_file(database: Database, received: Callable[..., ReceivedInstance]) -> None:
    first, second = received(instance=1), received(instance=2)
    with database.transaction() as session:
        record_instances(session, [Arrival(first, "c0ffee")])
    with pytest.raises(IntegrityError), database.transaction() as session:
        record_instances(session, [Arrival(replace(second, spool_path=first.spool_path), "c0ffee")])
    assert count(database, InstanceRow) == 1
