"""Whether a series is unlike the training data: then the model abstains. NumPy only.

Two views are compared with clusters of the training data by Mahalanobis distance (Lee et al. 2018,
arXiv 1807.03888) with one shared, shrunk covariance: the network's pooled `feature`, and a coarse description
of its `input`, because a network throws away what it was never asked about. A series is novel when either
distance passes its threshold, so the score is the larger ratio of distance to threshold. Fitted by
`training.calibrate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SCORE_THRESHOLD = 1.0
"""A score above this is novel, by construction of the score."""

_BLOCKS = 8


@dataclass(frozen=True, slots=True)
class View:
    """One view's reference: what training series look like, and how far is too far.

    Attributes
    ----------
    means
        (n_clusters, n_dimensions).
    whitening
        (n_dimensions, n_dimensions): makes the shared covariance unity.
    thresholds
        (number of slices, distance), rising: fewer slices scatter more.
    """

    means: Array
    whitening: Array
    thresholds: tuple[tuple[int, float], ...]

    def distance(self, descriptors: Array) -> Array:
        """Mahalanobis distance (...) of (..., n_dimensions) to the nearest cluster."""
        whitened = descriptors @ self.whitening.T
        centres = self.means @ self.whitening.T
        squared = ((whitened[..., None, :] - centres) ** 2).sum(axis=-1)
        nearest: Array = np.sqrt(squared.min(axis=-1))
        return nearest

    def threshold(self, n_slices: int) -> float:
        """The largest distance that training-like series of this many slices keep."""
        fitting = [limit for least, limit in self.thresholds if least <= n_slices]
        return fitting[-1] if fitting else self.thresholds[0][1]


def score(views: Mapping[str, View], descriptors: Mapping[str, Array], n_slices: int) -> float:
    """Largest ratio of distance to threshold over the views; above `SCORE_THRESHOLD` the series is novel."""
    ratios = [float(view.distance(descriptors[name])) / view.threshold(n_slices) for name, view in views.items()]
    return max(ratios) if all(np.isfinite(ratios)) else float("inf")


def describe_input(prepared: NDArray[np.floating] | NDArray[np.integer]) -> Array:
    """Coarse look of slices: mean and roughness of 8 x 8 blocks of every channel, as shares of 255.

    Roughness is the square root of the standard deviation within a block: noise and smooth objects can have the
    block means of anatomy, not its texture; the root brings the scale of strong and weak texture together.

    Parameters
    ----------
    prepared
        (..., channels, size, size), 0..255.

    Returns
    -------
    array
        (..., channels x 128).
    """
    size = prepared.shape[-1] // _BLOCKS
    kept = prepared[..., : size * _BLOCKS, : size * _BLOCKS].astype(np.float32) / np.float32(255.0)
    blocks = kept.reshape(*kept.shape[:-2], _BLOCKS, size, _BLOCKS, size)
    parts = (blocks.mean(axis=(-3, -1)), np.sqrt(blocks.std(axis=(-3, -1))))
    described: Array = np.concatenate(
        [part.reshape(*prepared.shape[:-3], -1) for part in parts], axis=-1, dtype=np.float64
    )
    return described


def fit_clusters(
    descriptors: Array, n_clusters: int, rng: np.random.Generator, n_rounds: int = 25
) -> tuple[Array, Array]:
    """Clusters of training series: (means, whitening).

    k-means (Lloyd, seeded by k-means++) on standardised dimensions; the covariance is that within clusters,
    shrunk towards its diagonal and a floor so that a dimension that never varied in training cannot divide by
    zero.
    """
    spread = descriptors.std(axis=0) + 1e-6
    points = descriptors / spread
    centres = _plus_plus(points, n_clusters, rng)
    members = np.zeros(len(points), np.intp)
    for _ in range(n_rounds):
        members = _nearest(points, centres)
        centres = np.stack(
            [points[members == k].mean(axis=0) if (members == k).any() else centres[k] for k in range(n_clusters)]
        )
    means = centres * spread
    residuals = descriptors - means[members]
    covariance = residuals.T @ residuals / max(1, len(residuals) - n_clusters)
    share = min(0.5, covariance.shape[0] / max(1, len(residuals)))
    diagonal = np.diag(np.diag(covariance))
    floor = 1e-3 * float(np.mean(np.diag(covariance))) + 1e-12
    shrunk = (1 - share) * covariance + share * diagonal + floor * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(shrunk)
    whitening: Array = (vectors / np.sqrt(values)).T
    return means, whitening


def _nearest(points: Array, centres: Array) -> NDArray[np.intp]:
    squared = (centres**2).sum(axis=1)[None] - 2 * points @ centres.T
    nearest: NDArray[np.intp] = squared.argmin(axis=1)
    return nearest


def _plus_plus(points: Array, n_clusters: int, rng: np.random.Generator) -> Array:
    chosen = [points[rng.integers(len(points))]]
    distance = ((points - chosen[0]) ** 2).sum(axis=1)
    while len(chosen) < n_clusters:
        total = distance.sum()
        share = distance / total if total > 0 else np.full(len(points), 1 / len(points))
        chosen.append(points[rng.choice(len(points), p=share)])
        distance = np.minimum(distance, ((points - chosen[-1]) ** 2).sum(axis=1))
    return np.stack(chosen)


def thresholds(
    view: View, by_n_slices: Sequence[tuple[int, Array]], false_novel_rate: float
) -> tuple[tuple[int, float], ...]:
    """Per number of slices the (1 - rate) quantile of held-out distances."""
    limits = [
        (n_slices, float(np.quantile(view.distance(descriptors), 1 - false_novel_rate, method="higher")))
        for n_slices, descriptors in sorted(by_n_slices, key=lambda item: item[0])
    ]
    return tuple(limits)
