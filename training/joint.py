"""What a header as a whole is judged with: weights of the parameters, and the scores of series with right headers.

Weights are those of a logistic regression which tells right headers from swapped ones, on the temperature split; half
of the wrong headers come from any other series, half from one of the same scanner model, which is harder. Values are
left out at random while fitting, so that no weight leans on another value being stated. The scores that p-values are
ranked among come from the conformal split. Called by `training.reference`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from iap_node.inference.heads import Head
from iap_node.inference.joint import HeaderReference, scores
from iap_node.inference.package import Manifest
from iap_node.inference.predictor import parameter_predictions
from iap_node.records import HeaderValue, ParameterPrediction, SeriesHeader
from training.calibrate import SplitOutputs, subset
from training.recipes import Labels

Array = NDArray[np.float64]

ROUNDS = 8  # in how many ways each series is swapped and thinned out
LEFT_OUT = 0.3  # share of the values that a fit does not see
ALIKE = 0.01  # how strongly weights are held together: what adds little today may be all that a header states
_LEAST_SCALE = 1e-3


def stated(labels: Labels) -> SeriesHeader:
    """A header that states these values."""
    return SeriesHeader(tuple(HeaderValue(key, str(value), value) for key, value in labels.items()))


def fit_header_reference(
    manifest: Manifest, temperature: SplitOutputs, conformal: SplitOutputs, seed: int = 0
) -> HeaderReference:
    """Weights from one split, calibration scores from the other, for every number of slices of the calibration."""
    heads = manifest.parameters
    rng = np.random.default_rng([seed, len(heads)])
    most = max(item.n_slices for item in manifest.calibration)
    answers = answers_of(manifest, subset(temperature.outputs, most, rng))
    weights = fit_weights(heads, answers, temperature.labels, rng)
    by_n_slices = []
    for n_slices in sorted(item.n_slices for item in manifest.calibration):
        answers = answers_of(manifest, subset(conformal.outputs, n_slices, rng))
        by_n_slices.append((n_slices, right_scores(heads, answers, conformal.labels)))
    return HeaderReference(weights, tuple(by_n_slices))


def answers_of(manifest: Manifest, outputs: NDArray[np.float32]) -> list[tuple[ParameterPrediction, ...]]:
    """The model's answers from (n_series, n_slices, n_outputs)."""
    alpha = manifest.calibration[0].alphas[0]  # of sets, which are not looked at here
    return [parameter_predictions(manifest, series, alpha) for series in outputs]


def right_scores(
    heads: Sequence[Head], answers: Sequence[Sequence[ParameterPrediction]], labels: Sequence[Labels]
) -> Array:
    """(n_series, n_heads): every series against its own values."""
    return np.stack([scores(heads, answer, stated(label)) for answer, label in zip(answers, labels, strict=True)])


def other_headers(labels: Sequence[Labels], rng: np.random.Generator, same_model: bool = False) -> list[int | None]:
    """For each series another one with other values, of the same scanner model if asked for; None where none is."""
    groups: dict[object, list[int]] = {}
    for row, label in enumerate(labels):
        groups.setdefault(label.get("ManufacturerModelName") if same_model else None, []).append(row)
    chosen: list[int | None] = []
    for label in labels:
        group = groups[label.get("ManufacturerModelName") if same_model else None]
        others = (int(other) for other in rng.permutation(group))
        chosen.append(next((other for other in others if dict(labels[other]) != dict(label)), None))
    return chosen


def fit_weights(
    heads: Sequence[Head],
    answers: Sequence[Sequence[ParameterPrediction]],
    labels: Sequence[Labels],
    rng: np.random.Generator,
) -> Array:
    """(n_heads,) weights of the scores, the largest 1; 0 for what is known by association."""
    own = right_scores(heads, answers, labels)
    wrong = []
    for turn in range(ROUNDS):
        others = other_headers(labels, rng, same_model=turn % 2 == 1)
        wrong += [scores(heads, answers[i], stated(labels[j])) for i, j in enumerate(others) if j is not None]
    used = np.array([not head.by_association for head in heads])
    if not wrong or not used.any():
        return used.astype(np.float64)
    right, swapped = np.tile(own[:, used], (ROUNDS, 1)), np.stack(wrong)[:, used]
    medians = np.nanmedian(np.where(np.isfinite(own[:, used]), own[:, used], 0.0), axis=0)
    continuous = np.array([not head.classes for head in heads])[used]
    # A number's residual in units of its median; a class's score is in natural units as it is.
    scale = np.where(continuous, np.maximum(medians, _LEAST_SCALE), 1.0)
    fitted = np.zeros(len(heads))
    fitted[used] = _logistic(right / scale, swapped / scale, rng) / scale
    relative: Array = fitted / fitted.max()
    return relative


def _logistic(right: Array, wrong: Array, rng: np.random.Generator) -> Array:
    """Positive weights under which a sum tells the two apart, whatever subset of the columns it is taken over."""
    rows = np.concatenate([right, wrong])
    is_wrong = np.repeat([0.0, 1.0], [len(right), len(wrong)])
    share = np.where(is_wrong, 1 / len(wrong), 1 / len(right))
    seen = np.isfinite(rows) & (rng.random(rows.shape) >= LEFT_OUT)
    rows = np.where(seen, rows, 0.0)
    stated_share = seen.mean(axis=1)
    n = rows.shape[1]

    def loss(x: Array) -> tuple[float, Array]:
        logs = x[:n]
        weights = np.exp(logs)
        margin = rows @ weights + x[n] + x[n + 1] * stated_share
        apart = logs - logs.mean()
        value = (share * np.logaddexp(0, np.where(is_wrong, -margin, margin))).sum() + ALIKE * (apart**2).mean()
        slope = share * (expit(margin) - is_wrong)
        gradient = np.concatenate(
            [(slope @ rows) * weights + 2 * ALIKE * apart / n, [slope.sum(), (slope * stated_share).sum()]]
        )
        return float(value), gradient

    start = np.concatenate([np.full(n, -1.0), [-1.0, -1.0]])
    weights: Array = np.exp(minimize(loss, start, jac=True, method="L-BFGS-B").x[:n])
    return weights
