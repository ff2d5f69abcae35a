"""What reports count, on both databases, of an archive of simulated series."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from iap_node.database import findings, report_figures, report_series
from iap_node.database.engine import Database
from iap_node.database.report_figures import Scanner, Scope
from iap_node.database.report_series import UnknownStudy
from iap_node.records import FindingState, SeriesState, Severity
from iap_node.worker.consignment import MADE_BY
from tests.integration.audit.simulated_archive import (
    MODEL,
    NOVEL,
    SCANNERS,
    TRAINING_DATA,
    UNSEEN,
    Series,
    deviation,
    file,
    finding,
)

BEGIN = datetime(2026, 2, 1, tzinfo=UTC)
FEBRUARY = Scope(BEGIN, datetime(2026, 3, 1, tzinfo=UTC))
SKYRA, SIGNA = Scanner(*SCANNERS[0]), Scanner(*SCANNERS[1])


def on(day: float) -> datetime:
    """So many days into February."""
    return BEGIN + timedelta(days=day)


@pytest.fixture
def session(database: Database):
    """Five series in February, two before it and one after."""
    before = {"scanner": SCANNERS[1], "protocol": "brain", "software": "DV25"}
    series = (
        Series(1, on(-20), **before),  # type: ignore[arg-type]
        Series(2, on(-10), echo_time="2.0", **before),  # type: ignore[arg-type]
        Series(3, on(0), findings=(finding(), deviation())),
        Series(4, on(8), findings=(finding(),)),
        Series(5, on(8.5), SCANNERS[1], 2, echo_time="9.9", software="DV26", findings=(deviation(),)),
        Series(6, on(9), SCANNERS[1], 2, software="DV26", pixels=NOVEL),
        Series(7, on(27.9), SCANNERS[1], 2, software="DV25", pixels=UNSEEN),
        Series(8, on(28), findings=(finding(),)),  # the first moment of March
    )
    with database.transaction() as session:
        for one in series:
            file(session, one)
        yield session


def test_series_belong_to_the_period_in_which_they_came(session: Session) -> None:
    assert {state: n for state, n in report_figures.series_by_state(session, FEBRUARY).items() if n} == {
        SeriesState.JUDGED: 4,
        SeriesState.NOT_ANALYSED: 1,
    }
    assert report_figures.not_analysed(session, FEBRUARY) == [("MR Spectroscopy Storage: spectra, not an image.", 1)]
    assert report_figures.first_series_at(session) == on(-20)
    for scope, n in (
        (Scope(on(8), on(9)), 2),
        (Scope(on(-30), on(30)), 8),
        (Scope(on(-30), on(30), model="SIGNA HDx"), 5),
        (Scope(on(-30), on(30), serial_number="S-1"), 3),
        (Scope(on(-30), on(30), "S-1", "SIGNA HDx"), 0),
    ):
        assert sum(report_figures.series_by_state(session, scope).values()) == n


def test_weeks_count_series_and_standing_findings(session: Session) -> None:
    weeks = report_figures.weeks(session, FEBRUARY, [on(0), on(8), on(9), on(20)])
    assert [(week.since, week.n_series, week.errors, week.warnings, week.notes) for week in weeks] == [
        (on(0), 1, 1, 0, 1),
        (on(8), 2, 1, 0, 1),
        (on(9), 1, 0, 0, 0),
        (on(20), 1, 0, 0, 0),
    ]
    assert [week.n_findings for week in weeks] == [2, 2, 0, 0]


def test_what_is_dismissed_or_gone_is_no_finding_any_more(session: Session) -> None:
    unit, habit = (one for one in findings.list_findings(session, findings.FindingFilter(series_id=3)))
    findings.decide(session, unit.id, FindingState.DISMISSED, "ada", "a phantom", now=on(4))
    findings.decide(session, habit.id, FindingState.ACCEPTED, "ada", now=on(6))
    counted = {
        (one.check, one.severity): one for one in report_figures.checks(session, FEBRUARY, [on(0), on(8), on(20)])
    }
    units = counted["field-strength-unit", Severity.ERROR]
    assert (units.n_findings, units.n_series, units.n_open, units.n_dismissed) == (1, 1, 1, 1)
    assert units.by_week == (0, 1, 0)
    deviations = counted["habit-deviates", Severity.NOTE]
    assert (deviations.n_findings, deviations.n_open, deviations.n_dismissed) == (2, 1, 0)
    assert {one.scanner: (one.n_series, one.n_conspicuous) for one in report_figures.scanners(session, FEBRUARY)} == {
        SKYRA: (2, 1),
        SIGNA: (3, 0),
    }
    decided = {one.state: one for one in report_figures.decisions(session, FEBRUARY)}
    assert decided[FindingState.DISMISSED].by_people == decided[FindingState.ACCEPTED].by_people == 1
    assert decided[FindingState.ACCEPTED].median_days_open == pytest.approx(6, abs=0.01)
    assert decided[FindingState.CORRECTED].median_days_open is None
    assert {one.severity: one.n_open for one in report_figures.backlog(session)} == {
        Severity.ERROR: 2,
        Severity.NOTE: 1,
    }
    assert report_figures.decisions(session, Scope(on(5), on(9)))[0].by_people == 1


def test_what_a_delivery_corrected_on_its_way_was_decided_by_nobody(session: Session) -> None:
    (_, habit) = findings.list_findings(session, findings.FindingFilter(series_id=3))
    findings.decide(session, habit.id, FindingState.ACCEPTED, "ada", now=on(6))
    findings.decide(session, habit.id, FindingState.CORRECTED, MADE_BY, now=on(7))
    corrected = {one.state: one for one in report_figures.decisions(session, FEBRUARY)}[FindingState.CORRECTED]
    assert (corrected.by_people, corrected.by_rules, corrected.median_days_open) == (0, 1, None)


def test_protocols_and_software_are_told_by_scanner(session: Session) -> None:
    first, *others = report_figures.protocols(session, FEBRUARY)
    assert first.n_deviating == 1 and sum(one.n_series for one in (first, *others)) == 5
    seen = report_figures.software(session, Scope(on(-30), FEBRUARY.until, model="SIGNA HDx"))
    assert [(one.software_versions, one.first_at, one.last_at, one.n_series) for one in seen] == [
        ("DV25", on(-20), on(27.9), 3),
        ("DV26", on(8.5), on(9), 2),
    ]


def test_pixels_are_held_against_headers_in_the_month_and_before(session: Session) -> None:
    longer = Scope(on(-90), FEBRUARY.until)
    drifts = {(one.scanner, one.keyword): one for one in report_figures.drift(session, longer, BEGIN)}
    signa = drifts[SIGNA, "EchoTime"]
    assert signa.now is not None and signa.before is not None
    assert (signa.now.n, signa.before.n) == (1, 2)  # the novel one and the unseen one say nothing
    assert signa.now.quantiles == pytest.approx([-7.8] * 5)
    assert signa.before.quantiles[2] == pytest.approx(0.05)
    skyra = drifts[SKYRA, "EchoTime"]
    assert skyra.before is None and skyra.now is not None and skyra.now.n == 2
    rates = {(one.scanner, one.keyword): one for one in report_figures.contradictions(session, longer, BEGIN)}
    echo = rates[SIGNA, "EchoTime"]
    assert (echo.n_now, echo.of_now, echo.n_before, echo.of_before) == (1, 1, 0, 2)
    assert (rates[SKYRA, "Manufacturer"].n_now, rates[SKYRA, "Manufacturer"].of_now) == (0, 2)
    (model,) = report_figures.models_at_work(session, FEBRUARY)
    assert (model.model_id, model.training_data, model.n_series, model.n_novel) == (MODEL, TRAINING_DATA, 4, 1)


def test_series_and_study_come_with_findings_and_history(session: Session) -> None:
    unit, habit = (one for one in findings.list_findings(session, findings.FindingFilter(series_id=3)))
    findings.decide(session, unit.id, FindingState.DISMISSED, "ada", "a phantom", now=on(4))
    found = report_series.series(session, 3)
    assert [(one.finding.id, one.state) for one in found.findings] == [
        (habit.id, FindingState.OPEN),
        (unit.id, FindingState.DISMISSED),
    ]
    assert found.standing == found.findings[:1]
    assert [(event.state, event.who) for event in found.findings[1].events] == [
        (FindingState.OPEN, "audit"),
        (FindingState.DISMISSED, "ada"),
    ]
    assert found.n_instances == 1 and found.judgement is not None and found.judgement.prediction is not None
    study = report_series.study(session, "7.2")
    assert study.study_instance_uid == "1.2.826.7.2" and study.n_series == 3
    assert [one.series_number for one in study.series] == [5, 6, 7]
    for unknown in ("1.2.826", "9", "", "1.2'; DROP TABLE study"):
        with pytest.raises(UnknownStudy):
            report_series.study(session, unknown)
    with pytest.raises(LookupError):
        report_series.series(session, 99)
