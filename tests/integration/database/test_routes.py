"""Deliveries, holds, releases, reroutes and past decisions, on both databases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from iap_node.config import JobsConfig, RetentionConfig
from iap_node.config.routing import RoutingConfig
from iap_node.database import commitments, findings, jobs, results, route_history, routes
from iap_node.database.archive import find_series
from iap_node.database.engine import Database
from iap_node.database.holds import holds as standing
from iap_node.database.notifications import failing_deliveries
from iap_node.database.retention import Hold, kept_series
from iap_node.database.status import status_counts
from iap_node.database.tables import DeliveryRow, DeliveryState, JobRow, RouteAction
from iap_node.database.timeline import Happening, timeline
from iap_node.records import (
    Finding,
    FindingKind,
    FindingState,
    FoundFact,
    HeaderValue,
    Job,
    JobKind,
    JobState,
    ParameterKind,
    ParameterPrediction,
    RoutingEvidence,
    SeriesHeader,
    SeriesPrediction,
    Severity,
    Witness,
)
from iap_node.routing.coverage import coverage
from iap_node.routing.replay import Tally, replay, wanted_by
from iap_node.routing.rules import Rules, rules_text
from tests.integration.database.conftest import NOON

RULES = Rules(
    RoutingConfig.model_validate(
        {
            "domains": {"siemens": {"all": [{"parameter": "Manufacturer", "equals": "SIEMENS"}]}},
            "downstream_models": {
                "lesions": {"domain": "siemens", "destinations": ["lesions"], "contact": "Dr Example"},
                "trial": {"domain": "siemens", "destinations": ["trial"], "shadow": True},
            },
            "rules": {"look": {"when": {"series": "SeriesDescription", "matches": "odd"}, "hold": "odd"}},
            "default": {"destinations": ["people"]},
        }
    )
)
LATER = NOON + timedelta(minutes=5)


def pixels(siemens: float) -> SeriesPrediction:
    vendors = (("SIEMENS", siemens), ("GE MEDICAL SYSTEMS", 1.0 - siemens))
    parameter = ParameterPrediction("Manufacturer", ParameterKind.CATEGORICAL, probabilities=vendors)
    return SeriesPrediction("model-1", "test", False, 1.0, 4.5, 8, (parameter,))


@pytest.fixture
def judge(
    database: Database, store: Callable[..., Any], complete: Callable[..., list[str]]
) -> Callable[..., int]:
    """Receives, completes and judges a series by `RULES`; its row's number."""

    def run(
        series: int, siemens: float | None = 0.95, findings: Sequence[Finding] = (), instance: int = 0, **header: object
    ) -> int:
        store(series=series, instance=instance or series, **{"series_description": "T1", **header})
        complete(series)
        with database.transaction() as session:
            job = jobs.claim(session, JobKind.INFER, "test", 60.0, NOON)
        assert job is not None
        prediction = None if siemens is None else pixels(siemens)
        stated = SeriesHeader((HeaderValue("EchoTime", "2.1", 2.1),))
        with database.reading() as session:
            facts = routes.series_facts(session, job.series_id)
            to_be = routes.findings_to_be(session, job.series_id, findings)
        decision = RULES.decide(RoutingEvidence(prediction, "", stated, (), facts, to_be))
        with database.transaction() as session:
            results.save_judgement(
                session,
                job,
                header=stated,
                prediction=prediction,
                comparisons=(),
                decision=decision,
                problems=(),
                not_analysed_reason="no image" if prediction is None else None,
                now=NOON + timedelta(seconds=series),
                findings=findings,
            )
        return job.series_id

    return run


def deliveries(database: Database, series_id: int) -> dict[str, tuple[DeliveryState, bool]]:
    query = select(DeliveryRow).where(DeliveryRow.series_id == series_id).order_by(DeliveryRow.id)
    with database.reading() as session:
        return {row.destination: (row.state, row.shadow) for row in session.scalars(query)}


