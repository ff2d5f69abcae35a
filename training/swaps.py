"""Whole headers swapped: how often the header of another series is found, and a right one doubted.

Judged by the functions that the node calls: `inference.joint` for the header as a whole, `audit.verdicts` for its
single values, `audit.pixels` for what becomes of both. Called by `training.evaluate`; the images are simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from iap_node.audit.pixels import JOINT, pixel_findings
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
    half_stated
        By the header as a whole where half of its values are missing.
    found_against
        Whose series gets the finding `pixels-joint`: some doubts are told as single values instead.
    any_value
        By at least one value outside its conformal set at the same alpha, which alarms once per parameter.
    any_value_strict
        The same at a tenth of alpha: about as many false alarms as the header as a whole.
    whole_unsuspected, whole_unsuspected_strict
        The same, of those headers only that have no value outside its set at alpha, or at a tenth of it.
    """

    alpha: float
    whole: Shares
    half_stated: Shares
    found_against: Shares
    any_value: Shares
    any_value_strict: Shares
    whole_unsuspected: Shares
    whole_unsuspected_strict: Shares


class _Judged(NamedTuple):
    whole: bool
    half_stated: bool
    found_against: bool
    any_value: bool
    any_value_strict: bool


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
        judge = _Judge(package, package.header, alpha, rng)
        judged: list[list[_Judged]] = [[] for _ in kinds]
        for row, outputs in enumerate(split.outputs):
            answers = [parameter_predictions(package.manifest, outputs, level) for level in (alpha, alpha / 10)]
            for kind, others in zip(judged, kinds, strict=True):
                other = others[row]
                if other is not None:
                    kind.append(judge(answers[0], answers[1], headers[other], len(outputs)))
        shares = {name: _shares([[getattr(one, name) for one in kind] for kind in judged]) for name in _Judged._fields}
        figures.append(
            SwapFigures(
                alpha=alpha,
                whole_unsuspected=_shares([[one.whole for one in kind if not one.any_value] for kind in judged]),
                whole_unsuspected_strict=_shares(
                    [[one.whole for one in kind if not one.any_value_strict] for kind in judged]
                ),
                **shares,
            )
        )
    return tuple(figures)


@dataclass(frozen=True, slots=True)
class _Judge:
    package: ModelPackage
    reference: HeaderReference
    alpha: float
    rng: np.random.Generator

    def __call__(
        self,
        answers: tuple[ParameterPrediction, ...],
        strict: tuple[ParameterPrediction, ...],
        header: SeriesHeader,
        n_slices: int,
    ) -> _Judged:
        config = AuditConfig(alpha=self.alpha, joint_alpha=self.alpha)
        kept = self.rng.permutation(len(header.values))[: len(header.values) // 2]
        half = SeriesHeader(tuple(header.values[place] for place in kept))
        heads = self.package.manifest.parameters
        whole, less = (header_fit(self.reference, heads, answers, one, n_slices) for one in (header, half))
        loose = self._prediction(answers, n_slices, whole)
        comparisons = compare(header, loose, config)
        strictly = compare(header, self._prediction(strict, n_slices, None), config)
        return _Judged(
            whole is not None and whole.p_value <= self.alpha,
            less is not None and less.p_value <= self.alpha,
            any(one.check == JOINT for one in pixel_findings(comparisons, header, loose, config)),
            any(one.verdict is Verdict.CONTRADICTS for one in comparisons),
            any(one.verdict is Verdict.CONTRADICTS for one in strictly),
        )

    def _prediction(
        self, answers: tuple[ParameterPrediction, ...], n_slices: int, fit: HeaderFit | None
    ) -> SeriesPrediction:
        package = self.package
        return SeriesPrediction(package.model_id, package.training_data, False, 0.0, 1.0, n_slices, answers, fit)


def _shares(kinds: Sequence[Sequence[bool]]) -> Shares:
    right, swapped, same_model = (float(np.mean(kind)) if kind else None for kind in kinds)
    return right, swapped, same_model
