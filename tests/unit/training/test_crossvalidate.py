"""Cross-validation: groups stay whole, copies are one series, figures stand beside the commonest label."""

from dataclasses import replace

import numpy as np
import pytest

from training import crossvalidate
from training.crossvalidate import Answer
from training.dataset import SeriesSet
from training.recipes import SMALL


def test_folds_hold_every_series_once_and_no_group_is_cut():
    groups = ["a"] * 5 + ["b"] * 3 + ["c", "d", "d", "e"]
    found = crossvalidate.folds(groups, 3)
    assert sorted(row for fold in found for row in fold) == list(range(len(groups)))
    assert all({groups[row] for row in one}.isdisjoint(groups[row] for row in other)
               for one in found for other in found if one is not other)  # fmt: skip
    assert len(crossvalidate.folds(groups, 99)) == 5


def test_copies_of_a_series_are_one_group():
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 255, (4, 2, 1, 32, 32)).astype(np.uint8)
    inputs[3] = np.clip(inputs[1].astype(int) + 2, 0, 255)
    groups = crossvalidate.copies(inputs)
    assert groups[3] == groups[1]
    assert len(set(groups)) == 3


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (5, 10, 0.1871, 0.8129)]
)
def test_intervals_are_exact(right, n, low, high):
    assert crossvalidate.exact_interval(right, n) == pytest.approx((low, high), abs=1e-4)


def test_a_score_stands_beside_what_the_commonest_label_reaches():
    truths = [("3", "3")] * 6 + [("1.5", "3"), ("1.5", "1.494")]
    answers = [Answer(n, "MagneticFieldStrength", *truth) for n, truth in enumerate(truths)]
    (score,) = crossvalidate.score(answers, ["a", "a", "a", "b", "b", "b", "c", "c"])
    assert (score.right, score.majority, score.n_series) == (7, 6, 8)  # 1.494 T is 1.5 T
    assert score.balanced == pytest.approx(0.75)
    assert score.unlearnable == 2  # 1.5 T is of one group only
    assert "| 7 (88%) |" in crossvalidate.as_markdown([score], "patients")


def test_spellings_of_one_manufacturer_are_one_class():
    labels = ({"Manufacturer": "Siemens Healthineers"}, {"Manufacturer": "SIEMENS"}, {"Manufacturer": None})
    assert [label["Manufacturer"] for label in crossvalidate.by_vendor(labels)] == ["SIEMENS", "SIEMENS", None]


def test_what_an_image_shows_is_learned_from_other_series():
    """Bright squares are of one maker, stripes of another: nothing else tells them apart."""
    rng = np.random.default_rng(1)
    size = SMALL.preprocessing.size
    inputs = rng.integers(0, 60, (16, 2, 2, size, size)).astype(np.uint8)
    inputs[:8, :, 0, 16:48, 16:48] += 120
    inputs[8:, :, 0, ::4] += 120
    labels = tuple({"Manufacturer": "SIEMENS" if row < 8 else "UIH"} for row in range(16))
    recipe = replace(SMALL, width=0.125, epochs=10, batch_size=8)
    answers = crossvalidate.crossvalidate(
        SeriesSet(inputs, labels), list(range(16)), recipe, ["Manufacturer"], n_folds=2
    )
    assert len(answers) == 16
    assert sum(answer.right for answer in answers) >= 14