def end_job(database: Database, destination: str, state: JobState) -> None:
    with database.transaction() as session:
        job: Job | None = None
        while job is None or job.destination != destination:
            job = jobs.claim(session, JobKind.DELIVER, "test", 60.0, LATER)
            assert job is not None
        jobs.end_leased(session, job, state, None, LATER)


def test_shadow_deliveries_are_marked_and_do_not_count_as_having_gone_out(
    database: Database, judge: Callable[..., int]
) -> None:
    series_id = judge(1)
    pending = DeliveryState.PENDING
    assert deliveries(database, series_id) == {"lesions": (pending, False), "trial": (pending, True)}
    with database.transaction() as session:
        session.execute(update(JobRow).where(JobRow.kind == JobKind.DELIVER).values(state="done", due_at=None))
        session.execute(update(DeliveryRow).where(DeliveryRow.shadow).values(state=DeliveryState.DELIVERED))
        session.execute(update(DeliveryRow).where(~DeliveryRow.shadow).values(state=DeliveryState.SUPERSEDED))
    with database.reading() as session:
        shown = [delivery.text for delivery in find_series(session, "1.2.826.8.1").deliveries]
        (group,) = kept_series(session, RetentionConfig(judged_days=1), LATER)
    assert shown == ["lesions (superseded)", "trial (shadow, delivered)"]
    assert group.hold is Hold.UNROUTED


def test_a_held_series_is_sent_nowhere_until_it_is_released(database: Database, judge: Callable[..., int]) -> None:
    series_id = judge(1, series_description="odd one")
    other = judge(2)
    assert deliveries(database, series_id) == {}
    with database.reading() as session:
        (waiting,) = routes.held_series(session)
        assert routes.count_held(session) == 1
        holds = {group.hold for group in kept_series(session, RetentionConfig(judged_days=1, unrouted=True), LATER)}
        assert find_series(session, "1.2.826.8.1").held
    assert (waiting.series_id, waiting.held, waiting.destinations) == (series_id, "odd", ("lesions",))
    assert Hold.HELD in holds
    with database.transaction() as session:
        assert routes.release(session, series_id, "Ada", "fine", LATER) == ("lesions", "trial")
    assert deliveries(database, series_id) == deliveries(database, other)
    with database.reading() as session:
        assert routes.count_held(session) == 0
        (change,) = routes.route_changes(session, series_id)
    assert (change.action, change.who, change.reason) == (RouteAction.RELEASED, "Ada", "fine")
    with pytest.raises(routes.NotHeld), database.transaction() as session:
        routes.release(session, series_id, "Ada", "", LATER)


def test_a_late_instance_judges_a_held_series_anew_and_only_the_newest_waits(
    database: Database, judge: Callable[..., int]
) -> None:
    series_id = judge(1, series_description="odd one")
    assert judge(1, instance=7) == series_id
    with database.reading() as session:
        (waiting,) = routes.held_series(session)
    assert waiting.revision == 2


def test_reroute_ends_what_waits_revives_what_was_given_up_and_keeps_what_was_delivered(
    database: Database, judge: Callable[..., int]
) -> None:
    series_id = judge(1, siemens=0.5)  # goes to people
    end_job(database, "people", JobState.DEAD)
    assert deliveries(database, series_id)["people"] == (DeliveryState.FAILED, False)

    def reroute(*destinations: str) -> None:
        with database.transaction() as session:
            assert routes.reroute(session, series_id, destinations, "Ada", "moved", LATER) == 1

    reroute("lesions")
    assert {name: state for name, (state, _) in deliveries(database, series_id).items()} == {
        "people": DeliveryState.SUPERSEDED,
        "lesions": DeliveryState.PENDING,
    }
    end_job(database, "lesions", JobState.DONE)
    reroute("people", "lesions")
    assert {name: state for name, (state, _) in deliveries(database, series_id).items()} == {
        "people": DeliveryState.PENDING,
        "lesions": DeliveryState.DELIVERED,
    }
    with database.reading() as session:
        assert [change.destinations for change in routes.route_changes(session, series_id)] == [
            ("lesions",),
            ("people", "lesions"),
        ]


