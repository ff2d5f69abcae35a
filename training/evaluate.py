"""What a model package is worth on series that it never saw: slices, series, conformal sets, header audit,
novelty.

The numbers are about simulated images, and every output says so. Answers come from the very functions that
the node calls. Called by the command line and by `training.reference`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.inference.heads import Head, output_slices
from iap_node.inference.package import ModelPackage
from iap_node.inference.predictor import build_network, judge, parameter_predictions
from iap_node.records import ParameterKind, ParameterPrediction
from training.calibrate import SplitOutputs, outputs_of
from training.dataset import SeriesSet
from training.recipes import class_label
from training.swaps import SwapFigures, swapped_headers

ALPHAS = (0.01, 0.05)
SIMULATED = "simulated images"


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


@dataclass(frozen=True, slots=True)
class HeadFigures:
    """One parameter; None where it does not apply. `mae` in its unit; `majority`: share of the commonest."""

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


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of one model on one test split."""

    model_id: str
    images: str
    n_series: int
    n_slices_per_series: int
    heads: tuple[HeadFigures, ...]
    false_novel: dict[str, float]  # by number of slices: share of unseen training-like series that are called novel
    novel: dict[str, tuple[int, int]] = field(default_factory=dict)  # what is unlike training: (called novel, of)
    swaps: tuple[SwapFigures, ...] = ()  # none where the package judges single values only

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def head(self, keyword: str) -> HeadFigures:
        """Figures of one parameter."""
        return next(head for head in self.heads if head.keyword == keyword)


