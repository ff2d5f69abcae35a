"""Conditions taken together: properties for any expression and any evidence, then what people would expect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iap_node.records import (
    ConditionSource,
    ConditionTrace,
    FoundFact,
    HeaderValue,
    RoutingEvidence,
    SeriesFacts,
    SeriesHeader,
    Truth,
)
from iap_node.routing import expressions
from iap_node.routing.expressions import Expression, Judged
from tests.unit.routing.conftest import (
    classes,
    evidences,
    header,
    less_known,
    number,
    prediction,
    term,
    terms,
)

least = st.floats(0.5, 1.0, exclude_min=True)


def judge(content: dict[str, Any], evidence: RoutingEvidence, least_probability: float = 0.8) -> Judged:
    return Expression(term(content)).judge(evidence, least_probability)[0]


def every_part(trace: ConditionTrace) -> list[ConditionTrace]:
    return [trace, *(below for part in trace.parts for below in every_part(part))]


# ---------------------------------------------------------------- properties


@given(terms, st.data(), least)
def test_learning_more_never_turns_a_decided_result_round(content: dict[str, Any], data: Any, asked: float) -> None:
    full = data.draw(evidences())
    before = judge(content, data.draw(less_known(full)), asked).truth
    assert before in (judge(content, full, asked).truth, Truth.UNKNOWN)


@given(st.lists(terms, min_size=1, max_size=3), evidences(), least, st.booleans())
def test_de_morgan_holds_for_truth_and_for_probability(
    parts: list[dict[str, Any]], evidence: RoutingEvidence, asked: float, conjunction: bool
) -> None:
    inner, outer = ("all", "any") if conjunction else ("any", "all")
    left = judge({"not": {inner: parts}}, evidence, asked)
    right = judge({outer: [{"not": part} for part in parts]}, evidence, asked)
    assert left.truth is right.truth
    assert left.true_probability == pytest.approx(right.true_probability)
    assert left.false_probability == pytest.approx(right.false_probability)


@given(terms, st.data(), least)
def test_probabilities_are_probabilities_and_back_the_truth(content: dict[str, Any], data: Any, asked: float) -> None:
    full = data.draw(evidences())
    evidence = data.draw(st.sampled_from([full, data.draw(less_known(full))]))
    judged, trace = Expression(term(content)).judge(evidence, asked)
    assert 0.0 <= judged.true_probability <= 1.0 and 0.0 <= judged.false_probability <= 1.0
    assert judged.true_probability + judged.false_probability <= 1.0 + 1e-9
    if judged.truth is Truth.TRUE:
        assert judged.true_probability >= asked - 1e-9
    if judged.truth is Truth.FALSE:
        assert judged.false_probability >= asked - 1e-9
    for part in every_part(trace):
        assert part.probability is None or 0.0 <= part.probability <= 1.0


@given(terms, evidences(), least)
def test_a_double_negation_says_the_same(content: dict[str, Any], evidence: RoutingEvidence, asked: float) -> None:
    assert judge({"not": {"not": content}}, evidence, asked).truth is judge(content, evidence, asked).truth


@given(terms)
def test_with_nothing_known_nothing_is_decided(content: dict[str, Any]) -> None:
    judged = judge(content, RoutingEvidence())
    assert judged.truth is Truth.UNKNOWN
    assert judged.probability is None


# ---------------------------------------------------------------- joint probabilities

BOTH = RoutingEvidence(
    prediction(
        classes("Manufacturer", ("SIEMENS", 0.9), ("GE MEDICAL SYSTEMS", 0.1)),
        classes("MagneticFieldStrength", ("3", 0.9), ("1.5", 0.1)),
        number("RepetitionTime", 5.0, 1.959964, 1.959964),  # a standard deviation of 1 ms
    )
)
SIEMENS = {"parameter": "Manufacturer", "equals": "SIEMENS"}
THREE_TESLA = {"parameter": "MagneticFieldStrength", "near": 3, "within": 0.3}


def test_different_parameters_are_multiplied_and_one_parameter_is_counted_exactly() -> None:
    assert judge({"all": [SIEMENS, THREE_TESLA]}, BOTH).probability == pytest.approx(0.81)
    between = [{"parameter": "RepetitionTime", "between": [4, 9]}, {"parameter": "RepetitionTime", "between": [1, 6]}]
    assert judge({"all": between}, BOTH).probability == pytest.approx(0.682689, abs=1e-4)  # 4 to 6, not a product
    assert judge({"all": [SIEMENS, SIEMENS]}, BOTH).probability == pytest.approx(0.9)
    assert judge({"any": [SIEMENS, {"not": SIEMENS}]}, BOTH).probability == pytest.approx(1.0)


def test_two_ranges_of_one_number_may_hold_together_although_neither_does_alone() -> None:
    halves = [{"parameter": "RepetitionTime", "between": [0, 5]}, {"parameter": "RepetitionTime", "between": [5, 99]}]
    judged = judge({"any": halves}, BOTH)
    assert (judged.truth, judged.probability) == (Truth.TRUE, pytest.approx(1.0, abs=1e-6))


def test_any_over_different_parameters_needs_one_that_holds_by_itself() -> None:
    unsure = RoutingEvidence(
        prediction(
            classes("Manufacturer", ("SIEMENS", 0.7), ("GE MEDICAL SYSTEMS", 0.3)),
            classes("MagneticFieldStrength", ("3", 0.7), ("1.5", 0.3)),
        )
    )
    judged = judge({"any": [SIEMENS, THREE_TESLA]}, unsure)
    assert (judged.truth, judged.probability) == (Truth.UNKNOWN, pytest.approx(0.91))


def test_what_is_stated_settles_and_leaves_the_probability_to_the_pixels() -> None:
    evidence = RoutingEvidence(BOTH.prediction, header=header(PatientPosition="FFP"))
    prone = {"header": "PatientPosition", "equals": "ffp"}
    judged, trace = Expression(term({"all": [prone, SIEMENS]})).judge(evidence, 0.8)
    assert (judged.truth, judged.probability) == (Truth.TRUE, pytest.approx(0.9))
    stated, predicted = trace.parts
    assert (stated.source, stated.probability, stated.observed) == (ConditionSource.HEADER, None, "FFP")
    assert (predicted.source, predicted.probability) == (ConditionSource.PIXELS, pytest.approx(0.9))


def test_a_value_that_the_model_never_saw_leaves_a_lower_bound() -> None:
    judged, trace = Expression(term({"parameter": "Manufacturer", "one_of": ["GE MEDICAL SYSTEMS", "Philips"]})).judge(
        BOTH, 0.8
    )
    assert (judged.truth, trace.probability, trace.at_least) == (Truth.UNKNOWN, pytest.approx(0.1), True)


def test_an_expression_that_nothing_settles_is_given_up_as_unknown_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keywords = ("Manufacturer", "MagneticFieldStrength", "PatientPosition", "ScanOptions", "AcquisitionMatrix")
    halves = {keyword: [("3", 0.5), ("7", 0.5)] for keyword in keywords}
    evidence = RoutingEvidence(prediction(*(classes(keyword, *shares) for keyword, shares in halves.items())))
    odd: dict[str, Any] = {"parameter": keywords[0], "equals": "3"}
    for keyword in keywords[1:]:  # an odd number of them: only the last one settles it
        one = {"parameter": keyword, "equals": "3"}
        odd = {"any": [{"all": [odd, {"not": one}]}, {"all": [{"not": odd}, one]}]}
    judged = judge(odd, evidence)
    assert (judged.true_probability, judged.false_probability) == (pytest.approx(0.5), pytest.approx(0.5))
    monkeypatch.setattr(expressions, "MOST_STEPS", 20)
    judged = judge(odd, evidence)
    assert judged.truth is Truth.UNKNOWN
    assert 0.0 < judged.true_probability + judged.false_probability < 1.0 and judged.at_least


# ---------------------------------------------------------------- what is stated

STATED = RoutingEvidence(
    header=SeriesHeader(
        (
            HeaderValue("Manufacturer", "SIEMENS", "SIEMENS"),
            HeaderValue("MagneticFieldStrength", "2.89362", 2.89362),
            HeaderValue("EchoTime", "1 ; 2", None, "varies in the series: 1, 2 ms"),
            HeaderValue("ContrastBolusAgent", "", "absent"),
        )
    ),
    stated=(("ReceiveCoilName", "BREAST  18"), ("EchoTrainLength", "12"), ("InversionTime", "100\\200")),
    facts=SeriesFacts(
        calling_ae_title="RESEARCH1", modality="MR", series_description="T1_fl3d dyn", number_of_instances=120
    ),
    findings=(
        FoundFact("pixels-contradict", "EchoTime", "warning", "open", "pixels"),
        FoundFact("habit-deviates", "FlipAngle", "note", "dismissed", "habit"),
    ),
)


@pytest.mark.parametrize(
    ("content", "truth"),
    [
        ({"header": "Manufacturer", "equals": "siemens"}, Truth.TRUE),
        ({"header": "Manufacturer", "one_of": ["GE", "Philips"]}, Truth.FALSE),
        ({"header": "Manufacturer", "matches": "^sie"}, Truth.TRUE),
        ({"header": "MagneticFieldStrength", "equals": 3}, Truth.TRUE),  # within the parameter's 5 %
        ({"header": "MagneticFieldStrength", "near": 1.5, "within": 0.2}, Truth.FALSE),
        ({"header": "EchoTime", "between": [0.0, 9.0]}, Truth.UNKNOWN),  # varies
        ({"header": "EchoTime", "missing": True}, Truth.FALSE),
        ({"header": "FlipAngle", "between": [0, 180]}, Truth.UNKNOWN),
        ({"header": "FlipAngle", "missing": True}, Truth.TRUE),
        ({"header": "ContrastBolusAgent", "missing": True}, Truth.TRUE),
        ({"header": "ContrastBolusAgent", "equals": "absent"}, Truth.TRUE),
        ({"header": "ReceiveCoilName", "equals": "breast 18"}, Truth.TRUE),
        ({"header": "ReceiveCoilName", "matches": "^head"}, Truth.FALSE),
        ({"header": "EchoTrainLength", "between": [10, 20]}, Truth.TRUE),
        ({"header": "EchoTrainLength", "equals": 12}, Truth.TRUE),
        ({"header": "InversionTime", "between": [50, 150]}, Truth.UNKNOWN),  # two of them
        ({"header": "NumberOfAverages", "equals": 2}, Truth.UNKNOWN),
        ({"header": "NumberOfAverages", "missing": True}, Truth.UNKNOWN),  # absent, or varies: nobody knows
        ({"series": "CallingAETitle", "one_of": ["RESEARCH1", "RESEARCH2"]}, Truth.TRUE),
        ({"series": "SeriesDescription", "matches": r"dyn$"}, Truth.TRUE),
        ({"series": "NumberOfSeriesRelatedInstances", "between": [100, 200]}, Truth.TRUE),
        ({"series": "BodyPartExamined", "equals": "BREAST"}, Truth.UNKNOWN),
        ({"series": "BodyPartExamined", "missing": True}, Truth.TRUE),
        ({"series": "SeriesNumber", "equals": 3}, Truth.UNKNOWN),
        ({"finding": "any"}, Truth.TRUE),
        ({"finding": "pixels-contradict", "element": ["FlipAngle", "EchoTime"]}, Truth.TRUE),
        ({"finding": "pixels-contradict", "severity": "error"}, Truth.UNKNOWN),  # there were no pixels to ask
        ({"finding": "any", "severity": "error"}, Truth.UNKNOWN),
        ({"finding": "habit-study"}, Truth.FALSE),
        ({"finding": "echo-time-below-repetition-time"}, Truth.FALSE),
        ({"finding": "any", "raised_by": ["habit", "standard"]}, Truth.FALSE),  # the dismissed one does not count
        ({"finding": "any", "state": "dismissed"}, Truth.TRUE),
        ({"parameter": "Manufacturer", "missing": True}, Truth.TRUE),  # no pixels at all
        ({"not": {"header": "FlipAngle", "equals": 10}}, Truth.UNKNOWN),
    ],
)
def test_what_is_stated_is_true_false_or_unknown(content: dict[str, Any], truth: Truth) -> None:
    assert judge(content, STATED).truth is truth


def test_a_missing_value_is_unknown_and_never_false_whatever_is_asked() -> None:
    nothing = RoutingEvidence(header=SeriesHeader(()), facts=SeriesFacts(), findings=None)
    for content in (
        {"header": "Manufacturer", "equals": "GE"},
        {"header": "Manufacturer", "matches": "."},
        {"header": "EchoTime", "near": 1, "within": 1},
        {"header": "EchoTime", "between": [0, 99]},
        {"series": "Modality", "one_of": ["MR"]},
        {"finding": "any"},
        {"parameter": "EchoTime", "between": [0, 99]},
    ):
        assert judge(content, nothing).truth is Truth.UNKNOWN, content


def test_a_witness_that_could_not_look_leaves_what_it_might_have_found_unknown() -> None:
    damaged = replace(STATED, unheard=("standard",))
    judged, trace = Expression(term({"finding": "echo-time-below-repetition-time"})).judge(damaged, 0.8)
    assert (judged.truth, trace.observed) == (Truth.UNKNOWN, "none, but not heard: standard")
    assert judge({"finding": "habit-study"}, damaged).truth is Truth.FALSE


def test_a_long_header_value_is_cut_off_in_the_trace() -> None:
    evidence = RoutingEvidence(facts=SeriesFacts(series_description="x" * 10_000))
    trace = Expression(term({"series": "SeriesDescription", "matches": "x"})).judge(evidence, 0.8)[1]
    assert len(trace.observed) == 120


def test_expressions_read_like_sentences() -> None:
    content = {
        "all": [
            {"any": [{"series": "CallingAETitle", "equals": "A"}, {"header": "EchoTime", "missing": True}]},
            {"not": {"finding": "habit-deviates", "element": "FlipAngle", "state": "open"}},
            {"series": "SeriesDescription", "matches": "^res"},
        ]
    }
    assert Expression(term(content)).judge(RoutingEvidence(), 0.8)[1].condition == (
        "(Calling AE Title = A or header: Echo Time is missing) and "
        "not finding habit-deviates of FlipAngle (open) and Series Description matches '^res'"
    )
