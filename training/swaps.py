"""Whole headers swapped: how often the header of another series is found, and a right one doubted.

Judged by the functions that the node calls: `inference.joint` for the header as a whole, `audit.verdicts` for its
single values. Called by `training.evaluate`; the images are simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from iap_node.audit.verdicts import compare
from iap_node.config import AuditConfig
from iap_node.inference.joint import HeaderReference, header_fit
from iap_node.inference.package import ModelPackage
from iap_node.inference.predictor import parameter_predictions
from iap_node.records import HeaderFit, ParameterPrediction, SeriesHeader, SeriesPrediction, Verdict
from training.calibrate import SplitOutputs
from training.joint import other_headers, stated

ALPHAS = (0.01, 0.05)

Shares = tuple[float | None, float | None, float | None]
"""Of right headers, of those of any other series, of those of another series of the same scanner model."""


@dataclass(frozen=True, slots=True)
class SwapFigures:
    """Shares of headers that are doubted at one alpha: right ones, swapped ones, swapped within the scanner model.

    Attributes
    ----------
    whole
        By the header as a whole.
    unsuspected
        The same, of those headers only that have no value outside its conformal set at this alpha.
    half_stated
        By the header as a whole where half of its values are missing.
    any_single_value
        By at least one value outside its conformal set.
    """

    alpha: float
    whole: Shares
    unsuspected: Shares
    half_stated: Shares
    any_single_value: Shares


class _Judged(NamedTuple):
    whole: float  # p-values
    half: float
    suspected: bool


def swapped_headers(package: ModelPackage, split: SplitOutputs, seed: int = 0) -> tuple[SwapFigures, ...]:
    """Figures for each of `ALPHAS`; none for a package that does not judge headers as a whole."""
    if package.header is None:
        return ()
    rng = np.random.default_rng([seed, len(split.labels)])
    headers = [stated(label) for label in split.labels]
    own: list[int | None] = list(range(len(headers)))
    kinds = (own, other_headers(split.labels, rng), other_headers(split.labels, rng, same_model=True))
    figures = []
    for alpha in ALPHAS:
        answers = [parameter_predictions(package.manifest, outputs, alpha) for outputs in split.outputs]
        judged = [
            [
                _judge(package, package.header, answers[row], headers[other], split.outputs.shape[1], rng)
                for row, other in enumerate(others)
                if other is not None
            ]
            for others in kinds
        ]
        figures.append(
            SwapFigures(
                alpha=alpha,
                whole=_shares([[one.whole <= alpha for one in kind] for kind in judged]),
                unsuspected=_shares([[one.whole <= alpha for one in kind if not one.suspected] for kind in judged]),
                half_stated=_shares([[one.half <= alpha for one in kind] for kind in judged]),
                any_single_value=_shares([[one.suspected for one in kind] for kind in judged]),
            )
        )
    return tuple(figures)


def _judge(
    package: ModelPackage,
    reference: HeaderReference,
    answers: tuple[ParameterPrediction, ...],
    header: SeriesHeader,
    n_slices: int,
    rng: np.random.Generator,
) -> _Judged:
    heads = package.manifest.parameters
    kept = rng.permutation(len(header.values))[: len(header.values) // 2]
    half = SeriesHeader(tuple(header.values[place] for place in kept))
    prediction = SeriesPrediction(package.model_id, package.training_data, False, 0.0, 1.0, n_slices, answers)
    verdicts = {item.verdict for item in compare(header, prediction, AuditConfig())}
    return _Judged(
        _p_value(header_fit(reference, heads, answers, header, n_slices)),
        _p_value(header_fit(reference, heads, answers, half, n_slices)),
        Verdict.CONTRADICTS in verdicts,
    )


def _p_value(fit: HeaderFit | None) -> float:
    return 1.0 if fit is None else fit.p_value


def _shares(kinds: Sequence[Sequence[bool]]) -> Shares:
    right, swapped, same_model = (float(np.mean(kind)) if kind else None for kind in kinds)
    return right, swapped, same_model
