"""Alarm rates of the pixels, on both databases: who is counted, who is not, and what is called out."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from scipy.stats import binomtest
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from iap_node.audit import pixels
from iap_node.audit.pixels import pixel_findings
from iap_node.audit.verdicts import compare
from iap_node.cli import app
from iap_node.config import AuditConfig
from iap_node.database import alarms, findings, results
from iap_node.database.alarms import AlarmRate, alarm_rates, models_heard
from iap_node.database.archive import complete_series
from iap_node.database.engine import Database, migrate
from iap_node.database.jobs import claim
from iap_node.database.reception import Arrival, record_instances
from iap_node.database.report_figures import Scanner
from iap_node.records import (
    FindingState,
    HeaderFit,
    HeaderValue,
    InstanceHeader,
    JobKind,
    ParameterKind,
    ParameterPrediction,
    ReceivedInstance,
    RouteDecision,
    SeriesHeader,
    SeriesPrediction,
    StatedFit,
)

BEGIN, END = datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
CONFIG = AuditConfig(alpha=0.05)
SKYRA, SIGNA = Scanner("SIEMENS", "Skyra", "S-1"), Scanner("GE MEDICAL SYSTEMS", "SIGNA HDx", "G-1")
ECHO = ParameterPrediction(
    "EchoTime", ParameterKind.CONTINUOUS, value=2.0, interval=(1.8, 2.2), intervals=((0.05, 1.8, 2.2),), alpha=0.05
)
VIEW = ParameterPrediction(
    "FieldOfView", ParameterKind.CATEGORICAL, (("360", 0.99), ("250", 0.01)), ("360",), alpha=0.05
)
AGENT = ParameterPrediction(
    "ContrastBolusAgent", ParameterKind.CATEGORICAL, (("MAGNEVIST", 0.99), ("GADAVIST", 0.01)), ("MAGNEVIST",),
    alpha=0.05, by_association=True,
)  # fmt: skip
numbers = itertools.count(1)


def file(
    session: Session,
    echo_time: float | None = 2.0,
    field_of_view: float = 360.0,
    agent: str = "MAGNEVIST",
    *,
    scanner: Scanner = SKYRA,
    at: datetime = BEGIN,
    p_value: float | None = 0.5,
    novel: bool = False,
    number: int | None = None,
) -> int:
    """File and judge one series as the node does; its row's number."""
    series, instance = number or next(numbers), next(numbers)
    header = InstanceHeader(
        "1.2.840.10008.5.1.4.1.1.4", f"1.2.826.9.{instance}", "1.2.826.7.1", f"1.2.826.8.{series}",
        "1.2.840.10008.1.2.1", modality="MR", manufacturer=scanner.manufacturer,
        manufacturer_model_name=scanner.model, device_serial_number=scanner.serial_number,
    )  # fmt: skip
    received = ReceivedInstance(header, f"{instance}.dcm", f"{instance:064}", 1000, "SCANNER", "127.0.0.1", at)
    record_instances(session, [Arrival(received, "c0ffee")])
    complete_series(session, [f"1.2.826.8.{series}"], at)
    job = claim(session, JobKind.INFER, "test", 60.0, at)
    assert job is not None
    stated = SeriesHeader(
        (
            HeaderValue("EchoTime", "" if echo_time is None else f"{echo_time:g}", echo_time),
            HeaderValue("FieldOfView", f"{field_of_view:g}", field_of_view),
            HeaderValue("ContrastBolusAgent", agent, agent),
        )
    )
    terms = (StatedFit("EchoTime", 0.1), StatedFit("FieldOfView", 0.1))
    fit = None if p_value is None else HeaderFit(p_value, terms, (0.001,))
    heard = SeriesPrediction("tiny-1", "none: made up", novel, 1.0, 4.5, 8, () if novel else (ECHO, VIEW, AGENT), fit)
    comparisons = compare(stated, heard, CONFIG)
    results.save_judgement(
        session,
        job,
        header=stated,
        prediction=heard,
        comparisons=comparisons,
        decision=RouteDecision(None, (), (), "no domain is configured", (), "rules-1"),
        problems=(),
        not_analysed_reason=None,
        findings=pixel_findings(comparisons, stated, heard, CONFIG),
        now=at,
    )
    return job.series_id


def decide(session: Session, series_id: int, state: FindingState) -> None:
    for one in findings.list_findings(session, findings.FindingFilter(series_id=series_id)):
        findings.decide(session, one.id, state, "physicist", "looked at", "1", now=BEGIN)


def counts(rates: Sequence[AlarmRate], scanner: Scanner = SKYRA) -> dict[str, tuple[int, int, int, int, int]]:
    """Per parameter: judged, alarms, dismissed, accepted, undecided."""
    return {
        one.keyword: (one.n_judged, one.n_alarms, one.n_dismissed, one.n_accepted, one.n_undecided)
        for one in rates
        if one.scanner == scanner
    }


@pytest.fixture
def session(database: Database):
    with database.transaction() as session:
        yield session


