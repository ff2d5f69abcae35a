"""Headers as a whole: p-values that keep their promise for whichever values are stated, on made-up scores."""

import math

import numpy as np
import pytest

from iap_node.inference.heads import Head
from iap_node.inference.joint import HeaderReference, header_fit, scores
from iap_node.records import HeaderValue, ParameterKind, ParameterPrediction, SeriesHeader

HEADS = (
    Head("Manufacturer", ParameterKind.CATEGORICAL, ("GE MEDICAL SYSTEMS", "SIEMENS")),
    Head("MagneticFieldStrength", ParameterKind.CATEGORICAL, ("1.494", "1.5", "3")),
    Head("ContrastBolusAgent", ParameterKind.CATEGORICAL, ("GADAVIST", "absent"), by_association=True),
    Head("EchoTime", ParameterKind.CONTINUOUS, transform="log", mean=0.6, std=0.2),
)
WEIGHTS = np.array([0.5, 0.3, 0.0, 1.0])


ANSWERS = (
    ParameterPrediction(
        "Manufacturer", ParameterKind.CATEGORICAL, probabilities=(("SIEMENS", 0.9), ("GE MEDICAL SYSTEMS", 0.1))
    ),
    ParameterPrediction(
        "MagneticFieldStrength", ParameterKind.CATEGORICAL, probabilities=(("1.494", 0.5), ("1.5", 0.3), ("3", 0.2))
    ),
    ParameterPrediction(
        "ContrastBolusAgent", ParameterKind.CATEGORICAL, probabilities=(("absent", 0.99), ("GADAVIST", 0.01))
    ),
    ParameterPrediction("EchoTime", ParameterKind.CONTINUOUS, value=2.0),
)


def header(**stated: str | float | None) -> SeriesHeader:
    return SeriesHeader(tuple(HeaderValue(keyword, str(value), value) for keyword, value in stated.items()))


def test_score_is_how_little_the_pixels_expect_a_value():
    values = scores(
        HEADS,
        ANSWERS,
        header(Manufacturer="Siemens", MagneticFieldStrength=1.5, ContrastBolusAgent="absent", EchoTime=2.5),
    )
    assert values[0] == pytest.approx(-math.log(0.9))
    assert values[1] == pytest.approx(-math.log(0.8))  # 1.494 T and 1.5 T are the same value
    assert values[2] == pytest.approx(-math.log(0.99))
    assert values[3] == pytest.approx((math.log(2.5) - math.log(2.0)) / 0.2)


def test_value_that_is_missing_unknown_or_impossible_has_no_score():
    values = scores(HEADS, ANSWERS, header(Manufacturer="Philips", MagneticFieldStrength=7.0, EchoTime=0.0))
    assert np.isnan(values).all()


def test_impossible_class_has_a_finite_score():
    sure = (ParameterPrediction("Manufacturer", ParameterKind.CATEGORICAL, probabilities=(("SIEMENS", 1.0),)),)
    assert np.isfinite(scores(HEADS[:1], sure, header(Manufacturer="GE MEDICAL SYSTEMS"))).all()


def reference(rng: np.random.Generator, n_series: int) -> HeaderReference:
    return HeaderReference(WEIGHTS, ((1, dependent_scores(rng, n_series)),))


def dependent_scores(rng: np.random.Generator, n_series: int) -> np.ndarray:
    """Scores of right headers, which share a difficulty: heads of one network are never independent."""
    return rng.exponential(size=(n_series, 4)) * rng.gamma(2.0, size=(n_series, 1))


class Fake:
    """Answers and a header that have given scores: each series is judged by the function that the node calls."""

    def __init__(self, values: np.ndarray) -> None:
        self.answers = tuple(
            ParameterPrediction(head.keyword, head.kind, value=math.exp(0.6))
            if head.kind is ParameterKind.CONTINUOUS
            else ParameterPrediction(head.keyword, head.kind, probabilities=((head.classes[-1], math.exp(-score)),))
            for head, score in zip(HEADS, values, strict=True)
        )
        self.values = tuple(
            math.exp(0.6 + 0.2 * score) if head.kind is ParameterKind.CONTINUOUS else head.classes[-1]
            for head, score in zip(HEADS, values, strict=True)
        )

    def header(self, stated: tuple[int, ...]) -> SeriesHeader:
        return header(**{HEADS[place].keyword: self.values[place] for place in stated})


