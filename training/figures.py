"""Figures of one model on series that it never saw, as `training.evaluate` finds them and the reports show them.

`intervals` holds, by the name of a figure, its 95 % bootstrap interval over patients. Names of figures are stable: JSON
of an evaluation is read by people's own programs and by retraining.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from training.intervals import Interval
from training.swaps import SwapFigures


@dataclass(frozen=True, slots=True)
class AuditFigures:
    """Header against conformal set at one alpha.

    Attributes
    ----------
    coverage
        Share of series whose true value is in the set or interval, exact class.
    set_size
        Mean number of classes in the set; for numbers the mean width of the interval, in the parameter's
        unit.
    false_contradictions
        Share of true headers that the set would contradict, numbers compared within tolerance.
    power
        Share of wrong headers (the value of another series, different beyond tolerance) that it contradicts.
    """

    alpha: float
    coverage: float
    set_size: float
    false_contradictions: float
    power: float
    intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Series whose most probable class has a probability in one range: how probable on average, how often right."""

    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class HeadFigures:
    """One parameter; None where it does not apply.

    Attributes
    ----------
    majority
        Share of the commonest class.
    slice_mae, series_mae
        Mean absolute error in the parameter's unit.
    series_near
        Share of series whose most probable class lies within `evaluate.NEAR` of the truth.
    ece
        Expected calibration error of the series' most probable class, exact class.
    reliability
        The bins that are not empty, by rising confidence.
    confusion
        Numbers of series: a row per true class, a column per most probable one, both in the order of `classes`.
    """

    keyword: str
    n_classes: int
    majority: float | None
    slice_top1: float | None
    slice_top2: float | None
    series_top1: float | None
    series_top2: float | None
    series_top1_within_tolerance: float | None
    slice_mae: float | None
    slice_r2: float | None
    series_mae: float | None
    series_r2: float | None
    audit: tuple[AuditFigures, ...]
    n_series: int = 0  # whose value is known
    by_association: bool = False
    series_near: float | None = None
    ece: float | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class NoveltyFigures:
    """Series of one kind against the test split: how many are called novel, and how well the score tells them apart.

    `area` is the probability that a series of this kind has a larger score than one of the test split (AUROC).
    """

    name: str
    should_be_novel: bool
    n_series: int
    n_novel: int
    area: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of one model on one test split."""

    model_id: str
    trained_on: str
    images: str  # where the images judged come from
    n_series: int
    n_patients: int
    n_slices_per_series: int
    heads: tuple[HeadFigures, ...]
    false_novel: dict[str, float]  # by number of slices: share of unseen training-like series that are called novel
    novelty: tuple[NoveltyFigures, ...] = ()
    swaps: tuple[SwapFigures, ...] = ()  # none where the package judges single values only

    def as_json(self) -> dict[str, Any]:
        """Plain values; what is not a finite number is None."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain

    def head(self, keyword: str) -> HeadFigures:
        """Figures of one parameter."""
        return next(head for head in self.heads if head.keyword == keyword)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