def test_alarms_are_counted_per_scanner_and_parameter_with_what_people_made_of_them(session: Session) -> None:
    for _ in range(3):
        file(session)
    decide(session, file(session, 9.0), FindingState.DISMISSED)
    decide(session, file(session, 9.1), FindingState.ACCEPTED)
    file(session, 9.2)
    file(session, None, agent="absent")  # missing: not judged; and no question
    decide(session, file(session, field_of_view=250.0), FindingState.DISMISSED)  # an element of another name
    decide(session, file(session, agent="GADAVIST"), FindingState.DISMISSED)  # asked only
    file(session, 9.3, scanner=SIGNA)
    rates = alarm_rates(session, BEGIN, END)
    assert counts(rates) == {
        "ContrastBolusAgent": (8, 1, 1, 0, 0),
        "FieldOfView": (9, 1, 1, 0, 0),
        "EchoTime": (8, 3, 1, 1, 1),
        "SeriesInstanceUID": (9, 0, 0, 0, 0),
    }
    assert counts(rates, SIGNA)["EchoTime"] == (1, 1, 0, 0, 1)
    assert [one.scanner for one in rates] == 4 * [SIGNA] + 4 * [SKYRA]
    echo = next(one for one in rates if (one.scanner, one.keyword) == (SKYRA, "EchoTime"))
    assert echo.alpha == pytest.approx(0.05)
    assert echo.rate == pytest.approx(2 / 7)  # the accepted one is a fault that was found
    assert models_heard(session, BEGIN, END) == [("tiny-1", "none: made up")]


def test_headers_as_a_whole_are_counted_at_the_joint_alpha(session: Session) -> None:
    for p_value in (0.5, 0.04, None):
        file(session, p_value=p_value)
    decide(session, file(session, p_value=0.004), FindingState.DISMISSED)
    assert counts(alarm_rates(session, BEGIN, END))["SeriesInstanceUID"] == (3, 1, 1, 0, 0)
    loose = alarm_rates(session, BEGIN, END, joint_alpha=0.05)
    assert counts(loose)["SeriesInstanceUID"] == (3, 2, 1, 0, 1)
    assert next(one.alpha for one in loose if one.keyword == "SeriesInstanceUID") == 0.05


def test_only_the_newest_judgement_of_a_series_of_the_period_counts_and_novel_ones_do_not(session: Session) -> None:
    file(session, 9.0, at=BEGIN - timedelta(seconds=1))
    file(session, 9.0, at=END)
    file(session, 9.0, novel=True)
    number = next(numbers)
    decide(session, file(session, 9.0, number=number), FindingState.DISMISSED)
    file(session, 2.0, number=number, at=BEGIN + timedelta(days=1))  # a late instance, and a header that is right now
    assert counts(alarm_rates(session, BEGIN, END))["EchoTime"] == (1, 0, 0, 0, 0)


def test_a_scanner_whose_first_series_is_judged_while_rates_are_read_is_left_for_the_next_time(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    file(session)
    read = alarms._whole_headers

    def meanwhile(*asked: object) -> object:  # PostgreSQL shows each statement what was committed before it
        found = read(*asked)  # type: ignore[arg-type]
        file(session, 9.0, scanner=SIGNA)
        return found

    monkeypatch.setattr(alarms, "_whole_headers", meanwhile)
    assert {one.scanner for one in alarm_rates(session, BEGIN, END)} == {SKYRA}


def test_nothing_judged_is_no_rate(session: Session) -> None:
    assert alarm_rates(session, BEGIN, END) == []
    assert models_heard(session, BEGIN, END) == []


RATE = AlarmRate(SKYRA, "EchoTime", 0.01, n_judged=1000, n_alarms=10, n_dismissed=0, n_accepted=0)


def test_interval_holds_the_rate_and_is_that_of_clopper_and_pearson() -> None:
    low, high = RATE.interval
    assert low < RATE.rate == 0.01 < high
    exact = binomtest(10, 1000).proportion_ci(0.99, method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high))
    assert dataclasses.replace(RATE, n_judged=0, n_alarms=0).interval == (0.0, 1.0)
    assert dataclasses.replace(RATE, n_alarms=0).interval[0] == 0.0


@pytest.mark.parametrize(
    ("alarms", "accepted", "above"),
    [(10, 0, False), (19, 0, False), (30, 0, True), (30, 25, False), (1000, 1000, False), (1000, 0, True)],
)
def test_rate_is_called_out_when_its_whole_interval_is_above_alpha(alarms: int, accepted: int, above: bool) -> None:
    assert dataclasses.replace(RATE, n_alarms=alarms, n_accepted=accepted).above_alpha == above


def test_command_shows_rates_above_alpha_first_of_all_to_whom_they_belong(tmp_path, monkeypatch) -> None:
    (tmp_path / "config.yaml").write_text("data_dir: var\n")
    (tmp_path / "var").mkdir()
    database = Database(f"sqlite:///{tmp_path / 'var' / 'node.sqlite'}")
    migrate(database)
    with database.transaction() as session:
        for n in range(12):
            file(session, 9.0 if n < 4 else 2.0)
    database.dispose()
    monkeypatch.chdir(tmp_path)
    period = ["--since", "2026-02-01", "--until", "2026-03-01"]
    shown = CliRunner().invoke(app, ["alarms", *period])
    assert shown.exit_code == 0, shown.output
    for part in ("SIEMENS Skyra S-1", "Echo Time", "33.33%", "5.00%", "above alpha", "tiny-1, none: made up"):
        assert part in shown.output
    only = json.loads(CliRunner().invoke(app, ["alarms", *period, "--above", "--json"]).output)
    assert [(one["keyword"], one["n_judged"], one["n_alarms"], one["above_alpha"]) for one in only] == [
        ("EchoTime", 12, 4, True)
    ]
    assert only[0]["interval"][0] > only[0]["alpha"] == pytest.approx(0.05)
    nothing = CliRunner().invoke(app, ["alarms", "--until", "2026-02-01"])
    assert "nothing was judged" in nothing.output
    assert CliRunner().invoke(app, ["alarms", "--since", "2026-03-02", "--until", "2026-03-01"]).exit_code == 2


def test_whole_header_goes_by_the_element_that_its_finding_has() -> None:
    assert alarms.WHOLE_HEADER == pixels.WHOLE_HEADER
    assert {pixels.CONTRADICT, pixels.QUESTION, pixels.JOINT} == set(alarms.CHECKS)
