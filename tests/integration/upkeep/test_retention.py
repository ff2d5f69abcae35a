"""Retention on real rows and files: what goes, what never goes, and what an interruption leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import update

from iap_node.config import RetentionConfig
from iap_node.database import jobs
from iap_node.database import retention as rows
from iap_node.database.retention import Hold
from iap_node.database.status import status_counts
from iap_node.database.tables import BytesState, ConflictRow, JudgementRow, QuarantineRow, RouteDecisionRow
from iap_node.errors import RetriableError
from iap_node.listener.recovery import recover
from iap_node.records import JobKind, JobState, SeriesState, StoreOutcome
from iap_node.upkeep.retention import Removed, plan, remove_expired

from .conftest import NOW, Archive, series_uid

THIRTY_DAYS = RetentionConfig(judged_days=30, not_analysed_days=30)


def run(node: Archive, config: RetentionConfig = THIRTY_DAYS, **options: int) -> Removed:
    return remove_expired(node.spool, node.database, config, NOW, **options)


def holds(node: Archive, config: RetentionConfig = THIRTY_DAYS) -> dict[Hold | None, int]:
    """Number of series by the reason why they stay; None: they may go."""
    counted: dict[Hold | None, int] = {}
    for group in plan(node.database, config, NOW).stays:
        counted[group.hold] = counted.get(group.hold, 0) + group.n_series
    return counted


def test_nothing_goes_unless_it_is_told_to(node: Archive) -> None:
    node.settle(1, days_ago=10_000)
    node.refuse(days_ago=10_000)
    before = node.files()
    assert run(node, RetentionConfig()) == Removed()
    assert node.files() == before


def test_bytes_of_a_delivered_series_go_by_age_and_everything_that_was_found_out_stays(node: Archive) -> None:
    node.settle(1, instances=3, days_ago=31)
    node.settle(2, days_ago=29)
    removed = run(node)
    assert (removed.series, removed.instances, removed.complete) == (1, 3, True)
    assert removed.size_bytes == sum(row.size_bytes for row in node.rows()[:3])
    assert [row.bytes_state for row in node.rows()] == [BytesState.DELETED] * 3 + [BytesState.PRESENT]
    assert all(row.bytes_gone_at == NOW for row in node.rows()[:3])
    assert not any(node.has_bytes(1, number) for number in (1, 2, 3)) and node.has_bytes(2)
    assert len(node.rows(JudgementRow)) == 2 and len(node.rows(RouteDecisionRow)) == 2
    assert node.series(1).destinations == ("lesions",)
    assert run(node).files == 0


def test_age_counts_from_the_last_instance_of_the_series(node: Archive) -> None:
    node.receive(1, 1, days_ago=100)
    node.receive(1, 2, days_ago=5)
    node.judge(1, "lesions")
    node.deliver(1)
    assert run(node).files == 0


def test_each_state_has_days_of_its_own(node: Archive) -> None:
    node.settle(1, days_ago=100)  # not analysed
    assert run(node, RetentionConfig(judged_days=30)).files == 0
    assert run(node, RetentionConfig(not_analysed_days=30)).files == 1


def test_a_series_that_is_receiving_or_waits_for_its_judgement_stays(node: Archive) -> None:
    node.receive(1, days_ago=100)
    assert holds(node) == {Hold.RECEIVING: 1}
    assert run(node).files == 0
    node.complete(1)
    assert holds(node) == {Hold.UNJUDGED: 1}
    assert run(node).files == 0


def test_a_series_whose_judgement_is_a_dead_letter_stays_and_says_so(node: Archive) -> None:
    node.receive(1, days_ago=100)
    node.complete(1)
    with node.database.transaction() as session:
        job = jobs.claim(session, JobKind.INFER, "test", 60.0, NOW)
        assert jobs.fail(session, job, "no model", True, jobs.JobsConfig(), NOW) is JobState.DEAD
    assert holds(node) == {Hold.JUDGEMENT_FAILED: 1}
    assert run(node).files == 0


def test_a_series_stays_until_every_destination_has_it(node: Archive) -> None:
    node.receive(1, days_ago=100)
    node.judge(1, "lesions", "people")
    assert holds(node) == {Hold.DELIVERING: 1}
    node.deliver(1)
    assert holds(node) == {Hold.DELIVERING: 1}
    assert run(node).files == 0
    node.deliver(1)
    assert run(node).files == 1


def test_a_delivery_that_is_a_dead_letter_keeps_the_series_until_it_is_retried_and_done(node: Archive) -> None:
    node.receive(1, days_ago=100)
    node.judge(1, "lesions")
    assert node.deliver(1, accepted=False) is JobState.DEAD
    assert holds(node) == {Hold.UNDELIVERED: 1}
    assert run(node).files == 0 and node.has_bytes(1)
    with node.database.transaction() as session:
        jobs.retry(session, None, NOW)
    assert holds(node) == {Hold.DELIVERING: 1}
    node.deliver(1)
    assert run(node).files == 1


def test_a_series_that_was_sent_nowhere_stays_unless_told_otherwise(node: Archive) -> None:
    node.receive(1, days_ago=100)
    node.judge(1)
    assert holds(node) == {Hold.UNROUTED: 1}
    assert run(node).files == 0
    assert run(node, RetentionConfig(not_analysed_days=30, unrouted=True)).files == 1


def test_a_late_instance_keeps_the_series_until_its_new_revision_is_delivered(node: Archive) -> None:
    node.settle(1, days_ago=100)
    node.receive(1, 2, days_ago=99)
    assert holds(node) == {Hold.RECEIVING: 1}
    node.judge(1)  # nowhere, this time: what came late is nowhere else
    assert holds(node) == {Hold.UNROUTED: 1}
    assert run(node).files == 0


def test_the_oldest_go_until_the_rest_is_below_the_limit_of_size(node: Archive) -> None:
    for number, days in ((1, 3), (2, 9), (3, 6)):
        node.settle(number, days_ago=days)
    size = node.row(1).size_bytes
    removed = run(node, RetentionConfig(max_gb=(1.5 * size) / 1e9))
    assert removed.series == 2
    assert [node.has_bytes(number) for number in (1, 2, 3)] == [True, False, False]
    assert run(node, RetentionConfig(max_gb=(1.5 * size) / 1e9)).files == 0


def test_what_goes_by_age_counts_for_the_limit_of_size(node: Archive) -> None:
    for number, days in ((1, 40), (2, 9), (3, 6)):
        node.settle(number, days_ago=days)
    both = RetentionConfig(not_analysed_days=30, max_gb=2.5 * node.row(1).size_bytes / 1e9)
    planned = plan(node.database, both, NOW)
    assert [(departure.series.series_instance_uid, departure.by_age) for departure in planned.first] == [
        (series_uid(1), True)
    ]
    assert run(node, both).series == 1


def test_a_limit_that_cannot_be_kept_deletes_nothing_that_must_stay_and_says_by_how_much(node: Archive) -> None:
    node.receive(1, days_ago=100)
    node.settle(2, days_ago=1)
    tiny = RetentionConfig(max_gb=1e-9)
    planned = plan(node.database, tiny, NOW)
    assert (planned.series, planned.above_limit_bytes) == (1, node.row(1).size_bytes - 1)
    run(node, tiny)
    assert node.has_bytes(1) and not node.has_bytes(2)


def test_a_run_ends_after_its_share_and_the_next_one_goes_on(node: Archive) -> None:
    node.settle(1, instances=5, days_ago=100)
    node.settle(2, days_ago=90)
    first = run(node, max_files=3)
    assert (first.instances, first.complete) == (3, False)
    assert sum(node.spool.exists(row.spool_path) for row in node.rows()) == 3
    assert run(node, max_files=100).instances == 3
    assert {row.bytes_state for row in node.rows()} == {BytesState.DELETED}


def test_a_run_that_a_failing_disk_interrupted_is_finished_by_the_next(node: Archive, monkeypatch) -> None:
    node.settle(1, instances=3, days_ago=100)
    remove, calls = node.spool.remove, []

    def failing(*spool_paths: str) -> None:
        calls.append(spool_paths)
        if len(calls) == 2:
            raise RetriableError("the disk fails")
        remove(*spool_paths)

    monkeypatch.setattr("iap_node.upkeep.retention.FILES_AT_ONCE", 1)
    with monkeypatch.context() as patched:
        patched.setattr(node.spool, "remove", failing)
        with pytest.raises(RetriableError):
            run(node)
    states = [row.bytes_state for row in node.rows()]
    assert states == [BytesState.DELETED, BytesState.DELETING, BytesState.DELETING]
    assert plan(node.database, THIRTY_DAYS, NOW).unfinished
    assert run(node, RetentionConfig(conflict_days=1)).instances == 2  # even where the limit is gone by now
    assert {row.bytes_state for row in node.rows()} == {BytesState.DELETED}
    assert not plan(node.database, THIRTY_DAYS, NOW).unfinished


def test_an_instance_that_came_in_between_keeps_its_series(node: Archive) -> None:
    node.settle(1, days_ago=100)
    with node.database.reading() as session:
        (series,) = rows.removable_series(session, THIRTY_DAYS, NOW, SeriesState.NOT_ANALYSED, by_age=True)
    node.receive(1, 2)
    with node.database.transaction() as session:
        assert rows.mark_series(session, series, THIRTY_DAYS, NOW, by_age=True) == 0
    assert node.has_bytes(1)


def test_conflicts_and_the_quarantine_go_after_days_of_their_own(node: Archive) -> None:
    node.settle(1, days_ago=100)
    assert node.receive(1, comment="other bytes", days_ago=50) is StoreOutcome.CONFLICT
    node.refuse(days_ago=50)
    node.refuse(days_ago=5, content=b"no DICOM either")
    config = RetentionConfig(conflict_days=30, quarantine_days=20)
    planned = plan(node.database, config, NOW)
    assert (planned.conflicts, planned.quarantined, planned.series) == (1, 1, 0)
    (conflict,) = node.rows(ConflictRow)
    removed = run(node, config)
    assert (removed.conflicts, removed.quarantined, removed.instances) == (1, 1, 0)
    assert not node.spool.exists(conflict.spool_path) and node.has_bytes(1)
    assert node.rows(ConflictRow) == [] and len(node.rows(QuarantineRow)) == 1
    assert len(node.files("quarantine")) == 2  # the younger one and its notes


def test_conflicts_and_the_quarantine_are_left_alone_by_the_limits_of_series(node: Archive) -> None:
    node.settle(1, days_ago=100)
    node.receive(1, comment="other bytes", days_ago=100)
    node.refuse(days_ago=100)
    assert run(node).files == 1
    with node.database.reading() as session:
        counts = status_counts(session)
    assert (counts.n_conflicts, counts.n_quarantined) == (1, 1)


def test_the_plan_changes_nothing_and_says_what_the_run_does(node: Archive) -> None:
    node.settle(1, instances=2, days_ago=100)
    node.settle(2, days_ago=50)
    node.settle(3, days_ago=1)
    before = node.files()
    planned = plan(node.database, THIRTY_DAYS, NOW, show=1)
    assert (planned.series, planned.instances) == (2, 3)
    assert [departure.series.series_instance_uid for departure in planned.first] == [series_uid(1)]
    assert node.files() == before and {row.bytes_state for row in node.rows()} == {BytesState.PRESENT}
    removed = run(node)
    assert (removed.series, removed.instances, removed.size_bytes) == (2, 3, planned.size_bytes)


def test_many_series_go_in_batches_the_oldest_first(node: Archive, monkeypatch) -> None:
    monkeypatch.setattr("iap_node.upkeep.retention.SERIES_AT_ONCE", 2)
    monkeypatch.setattr("iap_node.upkeep.retention.FILES_AT_ONCE", 2)
    for number in range(1, 6):
        node.settle(number, instances=2, days_ago=100)  # all at the same moment
    planned = plan(node.database, THIRTY_DAYS, NOW)
    assert [departure.series.series_instance_uid for departure in planned.first] == [series_uid(n) for n in range(1, 6)]
    assert (planned.series, run(node).instances) == (5, 10)


def test_what_leaves_by_age_is_known_day_by_day(node: Archive) -> None:
    node.settle(1, days_ago=29.5)
    node.settle(2, days_ago=20.2)
    node.settle(3, days_ago=300)
    node.receive(4, days_ago=100)  # held
    with node.database.reading() as session:
        leaving = rows.leaving_by_day(session, THIRTY_DAYS, NOW)
        assert leaving == {0: node.row(3).size_bytes, 1: node.row(1).size_bytes, 10: node.row(2).size_bytes}
        assert rows.leaving_by_day(session, RetentionConfig(max_gb=1), NOW) == {}


def test_what_came_since_a_time_is_summed_from_the_rows(node: Archive) -> None:
    with node.database.reading() as session:
        assert rows.received_since(session, NOW) == 0
        assert rows.first_received_at(session) is None
    for number, days in enumerate((20, 8, 6.5, 3, 0.5), start=1):
        node.receive(number, days_ago=days)
    size = node.row(1).size_bytes
    with node.database.reading() as session:
        for days, expected in ((0.1, 0), (1, 1), (4, 2), (7, 3), (10, 4), (100, 5)):
            assert rows.received_since(session, NOW - timedelta(days=days)) == expected * size
        assert rows.first_received_at(session) == NOW - timedelta(days=20)
        assert rows.kept_bytes(session) == 5 * size


def test_an_instance_that_comes_again_after_its_bytes_went_is_stored_anew(node: Archive) -> None:
    node.settle(1, instances=2, days_ago=100)
    run(node)
    gone = node.row(1).spool_path
    assert node.receive(1, 1) is StoreOutcome.STORED
    row = node.row(1)
    assert (row.bytes_state, row.bytes_gone_at) == (BytesState.PRESENT, None) and row.spool_path != gone
    assert node.has_bytes(1, 1) and not node.has_bytes(1, 2)
    series = node.series(1)
    assert (series.revision, series.destinations) == (1, ("lesions",))  # judged and delivered, as it was
    assert node.receive(1, 1) is StoreOutcome.DUPLICATE
    assert run(node).files == 0  # its age begins anew
    node.clock.now = NOW
    assert remove_expired(node.spool, node.database, THIRTY_DAYS, NOW + timedelta(days=31)).instances == 1


def test_other_bytes_for_an_instance_whose_bytes_went_are_kept_as_a_conflict(node: Archive) -> None:
    node.settle(1, days_ago=100)
    run(node)
    assert node.receive(1, comment="other bytes") is StoreOutcome.CONFLICT
    assert node.row(1).bytes_state is BytesState.DELETED
    (conflict,) = node.rows(ConflictRow)
    assert node.spool.exists(conflict.spool_path)


def test_an_instance_that_comes_again_while_its_bytes_go_keeps_the_new_ones(node: Archive, monkeypatch) -> None:
    node.settle(1, days_ago=100)
    remove = node.spool.remove

    def slowly(*spool_paths: str) -> None:
        assert node.receive(1) is StoreOutcome.STORED
        remove(*spool_paths)

    with monkeypatch.context() as patched:
        patched.setattr(node.spool, "remove", slowly)
        run(node)
    assert node.row(1).bytes_state is BytesState.PRESENT and node.has_bytes(1)


def test_a_conflict_whose_bytes_are_lost_is_restored_when_it_comes_again(node: Archive) -> None:
    node.receive(1)
    node.receive(1, comment="other bytes")
    (conflict,) = node.rows(ConflictRow)
    node.spool.remove(conflict.spool_path)
    with node.database.transaction() as session:
        session.execute(update(ConflictRow).values(bytes_state=BytesState.LOST))
    assert node.receive(1, comment="other bytes") is StoreOutcome.CONFLICT
    (restored,) = node.rows(ConflictRow)
    assert restored.bytes_state is BytesState.PRESENT and node.spool.exists(restored.spool_path)
    assert node.receive(1, comment="other bytes") is StoreOutcome.DUPLICATE


def test_directories_that_are_empty_go_too_and_are_made_again_when_something_comes(
    node: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iap_node.spool.new_instance.STAGING_BYTES", 512)
    node.settle(1, instances=2, days_ago=100)
    directory = node.spool.path(node.row(1).spool_path).parent
    run(node)
    assert not directory.exists()
    assert node.receive(1, 1) is StoreOutcome.STORED
    assert node.has_bytes(1, 1)


@pytest.mark.parametrize("step", ["mark", "remove", "note"])
def test_a_crash_at_any_step_files_nothing_anew_and_is_finished_by_the_next_run(
    make_archive: Callable[[], Archive], monkeypatch: pytest.MonkeyPatch, kept_as: str, step: str
) -> None:
    node = make_archive()
    node.settle(1, instances=2, days_ago=100)

    class Crash(BaseException):
        """The process ends here."""

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        if step == "mark":  # after the decision, before the first file
            patched.setattr(node.spool, "remove", crash)
        elif step == "remove":  # after the files
            patched.setattr(node.spool, "remove_empty_directory", crash)
        else:  # before the rows say so
            patched.setattr(rows, "note_deleted", crash)
        with pytest.raises(Crash):
            run(node)
    node.intake.close()  # leaves its segments to recovery
    node = make_archive()
    recovered = recover(node.spool, node.database, node.intake, settled_after_s=-1.0)
    assert (recovered.filed, recovered.unreadable) == (0, 0)
    assert {row.bytes_state for row in node.rows()} == {BytesState.DELETING}
    assert run(node).instances == 2
    assert {row.bytes_state for row in node.rows()} == {BytesState.DELETED}
    assert not any(node.spool.exists(row.spool_path) for row in node.rows())


def test_senders_at_the_same_moment_lose_nothing(make_archive: Callable[[], Archive]) -> None:
    node = make_archive()
    for number in range(1, 6):
        node.settle(number, instances=2, days_ago=100)
    begin = threading.Barrier(3)

    def together(work: Callable[[], object]) -> None:
        begin.wait()
        work()

    def send(sender: Archive) -> None:
        for number in range(1, 6):
            sender.receive(number, 1)  # again
            sender.receive(number, 3)  # late

    senders = [make_archive(), make_archive()]
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(together, lambda: run(node))]
        running += [pool.submit(together, lambda sender=sender: send(sender)) for sender in senders]
        for one in running:
            one.result()
    run(node)
    for number in range(
        1, 6
    ):  # the first may have been a duplicate of bytes that went a moment later; the late one not
        assert node.row(number, 3).bytes_state is BytesState.PRESENT
    for row in node.rows():
        assert node.spool.exists(row.spool_path) is (row.bytes_state is BytesState.PRESENT)
