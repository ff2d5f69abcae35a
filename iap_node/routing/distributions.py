"""What the pixels say of one parameter, as pieces of probability on which conditions over it are settled.

A piece is a class of the model's vocabulary, or a range of numbers between the bounds that conditions name. On each
piece every condition over the parameter is true, false, or unknown, and the pieces exclude each other: however many
conditions look at one parameter, their joint probability is exact. Called by `expressions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import NormalDist

from iap_node.config.patterns import Pattern
from iap_node.config.routing import ConditionConfig
from iap_node.dicom.parameters import BY_KEYWORD, AcquisitionParameter, Nature
from iap_node.records import ParameterKind, ParameterPrediction, SeriesPrediction, Truth

Range = tuple[float, float]
Piece = tuple[float, tuple[Truth, ...]]  # probability, and how each condition comes out


class ParameterConditions:
    """The conditions of one expression over one parameter, made ready once per version of the rules."""

    def __init__(self, keyword: str, conditions: Sequence[ConditionConfig]) -> None:
        self.parameter = BY_KEYWORD[keyword]
        self._conditions = tuple(conditions)
        numeric = self.parameter.nature is Nature.NUMBER
        self._ranges = [_ranges(self.parameter, item) if numeric else [] for item in conditions]
        self._tests = [] if numeric else [_tests(self.parameter, item) for item in conditions]
        self._unknown: list[Piece] = [(1.0, (Truth.UNKNOWN,) * len(self._conditions))]

    def pieces(self, pixels: ParameterPrediction | None) -> list[Piece]:
        """The probabilities sum to one; pieces on which all conditions come out alike are put together."""
        if pixels is None:
            return self._unknown
        if pixels.kind is ParameterKind.CONTINUOUS:
            return self._of_number(pixels)
        return self._of_classes(pixels)

    def _of_classes(self, pixels: ParameterPrediction) -> list[Piece]:
        """One piece per class.

        Values that the model was never shown could be what the pixels show: where a condition names such a value, the
        classes that do not satisfy it leave it unknown, so that it may be true but never false.
        """
        labels = [label for label, _ in pixels.probabilities]
        columns: list[list[Truth]] = []
        rests: list[Truth] = []  # for what the probabilities leave over
        for number in range(len(self._conditions)):
            satisfying = [[label for label in labels if test(label)] for test in self._label_tests(number)]
            wanted = {label for found in satisfying for label in found}
            rest = Truth.FALSE if satisfying and all(satisfying) else Truth.UNKNOWN
            columns.append([Truth.TRUE if label in wanted else rest for label in labels])
            rests.append(rest)
        total = math.fsum(share for _, share in pixels.probabilities)
        scale = max(1.0, total)
        merged: dict[tuple[Truth, ...], float] = {}
        for position, (_, share) in enumerate(pixels.probabilities):
            key = tuple(column[position] for column in columns)
            merged[key] = merged.get(key, 0.0) + share / scale
        if total < 1.0:
            merged[tuple(rests)] = merged.get(tuple(rests), 0.0) + 1.0 - total
        return [(share, key) for key, share in merged.items()]

    def _label_tests(self, number: int) -> Sequence[Callable[[str], bool]]:
        if self.parameter.nature is not Nature.NUMBER:
            return self._tests[number]
        return [partial(_labelled_inside, item) for item in self._ranges[number]]

    def _of_number(self, pixels: ParameterPrediction) -> list[Piece]:
        interval = interval_of(pixels)
        if self.parameter.nature is not Nature.NUMBER or pixels.value is None or interval is None:
            return self._unknown
        alpha, low, high = interval
        if low >= pixels.value >= high:  # a point: inside or not, ends included
            outcome = tuple(
                Truth.TRUE if any(_inside(pixels.value, item) for item in ranges) else Truth.FALSE
                for ranges in self._ranges
            )
            return [(1.0, outcome)]
        named = sorted({bound for ranges in self._ranges for item in ranges for bound in item})
        bounds = [-math.inf, *named, math.inf]
        masses = [_cumulative(pixels.value, (low, high), alpha, bound) for bound in bounds]
        merged: dict[tuple[Truth, ...], float] = {}
        for position in range(len(bounds) - 1):
            inside = (bounds[position], bounds[position + 1])
            key = tuple(
                Truth.TRUE if any(item[0] <= inside[0] and inside[1] <= item[1] for item in ranges) else Truth.FALSE
                for ranges in self._ranges
            )
            merged[key] = merged.get(key, 0.0) + max(0.0, masses[position + 1] - masses[position])
        return [(share, key) for key, share in merged.items()]


def predicted(prediction: SeriesPrediction | None, keyword: str) -> ParameterPrediction | None:
    """What the model says of a parameter; None: nothing."""
    if prediction is None or not prediction.speaks:
        return None
    return next((item for item in prediction.parameters if item.keyword == keyword), None)


def observed(prediction: SeriesPrediction | None, keyword: str) -> str:
    """What the model says of a parameter, for people, or why it says nothing."""
    parameter = BY_KEYWORD[keyword]
    if prediction is None:
        return "not analysed"
    if prediction.novel:
        return "novel: unlike the training data"
    if not prediction.calibrated:
        return "the model is not calibrated"
    pixels = predicted(prediction, keyword)
    if pixels is None:
        return f"the model does not predict {parameter.title}"
    if pixels.kind is ParameterKind.CONTINUOUS:
        interval = interval_of(pixels)
        if pixels.value is None or interval is None:
            return "no interval"
        _, low, high = interval
        return f"{pixels.value:.3g} {parameter.unit} ({low:.3g} to {high:.3g})"
    if not pixels.probabilities:
        return "no probabilities"
    label, probability = max(pixels.probabilities, key=lambda pair: pair[1])
    return f"{label}{' ' + parameter.unit if parameter.unit else ''} ({probability:.2f})"


def interval_of(pixels: ParameterPrediction) -> tuple[float, float, float] | None:
    """(alpha, low, high); the widest that is calibrated where the calibration data do not reach `alpha`."""
    if pixels.interval is not None:
        return (pixels.alpha, *pixels.interval)
    return min(pixels.intervals, default=None)


def _tests(parameter: AcquisitionParameter, condition: ConditionConfig) -> list[Callable[[str], bool]]:
    """One test per value that the condition names; a class that passes any of them satisfies it."""
    if condition.matches is not None:
        return [Pattern(condition.matches).matches]
    texts = [f"{value:g}" if isinstance(value, float) else value for value in condition.values]
    return [partial(parameter.same, text) for text in texts]


def _ranges(parameter: AcquisitionParameter, condition: ConditionConfig) -> list[Range]:
    """The numbers that satisfy a condition, as ranges without overlap; `equals` takes the tolerance."""
    if condition.between is not None:
        return [condition.between]
    if condition.near is not None and condition.within is not None:
        return [(condition.near - condition.within, condition.near + condition.within)]
    ranges: list[Range] = []
    for number in sorted(float(value) for value in condition.values):
        low, high = number - parameter.tolerance(number), number + parameter.tolerance(number)
        if ranges and low <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(high, ranges[-1][1]))
        else:
            ranges.append((low, high))
    return ranges


def _inside(number: float, item: Range) -> bool:
    return item[0] - 1e-9 <= number <= item[1] + 1e-9


def _labelled_inside(item: Range, label: str) -> bool:
    return _inside(float(label), item)


def _cumulative(value: float, interval: Range, alpha: float, number: float) -> float:
    """Probability below `number` under a normal around `value` with `interval` as its central 1 - alpha interval.

    Each side of the value takes its own width and half of the probability, so that an interval that is wider above
    than below stays so.
    """
    width = (value - interval[0] if number < value else interval[1] - value) / NormalDist().inv_cdf(1.0 - alpha / 2.0)
    if width <= 0.0:
        return 0.0 if number < value else 1.0
    if math.isinf(number):
        return 0.0 if number < 0 else 1.0
    return NormalDist().cdf((number - value) / width)
