"""Novelty: training-like series pass at the promised rate, others do not."""

import numpy as np
import pytest

from iap_node.inference import novelty
from iap_node.inference.novelty import View


def clusters(rng: np.random.Generator, n: int) -> np.ndarray:
    """Points of three elongated clusters in eight dimensions, one of which never varies."""
    centres = np.eye(8)[:3] * 20
    points = centres[rng.integers(0, 3, n)] + rng.normal(size=(n, 8)) * np.linspace(0.1, 3, 8)
    points[:, 7] = 5.0
    return points


def fitted(rng: np.random.Generator, rate: float = 0.01) -> View:
    means, whitening = novelty.fit_clusters(clusters(rng, 4000), 3, rng)
    limits = novelty.thresholds(View(means, whitening, ((1, np.inf),)), [(1, clusters(rng, 4000))], rate)
    return View(means, whitening, limits)


def test_unseen_series_like_training_are_novel_at_about_the_promised_rate():
    rng = np.random.default_rng(5)
    view = fitted(rng)
    share = (view.distance(clusters(rng, 4000)) > view.threshold(8)).mean()
    assert 0.003 < share < 0.02


def test_points_between_clusters_and_along_a_constant_dimension_are_novel():
    rng = np.random.default_rng(6)
    view = fitted(rng)
    between = clusters(rng, 300).mean(axis=0)
    shifted = clusters(rng, 1)[0] + np.eye(8)[7] * 3
    for point in (between, shifted):
        assert novelty.score({"feature": view}, {"feature": point}, 1) > novelty.SCORE_THRESHOLD


def test_one_view_that_finds_it_novel_is_enough():
    near, far = np.zeros(2), np.full(2, 9.0)
    view = View(np.zeros((1, 2)), np.eye(2), ((1, 2.0),))
    assert novelty.score({"feature": view, "input": view}, {"feature": near, "input": near}, 1) == 0
    assert novelty.score({"feature": view, "input": view}, {"feature": near, "input": far}, 1) > 6


def test_what_is_not_finite_is_novel():
    view = View(np.zeros((1, 2)), np.eye(2), ((1, 2.0),))
    assert novelty.score({"feature": view}, {"feature": np.array([np.nan, 0])}, 1) == np.inf


def test_threshold_is_that_of_the_largest_reached_number_of_slices():
    view = View(np.zeros((1, 1)), np.eye(1), ((2, 5.0), (8, 3.0)))
    assert [view.threshold(n) for n in (1, 2, 7, 8, 24)] == [5.0, 5.0, 5.0, 3.0, 3.0]


def test_input_description_is_mean_and_roughness_of_blocks():
    prepared = np.zeros((3, 2, 100, 100), np.uint8)
    prepared[:, 1, :12, 12:24] = 255
    prepared[:, 0, 12:24:2, :12] = 255
    described = novelty.describe_input(prepared)
    assert described.shape == (3, 256)
    means, roughness = described[0, :128], described[0, 128:]
    assert np.flatnonzero(means).tolist() == [8, 64 + 1]
    assert means[[8, 65]].tolist() == [0.5, 1.0]
    assert np.flatnonzero(roughness).tolist() == [8]
    assert roughness[8] == pytest.approx(np.sqrt(0.5))
