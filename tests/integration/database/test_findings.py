"""Findings as work: what revisions do to them, what people do to them, what rules do, and how they are listed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from iap_node.database import archive, finding_lists, findings, jobs, results
from iap_node.database.dismissal_rules import UnknownRule
from iap_node.database.engine import Database
from iap_node.database.findings import (
    AcceptedValue,
    ArchivedFinding,
    FindingFilter,
    FindingOrder,
    IllegalDecision,
    Scanner,
    UnknownFinding,
    UnknownScanner,
)
from iap_node.database.tables import FindingEventRow, FindingRow
from iap_node.errors import LeaseLost
from iap_node.records import (
    Finding,
    FindingKind,
    FindingState,
    JobKind,
    RouteDecision,
    SeriesHeader,
    SeriesPrediction,
    Severity,
    StoreOutcome,
    Testimony,
    Witness,
)

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
OPEN, ACCEPTED, DISMISSED = FindingState.OPEN, FindingState.ACCEPTED, FindingState.DISMISSED
CORRECTED, GONE = FindingState.CORRECTED, FindingState.GONE
ALL = FindingFilter(states=())
Store = Callable[..., StoreOutcome]
Record = Callable[..., None]


def found(element: str = "EchoTime", check: str = "not-a-number", **changes: object) -> Finding:
    standard = Finding(
        element, check, FindingKind.REPRESENTATION, Severity.WARNING, f"{element} is '2,5'", "2,5", "2.5",
        testimonies=(Testimony(Witness.STANDARD, True, "a comma", value="2.5"),), conclusion="a comma for a point",
    )  # fmt: skip
    return replace(standard, **changes)  # type: ignore[arg-type]


@pytest.fixture
def record(database: Database, store: Store) -> Record:
    """Writes what a revision of a series shows, as was foreseen: `record(found(), series=1, revision=2)`."""
    instances = itertools.count(1)
    known: set[int] = set()

    def write(
        *shown: Finding,
        series: int = 1,
        revision: int = 1,
        now: datetime = NOON,
        unheard: tuple[Witness, ...] = (),
        **header: object,
    ) -> None:
        if series not in known:
            known.add(series)
            store(series=series, instance=next(instances), **header)
        with database.transaction() as session:
            series_id = archive.find_series(session, f"1.2.826.8.{series}").id
            foreseen = findings.foresee(session, series_id, shown, unheard)
            findings.record(session, series_id, revision, shown, now, unheard)
            every = findings.list_findings(session, FindingFilter(states=(), series_id=series_id))
        assert foreseen == {(one.element, one.check): one.state for one in every if one.state is not GONE}

    return write


def listed(database: Database, which: FindingFilter = ALL, **options: object) -> list[ArchivedFinding]:
    with database.reading() as session:
        return findings.list_findings(session, which, **options)  # type: ignore[arg-type]


def only(database: Database) -> ArchivedFinding:
    (one,) = listed(database)
    return one


def history(database: Database, finding_id: int) -> list[tuple[FindingState, str, str, str | None]]:
    with database.reading() as session:
        return [(one.state, one.who, one.reason, one.value) for one in findings.finding_events(session, finding_id)]


def decide(database: Database, which: int | FindingFilter, state: FindingState, *said: object) -> object:
    with database.transaction() as session:
        if isinstance(which, int):
            return findings.decide(session, which, state, "ada", *said, now=NOON)  # type: ignore[arg-type]
        return findings.decide_all(session, which, state, "ada", *said, now=NOON)  # type: ignore[arg-type]


# ---------------------------------------------------------------- revisions


def test_what_is_found_is_open_with_all_that_was_said(database: Database, record: Record) -> None:
    record(found(), manufacturer="SIEMENS", manufacturer_model_name="Skyra", device_serial_number="77")
    one = only(database)
    assert (one.state, one.element, one.check, one.raw, one.suggested_value) == (
        OPEN, "EchoTime", "not-a-number", "2,5", "2.5",
    )  # fmt: skip
    assert (one.kind, one.severity, one.raised_by) == (
        FindingKind.REPRESENTATION, Severity.WARNING, Witness.STANDARD,
    )  # fmt: skip
    assert one.testimonies == found().testimonies and one.conclusion == found().conclusion
    assert (one.manufacturer, one.manufacturer_model_name, one.device_serial_number) == ("SIEMENS", "Skyra", "77")
    assert (one.first_revision, one.last_revision, one.found_at, one.model_id) == (1, 1, NOON, None)
    assert history(database, one.id) == [(OPEN, "audit", "found in revision 1", None)]


def test_judging_twice_changes_nothing(database: Database, record: Record) -> None:
    odd = found(raw="\0nul \ud800 surrogate", evidence="\ud800", conclusion="\0")
    odd = replace(odd, testimonies=(Testimony(Witness.PIXELS, True, "\ud800\0", 0.1 + 0.2),))
    record(odd, found("FlipAngle"))
    decide(database, listed(database)[0].id, DISMISSED, "so it is")
    before = listed(database)
    record(odd, found("FlipAngle"), odd, now=NOON + timedelta(hours=1))
    assert listed(database) == before
    assert [len(history(database, one.id)) for one in before] == [2, 1]


def test_a_new_revision_updates_and_does_not_repeat(database: Database, record: Record) -> None:
    record(found())
    later = NOON + timedelta(hours=1)
    record(found(evidence="in 2 of 3 instances", severity=Severity.NOTE), revision=2, now=later)
    one = only(database)
    assert (one.state, one.evidence, one.severity) == (OPEN, "in 2 of 3 instances", Severity.NOTE)
    assert (one.first_revision, one.last_revision, one.found_at, one.updated_at) == (1, 2, NOON, later)
    assert len(history(database, one.id)) == 1


def test_what_people_decided_holds_while_the_raw_value_is_the_same(database: Database, record: Record) -> None:
    record(found(), found("FlipAngle"), found("RepetitionTime"))
    number = {one.element: one.id for one in listed(database)}
    decide(database, number["FlipAngle"], ACCEPTED)
    decide(database, number["RepetitionTime"], DISMISSED, "a phantom")
    decide(database, number["EchoTime"], ACCEPTED)
    decide(database, number["EchoTime"], CORRECTED)
    reworded = [found(name, evidence="worded anew") for name in ("EchoTime", "FlipAngle", "RepetitionTime")]
    record(*reworded, revision=2)
    assert {one.element: one.state for one in listed(database)} == {
        "EchoTime": CORRECTED, "FlipAngle": ACCEPTED, "RepetitionTime": DISMISSED,
    }  # fmt: skip
    record(*(replace(one, raw="9,9", suggested_value="9.9") for one in reworded), revision=3)
    for one in listed(database):
        assert (one.state, one.accepted_value) == (OPEN, None)
        assert history(database, one.id)[-1] == (
            OPEN, "audit", "revision 3: the header now says '9,9', it was decided on '2,5'", None,
        )  # fmt: skip


def test_what_is_not_shown_any_more_is_gone_and_comes_back_open_unless_it_was_dismissed(
    database: Database, record: Record
) -> None:
    shown = [found(name) for name in ("EchoTime", "FlipAngle", "RepetitionTime")]
    record(*shown)
    by_element = {one.element: one.id for one in listed(database)}
    decide(database, by_element["FlipAngle"], DISMISSED, "fine")
    decide(database, by_element["RepetitionTime"], ACCEPTED)
    record(revision=2)
    assert {one.state for one in listed(database)} == {GONE}
    assert history(database, by_element["EchoTime"])[-1][:2] == (GONE, "audit")
    assert "revision 2" in history(database, by_element["EchoTime"])[-1][2]
    with pytest.raises(IllegalDecision, match="gone"):
        decide(database, by_element["EchoTime"], DISMISSED, "why not")
    record(*shown, revision=3)
    assert {one.element: one.state for one in listed(database)} == {
        "EchoTime": OPEN, "FlipAngle": DISMISSED, "RepetitionTime": OPEN,
    }  # fmt: skip
    record(revision=4)
    record(replace(shown[1], raw="12 deg"), revision=5)
    assert next(one for one in listed(database) if one.element == "FlipAngle").state is OPEN


def test_the_silence_of_a_witness_that_could_not_look_at_all_proves_nothing(
    database: Database, record: Record
) -> None:
    record(found(), found("FlipAngle", "pixels-contradict", raised_by=Witness.PIXELS))
    record(revision=2, unheard=(Witness.PIXELS,))
    assert {one.element: one.state for one in listed(database)} == {"EchoTime": GONE, "FlipAngle": OPEN}
    assert {one.element: one.last_revision for one in listed(database)} == {"EchoTime": 1, "FlipAngle": 1}


def test_findings_are_written_with_the_judgement_and_not_by_a_worker_that_lost_its_lease(
    database: Database, store: Store, complete: Callable[..., list[str]]
) -> None:
    store(instance=1)
    complete()
    with database.transaction() as session:
        lost = jobs.claim(session, JobKind.INFER, "w", 60, NOON)
        held = jobs.claim(session, JobKind.INFER, "w", 60, NOON + timedelta(seconds=61))
    for job, element in ((lost, "FlipAngle"), (held, "EchoTime")):
        assert job is not None
        try:
            with database.transaction() as session:
                results.save_judgement(
                    session, job, header=SeriesHeader(()), prediction=None, comparisons=(),
                    decision=RouteDecision(None, (), (), "for a test", (), "1"), problems=(),
                    not_analysed_reason="for a test", now=NOON, findings=[found(element)],
                )  # fmt: skip
        except LeaseLost:
            assert job is lost
    assert [one.element for one in listed(database)] == ["EchoTime"]
    with database.reading() as session:
        assert archive.find_series(session, "1.2.826.8.1").n_findings == 1


# ---------------------------------------------------------------- decisions


def test_accepting_takes_the_suggested_value_or_one_that_is_given_or_explicitly_none(
    database: Database, record: Record
) -> None:
    record(found(), found("FlipAngle", suggested_value=None))
    echo, flip = sorted(listed(database), key=lambda one: one.element)
    decide(database, echo.id, ACCEPTED)
    assert next(one for one in listed(database) if one.id == echo.id).accepted_value == "2.5"
    with pytest.raises(IllegalDecision, match=f"nothing is suggested for finding {flip.id}"):
        decide(database, flip.id, ACCEPTED)
    decide(database, flip.id, ACCEPTED, "seen in the protocol", "12")
    assert history(database, flip.id)[-1] == (ACCEPTED, "ada", "seen in the protocol", "12")
    decide(database, flip.id, ACCEPTED, "", AcceptedValue.UNKNOWN)
    assert next(one for one in listed(database) if one.id == flip.id).accepted_value is None
    decide(database, echo.id, CORRECTED, "copy 4")
    assert history(database, echo.id)[-1] == (CORRECTED, "ada", "copy 4", "2.5")
    with pytest.raises(IllegalDecision, match="empty"):
        decide(database, flip.id, ACCEPTED, "", "")


@pytest.mark.parametrize("value", ["", " ", "\0", "\0 \0"])
def test_a_value_of_which_nothing_would_be_written_is_not_accepted(
    database: Database, record: Record, value: str
) -> None:
    record(found())
    with pytest.raises(IllegalDecision, match="empty value"):
        decide(database, 1, ACCEPTED, "", value)
    assert only(database).state is OPEN


def test_only_legal_transitions_are_made(database: Database, record: Record) -> None:
    record(found())
    number = only(database).id
    for state, said in ((CORRECTED, ""), (OPEN, ""), (GONE, ""), (DISMISSED, " ")):
        with pytest.raises(IllegalDecision):
            decide(database, number, state, said)
    decide(database, number, DISMISSED, "no fault")
    with pytest.raises(IllegalDecision, match="is dismissed and cannot become corrected"):
        decide(database, number, CORRECTED)
    decide(database, number, OPEN, "a fault after all")
    assert [state for state, *_ in history(database, number)] == [OPEN, DISMISSED, OPEN]
    with pytest.raises(UnknownFinding, match="no finding 4711"):
        decide(database, 4711, DISMISSED, "x")


def test_a_decision_about_named_findings_is_made_of_all_or_of_none(database: Database, record: Record) -> None:
    record(found(), found("FlipAngle"))
    first, second = (one.id for one in listed(database))
    decide(database, second, ACCEPTED)
    with pytest.raises(IllegalDecision), database.transaction() as session:
        findings.decide_all(session, [first, second], OPEN, "ada", now=NOON)
    with pytest.raises(UnknownFinding), database.transaction() as session:
        findings.decide_all(session, [first, 4711], DISMISSED, "ada", "x", now=NOON)
    assert {one.id: one.state for one in listed(database)} == {first: OPEN, second: ACCEPTED}


def test_a_decision_about_a_filter_counts_what_it_passed_over(database: Database, record: Record) -> None:
    record(found(), found("FlipAngle", suggested_value=None), found("RepetitionTime"))
    decide(database, next(one.id for one in listed(database) if one.element == "RepetitionTime"), DISMISSED, "x")
    decided = decide(database, FindingFilter(states=(OPEN, GONE)), ACCEPTED)
    assert decided == findings.Decided(n_decided=1, n_other_state=0, n_nothing_suggested=1)
    decided = decide(database, ALL, OPEN)
    assert decided == findings.Decided(n_decided=2, n_other_state=1, n_nothing_suggested=0)


# ---------------------------------------------------------------- rules


def test_a_rule_dismisses_what_is_open_and_what_comes_until_it_is_withdrawn(
    database: Database, record: Record
) -> None:
    skyra = {"manufacturer": "SIEMENS", "manufacturer_model_name": "Skyra", "device_serial_number": "77"}
    trio = {"manufacturer": "SIEMENS", "manufacturer_model_name": "Trio", "device_serial_number": "78"}
    record(found(), found("FlipAngle"), found(check="units"), series=1, **skyra)
    record(found(), series=2, **trio)
    with database.transaction() as session:
        rule, n_dismissed = findings.dismiss_by_rule(
            session, check="not-a-number", element="EchoTime", scanner=Scanner("siemens", "Skyra"),
            reason="a German keyboard", who="ada", now=NOON,
        )  # fmt: skip
        again, _ = findings.dismiss_by_rule(
            session, check="not-a-number", element="EchoTime", scanner=Scanner("siemens", "Skyra"),
            reason="a German keyboard", who="bob", now=NOON,
        )  # fmt: skip
    assert (n_dismissed, rule.n_dismissed, rule.made_by, again.id) == (1, 1, "ada", rule.id)
    (dismissed,) = listed(database, FindingFilter(states=(DISMISSED,)))
    assert (dismissed.element, dismissed.check, dismissed.rule_id) == ("EchoTime", "not-a-number", rule.id)
    assert history(database, dismissed.id)[-1] == (DISMISSED, f"rule {rule.id}", "a German keyboard", None)

    record(found(), series=3, **skyra)
    record(found(raw="3,5"), found("FlipAngle"), found(check="units"), series=1, revision=2)  # whatever the value
    assert len(listed(database, FindingFilter(states=(DISMISSED,), rule_id=rule.id))) == 2
    with database.reading() as session:
        newest = max(listed(database), key=lambda one: one.id)
        assert archive.find_series(session, "1.2.826.8.3").n_findings == 0
    assert [state for state, *_ in history(database, newest.id)] == [DISMISSED]

    with database.transaction() as session:
        assert findings.withdraw_rule(session, rule.id, who="bob", reason="keyboard changed", now=NOON) == 2
        assert findings.rules(session) == []
        (kept,) = findings.rules(session, withdrawn=True)
        assert kept.withdrawn_at == NOON
        with pytest.raises(UnknownRule):
            findings.withdraw_rule(session, rule.id, who="bob", reason="", now=NOON)
    assert history(database, newest.id)[-1] == (
        OPEN, "bob", f"rule {rule.id} was withdrawn: keyboard changed", None,
    )  # fmt: skip
    record(found(), series=3, revision=2)
    assert {one.state for one in listed(database)} == {OPEN}


def test_what_a_rule_dismissed_before_it_was_gone_comes_back_as_the_rules_are_then(
    database: Database, record: Record
) -> None:
    record(found())
    with database.transaction() as session:
        rule, _ = findings.dismiss_by_rule(session, check="not-a-number", reason="x", who="ada", now=NOON)
    record(revision=2)
    record(found(), revision=3)
    assert only(database).state is DISMISSED
    record(revision=4)
    with database.transaction() as session:
        assert findings.withdraw_rule(session, rule.id, who="ada", reason="", now=NOON) == 0
    record(found(), revision=5)
    assert (only(database).state, only(database).rule_id) == (OPEN, None)


# ---------------------------------------------------------------- lists


@pytest.fixture
def many(database: Database, store: Store) -> None:
    """Thirty findings of two scanners, over some hours; several at the same moment."""
    severities = list(Severity)
    for series in range(1, 11):
        store(series=series, instance=series, manufacturer="GE", device_serial_number=str(series % 2))
    with database.transaction() as session:
        for series in range(1, 11):
            shown = [
                found(element, f"check-{series % 3}", severity=severities[(series + n) % 3],
                      raised_by=Witness.PIXELS if n == 2 else Witness.STANDARD,
                      kind=FindingKind.QUESTION if series == 7 else FindingKind.UNIT)
                for n, element in enumerate(("EchoTime", "FlipAngle", "RepetitionTime"))
            ]  # fmt: skip
            findings.record(session, series, 1, shown, NOON + timedelta(hours=series // 2))


FILTERS = (
    (FindingFilter(), 30),
    (FindingFilter(states=(DISMISSED,)), 0),
    (FindingFilter(severities=(Severity.ERROR, Severity.NOTE)), 20),
    (FindingFilter(kinds=(FindingKind.QUESTION,)), 3),
    (FindingFilter(witnesses=(Witness.PIXELS,)), 10),
    (FindingFilter(checks=("check-1",)), 12),
    (FindingFilter(checks=("check-0", "check-1")), 21),
    (FindingFilter(elements=("EchoTime",)), 10),
    (FindingFilter(scanner=Scanner(manufacturer="ge", device_serial_number="1")), 15),
    (FindingFilter(scanner=Scanner(manufacturer_model_name="Skyra")), 0),
    (FindingFilter(since=NOON + timedelta(hours=4)), 9),
    (FindingFilter(series_id=3), 3),
    (FindingFilter(series_id=3, scanner=Scanner(device_serial_number="0")), 0),
    (FindingFilter(series_id=3, elements=("EchoTime", "FlipAngle"), severities=(Severity.ERROR,)), 1),
)


@pytest.mark.usefixtures("many")
def test_filters_admit_what_they_say_and_scanners_are_named_by_what_headers_say(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for few in (2000, 0):  # series of a scanner: gathered first, or met on the way
        monkeypatch.setattr(finding_lists, "_FEW_SERIES", few)
        assert [len(listed(database, which)) for which, _ in FILTERS] == [n for _, n in FILTERS]
    with database.reading() as session:
        for which, n in FILTERS:
            assert sum(findings.count_findings(session, which).values()) == n
        assert findings.named_scanner(session, "1") == Scanner(device_serial_number="1")
        assert findings.named_scanner(session, "ge") == Scanner(manufacturer="ge")
        assert findings.named_scanner(session, "GE//0") == Scanner("GE", "", "0")
        for nothing in ("Skyra", "GE//7", "", "//"):
            with pytest.raises(UnknownScanner, match="no series here"):
                findings.named_scanner(session, nothing)


@pytest.mark.parametrize("asked", [{"checks": ("a\0",)}, {"elements": ("a\0", "\ud800")}])
def test_names_that_no_database_keeps_find_nothing(database: Database, asked: dict[str, tuple[str, ...]]) -> None:
    assert listed(database, FindingFilter(**asked)) == []  # type: ignore[arg-type]


@pytest.mark.usefixtures("many")
def test_every_order_is_kept_over_all_pages(database: Database) -> None:
    rank = {severity: n for n, severity in enumerate(Severity)}
    orders = {
        FindingOrder.WORST: lambda one: (rank[one.severity], -one.found_at.timestamp(), -one.id),
        FindingOrder.NEWEST: lambda one: (-one.found_at.timestamp(), -one.id),
        FindingOrder.OLDEST: lambda one: (one.found_at, one.id),
    }
    for number in (1, 5, 9):
        decide(database, number, DISMISSED, "x")
    for order, key in orders.items():
        for which in (ALL, FindingFilter(states=(OPEN, GONE), severities=(Severity.NOTE, Severity.ERROR))):
            pages, after = [], None
            while page := listed(database, which, order=order, limit=8, after=after):
                pages += page
                after = page[-1].id
            assert pages == sorted(pages, key=key)  # type: ignore[arg-type]
            assert pages == listed(database, which, order=order, limit=100)
            assert len(pages) > 10
    with database.reading() as session:
        assert [one.id for one in findings.every_finding(session, ALL)] == [one.id for one in listed(database)]
    with pytest.raises(UnknownFinding):
        listed(database, after=4711)


@pytest.mark.usefixtures("many")
def test_no_finding_is_left_out_when_the_last_of_a_page_becomes_less_grave(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding_lists, "_PAGE", 3)
    every = [one.id for one in listed(database)]
    with database.transaction() as session:
        seen = []
        for one in findings.every_finding(session, ALL):
            seen.append(one.id)
            if len(seen) == 3:  # PostgreSQL shows the next page what was committed meanwhile
                session.execute(update(FindingRow).where(FindingRow.id == one.id).values(severity=Severity.NOTE))
    assert set(seen) == set(every)


def test_a_finding_is_shown_with_the_model_that_spoke_for_the_pixels(
    database: Database, store: Store, complete: Callable[..., list[str]]
) -> None:
    store(instance=1)
    complete()
    pixels = found(
        "FlipAngle", raised_by=Witness.PIXELS, testimonies=(Testimony(Witness.PIXELS, True, "p = 0.001", 0.001),)
    )
    with database.transaction() as session:
        job = jobs.claim(session, JobKind.INFER, "w", 60, NOON)
        assert job is not None
        results.save_judgement(
            session, job, header=SeriesHeader(()), comparisons=(), problems=(), not_analysed_reason=None, now=NOON,
            prediction=SeriesPrediction("reference-1", "trained on simulated images", False, 1.0, 4.0, 3),
            decision=RouteDecision(None, (), (), "for a test", (), "1"), findings=[found(), pixels],
        )  # fmt: skip
    assert {one.element: (one.model_id, one.training_data) for one in listed(database)} == {
        "EchoTime": (None, None),
        "FlipAngle": ("reference-1", "trained on simulated images"),
    }


def test_a_judgement_waits_for_a_rule_that_is_being_made(
    database: Database,
    record: Record,
    store: Store,
    in_threads: Callable[..., None],
    wait_until_blocked: Callable[[], None],
) -> None:
    record(found())
    store(series=2, instance=99)
    ready = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            with database.transaction() as session:
                findings.dismiss_by_rule(session, check="not-a-number", reason="x", who="ada", now=NOON)
                ready.set()
                wait_until_blocked()
        else:
            assert ready.wait(30)
            with database.transaction() as session:
                series_id = archive.find_series(session, "1.2.826.8.2").id
                findings.record(session, series_id, 1, [found()], NOON)

    in_threads(2, work)
    assert [one.state for one in listed(database)] == [DISMISSED, DISMISSED]
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(FindingRow)) == 2
        assert session.scalar(select(func.count()).select_from(FindingEventRow)) == 3
