"""How far a figure could be off: bootstrap intervals over patients.

Series of one patient are alike, so patients are drawn, with replacement, and never series or slices; the interval is
that of the 2.5 and 97.5 percentiles (Efron 1979, doi 10.1214/aos/1176344552). Called by `training.evaluate` and
`training.swaps`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.dataset import SHARD_SERIES, describe, shard_path

Array = NDArray[np.float64]
Interval = tuple[float, float]

ROUNDS = 1000
_TAILS = (2.5, 97.5)
ECE_BINS = 15


class Bootstrap:
    """Draws of the patients of a split: every figure is computed on the same ones.

    Parameters
    ----------
    patients
        Of each series, any value that tells patients apart.
    """

    def __init__(self, patients: Sequence[Any], rng: np.random.Generator, rounds: int = ROUNDS) -> None:
        index = np.unique(np.asarray(patients), return_inverse=True)[1]
        n = int(index.max()) + 1
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=rounds)
        self.weights: Array = drawn[:, index].astype(np.float64)  # (rounds, n_series)

    def on(self, rows: NDArray[np.intp]) -> Bootstrap:
        """The same draws of some of the series only."""
        part = copy.copy(self)
        part.weights = self.weights[:, rows]
        return part

    def mean(self, values: Sequence[float] | Array) -> Interval:
        """Of the mean of one value per series; NaN: the series does not count."""
        found = np.asarray(values, np.float64)
        known = np.isfinite(found)
        weights = self.weights[:, known]
        return _percentiles(_divided(weights @ found[known], weights.sum(axis=1)))

    def r2(self, squared_errors: Array, wanted: Array) -> Interval:
        """Of R2, from the mean squared error and the true value of each series; NaN does not count."""
        known = np.isfinite(squared_errors) & np.isfinite(wanted)
        weights, errors, truth = self.weights[:, known], squared_errors[known], wanted[known]
        total = weights.sum(axis=1)
        mean = _divided(weights @ truth, total)
        variance = _divided(weights @ truth**2, total) - mean**2
        return _percentiles(1.0 - _divided(_divided(weights @ errors, total), variance))

    def calibration_error(self, confidence: Array, right: Array) -> Interval:
        """Of `calibration_error`; draws overstate it, having fewer different series, and are shifted by their bias."""
        bins = confidence_bins(confidence)
        gaps = np.zeros(len(self.weights))
        for one in range(ECE_BINS):
            mine = bins == one
            if mine.any():
                gaps += np.abs(self.weights[:, mine] @ (right[mine] - confidence[mine]))
        drawn = _divided(gaps, self.weights.sum(axis=1))
        low, high = _percentiles(drawn - np.nanmedian(drawn) + calibration_error(confidence, right))
        return (max(0.0, low), high)


def calibration_error(confidence: Array, right: Array) -> float:
    """Expected calibration error over equal bins of confidence (Guo et al. 2017, arXiv 1706.04599)."""
    bins = confidence_bins(confidence)
    gaps = [abs(float((right - confidence)[bins == one].sum())) for one in range(ECE_BINS)]
    return sum(gaps) / max(1, len(confidence))


def confidence_bins(confidence: Array) -> NDArray[np.intp]:
    """The bin of each confidence 0..1; the last one holds 1."""
    bins: NDArray[np.intp] = np.minimum((confidence * ECE_BINS).astype(np.intp), ECE_BINS - 1)
    return bins


def area_under_curve(inside: Array, outside: Array) -> float:
    """Probability that a score of `outside` is larger than one of `inside`, ties halved (Mann-Whitney)."""
    ordered = np.sort(inside)
    below = np.searchsorted(ordered, outside, "left")
    up_to = np.searchsorted(ordered, outside, "right")
    return float((below + up_to).mean() / 2 / len(ordered))


def area_interval(inside: Array, outside: Array, rng: np.random.Generator, rounds: int = ROUNDS) -> Interval:
    """Bootstrap interval of `area_under_curve`, both groups drawn anew."""
    areas = [
        area_under_curve(rng.choice(inside, len(inside)), rng.choice(outside, len(outside))) for _ in range(rounds)
    ]
    return _percentiles(np.array(areas))


def patients_of(folder: Path, split: str) -> list[str]:
    """Who each series of a split is of, in the order of `dataset.load`; every simulated series is another patient."""
    part = describe(folder)["splits"][split]
    n_shards = int(part.get("n_shards", 0))
    patients: list[str] = []
    for first in range(0, n_shards * SHARD_SERIES, SHARD_SERIES):
        rows = json.loads(shard_path(folder, split, first).with_suffix(".rows.json").read_text())["rows"]
        patients += [row["patient"] for row in rows if row["dropped_reason"] is None]
    return patients or [f"{number}" for number in range(int(part["n_series"]))]


def _divided(numerator: Array, denominator: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Array = np.where(denominator > 0, numerator / denominator, np.nan)
    return result


def _percentiles(values: Array) -> Interval:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return (float("nan"), float("nan"))
    low, high = np.percentile(finite, _TAILS)
    return (float(low), float(high))
