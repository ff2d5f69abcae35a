"""The gates, on made-up answers whose quality is known.

Not here: what models make of images (test_retraining).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from iap_node.config.retraining import GatesConfig
from training.gates import (
    GateResult,
    HeldOut,
    calibration_error,
    calibration_error_beyond_chance,
    difference,
    judge_gates,
    share_interval,
)

MATTERS = ("Manufacturer", "AcquisitionMatrix")
CONFIG = GatesConfig(parameters=MATTERS, min_patients=20)


def answers(
    accuracy: dict[str, float], *, n: int = 200, sure: float | None = None, coverage: float = 0.95, novel: float = 0.0
) -> HeldOut:
    """A model that is right so often; the first series are the ones it knows, so that models agree on what is hard."""
    patients = tuple(f"patient {row}" for row in range(n))
    place = (np.arange(n) + 0.5) / n
    scores = {keyword: (place < share).astype(float) for keyword, share in accuracy.items()}
    confidences = {keyword: np.full(n, share if sure is None else sure) for keyword, share in accuracy.items()}
    covered = {keyword: (place < coverage).astype(float) for keyword in accuracy}
    return HeldOut("model", patients, scores, confidences, covered, place < novel)


def failed(champion: HeldOut, candidate: HeldOut, **changes: Any) -> list[str]:
    results = judge_gates(champion, candidate, CONFIG.model_copy(update=changes))
    assert all(isinstance(result, GateResult) and result.says for result in results)
    return [result.name for result in results if not result.passed]


CHAMPION = answers({"Manufacturer": 0.8, "AcquisitionMatrix": 0.7, "FlipAngle": 0.6})


def test_a_better_calibrated_candidate_passes_every_gate() -> None:
    assert failed(CHAMPION, answers({"Manufacturer": 0.9, "AcquisitionMatrix": 0.8, "FlipAngle": 0.6})) == []


def test_an_equal_candidate_is_not_better_but_passes_where_that_is_enough() -> None:
    assert failed(CHAMPION, CHAMPION) == ["better on what matters"]
    assert failed(CHAMPION, CHAMPION, overall="not_worse") == []


def test_one_parameter_that_matters_may_not_pay_for_another() -> None:
    candidate = answers({"Manufacturer": 0.95, "AcquisitionMatrix": 0.66, "FlipAngle": 0.6})
    assert failed(CHAMPION, candidate) == ["not worse: AcquisitionMatrix"]
    assert failed(CHAMPION, candidate, allowed_loss=0.05) == []


def test_another_parameter_fails_only_where_its_loss_is_beyond_chance() -> None:
    better = {"Manufacturer": 0.9, "AcquisitionMatrix": 0.8}
    assert failed(CHAMPION, answers(better | {"FlipAngle": 0.5})) == ["not worse: FlipAngle"]
    few = answers({"Manufacturer": 0.8, "AcquisitionMatrix": 0.7, "FlipAngle": 0.6}, n=30)
    assert "not worse: FlipAngle" not in failed(few, answers(better | {"FlipAngle": 0.565}, n=30))


def test_one_patient_of_thirty_refuses_nobody() -> None:
    few = answers({"Manufacturer": 0.8, "AcquisitionMatrix": 0.7}, n=30)
    one_less = answers({"Manufacturer": 0.8, "AcquisitionMatrix": 0.665}, n=30)
    assert failed(few, one_less, overall="not_worse") == ["better on what matters"], "so few do not show that it is not"
    assert "not worse: AcquisitionMatrix" in failed(few, answers({"Manufacturer": 0.9, "AcquisitionMatrix": 0.5}, n=30))


def test_a_parameter_that_the_candidate_no_longer_predicts_is_a_loss() -> None:
    candidate = answers({"Manufacturer": 0.9, "AcquisitionMatrix": 0.8})
    assert failed(CHAMPION, candidate) == ["not worse: FlipAngle"]


def test_a_candidate_that_is_surer_than_right_is_refused() -> None:
    candidate = answers({"Manufacturer": 0.9, "AcquisitionMatrix": 0.8, "FlipAngle": 0.6}, sure=0.99)
    assert failed(CHAMPION, candidate) == ["calibrated: Manufacturer", "calibrated: AcquisitionMatrix"]


@pytest.mark.parametrize("coverage", [0.8, 0.5])
def test_sets_that_miss_too_often_are_refused(coverage: float) -> None:
    candidate = answers({"Manufacturer": 0.9, "AcquisitionMatrix": 0.8, "FlipAngle": 0.6}, coverage=coverage)
    assert failed(CHAMPION, candidate) == ["coverage: Manufacturer", "coverage: AcquisitionMatrix"]


def test_a_candidate_that_abstains_from_its_own_archive_is_refused() -> None:
    candidate = answers({"Manufacturer": 0.9, "AcquisitionMatrix": 0.8, "FlipAngle": 0.6}, novel=0.5)
    assert failed(CHAMPION, candidate) == ["answers"]


def test_few_patients_show_nothing() -> None:
    few = answers({"Manufacturer": 0.2, "AcquisitionMatrix": 0.2}, n=10)
    assert "enough held-out patients" in failed(few, answers({"Manufacturer": 0.9, "AcquisitionMatrix": 0.9}, n=10))


def test_series_of_one_patient_count_as_one() -> None:
    n = 100
    one = HeldOut("a", ("p",) * n, {"Manufacturer": np.zeros(n)}, {}, {}, np.zeros(n, bool))
    other = HeldOut("b", ("p",) * n, {"Manufacturer": np.ones(n)}, {}, {}, np.zeros(n, bool))
    assert difference(one, other, ["Manufacturer"], np.random.default_rng(0)).n_patients == 1


def test_series_whose_header_says_nothing_do_not_count() -> None:
    scores = np.array([1.0, np.nan, 0.0, np.nan])
    one = HeldOut("a", tuple("abcd"), {"Manufacturer": scores}, {}, {}, np.zeros(4, bool))
    other = HeldOut("b", tuple("abcd"), {}, {}, {}, np.zeros(4, bool))
    found = difference(one, other, ["Manufacturer"], np.random.default_rng(0))
    assert found.n_patients == 2 and found.mean == pytest.approx(-0.5)


def test_models_that_judged_other_series_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same series"):
        judge_gates(CHAMPION, answers({"Manufacturer": 1.0}, n=100), CONFIG)


def test_the_calibration_error_of_few_series_is_mostly_chance() -> None:
    rng = np.random.default_rng(1)
    confidences = rng.uniform(0.5, 1.0, 40)
    right = (rng.random(40) < confidences).astype(float)
    assert calibration_error(confidences, right) > 0.05
    assert calibration_error_beyond_chance(confidences, right, rng) < 0.05
    assert calibration_error_beyond_chance(np.full(40, 0.95), np.zeros(40), rng) > 0.8


def test_the_interval_of_a_share_is_that_of_the_tables() -> None:
    low, high = share_interval(0.95, 100)
    assert (low, high) == (pytest.approx(0.8872, abs=1e-4), pytest.approx(0.9836, abs=1e-4))
    assert share_interval(1.0, 50) == (pytest.approx(0.9289, abs=1e-4), 1.0)