def claimable(database: Database) -> list[str]:
    """Destinations of the deliveries that workers would begin now; they are under way then."""
    found = []
    with database.transaction() as session:
        while (job := jobs.claim(session, JobKind.DELIVER, "test", 60.0, LATER)) is not None:
            found.append(job.destination)
    return found


def test_what_a_person_holds_is_not_sent_until_it_is_released_though_a_late_instance_comes(
    database: Database, judge: Callable[..., int]
) -> None:
    """Nobody claims its deliveries, it holds its bytes, it worries nobody, and everything goes on at the release."""
    series_id = judge(1)
    with database.transaction() as session:
        assert routes.hold(session, series_id, "Ada", "is it she?", NOON + timedelta(minutes=1)) == 0
    with pytest.raises(routes.HeldAlready, match="held by Ada: is it she"), database.transaction() as session:
        routes.hold(session, series_id, "Bo", "", LATER)
    assert claimable(database) == []
    assert judge(1, instance=7) == series_id
    assert claimable(database) == []
    with database.reading() as session:
        (waiting,) = routes.held_series(session)
        assert routes.count_held(session) == 1
        holds = {group.hold for group in kept_series(session, RetentionConfig(judged_days=1, unrouted=True), LATER)}
        assert find_series(session, "1.2.826.8.1").held
        assert failing_deliveries(session, LATER) == {}
        assert status_counts(session).oldest_waiting_job_at is None
        assert all(job.held for job in jobs.list_jobs(session, [JobState.READY]))
    assert (waiting.revision, waiting.held_by, waiting.held) == (2, "Ada", "held by Ada: is it she?")
    assert (waiting.destinations, waiting.shadow_destinations) == (("lesions",), ("trial",))
    assert holds == {Hold.DELIVERING}
    with database.transaction() as session:
        assert routes.release(session, series_id, "Bo", "it is", LATER) == ("lesions", "trial")
    assert claimable(database) == ["lesions", "trial"]
    with database.reading() as session:
        assert routes.count_held(session) == 0 and routes.held_series(session) == []
        told = [(one.what, one.who) for one in timeline(session, series_id) if one.kind is Happening.ROUTE]
    assert told == [("held, nothing is sent: is it she?", "Ada"), ("held no longer: it is", "Bo")]


def test_a_series_is_held_before_it_is_judged_and_by_a_rule_and_a_person_at_once(
    database: Database, judge: Callable[..., int], store: Callable[..., Any]
) -> None:
    store(series=1, instance=1, series_description="odd one")
    with database.transaction() as session:
        number = find_series(session, "1.2.826.8.1").id
        routes.hold(session, number, "Ada", "", NOON)
    assert judge(1, series_description="odd one", instance=2) == number
    with database.reading() as session:
        assert routes.count_held(session) == 1
        (waiting,) = routes.held_series(session)
    assert (waiting.held, waiting.held_by, waiting.destinations) == ("odd; held by Ada", "Ada", ("lesions",))
    assert claimable(database) == []
    with database.transaction() as session:
        assert routes.release(session, number, "Ada", "", LATER) == ("lesions", "trial")
        assert routes.held_series(session) == []
    assert claimable(database) == ["lesions", "trial"]


def test_what_is_under_way_at_a_hold_goes_on_but_is_not_begun_again_and_a_reroute_ends_the_hold(
    database: Database, judge: Callable[..., int]
) -> None:
    series_id = judge(1, siemens=0.5)  # goes to people
    with database.transaction() as session:
        job = jobs.claim(session, JobKind.DELIVER, "test", 60.0, LATER)
        assert job is not None
    with database.transaction() as session:
        assert routes.hold(session, series_id, "Ada", "wait", LATER) == 1
    with database.transaction() as session:
        jobs.fail(session, job, "away", False, JobsConfig(backoff_s=0.001), NOON)
    assert claimable(database) == []
    with database.transaction() as session:
        routes.reroute(session, series_id, ["trial"], "Bo", "", LATER)
    assert claimable(database) == ["trial"]
    with database.reading() as session:
        assert not find_series(session, "1.2.826.8.1").held
        assert [one.ended_by for one in standing(session, series_id)] == ["Bo"]


