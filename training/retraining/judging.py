"""What a model makes of held-out series, as the gates want it. Called by `training.retraining.run`.

Answers come from the functions that the node calls, one series at a time, so that a champion of another preparation is
held against the very same series.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.inference.package import ModelPackage
from iap_node.inference.predictor import Predictor, judge, parameter_predictions
from iap_node.records import ParameterKind, ParameterPrediction, SeriesPrediction
from training.dataset import SeriesSet
from training.gates import ALPHA, HeldOut
from training.recipes import Labels

Array = NDArray[np.float64]
Step = Callable[[float], None]
"""Called with the share that is done, 0..1."""


def predictions(
    package: ModelPackage, series: SeriesSet, step: Step = lambda share: None
) -> list[tuple[SeriesPrediction, tuple[ParameterPrediction, ...]]]:
    """Per series the model's answer as the node would give it, and its parameters even where it abstains."""
    predictor = Predictor(package, device="cpu")
    found = []
    for row, inputs in enumerate(series.inputs):
        prepared = inputs.astype(np.float32)
        outputs, features = predictor.forward(prepared)
        whole = judge(package, prepared, outputs, features, ALPHA)
        found.append((whole, whole.parameters or parameter_predictions(package.manifest, outputs, ALPHA)))
        step((row + 1) / len(series.inputs))
    return found


def held_out(
    package: ModelPackage,
    series: SeriesSet,
    labels: Sequence[Labels],
    patients: Sequence[str],
    step: Step = lambda share: None,
) -> HeldOut:
    """Scores, confidences, coverage and abstention of one model.

    Parameters
    ----------
    labels
        Of each series, as both models are held against; not those of `series`, which may miss values that only one
        vocabulary knows.
    """
    answers = predictions(package, series, step)
    scores: dict[str, Array] = {}
    confidences: dict[str, Array] = {}
    covered: dict[str, Array] = {}
    for k, head in enumerate(package.manifest.parameters):
        keyword = head.keyword
        truth = [label.get(keyword) for label in labels]
        mine = [parameters[k] for _, parameters in answers]
        covered[keyword] = np.array([_covers(one, value) for one, value in zip(mine, truth, strict=True)])
        if head.kind is ParameterKind.CATEGORICAL:
            scores[keyword] = np.array([_right(one, value) for one, value in zip(mine, truth, strict=True)])
            confidences[keyword] = np.array([confidence(one) for one in mine])
        else:
            scores[keyword] = _closeness(mine, truth)
    return HeldOut(
        model_id=package.model_id,
        patients=tuple(patients),
        scores=scores,
        confidences=confidences,
        covered=covered,
        abstained=np.array([whole.novel for whole, _ in answers], dtype=np.bool_),
    )


def confidence(answer: ParameterPrediction) -> float:
    """Probability of the first class, with those that a physicist calls the same value."""
    shares: Mapping[str, float] = dict(answer.probabilities)
    first = answer.probabilities[0][0]
    return float(sum(shares[name] for name in BY_KEYWORD[answer.keyword].equivalent(first, tuple(shares))))


def _right(answer: ParameterPrediction, value: str | float | None) -> float:
    if value is None:
        return float("nan")
    return float(BY_KEYWORD[answer.keyword].same(value, answer.probabilities[0][0]))


def _covers(answer: ParameterPrediction, value: str | float | None) -> float:
    if value is None:
        return float("nan")
    parameter = BY_KEYWORD[answer.keyword]
    if answer.kind is ParameterKind.CATEGORICAL:
        return float(any(parameter.same(value, label) for label in answer.prediction_set))
    return float(answer.interval is None or answer.interval[0] <= float(value) <= answer.interval[1])


def _closeness(answers: Sequence[ParameterPrediction], truth: Sequence[str | float | None]) -> Array:
    """1 less the absolute error in units of the mean absolute deviation from the median: 0 is what a constant answer
    reaches, in the same unit as a share of right answers. At most one below zero: one wild answer is one wrong one."""
    values = np.array([np.nan if value is None else float(value) for value in truth])
    known = values[np.isfinite(values)]
    if not len(known):
        return values
    spread = float(np.abs(known - np.median(known)).mean())
    given = np.array([np.nan if answer.value is None else answer.value for answer in answers])
    keyword = answers[0].keyword
    unit = max(spread, BY_KEYWORD[keyword].tolerance(float(np.median(np.abs(known)))), 1e-9)
    errors = np.nan_to_num(np.abs(given - values) / unit, nan=2.0, posinf=2.0)
    closeness: Array = np.where(np.isfinite(values), 1.0 - np.minimum(errors, 2.0), np.nan)
    return closeness