def evaluate(
    package: ModelPackage,
    test: SeriesSet,
    unlike: Mapping[str, Iterable[Sequence[NDArray[np.generic]]]] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Evaluate a package.

    Parameters
    ----------
    test
        Series of patients that neither training nor calibration saw.
    unlike
        Series that must be called novel, by name; slices of (rows, columns) as they come from DICOM.
    """
    manifest = package.manifest
    network = build_network(package)
    split = outputs_of(network, manifest.preprocessing, test.inputs, test.labels)
    per_alpha = {
        alpha: [parameter_predictions(manifest, outputs, alpha) for outputs in split.outputs] for alpha in ALPHAS
    }
    heads = tuple(
        _head_figures(head, where, k, split, per_alpha, np.random.default_rng([seed, k]))
        for k, (head, where) in enumerate(zip(manifest.parameters, output_slices(manifest.parameters), strict=True))
    )
    n_slices = test.inputs.shape[1]
    counts = [count for count in (1, 2, 4, 8) if count <= n_slices]
    false_novel = {str(count): _false_novel(package, test, split, count, seed) for count in counts}
    return Evaluation(
        model_id=package.model_id,
        images=SIMULATED,
        n_series=len(test.labels),
        n_slices_per_series=n_slices,
        heads=heads,
        false_novel=false_novel,
        novel=_novel(package, unlike or {}),
        swaps=swapped_headers(package, split, seed),
    )


def _head_figures(
    head: Head,
    where: slice,
    k: int,
    split: SplitOutputs,
    per_alpha: Mapping[float, Sequence[tuple[ParameterPrediction, ...]]],
    rng: np.random.Generator,
) -> HeadFigures:
    truth = [label.get(head.keyword) for label in split.labels]
    known = [row for row, value in enumerate(truth) if value is not None]
    values = {row: value for row, value in enumerate(truth) if value is not None}
    audit = tuple(_audit(head, known, values, [p[k] for p in per_alpha[alpha]], alpha, rng) for alpha in ALPHAS)
    answers = [prediction[k] for prediction in per_alpha[ALPHAS[0]]]
    n_slices = split.outputs.shape[1]
    if head.kind is ParameterKind.CONTINUOUS:
        wanted = np.array([float(values[row]) for row in known])
        series = np.array([_number(answers[row].value) for row in known])
        slices = np.array([[head.decode(float(t)) for t in split.outputs[row, :, where.start]] for row in known])
        return HeadFigures(
            head.keyword, 0, None, None, None, None, None, None,
            slice_mae=float(np.abs(slices - wanted[:, None]).mean()),
            slice_r2=_r2(slices.ravel(), np.repeat(wanted, n_slices)),
            series_mae=float(np.abs(series - wanted).mean()),
            series_r2=_r2(series, wanted),
            audit=audit,
        )  # fmt: skip
    labels = {row: class_label(head.keyword, value) for row, value in values.items()}
    order = np.argsort(-split.outputs[:, :, where], axis=-1)
    top = [[_rank(head, order[row, s], labels[row]) for s in range(n_slices)] for row in known]
    ranks = np.array([[name for name, _ in answers[row].probabilities].index(labels[row])
                      if labels[row] in head.classes else 99 for row in known])  # fmt: skip
    near = [_same(head.keyword, values[row], answers[row].probabilities[0][0]) for row in known]
    return HeadFigures(
        head.keyword,
        len(head.classes),
        majority=max(map(list(labels.values()).count, head.classes)) / len(known),
        slice_top1=float((np.array(top) < 1).mean()),
        slice_top2=float((np.array(top) < 2).mean()),
        series_top1=float((ranks < 1).mean()),
        series_top2=float((ranks < 2).mean()),
        series_top1_within_tolerance=float(np.mean(near)),
        slice_mae=None, slice_r2=None, series_mae=None, series_r2=None,
        audit=audit,
    )  # fmt: skip


def _rank(head: Head, order: NDArray[np.intp], label: str) -> int:
    return int(np.flatnonzero(order == head.classes.index(label))[0]) if label in head.classes else 99


def _audit(
    head: Head,
    known: Sequence[int],
    truth: Mapping[int, str | float],
    answers: Sequence[ParameterPrediction],
    alpha: float,
    rng: np.random.Generator,
) -> AuditFigures:
    covered, sizes, false, caught, n_wrong = 0, [], 0, 0, 0
    for row in known:
        answer = answers[row]
        covered += _covers(head, answer, truth[row])
        sizes.append(_size(answer))
        false += _contradicts(head, answer, truth[row])
        others = [truth[int(other)] for other in rng.choice(known, 20)]
        wrong = next((value for value in others if not _same(head.keyword, truth[row], value)), None)
        if wrong is not None:
            n_wrong += 1
            caught += _contradicts(head, answer, wrong)
    n = max(1, len(known))
    return AuditFigures(alpha, covered / n, float(np.mean(sizes)), false / n, caught / max(1, n_wrong))


def _covers(head: Head, answer: ParameterPrediction, value: str | float) -> bool:
    if head.kind is ParameterKind.CATEGORICAL:
        return class_label(head.keyword, value) in answer.prediction_set
    return answer.interval is None or answer.interval[0] <= float(value) <= answer.interval[1]


def _size(answer: ParameterPrediction) -> float:
    if answer.kind is ParameterKind.CATEGORICAL:
        return float(len(answer.prediction_set))
    return float("inf") if answer.interval is None else answer.interval[1] - answer.interval[0]


def _contradicts(head: Head, answer: ParameterPrediction, value: str | float) -> bool:
    if head.kind is ParameterKind.CATEGORICAL:
        return not any(_same(head.keyword, value, label) for label in answer.prediction_set)
    return not _covers(head, answer, value)


def _same(keyword: str, value: str | float, other: str | float) -> bool:
    return BY_KEYWORD[keyword].same(value, other)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _r2(predicted: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    return 1.0 - float(((predicted - wanted) ** 2).sum() / ((wanted - wanted.mean()) ** 2).sum())


def _false_novel(package: ModelPackage, test: SeriesSet, split: SplitOutputs, count: int, seed: int) -> float:
    rng = np.random.default_rng([seed, count])
    flags = []
    for inputs, outputs, features in zip(test.inputs, split.outputs, split.features, strict=True):
        chosen = np.sort(rng.permutation(len(outputs))[:count])
        prepared = inputs[chosen].astype(np.float32)
        flags.append(judge(package, prepared, outputs[chosen], features[chosen], ALPHAS[0]).novel)
    return float(np.mean(flags))


def _novel(
    package: ModelPackage, unlike: Mapping[str, Iterable[Sequence[NDArray[np.generic]]]]
) -> dict[str, tuple[int, int]]:
    from iap_node.inference.predictor import Predictor

    predictor = Predictor(package, device="cpu")
    result = {}
    for name, series in unlike.items():
        flags = [predictor.predict(slices, ALPHAS[0]).novel for slices in series]
        result[name] = (sum(flags), len(flags))
    return result
