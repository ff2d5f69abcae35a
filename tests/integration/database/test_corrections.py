"""Corrected copies in the database: what is accepted, begun and finished, and what a destination has in which form."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from iap_node.config import JobsConfig
from iap_node.database import corrections, findings, jobs, results
from iap_node.database.archive import complete_series, current_instances, find_series
from iap_node.database.engine import Database
from iap_node.database.tables import DeliveryRow, DeliveryState, FindingRow
from iap_node.errors import PermanentError, RetriableError
from iap_node.records import (
    Finding,
    FindingKind,
    FindingState,
    InstanceDelivery,
    Job,
    JobKind,
    JobState,
    RouteDecision,
    Severity,
)
from tests.integration.database.conftest import NOON, judge_unseen

SERIES = "1.2.826.8.1"
LATER = NOON + timedelta(hours=1)
ROUTE = RouteDecision(None, (), ("lesions",), "for a test", (), "v1")


@pytest.fixture
def series(database: Database, store: Callable[..., Any]) -> int:
    """A complete series of two instances, not judged yet."""
    for instance in (1, 2):
        store(instance=instance)
    with database.transaction() as session:
        complete_series(session, [SERIES], NOON)
        return find_series(session, SERIES).id


def found(element: str) -> Finding:
    return Finding(element, "a-check", FindingKind.UNIT, Severity.WARNING, "for a test", "2.1", "21")


def accept(database: Database, series: int, *elements: str, value: str = "21", now: datetime = NOON) -> list[int]:
    with database.transaction() as session:
        findings.record(session, series, 1, [found(element) for element in elements], now)
        numbers = list(session.scalars(select(FindingRow.id).order_by(FindingRow.id)))
        findings.decide_all(session, numbers, FindingState.ACCEPTED, "Ada", "looked at it", value, now=now)
    return numbers


def begin(
    database: Database,
    series: int,
    target: str = "folder",
    now: datetime = NOON,
    version: str = "0.1",
    **values: str,
) -> corrections.Correction:
    with database.transaction() as session:
        return corrections.begin_correction(
            session,
            corrections.series_to_correct(session, series),
            copy_series_instance_uid="2.25.1",
            elements=values or {"EchoTime": "21"},
            target=target,
            made_by="Ada",
            software_version=version,
            now=now,
        )


def judged(database: Database) -> Job:
    """Judge the series, and lease its DELIVER job."""
    with database.transaction() as session:
        job = jobs.claim(session, JobKind.INFER, "test", 60.0, NOON)
        assert job is not None
        judge_unseen(session, job, ROUTE)
    return leased(database)


def leased(database: Database) -> Job:
    with database.transaction() as session:
        job = jobs.claim(session, JobKind.DELIVER, "test", 60.0, LATER)
    assert job is not None
    return job


def test_accepted_values_name_who_accepted_them_last_and_stay_when_corrected(database: Database, series: int) -> None:
    numbers = accept(database, series, "EchoTime", "FlipAngle")
    with database.transaction() as session:
        findings.decide(session, numbers[0], FindingState.ACCEPTED, "Grace", value="22", now=LATER)
        findings.decide(session, numbers[1], FindingState.CORRECTED, "Ada", now=LATER)
    with database.reading() as session:
        values = corrections.accepted_values(session, series)
    assert [(one.keyword, one.value, one.who, one.at, one.found) for one in values] == [
        ("EchoTime", "22", "Grace", LATER, "2.1"),
        ("FlipAngle", "21", "Ada", NOON, "2.1"),
    ]
    with database.transaction() as session:
        findings.decide(session, numbers[0], FindingState.DISMISSED, "Ada", "it is right", now=LATER)
    with database.reading() as session:
        assert [one.keyword for one in corrections.accepted_values(session, series)] == ["FlipAngle"]


def test_a_copy_that_is_begun_again_keeps_its_time_and_version(database: Database, series: int) -> None:
    first = begin(database, series)
    again = begin(database, series, now=LATER, version="0.2")
    assert again == first
    elsewhere = begin(database, series, target="lesions", now=LATER, version="0.2")
    assert (elsewhere.made_at, elsewhere.software_version) == (NOON, "0.1")
    assert elsewhere.id != first.id
    other = begin(database, series, now=LATER, version="0.2", FlipAngle="9")
    assert (other.made_at, other.software_version) == (LATER, "0.2")


def test_a_finished_copy_makes_its_findings_corrected_unless_they_were_decided_otherwise(
    database: Database, series: int
) -> None:
    numbers = accept(database, series, "EchoTime", "FlipAngle", "RepetitionTime")
    with database.reading() as session:
        values = corrections.accepted_values(session, series)
    noted = begin(database, series)
    with database.transaction() as session:
        findings.decide(session, numbers[1], FindingState.ACCEPTED, "Grace", value="22", now=LATER)
        findings.decide(session, numbers[2], FindingState.DISMISSED, "Ada", "it is right", now=LATER)
    with database.transaction() as session:
        corrected = corrections.finish_correction(session, noted, values, n_instances=2, who="Ada", now=LATER)
    assert corrected == [numbers[0]]
    with database.reading() as session:
        rows = {row.id: row for row in session.scalars(select(FindingRow))}
        events = findings.finding_events(session, numbers[0])
        (kept,) = corrections.list_corrections(session, series)
    states = [rows[number].state for number in numbers]
    assert states == [FindingState.CORRECTED, FindingState.ACCEPTED, FindingState.DISMISSED]
    assert rows[numbers[0]].accepted_value == "21"
    (last,) = [event for event in events if event.state is FindingState.CORRECTED]
    assert (last.who, last.value, last.at) == ("Ada", "21", LATER)
    assert (kept.n_instances, kept.finished_at) == (2, LATER)


def test_what_a_destination_has_in_another_form_is_outstanding(database: Database, series: int) -> None:
    job = judged(database)
    with database.reading() as session:
        ids = [one.id for one in current_instances(session, series)]
    copies = {number: f"2.25.{number}" for number in ids}
    taken = [InstanceDelivery(number, accepted=True, status=0) for number in ids]
    with database.transaction() as session:
        assert results.save_delivery(session, job, taken, JobsConfig(), LATER) is JobState.DONE
        assert results.outstanding_instances(session, job) == []
        assert len(results.outstanding_instances(session, job, copies)) == 2
    with database.transaction() as session:
        corrections.deliver_again(session, corrections.series_to_correct(session, series), "lesions", LATER)
        assert session.scalars(select(DeliveryRow.state)).all() == [DeliveryState.PENDING]
    job = leased(database)
    with database.transaction() as session:
        state = results.save_delivery(session, job, taken[:1], JobsConfig(), LATER, sent_uids=copies)
        assert state is JobState.READY
        left = results.outstanding_instances(session, job, copies)
        assert [one.instance_id for one in left] == ids[1:]
        sent = [one.sent_sop_instance_uid for one in results.instance_deliveries(session, series)]
        assert sent == [copies[ids[0]], None]
        refused = [InstanceDelivery(ids[0], accepted=False, status=0xA700)]
        results._record_answers(session, "lesions", refused, LATER, copies)
        assert [one.accepted for one in results.instance_deliveries(session, series)] == [True, True]


def test_a_series_that_is_not_judged_is_not_sent_again(database: Database, series: int) -> None:
    with database.transaction() as session, pytest.raises(PermanentError, match="not judged yet"):
        corrections.deliver_again(session, corrections.series_to_correct(session, series), "lesions", NOON)


def test_a_delivery_under_way_is_not_disturbed(database: Database, series: int) -> None:
    judged(database)
    with database.transaction() as session, pytest.raises(RetriableError, match="being sent to lesions"):
        corrections.deliver_again(session, corrections.series_to_correct(session, series), "lesions", LATER)


def test_a_destination_that_never_had_a_series_gets_it_and_a_waiting_job_stays_one(
    database: Database, series: int
) -> None:
    judged(database)
    with database.transaction() as session:
        for _ in range(2):
            corrections.deliver_again(session, corrections.series_to_correct(session, series), "people", NOON)
        waiting = [job for job in jobs.list_jobs(session) if job.destination == "people"]
    assert [(job.state, job.revision) for job in waiting] == [(JobState.READY, 1)]
