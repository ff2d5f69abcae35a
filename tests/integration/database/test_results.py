"""Judgements and deliveries: written once, fenced, read back as records, and shown in the lists."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from iap_node.config import JobsConfig
from iap_node.database import archive, jobs, results, status
from iap_node.database.engine import Database
from iap_node.database.tables import (
    DeliveryRow,
    DeliveryState,
    InstanceDeliveryRow,
    JudgementRow,
    PredictionRow,
    SeriesRow,
    Table,
)
from iap_node.errors import LeaseLost
from iap_node.records import (
    ConditionTrace,
    DomainTrace,
    HeaderComparison,
    HeaderValue,
    InstanceDelivery,
    Job,
    JobKind,
    JobState,
    ParameterKind,
    ParameterPrediction,
    RouteDecision,
    SeriesHeader,
    SeriesPrediction,
    SeriesState,
    StoreOutcome,
    Truth,
    Verdict,
)

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CONFIG = JobsConfig(max_attempts=2, backoff_s=10)
Store = Callable[..., StoreOutcome]
Complete = Callable[..., list[str]]

HEADER = SeriesHeader(
    (
        HeaderValue("Manufacturer", "SIEMENS ", "SIEMENS"),
        HeaderValue("EchoTime", "1.52", 1.52),
        HeaderValue("FlipAngle", "ten", None, "not a number"),
    )
)
PREDICTION = SeriesPrediction(
    model_id="reference-1",
    training_data="trained on simulated images",
    novel=False,
    novelty_score=12.5,
    novelty_threshold=40.0,
    n_slices=24,
    parameters=(
        ParameterPrediction(
            "Manufacturer",
            ParameterKind.CATEGORICAL,
            probabilities=(("GE MEDICAL SYSTEMS", 0.9), ("SIEMENS", 0.1)),
            prediction_set=("GE MEDICAL SYSTEMS",),
        ),
        ParameterPrediction(
            "EchoTime",
            ParameterKind.CONTINUOUS,
            value=1.5,
            interval=(1.4, 1.6),
            intervals=((0.05, 1.4, 1.6), (0.01, float("-inf"), float("inf"))),
        ),
    ),
)
COMPARISONS = (
    HeaderComparison("Manufacturer", "SIEMENS", "GE MEDICAL SYSTEMS", 0.1, Verdict.CONTRADICTS, "GE"),
    HeaderComparison("EchoTime", "1.52", "1.5 ms", 0.6, Verdict.AGREES),
    HeaderComparison("SliceThickness", "", "2 mm", None, Verdict.MISSING, "2 mm"),
    HeaderComparison("FlipAngle", "ten", "10", None, Verdict.NOT_JUDGED, reason="not a number"),
)
DECISION = RouteDecision(
    domain="breast-ge",
    downstream_models=("tumour",),
    destinations=("AI", "PACS"),
    reason="Manufacturer = GE with probability 0.90",
    trace=(
        DomainTrace(
            "breast-ge",
            Truth.TRUE,
            0.9,
            0.8,
            (ConditionTrace("Manufacturer = GE", Truth.TRUE, 0.9, "GE 0.90"),),
        ),
    ),
    rules_version="abc123",
)


@pytest.fixture
def infer(database: Database) -> Callable[..., Job]:
    """Claims the INFER job that is due."""

    def claim(now: datetime = NOON) -> Job:
        with database.transaction() as session:
            job = jobs.claim(session, JobKind.INFER, "w", 60, now)
        assert job is not None
        return job

    return claim


def judge(
    database: Database,
    job: Job,
    *,
    prediction: SeriesPrediction | None = PREDICTION,
    decision: RouteDecision = DECISION,
    problems: tuple[tuple[int, str], ...] = (),
    not_analysed_reason: str | None = None,
    now: datetime = NOON,
) -> None:
    with database.transaction() as session:
        results.save_judgement(
            session,
            job,
            header=HEADER,
            prediction=prediction,
            comparisons=COMPARISONS,
            decision=decision,
            problems=problems,
            not_analysed_reason=not_analysed_reason,
            now=now,
        )


def claim_delivery(database: Database, now: datetime = NOON) -> Job:
    with database.transaction() as session:
        job = jobs.claim(session, JobKind.DELIVER, "d", 60, now)
    assert job is not None
    return job


def delivery_states(database: Database) -> dict[tuple[int, str], DeliveryState]:
    with database.reading() as session:
        return {(row.revision, row.destination): row.state for row in session.scalars(select(DeliveryRow))}


def left(database: Database, job: Job) -> list[int]:
    with database.reading() as session:
        return [instance.instance_id for instance in results.outstanding_instances(session, job)]


def deliver(database: Database, job: Job, *answers: InstanceDelivery, now: datetime = NOON) -> JobState:
    with database.transaction() as session:
        return results.save_delivery(session, job, answers, CONFIG, now)


def yes(instance_id: int) -> InstanceDelivery:
    return InstanceDelivery(instance_id, True, 0x0000)


def no(instance_id: int, permanent: bool = False) -> InstanceDelivery:
    return InstanceDelivery(instance_id, False, 0xA700, "disk full", permanent)


def test_a_judgement_is_read_back_as_it_was_written(
    database: Database, store: Store, complete: Complete, infer: Callable[..., Job]
) -> None:
    store(instance=1)
    store(instance=2)
    complete()
    job = infer()
    with database.reading() as session:
        first, second = (found.id for found in archive.current_instances(session, job.series_id))
    problems = ((second, "truncated"), (first, "no pixels"), (first, "no header"))
    judge(database, job, problems=problems)
    with database.reading() as session:
        judgement = results.judgement(session, job.series_id)
        assert results.judgement(session, job.series_id, revision=1) == judgement
        assert results.judgement(session, job.series_id, revision=2) is None
        assert results.judgement(session, job.series_id + 1) is None
        infer_jobs = [found.state for found in jobs.list_jobs(session) if found.kind is JobKind.INFER]
        series = session.scalars(select(SeriesRow)).one()
    assert judgement == results.Judgement(
        series_id=job.series_id,
        series_instance_uid="1.2.826.8.1",
        revision=1,
        header=HEADER,
        prediction=PREDICTION,
        not_analysed_reason=None,
        comparisons=COMPARISONS,
        decision=DECISION,
        problems=problems,
        judged_at=NOON,
    )
    assert infer_jobs == [JobState.DONE]
    assert (series.state, series.judged_revision) == (SeriesState.JUDGED, 1)
    assert delivery_states(database) == {
        (1, "AI"): DeliveryState.PENDING,
        (1, "PACS"): DeliveryState.PENDING,
    }


def test_a_series_without_pixels_for_the_model_is_still_routed(
    database: Database, store: Store, complete: Complete, infer: Callable[..., Job]
) -> None:
    store()
    complete()
    job = infer()
    judge(database, job, prediction=None, not_analysed_reason="not an MR image")
    with database.reading() as session:
        series = session.scalars(select(SeriesRow)).one()
        judgement = results.judgement(session, job.series_id)
    assert (series.state, series.not_analysed_reason) == (SeriesState.NOT_ANALYSED, "not an MR image")
    assert judgement is not None and judgement.prediction is None
    assert set(delivery_states(database)) == {(1, "AI"), (1, "PACS")}


def test_a_judgement_needs_a_prediction_or_a_reason(
    database: Database, store: Store, complete: Complete, infer: Callable[..., Job]
) -> None:
    store()
    complete()
    job = infer()
    for prediction, reason in ((None, None), (PREDICTION, "not an MR image")):
        with pytest.raises(ValueError, match="reason"):
            judge(database, job, prediction=prediction, not_analysed_reason=reason)


def test_who_lost_the_lease_writes_nothing(
    database: Database, store: Store, complete: Complete, infer: Callable[..., Job]
) -> None:
    store(instance=1)
    complete()
    expired = infer()
    held = infer(NOON + timedelta(seconds=61))
    before = everything(database)
    with pytest.raises(LeaseLost):
        judge(database, expired)
    assert everything(database) == before
    store(instance=2)  # late: the job of the first revision is superseded while it runs
    before = everything(database)
    with pytest.raises(LeaseLost):
        judge(database, held)
    assert everything(database) == before


def test_a_judgement_is_not_written_twice(
    database: Database, store: Store, complete: Complete, infer: Callable[..., Job]
) -> None:
    store()
    complete()
    job = infer()
    judge(database, job)
    with pytest.raises(LeaseLost):
        judge(database, job)
    with database.reading() as session:
        assert len(session.scalars(select(JudgementRow)).all()) == 1
        assert len(session.scalars(select(PredictionRow)).all()) == 1


def test_a_new_revision_sends_only_what_the_destination_has_not_accepted(
    database: Database, store: Store, complete: Complete, infer: Callable[..., Job]
) -> None:
    store(instance=1)
    store(instance=2)
    complete()
    judge(database, infer(), decision=to("PACS"))
    job = claim_delivery(database)
    first, second = left(database, job)
    assert deliver(database, job, yes(first), yes(second)) is JobState.DONE
    assert delivery_states(database) == {(1, "PACS"): DeliveryState.DELIVERED}
    store(instance=3)
    complete()
    judge(database, infer(), decision=to("PACS", "AI"))
    by_destination = {job.destination: job for job in (claim_delivery(database), claim_delivery(database))}
    assert [job.revision for job in by_destination.values()] == [2, 2]
    assert len(left(database, by_destination["PACS"])) == 1
    assert len(left(database, by_destination["AI"])) == 3


def test_waiting_deliveries_of_an_earlier_revision_give_way(
    database: Database, store: Store, complete: Complete, infer: Callable[..., Job]
) -> None:
    store(instance=1)
    complete()
    judge(database, infer(), decision=to("BUSY", "DEAD", "WAITING"))
    running = claim_delivery(database)
    dead = claim_delivery(database)
    (instance,) = left(database, dead)
    deliver(database, dead, no(instance, permanent=True))
    store(instance=2)
    complete()
    judge(database, infer(), decision=to("BUSY", "OTHER"))
    assert delivery_states(database) == {
        (1, "BUSY"): DeliveryState.PENDING,  # a worker has it, and what it delivers counts
        (1, "DEAD"): DeliveryState.SUPERSEDED,
        (1, "WAITING"): DeliveryState.SUPERSEDED,
        (2, "BUSY"): DeliveryState.PENDING,
        (2, "OTHER"): DeliveryState.PENDING,
    }
    assert left(database, running) == [instance]  # the instance of its own revision
    assert deliver(database, running, yes(instance)) is JobState.DONE
    with database.reading() as session:
        assert jobs.list_jobs(session, [JobState.DEAD]) == []


def test_refused_instances_are_sent_again_and_accepted_ones_are_not(
    database: Database, store: Store, complete: Complete, infer: Callable[..., Job]
) -> None:
    for instance in (1, 2, 3):
        store(instance=instance)
    complete()
    judge(database, infer(), decision=to("PACS"))
    job = claim_delivery(database)
    first, second, third = left(database, job)
    assert deliver(database, job, yes(first), no(second)) is JobState.READY  # the third had no answer at all
    with database.reading() as session:
        (waiting,) = jobs.list_jobs(session, [JobState.READY])
    assert waiting.error == (
        "PACS has not accepted 2 instances of series 1.2.826.8.1; first 1.2.826.9.2: status A700H, disk full"
    )
    assert waiting.due_at is not None and NOON < waiting.due_at <= NOON + timedelta(seconds=10)
    again = claim_delivery(database, NOON + timedelta(seconds=10))
    assert left(database, again) == [second, third]
    assert deliver(database, again, no(second), yes(third)) is JobState.DEAD  # the second and last attempt
    assert delivery_states(database) == {(1, "PACS"): DeliveryState.FAILED}
    with database.transaction() as session:
        assert jobs.retry(session, None, NOON) == 1
    assert delivery_states(database) == {(1, "PACS"): DeliveryState.PENDING}
    last = claim_delivery(database)
    assert left(database, last) == [second]
    assert deliver(database, last, yes(second)) is JobState.DONE


def test_a_delivery_is_a_dead_letter_when_all_that_is_left_is_refused_for_good(
    database: Database, store: Store, complete: Complete, infer: Callable[..., Job]
) -> None:
    store(instance=1)
    store(instance=2)
    complete()
    judge(database, infer(), decision=to("PACS", "AI"))
    one, other = claim_delivery(database), claim_delivery(database)
    first, second = left(database, one)
    assert deliver(database, one, yes(first), no(second, permanent=True)) is JobState.DEAD
    assert deliver(database, other, no(first), no(second, permanent=True)) is JobState.READY


def test_the_last_answer_for_every_instance_is_kept_and_an_acceptance_is_never_overwritten(
    database: Database, store: Store, complete: Complete, infer: Callable[..., Job]
) -> None:
    store(instance=1)
    store(instance=2)
    complete()
    job = infer()
    judge(database, job, decision=to("PACS"))
    delivery = claim_delivery(database)
    first, second = left(database, delivery)

    def answers() -> list[tuple[bool, int | None]]:
        with database.reading() as session:
            found = results.instance_deliveries(session, job.series_id)
        return [(answer.accepted, answer.status) for answer in found]

    assert deliver(database, delivery, yes(first), no(second)) is JobState.READY
    refused = no(second)
    assert answers() == [(True, yes(first).status), (False, refused.status)]
    again = claim_delivery(database, NOON + timedelta(hours=1))
    assert deliver(database, again, no(first), yes(second)) is JobState.DONE
    assert answers() == [(True, yes(first).status), (True, yes(second).status)]


def test_a_delivery_whose_lease_is_lost_keeps_nothing(
    database: Database, store: Store, complete: Complete, infer: Callable[..., Job]
) -> None:
    store()
    complete()
    judge(database, infer(), decision=to("PACS"))
    lost = claim_delivery(database)
    held = claim_delivery(database, NOON + timedelta(seconds=61))
    (instance,) = left(database, held)
    for answer in (yes(instance), no(instance)):
        with pytest.raises(LeaseLost):
            deliver(database, lost, answer)
    with database.reading() as session:
        assert session.scalars(select(InstanceDeliveryRow)).all() == []
    assert deliver(database, held, yes(instance)) is JobState.DONE


def test_two_deliveries_of_one_instance_to_one_destination_count_once(
    database: Database, store: Store, complete: Complete, infer: Callable[..., Job]
) -> None:
    store(instance=1)
    complete()
    judge(database, infer(), decision=to("PACS"))
    earlier = claim_delivery(database)
    store(instance=2)
    complete()
    judge(database, infer(), decision=to("PACS"))
    later = claim_delivery(database)
    first, second = left(database, later)
    assert deliver(database, later, yes(first), yes(second)) is JobState.DONE
    assert deliver(database, earlier, yes(first)) is JobState.DONE
    with database.reading() as session:
        assert len(session.scalars(select(InstanceDeliveryRow)).all()) == 2


def test_the_list_of_series_shows_what_was_judged_and_where_it_went(
    database: Database, store: Store, complete: Complete, infer: Callable[..., Job]
) -> None:
    store(series=1, instance=1, series_description="t1 fl3d")
    store(series=1, instance=2)
    store(series=2, instance=3, received_at=NOON + timedelta(seconds=1))
    complete(1)
    judge(database, infer())
    with database.reading() as session:
        newest, oldest = archive.list_series(session)
        assert archive.list_series(session, [SeriesState.JUDGED]) == [oldest]
        assert archive.list_series(session, limit=1, offset=1) == [oldest]
        assert archive.find_series(session, "1.2.826.8.1") == oldest
    assert (newest.state, newest.n_instances, newest.novel, newest.domain, newest.n_findings) == (
        SeriesState.RECEIVING, 1, None, None, 0,
    )  # fmt: skip
    assert (newest.deliveries, newest.judged_revision) == ((), None)
    assert (oldest.series_description, oldest.n_instances, oldest.size_bytes) == ("t1 fl3d", 2, 2000)
    assert (oldest.state, oldest.novel, oldest.domain, oldest.n_findings, oldest.model_id) == (
        SeriesState.JUDGED, False, "breast-ge", 0, "reference-1",
    )  # fmt: skip
    assert oldest.destinations == ("AI", "PACS")
    assert oldest.route_reason == DECISION.reason


def test_a_series_is_found_by_a_part_of_its_uid_that_only_it_has(database: Database, store: Store) -> None:
    store(series="55.1", instance=1)
    store(series="55.2", instance=2)
    store(series="66.1", instance=3)
    with database.reading() as session:
        for asked in ("1.2.826.8.66", "66.1", " 1.2.826.8.66.1\n"):
            assert archive.find_series(session, asked).series_instance_uid == "1.2.826.8.66.1"
        with pytest.raises(archive.UnknownSeries, match=r"more than one series: .*55\.1, .*55\.2; give more"):
            archive.find_series(session, "1.2.826.8.55")
        for nothing in ("1.2.3", "", "%", "P1"):
            with pytest.raises(archive.UnknownSeries):
                archive.find_series(session, nothing)


def test_a_whole_uid_wins_over_those_that_begin_with_it(database: Database, store: Store) -> None:
    store(series="1", instance=1)
    store(series="1.1", instance=2)
    with database.reading() as session:
        assert archive.find_series(session, "1.2.826.8.1").series_instance_uid == "1.2.826.8.1"


def test_a_series_uid_of_two_studies_needs_its_study(database: Database, store: Store) -> None:
    store(study=1, instance=1)
    store(study=2, instance=2)
    with database.reading() as session:
        with pytest.raises(archive.UnknownSeries, match="STUDY/SERIES"):
            archive.find_series(session, "1.2.826.8.1")
        found = archive.find_series(session, "1.2.826.7.2/1.2.826.8.1")
    assert found.study_instance_uid == "1.2.826.7.2"


def test_the_status_counts_what_waits_and_what_stands_aside(
    database: Database, store: Store, complete: Complete, infer: Callable[..., Job]
) -> None:
    with database.reading() as session:
        empty = status.status_counts(session)
    assert set(empty.series.values()) | set(empty.jobs.values()) | set(empty.deliveries.values()) == {0}
    assert empty.oldest_waiting_job_at is None
    store(series=1, instance=1)
    store(series=1, instance=1, content="b")
    store(series=2, instance=2)
    complete(1)
    complete(2, NOON + timedelta(seconds=9))
    judge(database, infer(), now=NOON + timedelta(seconds=20))
    with database.reading() as session:
        counts = status.status_counts(session)
    assert {state: n for state, n in counts.series.items() if n} == {
        SeriesState.JUDGED: 1,
        SeriesState.COMPLETE: 1,
    }
    assert {key: n for key, n in counts.jobs.items() if n} == {
        (JobKind.INFER, JobState.DONE): 1,
        (JobKind.INFER, JobState.READY): 1,
        (JobKind.DELIVER, JobState.READY): 2,
    }
    assert counts.deliveries[DeliveryState.PENDING] == 2
    assert (counts.n_conflicts, counts.n_quarantined) == (1, 0)
    assert counts.oldest_waiting_job_at == NOON + timedelta(seconds=9)


def to(*destinations: str) -> RouteDecision:
    return RouteDecision(None, (), destinations, "default route", (), "abc123")


def everything(database: Database) -> list[object]:
    with database.reading() as session:
        return [session.execute(select(table)).all() for table in Table.metadata.sorted_tables]
