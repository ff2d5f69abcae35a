"""Calibration: the promised coverage on synthetic scores, temperatures that are found again."""

import math

import numpy as np
import pytest

from iap_node.inference.calibration import (
    ALPHAS,
    Calibration,
    HeadCalibration,
    conformal_quantiles,
    fit_temperature,
    prediction_set,
    quantile,
    select,
)
from iap_node.inference.pooling import log_softmax


def calibration(n_slices: int) -> Calibration:
    return Calibration(n_slices, 10, (0.1,), (HeadCalibration("EchoTime", 1.0, (0.5,)),))


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2, 0.5])
def test_split_conformal_quantiles_cover_what_they_promise(alpha):
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(300):
        limit = conformal_quantiles(rng.exponential(size=400), (alpha,))[0]
        covered.append((rng.exponential(size=200) <= limit).mean())
    # Exact in expectation between 1 - alpha and 1 - alpha + 1 / 401; 60,000 draws leave little noise.
    assert 1 - alpha - 0.006 <= np.mean(covered) <= 1 - alpha + 1 / 401 + 0.006


def test_a_split_that_is_too_small_for_an_alpha_says_nothing():
    limits = dict(zip(ALPHAS, conformal_quantiles(np.arange(150.0)), strict=True))
    assert limits[0.001] is None
    assert limits[0.005] is None
    assert limits[0.01] == 149.0
    assert dict(zip(ALPHAS, conformal_quantiles(np.arange(999.0)), strict=True))[0.001] == 998.0


def test_an_alpha_between_two_stored_ones_uses_the_smaller():
    alphas, limits = (0.01, 0.05, 0.1), (9.0, 5.0, 3.0)
    assert quantile(alphas, limits, 0.07) == 5.0
    assert quantile(alphas, limits, 0.05) == 5.0
    assert quantile(alphas, limits, 0.9) == 3.0
    assert quantile(alphas, limits, 0.005) is None


def test_temperature_of_overconfident_scores_is_found_again():
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(4000, 5)) * 2
    labels = np.array([rng.choice(5, p=row) for row in np.exp(log_softmax(logits))])
    assert fit_temperature(log_softmax(logits * 3), labels) == pytest.approx(3, rel=0.1)


def test_prediction_set_holds_every_class_that_is_probable_enough():
    shares = np.array([0.05, 0.6, 0.35])
    assert prediction_set(shares, "abc", 0.7) == ("b", "c")
    assert prediction_set(shares, "abc", 0.95) == ("b", "c", "a")
    assert prediction_set(shares, "abc", None) == ("b", "c", "a")


def test_prediction_set_is_never_empty():
    assert prediction_set(np.array([0.5, 0.3, 0.2]), "abc", 0.1) == ("a",)


def test_calibration_of_the_largest_reached_number_of_slices_is_taken():
    items = [calibration(n) for n in (2, 8, 4)]
    assert [select(items, n).n_slices for n in (1, 2, 3, 5, 8, 24)] == [2, 2, 2, 4, 8, 8]


def test_contradictory_calibrations_are_refused():
    with pytest.raises(ValueError, match="rise"):
        Calibration(1, 10, (0.1, 0.01), (HeadCalibration("EchoTime", 1.0, (0.5, 0.6)),))
    with pytest.raises(ValueError, match="one quantile per alpha"):
        Calibration(1, 10, (0.1,), (HeadCalibration("EchoTime", 1.0, ()),))
    with pytest.raises(ValueError, match="temperature"):
        Calibration(1, 10, (0.1,), (HeadCalibration("EchoTime", math.nan, (0.5,)),))
