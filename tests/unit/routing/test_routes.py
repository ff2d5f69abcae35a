"""Rules beside models: priorities, several destinations, holds, stops, shadows, and what is unknown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iap_node.config.routing import RoutingConfig
from iap_node.records import (
    FoundFact,
    RouteDecision,
    RouteKind,
    RouteOutcome,
    RoutingEvidence,
    SeriesFacts,
    Truth,
)
from iap_node.routing.rules import Rules, rules_text, rules_version
from tests.unit.routing.conftest import classes, evidences, header, less_known, prediction, terms

SIEMENS = RoutingEvidence(
    prediction=prediction(classes("Manufacturer", ("SIEMENS", 0.95), ("GE MEDICAL SYSTEMS", 0.05))),
    header=header(Manufacturer="SIEMENS"),
    facts=SeriesFacts(calling_ae_title="MR1", modality="MR", series_description="t1 dyn"),
    findings=(FoundFact("pixels-contradict", "EchoTime", "warning", "open", "pixels"),),
)
FROM_MR1 = {"series": "CallingAETitle", "equals": "MR1"}
FROM_MR2 = {"series": "CallingAETitle", "equals": "MR2"}
NOBODY_KNOWS = {"header": "EchoTime", "between": [0, 99]}


def rules(**content: Any) -> Rules:
    whole = {
        "domains": {"siemens": {"all": [{"parameter": "Manufacturer", "equals": "SIEMENS"}]}},
        "downstream_models": {"lesions": {"domain": "siemens", "destinations": ["lesions"]}},
        "default": {"destinations": ["people"]},
    }
    return Rules(RoutingConfig.model_validate(whole | content))


def decide(evidence: RoutingEvidence = SIEMENS, **content: Any) -> RouteDecision:
    return rules(**content).decide(evidence)


def outcomes(decision: RouteDecision) -> dict[str, RouteOutcome]:
    return {route.name: route.outcome for route in decision.routes}


def test_rules_and_models_that_apply_all_send_each_destination_once() -> None:
    decision = decide(rules={"copy": {"when": FROM_MR1, "destinations": ["archive", "lesions"]}})
    assert decision.destinations == ("archive", "lesions")
    assert decision.by == ("copy", "lesions")
    assert decision.downstream_models == ("lesions",)
    assert decision.reason == "rule copy to archive, lesions; siemens (0.95) by the pixels: to lesions"


def test_a_rule_alone_routes_a_series_that_was_not_analysed() -> None:
    raw = RoutingEvidence(None, "no MR image", facts=SeriesFacts(modality="MR", series_description="raw data"))
    decision = decide(
        raw, rules={"raw": {"when": {"series": "SeriesDescription", "matches": "raw"}, "destinations": ["raw"]}}
    )
    assert (decision.destinations, decision.by, decision.domain) == (("raw",), ("raw",), None)


def test_higher_priorities_come_first_and_a_stop_keeps_lower_ones_from_the_series() -> None:
    decision = decide(
        rules={
            "late": {"when": FROM_MR1, "destinations": ["late"], "priority": -1},
            "stops": {"when": FROM_MR1, "destinations": ["research"], "stop": True, "priority": 5},
            "first": {"when": FROM_MR1, "destinations": ["first"], "priority": 9},
        }
    )
    assert decision.destinations == ("first", "research")
    assert list(outcomes(decision).values()) == [
        RouteOutcome.APPLIED,
        RouteOutcome.APPLIED,
        RouteOutcome.NOT_REACHED,
        RouteOutcome.NOT_REACHED,
    ]
    assert [route.name for route in decision.routes] == ["first", "stops", "lesions", "late"]
    assert [route.kind for route in decision.routes][2] is RouteKind.MODEL


def test_a_stop_without_destinations_leaves_the_series_to_the_default_route() -> None:
    decision = decide(rules={"stops": {"when": FROM_MR1, "stop": True}})
    assert (decision.destinations, decision.by) == (("people",), ())
    assert decision.reason.startswith("rule stops stops what comes after it; default route: ")


def test_a_rule_that_does_not_apply_changes_nothing() -> None:
    decision = decide(rules={"other": {"when": FROM_MR2, "destinations": ["x"], "hold": "wait", "stop": True}})
    assert (decision.destinations, decision.held) == (("lesions",), "")
    assert outcomes(decision)["other"] is RouteOutcome.NOT_APPLIED


def test_a_hold_keeps_the_destinations_for_the_release() -> None:
    when = {"finding": "pixels-contradict", "severity": ["warning", "error"]}
    decision = decide(rules={"look": {"when": when, "hold": "the header contradicts the pixels"}})
    assert decision.held == "the header contradicts the pixels"
    assert decision.destinations == ("lesions",)
    assert decision.reason == (
        "held by look: the header contradicts the pixels; siemens (0.95) by the pixels: to lesions"
    )


@pytest.mark.parametrize(
    ("rule", "if_unknown", "destinations", "held"),
    [
        ({"stop": True, "destinations": ["research"]}, "default", ("people",), False),
        ({"stop": True, "destinations": ["research"]}, "pass", ("lesions",), False),
        ({"stop": True, "destinations": ["research"]}, "hold", ("lesions",), True),
        ({"hold": "look"}, "default", ("people",), False),
        ({"hold": "look"}, "pass", ("lesions",), False),
        ({"hold": "look"}, "hold", ("lesions",), True),
        ({"destinations": ["research"]}, "default", ("lesions",), False),  # it would only have sent
    ],
)
def test_what_happens_while_nobody_knows_whether_a_rule_applies(
    rule: dict[str, Any], if_unknown: str, destinations: tuple[str, ...], held: bool
) -> None:
    decision = decide(rules={"r": {"when": NOBODY_KNOWS, "if_unknown": if_unknown} | rule})
    assert (decision.destinations, bool(decision.held)) == (destinations, held)
    assert outcomes(decision)["r"] is RouteOutcome.UNKNOWN
    if destinations == ("people",):
        assert decision.reason == (
            "default route: nobody knows whether rule r applies: "
            "'header: Echo Time between 0 and 99 ms' is unknown; seen: missing"
        )


def test_an_unknown_hold_withholds_what_came_before_it_and_an_unknown_stop_does_not() -> None:
    before = {"when": FROM_MR1, "destinations": ["first"], "priority": 9}
    stops = decide(rules={"before": before, "r": {"when": NOBODY_KNOWS, "stop": True}})
    assert stops.destinations == ("first", "people")
    holds = decide(rules={"before": before, "r": {"when": NOBODY_KNOWS, "hold": "look"}})
    assert holds.destinations == ("people",)


def test_a_shadow_is_sent_marked_and_counts_as_not_routed() -> None:
    shadow = {"lesions": {"domain": "siemens", "destinations": ["lesions"], "shadow": True}}
    decision = decide(downstream_models=shadow)
    assert (decision.destinations, decision.shadow_destinations) == (("people",), ("lesions",))
    assert (decision.domain, decision.downstream_models, decision.shadow_models) == (None, (), ("lesions",))
    assert decision.reason == "default route: no downstream model takes siemens; in shadow to lesions"


def test_a_destination_that_is_meant_in_earnest_is_no_shadow() -> None:
    decision = decide(rules={"trial": {"when": FROM_MR1, "destinations": ["lesions", "trial"], "shadow": True}})
    assert (decision.destinations, decision.shadow_destinations) == (("lesions",), ("trial",))


def test_domains_can_be_combined_in_a_rule() -> None:
    content = {"r": {"when": {"all": [{"domain": "siemens"}, {"not": FROM_MR2}]}, "destinations": ["both"]}}
    decision = decide(rules=content)
    assert decision.by == ("r", "lesions")
    condition = decision.routes[0].condition.parts[0]
    assert (condition.condition, condition.truth) == ("in siemens", Truth.TRUE)
    assert condition.probability == pytest.approx(0.95)
    assert condition.observed == "0.95 of 0.8"


def test_a_domain_of_headers_alone_says_so() -> None:
    domains = {"siemens": {"any": [{"header": "Manufacturer", "equals": "SIEMENS"}]}}
    decision = decide(domains=domains)
    assert decision.reason == "siemens as stated: to lesions"
    assert decision.trace[0].probability is None


def test_the_version_keeps_the_rules_whole() -> None:
    mine = rules(rules={"r": {"when": {"not": FROM_MR1}, "destinations": ["x"]}})
    again = RoutingConfig.model_validate(rules_text(mine.config))
    assert again == mine.config
    assert rules_version(again) == mine.version == mine.decide(SIEMENS).rules_version


@given(terms, st.data(), st.sampled_from(["default", "hold", "pass"]), st.booleans())
def test_a_series_is_never_dropped_and_is_sent_nowhere_that_more_knowledge_would_forbid(
    when: dict[str, Any], data: Any, if_unknown: str, stop: bool
) -> None:
    effect = {"stop": True} if stop else {"hold": "look"}
    some = rules(rules={"r": {"when": when, "if_unknown": if_unknown, "destinations": ["x"]} | effect})
    full = data.draw(evidences())
    little = data.draw(less_known(full))
    then, now = some.decide(little), some.decide(full)
    for evidence, decision in ((little, then), (full, now)):
        bare = some.decide(evidence, traced=False)
        assert replace(decision, reason="", trace=(), routes=(), held="") == replace(bare, held="")
        assert bool(bare.held) == bool(decision.held)
    for decision in (then, now):
        assert decision.destinations, "the default route takes what nothing else takes"
        assert decision.reason
    if if_unknown != "pass" and not then.held:
        # what the rule keeps from the model, once it is known, the model did not get before
        kept_back = bool(now.held) or outcomes(now)["r"] is RouteOutcome.APPLIED
        assert not (kept_back and "lesions" in then.destinations)


def test_a_decision_without_findings_looked_for_is_unknown_not_free_of_them() -> None:
    unheard = replace(SIEMENS, findings=None)
    decision = decide(unheard, rules={"look": {"when": {"finding": "any"}, "hold": "look"}})
    assert decision.destinations == ("people",)
