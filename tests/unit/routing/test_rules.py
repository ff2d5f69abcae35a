"""Routing rules: conditions, domains, decisions. Not tested here: whether the probabilities are right."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iap_node.config.routing import ConditionConfig, RoutingConfig
from iap_node.records import ParameterKind, ParameterPrediction, SeriesPrediction, Truth
from iap_node.routing.rules import decide, judge_condition, rules_version


def classes(keyword: str, *probabilities: tuple[str, float]) -> ParameterPrediction:
    return ParameterPrediction(keyword, ParameterKind.CATEGORICAL, probabilities=probabilities)


VENDOR = classes("Manufacturer", ("SIEMENS", 0.9), ("GE MEDICAL SYSTEMS", 0.1))
FIELD = classes("MagneticFieldStrength", ("2.8936", 0.55), ("3", 0.4), ("1.494", 0.03), ("1.5", 0.02))
# central 95 % of a normal with standard deviation 1
REPETITION = ParameterPrediction(
    "RepetitionTime", ParameterKind.CONTINUOUS, value=5.0, interval=(5 - 1.959964, 5 + 1.959964), alpha=0.05
)


def prediction(*parameters: ParameterPrediction, novel: bool = False) -> SeriesPrediction:
    return SeriesPrediction("model-1", "test", novel, 12.3 if novel else 1.0, 4.5, 8, parameters)


ALL = prediction(VENDOR, FIELD, REPETITION)


def routing(**changes: Any) -> RoutingConfig:
    content: dict[str, Any] = {
        "domains": {
            "siemens_3t": {
                "least_probability": 0.8,
                "all": [
                    {"parameter": "Manufacturer", "equals": "SIEMENS"},
                    {"parameter": "MagneticFieldStrength", "near": 3.0, "within": 0.2},
                ],
            },
            "siemens": {
                "least_probability": 0.8,
                "all": [{"parameter": "Manufacturer", "equals": "siemens"}],
            },
            "ge": {
                "least_probability": 0.8,
                "all": [{"parameter": "Manufacturer", "equals": "GE MEDICAL SYSTEMS"}],
            },
        },
        "downstream_models": {
            "lesions": {"domain": "siemens_3t", "destinations": ["first", "archive"]},
            "density": {"domain": "siemens", "destinations": ["archive", "second"]},
            "other": {"domain": "ge", "destinations": ["third"]},
        },
        "default": {"destinations": ["people"]},
    }
    return RoutingConfig.model_validate(content | changes)


@pytest.mark.parametrize(
    ("condition", "probability", "truth"),
    [
        ({"parameter": "Manufacturer", "equals": "Siemens"}, 0.9, Truth.TRUE),
        ({"parameter": "Manufacturer", "equals": "GE MEDICAL SYSTEMS"}, 0.1, Truth.FALSE),
        ({"parameter": "Manufacturer", "one_of": ["SIEMENS", "GE MEDICAL SYSTEMS"]}, 1.0, Truth.TRUE),
        ({"parameter": "MagneticFieldStrength", "equals": 3}, 0.95, Truth.TRUE),
        ({"parameter": "MagneticFieldStrength", "equals": "1.5"}, 0.05, Truth.FALSE),
        ({"parameter": "MagneticFieldStrength", "one_of": [1.5, 3]}, 1.0, Truth.TRUE),
        ({"parameter": "MagneticFieldStrength", "near": 3.0, "within": 0.01}, 0.4, Truth.UNKNOWN),
        ({"parameter": "MagneticFieldStrength", "between": [1.4, 2.9]}, 0.6, Truth.UNKNOWN),
        ({"parameter": "RepetitionTime", "between": [4.0, 6.0]}, 0.682689, Truth.UNKNOWN),
        ({"parameter": "RepetitionTime", "near": 5.0, "within": 2.0}, 0.954500, Truth.TRUE),
        ({"parameter": "RepetitionTime", "between": [7.0, 100.0]}, 0.022750, Truth.FALSE),
        ({"parameter": "RepetitionTime", "equals": 5.0}, 0.039878, Truth.FALSE),
        ({"parameter": "RepetitionTime", "one_of": [5.0, 5.01]}, 0.043901, Truth.FALSE),  # 4.95 to 5.0601
    ],
)
def test_condition_has_the_probability_that_the_model_gives_it(
    condition: dict[str, Any], probability: float, truth: Truth
) -> None:
    result = judge_condition(ConditionConfig.model_validate(condition), ALL, 0.8)
    assert result.probability == pytest.approx(probability, abs=1e-5)
    assert result.truth is truth


@pytest.mark.parametrize(
    ("condition", "pixels", "observed"),
    [
        ({"parameter": "FlipAngle", "equals": 10}, ALL, "the model does not predict Flip Angle"),
        (
            {"parameter": "Manufacturer", "equals": "Philips"},
            ALL,
            "the model knows no value of this condition",
        ),
        ({"parameter": "MagneticFieldStrength", "near": 7, "within": 0.3}, ALL, "the model knows no value"),
        ({"parameter": "Manufacturer", "equals": "SIEMENS"}, prediction(VENDOR, novel=True), "novel"),
        ({"parameter": "Manufacturer", "equals": "SIEMENS"}, None, "not analysed"),
        (
            {"parameter": "EchoTime", "near": 2, "within": 1},
            prediction(ParameterPrediction("EchoTime", ParameterKind.CONTINUOUS, value=2.0)),
            "no interval",
        ),
    ],
)
def test_condition_on_what_nobody_knows_is_unknown(
    condition: dict[str, Any], pixels: SeriesPrediction | None, observed: str
) -> None:
    result = judge_condition(ConditionConfig.model_validate(condition), pixels, 0.8)
    assert (result.truth, result.probability) == (Truth.UNKNOWN, None)
    assert observed in result.observed


@pytest.mark.parametrize("test", [{"equals": "three"}, {"one_of": [1.5, "3 T"]}])
def test_condition_on_a_number_takes_numbers_only(test: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="MagneticFieldStrength is a number: "):
        ConditionConfig.model_validate({"parameter": "MagneticFieldStrength"} | test)


def test_one_of_with_a_value_that_the_model_never_saw_can_be_true_but_not_false() -> None:
    seen_and_unseen = {"parameter": "Manufacturer", "one_of": ["GE MEDICAL SYSTEMS", "Philips"]}
    result = judge_condition(ConditionConfig.model_validate(seen_and_unseen), ALL, 0.8)
    assert (result.truth, result.probability) == (Truth.UNKNOWN, pytest.approx(0.1))
    seen_and_unseen["one_of"] = ["SIEMENS", "Philips"]
    assert judge_condition(ConditionConfig.model_validate(seen_and_unseen), ALL, 0.8).truth is Truth.TRUE


def test_interval_that_is_wider_above_leaves_more_probability_there() -> None:
    pixels = ParameterPrediction(
        "EchoTime", ParameterKind.CONTINUOUS, value=2.0, interval=(1.9, 3.0), alpha=0.1
    )
    above = judge_condition(
        ConditionConfig(parameter="EchoTime", between=(2.0, 3.0)), prediction(pixels), 0.8
    )
    below = judge_condition(
        ConditionConfig(parameter="EchoTime", between=(1.9, 2.0)), prediction(pixels), 0.8
    )
    assert above.probability == pytest.approx(0.45)
    assert below.probability == pytest.approx(0.45)


def test_number_without_an_interval_at_alpha_takes_the_widest_that_is_calibrated() -> None:
    pixels = ParameterPrediction(
        "EchoTime",
        ParameterKind.CONTINUOUS,
        value=2.0,
        intervals=((0.5, 1.8, 2.2), (0.1, 1.5, 2.5)),
        alpha=0.01,
    )
    result = judge_condition(
        ConditionConfig(parameter="EchoTime", between=(1.5, 2.5)), prediction(pixels), 0.8
    )
    assert (result.truth, result.probability) == (Truth.TRUE, pytest.approx(0.9))


def test_conditions_read_like_sentences() -> None:
    texts = [
        judge_condition(ConditionConfig.model_validate(condition), None, 0.8).condition
        for condition in (
            {"parameter": "Manufacturer", "equals": "SIEMENS"},
            {"parameter": "MagneticFieldStrength", "near": 3, "within": 0.2},
            {"parameter": "RepetitionTime", "between": [3, 8]},
            {"parameter": "ScanOptions", "one_of": ["PFP\\FS", "FS"]},
        )
    ]
    assert texts == [
        "Manufacturer = SIEMENS",
        "Magnetic Field Strength = 3 ± 0.2 T",
        "Repetition Time between 3 and 8 ms",
        "Scan Options one of PFP\\FS, FS",
    ]


def test_all_models_whose_domain_holds_take_the_series_and_each_destination_once() -> None:
    decision = decide(ALL, routing())
    assert decision.domain == "siemens_3t"
    assert decision.downstream_models == ("lesions", "density")
    assert decision.destinations == ("first", "archive", "second")
    assert decision.reason == "siemens_3t (0.86) and siemens (0.90) by the pixels: to lesions, density"
    assert [(item.domain, item.truth) for item in decision.trace] == [
        ("siemens_3t", Truth.TRUE),
        ("siemens", Truth.TRUE),
        ("ge", Truth.FALSE),
    ]
    assert decision.trace[0].probability == pytest.approx(0.9 * 0.95)


def test_default_route_names_the_nearest_domain_and_what_fails() -> None:
    pixels = prediction(
        classes("Manufacturer", ("SIEMENS", 0.9), ("GE MEDICAL SYSTEMS", 0.1)), VENDOR_FIELD_LOW
    )
    rules = routing()
    only_3t = routing(domains={"siemens_3t": rules.domains["siemens_3t"]}, downstream_models={})
    decision = decide(pixels, only_3t)
    assert (decision.domain, decision.destinations) == (None, ("people",))
    assert decision.trace[0].truth is Truth.FALSE
    assert decision.reason == (
        "default route: nearest is siemens_3t, "
        "where 'Magnetic Field Strength = 3 ± 0.2 T' fails (0.02 of 0.8); seen: 1.5 T (0.98)"
    )


VENDOR_FIELD_LOW = classes("MagneticFieldStrength", ("1.5", 0.98), ("3", 0.02))


def test_unknown_condition_goes_to_the_default_route_and_is_named() -> None:
    decision = decide(prediction(FIELD), routing())
    assert decision.destinations == ("people",)
    assert {item.truth for item in decision.trace} == {Truth.UNKNOWN}
    assert (
        "'Manufacturer = SIEMENS' is unknown; seen: the model does not predict Manufacturer"
        in decision.reason
    )


def test_conditions_that_hold_singly_but_not_together_leave_the_domain_unknown() -> None:
    pixels = prediction(
        classes("Manufacturer", ("SIEMENS", 0.85), ("GE MEDICAL SYSTEMS", 0.15)),
        classes("MagneticFieldStrength", ("3", 0.85), ("1.5", 0.15)),
    )
    both = routing().domains["siemens_3t"]
    decision = decide(pixels, routing(domains={"siemens_3t": both}, downstream_models={}))
    assert decision.trace[0].truth is Truth.UNKNOWN
    assert "hold one by one but together only with 0.72 of 0.8" in decision.reason


@pytest.mark.parametrize(
    ("pixels", "reason", "expected"),
    [
        (prediction(novel=True), "", "the series is unlike the training data (novelty 12.3 > 4.5)"),
        (None, "no MR image", "not analysed: no MR image"),
    ],
)
def test_series_without_answer_goes_to_the_default_route_with_every_domain_in_the_trace(
    pixels: SeriesPrediction | None, reason: str, expected: str
) -> None:
    decision = decide(pixels, routing(), reason)
    assert decision.reason == f"default route: {expected}"
    assert (decision.domain, decision.downstream_models, decision.destinations) == (None, (), ("people",))
    assert [item.domain for item in decision.trace] == ["siemens_3t", "siemens", "ge"]
    assert {item.truth for item in decision.trace} == {Truth.UNKNOWN}


def test_domain_without_downstream_model_and_no_domain_at_all_say_so() -> None:
    assert (
        "no downstream model takes siemens_3t or siemens" in decide(ALL, routing(downstream_models={})).reason
    )
    empty = decide(ALL, RoutingConfig())
    assert (empty.destinations, empty.reason) == ((), "default route: no domains are configured")


def test_rules_version_changes_with_the_rules_only() -> None:
    assert rules_version(routing()) == rules_version(routing()) == decide(None, routing()).rules_version
    assert len(rules_version(routing())) == 12
    assert rules_version(routing(default={"destinations": []})) != rules_version(routing())


probabilities = st.floats(0.0, 1.0)
widths = st.floats(0.01, 5.0)


@st.composite
def predictions(draw: st.DrawFn) -> SeriesPrediction:
    parameters = []
    if draw(st.booleans()):
        share = draw(probabilities)
        parameters.append(classes("Manufacturer", ("SIEMENS", share), ("GE MEDICAL SYSTEMS", 1.0 - share)))
    if draw(st.booleans()):
        share = draw(probabilities)
        parameters.append(classes("MagneticFieldStrength", ("3", share), ("1.5", 1.0 - share)))
    if draw(st.booleans()):
        value = draw(st.floats(0.5, 50.0))
        low, high = value - draw(st.floats(0.0, 10.0)), value + draw(st.floats(0.0, 10.0))
        parameters.append(
            ParameterPrediction("RepetitionTime", ParameterKind.CONTINUOUS, value=value, interval=(low, high))
        )
    return prediction(*parameters, novel=draw(st.booleans()))


@given(predictions(), st.floats(0.5, 1.0, exclude_min=True), st.floats(0.0, 20.0), st.floats(0.0, 20.0))
def test_three_valued_logic_holds_for_any_prediction(
    pixels: SeriesPrediction, least: float, low: float, width: float
) -> None:
    domain = {
        "least_probability": least,
        "all": [
            {"parameter": "Manufacturer", "equals": "SIEMENS"},
            {"parameter": "MagneticFieldStrength", "equals": 3},
            {"parameter": "RepetitionTime", "between": [low, low + width]},
        ],
    }
    decision = decide(
        pixels,
        routing(domains={"d": domain}, downstream_models={"m": {"domain": "d", "destinations": ["x"]}}),
    )
    (trace,) = decision.trace
    truths = {item.truth for item in trace.conditions}
    if trace.truth is Truth.TRUE:
        assert truths == {Truth.TRUE}
        assert decision.destinations == ("x",)
    else:
        assert decision.destinations == ("people",)
    assert (trace.truth is Truth.FALSE) == (Truth.FALSE in truths)
    for item in trace.conditions:
        assert item.probability is None or 0.0 <= item.probability <= 1.0
        if item.probability is None:
            assert item.truth is Truth.UNKNOWN
        elif item.truth is Truth.FALSE:
            assert math.isclose(1 - item.probability, max(least, 1 - item.probability))
    if pixels.novel:
        assert truths == {Truth.UNKNOWN}


@given(st.floats(0.1, 50.0), widths, widths, st.floats(0.0, 60.0), st.floats(0.0, 30.0))
def test_opposite_ranges_of_a_number_share_the_whole_probability(
    value: float, below: float, above: float, cut: float, width: float
) -> None:
    pixels = prediction(
        ParameterPrediction(
            "RepetitionTime", ParameterKind.CONTINUOUS, value=value, interval=(value - below, value + above)
        )
    )
    shares = [
        judge_condition(ConditionConfig(parameter="RepetitionTime", between=item), pixels, 0.8).probability
        for item in ((-1e9, cut), (cut, cut + width), (cut + width, 1e9))
    ]
    total = sum(share for share in shares if share is not None)
    assert total == pytest.approx(1.0)
