"""Whole headers swapped: how often the header of another series is found, and a right one doubted.

Judged by the functions that the node calls: `inference.joint` for the header as a whole, `audit.verdicts` for its
single values, `audit.pixels` for what becomes of both. Called by `training.evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from training.intervals import Array, Bootstrap, Interval
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
    intervals: Mapping[str, tuple[Interval | None, ...]] = field(default_factory=dict)  # of each of the shares


class _Judged(NamedTuple):
    whole: bool
    half_stated: bool
    found_against: bool
    any_value: bool
    any_value_strict: bool


def swapped_headers(
    package: ModelPackage, split: SplitOutputs, seed: int = 0, bootstrap: Bootstrap | None = None
) -> tuple[SwapFigures, ...]:
    """Figures for each of `ALPHAS`; none for a package that does not judge headers as a whole.

    `bootstrap` draws the series' patients; None: each is another patient.
    """
    if package.header is None:
        return ()
    drawn = bootstrap or Bootstrap(range(len(split.labels)), np.random.default_rng([seed, 1]))
    rng = np.random.default_rng([seed, len(split.labels)])
    headers = [stated(label) for label in split.labels]
    own: list[int | None] = list(range(len(headers)))
    kinds = (own, other_headers(split.labels, rng), other_headers(split.labels, rng, same_model=True))
    figures = []
    for alpha in ALPHAS:
        judge = _Judge(package, package.header, alpha, rng)
        judged: list[list[_Judged | None]] = [[] for _ in kinds]
        for row, outputs in enumerate(split.outputs):
            answers = [parameter_predictions(package.manifest, outputs, level) for level in (alpha, alpha / 10)]
            for kind, others in zip(judged, kinds, strict=True):
                other = others[row]
                kind.append(None if other is None else judge(answers[0], answers[1], headers[other], len(outputs)))
        doubted = {name: [_told(kind, name) for kind in judged] for name in _Judged._fields}
        doubted["whole_unsuspected"] = [_told(kind, "whole", unless="any_value") for kind in judged]
        doubted["whole_unsuspected_strict"] = [_told(kind, "whole", unless="any_value_strict") for kind in judged]
        figures.append(
            SwapFigures(
                alpha=alpha,
                intervals={
                    name: tuple(drawn.mean(kind) if np.isfinite(kind).any() else None for kind in kinds_of)
                    for name, kinds_of in doubted.items()
                },
                **{name: _shares(kinds_of) for name, kinds_of in doubted.items()},
            )
        )
    return tuple(figures)


def _told(kind: Sequence[_Judged | None], name: str, unless: str = "") -> Array:
    """(n_series,): 1 where a header was doubted, 0 where not, NaN where there is none or it does not count."""
    counts = [one is not None and not (unless and getattr(one, unless)) for one in kind]
    return np.array([float(getattr(one, name)) if of else np.nan for one, of in zip(kind, counts, strict=True)])


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


def _shares(kinds: Sequence[Array]) -> Shares:
    right, swapped, same_model = (float(np.nanmean(kind)) if np.isfinite(kind).any() else None for kind in kinds)
    return right, swapped, same_model