def test_reroute_of_a_held_series_ends_its_waiting(database: Database, judge: Callable[..., int]) -> None:
    series_id = judge(1, series_description="odd one")
    with database.transaction() as session:
        routes.reroute(session, series_id, ["archive"], "Ada", "", LATER)
    assert list(deliveries(database, series_id)) == ["archive"]
    with database.reading() as session:
        assert routes.held_series(session) == []


def test_a_series_that_waits_for_its_judgement_cannot_be_rerouted(
    database: Database, judge: Callable[..., int], store: Callable[..., Any]
) -> None:
    series_id = judge(1)
    store(series=1, instance=9)
    with pytest.raises(routes.NotRouted), database.transaction() as session:
        routes.reroute(session, series_id, ["archive"], "Ada", "", LATER)


def test_the_rules_of_a_version_are_kept_once(database: Database) -> None:
    for moment in (NOON, LATER):
        with database.transaction() as session:
            routes.save_rules(session, RULES.version, rules_text(RULES.config), moment)
    with database.reading() as session:
        kept = routes.rules_of(session, RULES.version)
        assert routes.rules_of(session, "another") is None
    assert RoutingConfig.model_validate(kept) == RULES.config


DOUBT = Finding(
    "EchoTime", "pixels-contradict", FindingKind.CONTRADICTION, Severity.WARNING, "no", "9", None, Witness.PIXELS
)


def test_replay_by_the_same_rules_changes_nothing_and_by_others_says_what(
    database: Database, judge: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route_history, "AT_ONCE", 2)  # several batches
    judge(1, series_description="odd one")
    judge(2)
    judge(3, siemens=0.5, findings=[DOUBT])
    judge(4, siemens=None)
    judge(5)
    with database.transaction() as session:
        routes.release(session, 1, "Ada", "", LATER)  # what people did is no part of it

    def decide_again(rules: Rules, since: Any = NOON) -> Tally:
        tally = Tally()
        for one in replay(rules, route_history.with_evidence(database, since, wanted_by(rules))):
            tally.count(one)
        return tally

    same = decide_again(RULES)
    assert (same.n_series, same.n_elsewhere) == (5, 0)
    assert all(before == after for before, after in same.ways)
    content = rules_text(RULES.config)
    content["rules"] = {
        "doubts": {"when": {"finding": "pixels-contradict"}, "destinations": ["archive"]},
        "many": {"when": {"series": "NumberOfSeriesRelatedInstances", "between": [1, 1]}, "destinations": ["first"]},
        "echo": {"when": {"header": "EchoTime", "equals": 2.1}, "destinations": ["second"]},
    }
    other = decide_again(Rules(RoutingConfig.model_validate(content)))
    assert (other.n_series, other.n_elsewhere) == (5, 5)
    ways: Counter[str] = Counter()
    for (_, after), number in other.ways.items():
        ways[after.route] += number
    assert ways == {"many + echo + lesions": 3, "doubts + many + echo": 1, "many + echo": 1}
    assert decide_again(RULES, NOON + timedelta(seconds=4)).n_series == 2
    with database.reading() as session:
        assert route_history.count_decided(session, NOON) == 5


def test_replay_reads_back_what_the_decision_was_made_of(database: Database, judge: Callable[..., int]) -> None:
    judge(1, findings=[DOUBT], series_description="T1")
    (one,) = route_history.with_evidence(database, NOON, route_history.Wanted(["Manufacturer"], ["EchoTime"]))
    assert one.evidence is not None and one.evidence.facts is not None and one.evidence.header is not None
    assert one.evidence.prediction == pixels(0.95)
    assert one.evidence.header.value("EchoTime").canonical == 2.1
    assert one.evidence.facts.series_description == "T1"
    assert one.evidence.findings == (FoundFact("pixels-contradict", "EchoTime", "warning", "open", "pixels"),)
    (without,) = route_history.with_evidence(database, NOON, route_history.Wanted(stated=False, findings=False))
    assert without.evidence is not None and without.evidence.prediction is not None
    assert (without.evidence.prediction.parameters, without.evidence.findings) == ((), None)


