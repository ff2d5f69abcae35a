"""From scores to statements: temperatures, split-conformal sets and intervals. NumPy and SciPy only.

Temperatures and conformal quantiles are fitted per series, on two different splits, for several numbers of
slices: one slice knows less than eight, and its sets must be wider. Split conformal prediction: Vovk,
Gammerman, Shafer 2005; sets by least probability: Sadinle, Lei, Wasserman 2019, doi
10.1080/01621459.2017.1395341. Fitted by `training.calibrate`, applied by the predictor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from iap_node.inference.pooling import log_softmax

Array = NDArray[np.float64]

ALPHAS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Miscoverages for which quantiles are stored; others use the next smaller one, which is conservative."""

_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True, slots=True)
class HeadCalibration:
    """Calibration of one head.

    Attributes
    ----------
    temperature
        Divides the mean log-probabilities; 1 for a continuous head.
    quantiles
        Per alpha: the largest nonconformity score that is still inside (categorical: 1 - p; continuous:
        absolute residual of the target). None: the split was too small to say.
    """

    keyword: str
    temperature: float
    quantiles: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration of all heads for series judged from at least `n_slices` slices."""

    n_slices: int
    n_series: int  # of the conformal split
    alphas: tuple[float, ...]
    heads: tuple[HeadCalibration, ...]

    def __post_init__(self) -> None:
        if list(self.alphas) != sorted(self.alphas) or not all(0 < alpha < 1 for alpha in self.alphas):
            raise ValueError("alphas must rise and lie between 0 and 1")
        for head in self.heads:
            if len(head.quantiles) != len(self.alphas):
                raise ValueError(f"{head.keyword}: one quantile per alpha is needed")
            if not head.temperature > 0:
                raise ValueError(f"{head.keyword}: the temperature must be positive")


def fit_temperature(mean_log_probabilities: Array, labels: NDArray[np.integer]) -> float:
    """The temperature of least negative log-likelihood (Guo et al. 2017, arXiv 1706.04599).

    Parameters
    ----------
    mean_log_probabilities
        (n_series, n_classes).
    labels
        (n_series,) indices of the true classes.
    """
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(mean_log_probabilities / math.exp(log_temperature))
        return -float(scaled[rows, labels].mean())

    bounds = (math.log(_TEMPERATURES[0]), math.log(_TEMPERATURES[1]))
    return math.exp(float(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def conformal_quantiles(scores: Array, alphas: Sequence[float] = ALPHAS) -> tuple[float | None, ...]:
    """Per alpha the ceil((n + 1)(1 - alpha))-th smallest score; None where n is too small for it."""
    ordered = np.sort(scores)
    ranks = [math.ceil((len(ordered) + 1) * (1 - alpha) - 1e-9) for alpha in alphas]
    return tuple(float(ordered[rank - 1]) if rank <= len(ordered) else None for rank in ranks)


def select(calibrations: Sequence[Calibration], n_slices: int) -> Calibration:
    """The calibration of the largest number of slices that a series reaches, or else the smallest."""
    fitting = [item for item in calibrations if item.n_slices <= n_slices]
    return (
        max(fitting, key=lambda item: item.n_slices) if fitting else min(calibrations, key=lambda item: item.n_slices)
    )


def quantile(alphas: Sequence[float], quantiles: Sequence[float | None], alpha: float) -> float | None:
    """The stored quantile for `alpha`, or for the next smaller stored alpha; None: nothing can be said."""
    fitting = [value for stored, value in zip(alphas, quantiles, strict=True) if stored <= alpha + 1e-12]
    return fitting[-1] if fitting else None


def prediction_set(probabilities: Array, classes: Sequence[str], largest_score: float | None) -> tuple[str, ...]:
    """Classes of the conformal set, most probable first; all of them where no quantile is known.

    The most probable class is always in: an empty set says nothing to a person, and coverage only grows.
    """
    order = np.argsort(-probabilities, kind="stable")
    if largest_score is None:
        return tuple(classes[index] for index in order)
    inside = [index for index in order if 1 - probabilities[index] <= largest_score]
    return tuple(classes[index] for index in inside or order[:1])
