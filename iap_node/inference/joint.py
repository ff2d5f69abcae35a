"""A header as a whole against the pixels: how well all stated values together fit, as a conformal p-value.

Each stated value gets a score, large where the pixels do not expect it; the header's score is their weighted sum. It is
ranked among the same sums of series whose headers are right: the calibration series' own scores stand in the model
package, so that the p-value is exact for whichever parameters a header happens to state. A swapped header is found so
although no single value of it is extreme. Split conformal p-value: Vovk, Gammerman, Shafer 2005, section 2.2. Weights
are learned on another split (`training.joint`); parameters known by association have none and are left out. NumPy
only; called by the predictor and by `training`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.inference.heads import Head
from iap_node.records import HeaderFit, ParameterKind, ParameterPrediction, SeriesHeader, StatedFit

Array = NDArray[np.float64]

FEWEST_VALUES = 2
"""One value alone is judged by its own conformal set."""

_LEAST_PROBABILITY = 1e-12  # single precision knows no smaller difference from 0


@dataclass(frozen=True, slots=True)
class HeaderReference:
    """What right headers look like to the model.

    Attributes
    ----------
    weights
        (n_heads,), not negative; 0: the head is left out.
    scores
        (number of slices, (n_series, n_heads) scores of the calibration series), rising; NaN where a series' value
        is unknown.
    """

    weights: Array
    scores: tuple[tuple[int, Array], ...]

    def of(self, n_slices: int) -> Array:
        """Calibration scores for the largest number of slices that a series reaches, or else the smallest."""
        fitting = [scores for least, scores in self.scores if least <= n_slices]
        return fitting[-1] if fitting else self.scores[0][1]


def scores(heads: Sequence[Head], answers: Sequence[ParameterPrediction], header: SeriesHeader) -> Array:
    """(n_heads,): how little the pixels expect each stated value; NaN where it is missing or the model cannot judge it.

    A class has the negative logarithm of its probability, that of classes which are the same value included; a number
    has its absolute residual in the units of the head's target.
    """
    return np.array([_score(head, answer, header) for head, answer in zip(heads, answers, strict=True)])


def _score(head: Head, answer: ParameterPrediction, header: SeriesHeader) -> float:
    value = header.value(head.keyword).canonical
    if value is None:
        return math.nan
    if head.kind is ParameterKind.CONTINUOUS:
        number, predicted = float(value), answer.value
        if predicted is None or (head.transform == "log" and min(number, predicted) <= 0):
            return math.nan
        return abs(head.encode(number) - head.encode(predicted))
    parameter = BY_KEYWORD[head.keyword]
    label = parameter.match(value, head.classes)
    if label is None:
        return math.nan
    same = parameter.equivalent(label, head.classes)
    return -math.log(max(_LEAST_PROBABILITY, sum(share for name, share in answer.probabilities if name in same)))


def header_fit(
    reference: HeaderReference,
    heads: Sequence[Head],
    answers: Sequence[ParameterPrediction],
    header: SeriesHeader,
    n_slices: int,
) -> HeaderFit | None:
    """How well a header fits the pixels; None where it states fewer than two values that can be judged.

    Parameters
    ----------
    answers
        Of the model for the series, one per head.
    n_slices
        That the series was judged from.
    """
    own = scores(heads, answers, header)
    judged = np.flatnonzero(np.isfinite(own) & (reference.weights > 0))
    if len(judged) < FEWEST_VALUES:
        return None
    calibration = reference.of(n_slices)[:, judged]
    known = np.isfinite(calibration).all(axis=1)
    weights = reference.weights[judged]
    own_terms, terms = own[judged] * weights, calibration[known] * weights
    order = np.argsort(terms.mean(axis=0) - own_terms, kind="stable") if len(terms) else np.arange(len(judged))
    # Column i: the sum without the first i terms.
    own_sums = own_terms[order][::-1].cumsum()[::-1]
    sums = terms[:, order][:, ::-1].cumsum(axis=1)[:, ::-1]
    p_values = _p_values(sums, own_sums)
    single = _p_values(terms, own_terms)
    return HeaderFit(
        p_value=float(p_values[0]),
        terms=tuple(StatedFit(heads[judged[place]].keyword, float(single[place])) for place in order),
        without=tuple(float(p_value) for p_value in p_values[1:]),
    )


def _p_values(calibration: Array, own: Array) -> Array:
    """Per column the share of scores, the own one among them, that are at least as large as the own one."""
    p_values: Array = (1 + (calibration >= own).sum(axis=0)) / (1 + len(calibration))
    return p_values