def test_coverage_counts_models_gaps_and_who_starves(database: Database, judge: Callable[..., int]) -> None:
    judge(1)
    judge(2, series_description="odd one")
    judge(3, siemens=0.5)
    judge(4, siemens=0.5)
    judge(5, siemens=0.01)
    judge(6, siemens=None)
    registered = RULES.config.downstream_models
    idle = registered["lesions"].model_copy(update={"destinations": ("idle",)})
    config = RULES.config.model_copy(update={"downstream_models": {**registered, "idle": idle}})
    found = coverage(config, route_history.decided(database, NOON), NOON)
    assert (found.n_series, found.n_with_model, found.n_by_rules, found.n_default, found.n_held) == (6, 2, 0, 4, 1)
    assert found.share_with_model == pytest.approx(2 / 6)
    by_name = {model.model: model for model in found.models}
    assert (by_name["lesions"].n_series, by_name["lesions"].contact) == (2, "Dr Example")
    assert (by_name["trial"].n_series, by_name["trial"].shadow) == (2, True)
    assert by_name["lesions"].last_at == NOON + timedelta(seconds=2)
    assert (by_name["lesions"].n_domain_true, by_name["lesions"].n_domain_unknown) == (2, 3)
    assert by_name["idle"].starves
    assert [(gap.true_domains, gap.unknown_domains, gap.n_series, gap.example) for gap in found.gaps] == [
        ((), ("siemens",), 3, "1.2.826.8.6"),
        ((), (), 1, "1.2.826.8.5"),
    ]
    assert coverage(config, [], NOON).share_with_model is None


def test_findings_are_foreseen_as_they_will_be_recorded(database: Database, judge: Callable[..., int]) -> None:
    series_id = judge(1, findings=[DOUBT])
    with database.transaction() as session:
        row = findings.list_findings(session)[0]
        findings.decide(session, row.id, FindingState.DISMISSED, "Ada", "fine", now=LATER)
    changed = replace(DOUBT, raw="8")
    with database.reading() as session:
        states = {
            one: [fact.state for fact in routes.findings_to_be(session, series_id, [given])]
            for one, given in (("same", DOUBT), ("changed", changed))
        }
        assert routes.findings_to_be(session, series_id, []) == ()
        (silent,) = routes.findings_to_be(session, series_id, [], [Witness.PIXELS])
    assert states == {"same": ["dismissed"], "changed": ["open"]}
    assert silent.check == "pixels-contradict"
    with database.transaction() as session:
        findings.dismiss_by_rule(session, check="pixels-contradict", reason="habit", who="Ada", now=LATER)
    with database.reading() as session:
        (fact,) = routes.findings_to_be(session, series_id, [changed])
    assert fact.state == "dismissed"


def test_storage_commitments_stand_in_the_timeline_of_the_series_that_they_name(
    database: Database, judge: Callable[..., int]
) -> None:
    series_id, other = judge(1), judge(2)
    asked = [("1.2.840.10008.5.1.4.1.1.4", "1.2.826.9.1"), ("1.2.840.10008.5.1.4.1.1.4", "9.9.9")]
    with database.transaction() as session:
        request = commitments.ask(session, "1.2.3", "PACS", "10.0.0.1", asked, NOON, due_at=NOON, expires_at=LATER)
        commitments.delivered(session, request.id, 1, LATER)

    def told(number: int) -> list[str]:
        with database.reading() as session:
            return [one.what for one in timeline(session, number) if one.kind is Happening.COMMITMENT]

    assert told(other) == []
    assert told(series_id) == [
        "PACS asked whether instances are kept for good (storage commitment)",
        "PACS was told: 1 of the request's instances not",
    ]