@pytest.mark.parametrize("stated", [(0, 1, 2, 3), (0, 3), (1, 2, 3), (0, 1)])
def test_right_headers_are_doubted_at_alpha_whichever_values_they_state(stated):
    rng = np.random.default_rng(len(stated) + stated[1])
    p_values = []
    for _ in range(40):
        right = reference(rng, 199)
        for values in dependent_scores(rng, 25):
            series = Fake(values)
            found = header_fit(right, HEADS, series.answers, series.header(stated), 1)
            p_values.append(found.p_value)
    for alpha in (0.01, 0.05, 0.2):
        assert np.mean(np.array(p_values) <= alpha) == pytest.approx(alpha, abs=0.015 + alpha / 10)


def test_header_of_mildly_unlikely_values_is_found_although_none_is_extreme():
    rng = np.random.default_rng(1)
    independent = HeaderReference(np.ones(4), ((1, rng.exponential(size=(999, 4))),))
    series = Fake(np.array([2.9, 2.9, 2.9, 2.9]))
    found = header_fit(independent, HEADS, series.answers, series.header((0, 1, 2, 3)), 1)
    assert found.p_value <= 0.01
    assert min(term.p_value for term in found.terms) > 0.03


def test_terms_stand_by_weight_and_the_header_without_the_first_fits_better():
    rng = np.random.default_rng(2)
    series = Fake(np.array([0.2, 0.1, 9.0, 30.0]))
    found = header_fit(reference(rng, 499), HEADS, series.answers, series.header((0, 1, 2, 3)), 1)
    assert found.terms[0].keyword == "EchoTime"
    assert "ContrastBolusAgent" not in [term.keyword for term in found.terms]  # by association: it has no weight
    assert len(found.without) == len(found.terms) - 1
    assert found.p_value == found.terms[0].p_value == pytest.approx(1 / 500)
    assert found.without[0] > 0.5


def test_one_value_alone_is_no_whole_header():
    series = Fake(np.array([1.0, 1.0, 1.0, 1.0]))
    right = reference(np.random.default_rng(3), 99)
    assert header_fit(right, HEADS, series.answers, series.header((3,)), 1) is None
    assert header_fit(right, HEADS, series.answers, series.header((2, 3)), 1) is None  # one has no weight
    assert header_fit(right, HEADS, series.answers, SeriesHeader(()), 1) is None


def test_calibration_series_without_a_value_are_not_compared_with():
    values = np.full((99, 4), 0.5)
    values[:49, 1] = np.nan
    series = Fake(np.array([5.0, 5.0, 5.0, 5.0]))
    right = HeaderReference(WEIGHTS, ((1, values),))
    assert header_fit(right, HEADS, series.answers, series.header((0, 1)), 1).p_value == pytest.approx(1 / 51)
    assert header_fit(right, HEADS, series.answers, series.header((0, 3)), 1).p_value == pytest.approx(1 / 100)


def test_too_few_calibration_series_doubt_nothing():
    series = Fake(np.array([9.0, 9.0, 9.0, 9.0]))
    empty = HeaderReference(WEIGHTS, ((1, np.zeros((0, 4))),))
    assert header_fit(empty, HEADS, series.answers, series.header((0, 1, 3)), 1).p_value == 1.0


def test_calibration_of_the_largest_reached_number_of_slices_is_taken():
    strict, loose = np.zeros((99, 4)), np.full((99, 4), 9.0)
    right = HeaderReference(WEIGHTS, ((2, loose), (8, strict)))
    series = Fake(np.array([1.0, 1.0, 1.0, 1.0]))
    p_values = [
        header_fit(right, HEADS, series.answers, series.header((0, 1)), n_slices).p_value
        for n_slices in (1, 2, 7, 8, 24)
    ]
    assert p_values == [1.0, 1.0, 1.0, 0.01, 0.01]
