"""What a model package is worth on series that it never saw: slices, series, calibration, conformal sets, header audit,
novelty.

Every figure has a bootstrap interval over patients. Where the images come from stands in the data set, and every output
says it. Answers come from the very functions that the node calls. Called by the command line, by `training.reference`
and by `training.compare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.inference.engines.on_torch import build_network
from iap_node.inference.heads import Head, output_slices
from iap_node.inference.package import ModelPackage
from iap_node.inference.predictor import Predictor, judge, parameter_predictions
from iap_node.records import ParameterKind, ParameterPrediction
from training.calibrate import SplitOutputs, outputs_of
from training.dataset import SIMULATED, SeriesSet
from training.figures import AuditFigures, Evaluation, HeadFigures, NoveltyFigures, ReliabilityBin
from training.intervals import (
    ECE_BINS,
    Array,
    Bootstrap,
    area_interval,
    area_under_curve,
    calibration_error,
    confidence_bins,
)
from training.recipes import class_label
from training.swaps import swapped_headers
from training.unlike import Kind

ALPHAS = (0.01, 0.05)

NEAR = {"FieldOfView": 10.0}
"""Distances, in the parameter's unit, within which the share of series is told too."""

_NOWHERE = 99  # rank of a class that the vocabulary does not have

Predictions = Sequence[tuple[ParameterPrediction, ...]]


@dataclass(frozen=True, slots=True)
class _Judged:
    """What is needed of a split to make figures of its heads."""

    split: SplitOutputs
    per_alpha: Mapping[float, Predictions]
    bootstrap: Bootstrap


def evaluate(
    package: ModelPackage,
    test: SeriesSet,
    unlike: Sequence[Kind] = (),
    seed: int = 0,
    *,
    images: str = SIMULATED,
    patients: Sequence[Any] | None = None,
) -> Evaluation:
    """Evaluate a package.

    Parameters
    ----------
    test
        Series of patients that neither training nor calibration saw.
    unlike
        Series to look at for novelty; slices of (rows, columns) as they come from DICOM.
    images
        Where the images of `test` come from.
    patients
        Who each series is of; None: each is another patient.
    """
    manifest = package.manifest
    split = outputs_of(build_network(package), manifest.preprocessing, test.inputs, test.labels)
    who = list(range(len(test.labels))) if patients is None else list(patients)
    bootstrap = Bootstrap(who, np.random.default_rng([seed, len(who)]))
    alphas = ALPHAS if package.calibrated else ALPHAS[:1]
    per_alpha = {
        alpha: [parameter_predictions(manifest, outputs, alpha) for outputs in split.outputs] for alpha in alphas
    }
    judged = _Judged(split, per_alpha, bootstrap)
    heads = tuple(
        _head_figures(head, where, k, judged, package.calibrated, np.random.default_rng([seed, k]))
        for k, (head, where) in enumerate(zip(manifest.parameters, output_slices(manifest.parameters), strict=True))
    )
    n_slices = test.inputs.shape[1]
    counts = [count for count in (1, 2, 4, 8) if count <= n_slices] if package.calibrated else []
    scores = {count: _novelty_scores(package, test, split, count, seed) for count in counts}
    return Evaluation(
        model_id=package.model_id,
        trained_on=package.training_data,
        images=images,
        n_series=len(test.labels),
        n_patients=len(set(who)),
        n_slices_per_series=n_slices,
        heads=heads,
        false_novel={str(count): float((scores[count] > 1).mean()) for count in counts},
        novelty=_novelty(package, scores[counts[-1]], unlike, seed) if counts else (),
        swaps=swapped_headers(package, split, seed, bootstrap),
    )


# ---------------------------------------------------------------- one parameter


def _head_figures(
    head: Head, where: slice, k: int, judged: _Judged, calibrated: bool, rng: np.random.Generator
) -> HeadFigures:
    truth = [label.get(head.keyword) for label in judged.split.labels]
    known = [row for row, value in enumerate(truth) if value is not None]
    values = {row: value for row, value in enumerate(truth) if value is not None}
    answers = [prediction[k] for prediction in judged.per_alpha[ALPHAS[0]]]
    audit = tuple(
        _audit(head, known, values, [one[k] for one in predictions], alpha, rng, judged.bootstrap)
        for alpha, predictions in judged.per_alpha.items()
        if calibrated and known
    )
    make = _number_figures if head.kind is ParameterKind.CONTINUOUS else _class_figures
    return make(head, where, values, answers, judged, audit)


def _number_figures(
    head: Head,
    where: slice,
    values: Mapping[int, str | float],
    answers: Sequence[ParameterPrediction],
    judged: _Judged,
    audit: tuple[AuditFigures, ...],
) -> HeadFigures:
    outputs = judged.split.outputs[:, :, where.start]
    n = len(outputs)
    wanted, slice_error, slice_squared, error = (np.full(n, np.nan) for _ in range(4))
    for row, value in values.items():
        wanted[row] = float(value)
        decoded = np.array([head.decode(float(target)) for target in outputs[row]])
        slice_error[row] = np.abs(decoded - wanted[row]).mean()
        slice_squared[row] = ((decoded - wanted[row]) ** 2).mean()
        error[row] = abs(_number(answers[row].value) - wanted[row])
    bootstrap = judged.bootstrap
    return HeadFigures(
        head.keyword, 0, None, None, None, None, None, None,
        slice_mae=_mean(slice_error),
        slice_r2=_r2(slice_squared, wanted),
        series_mae=_mean(error),
        series_r2=_r2(error**2, wanted),
        audit=audit,
        n_series=len(values),
        by_association=head.by_association,
        intervals={
            "slice_mae": bootstrap.mean(slice_error),
            "slice_r2": bootstrap.r2(slice_squared, wanted),
            "series_mae": bootstrap.mean(error),
            "series_r2": bootstrap.r2(error**2, wanted),
        },
    )  # fmt: skip


def _class_figures(
    head: Head,
    where: slice,
    values: Mapping[int, str | float],
    answers: Sequence[ParameterPrediction],
    judged: _Judged,
    audit: tuple[AuditFigures, ...],
) -> HeadFigures:
    outputs = judged.split.outputs[:, :, where]
    figures: dict[str, Array] = {}

    def note(name: str, row: int, value: float) -> None:
        figures.setdefault(name, np.full(len(outputs), np.nan))[row] = value

    labels = {row: class_label(head.keyword, value) for row, value in values.items()}
    confusion = np.zeros((len(head.classes), len(head.classes)), np.intp)
    confidence = np.full(len(outputs), np.nan)
    for row, label in labels.items():
        place = head.classes.index(label) if label in head.classes else None
        slice_ranks = np.array([_rank(order, place) for order in np.argsort(-outputs[row], axis=-1)])
        probabilities = answers[row].probabilities
        names = [name for name, _ in probabilities]
        rank = names.index(label) if place is not None else _NOWHERE
        note("slice_top1", row, float((slice_ranks < 1).mean()))
        note("slice_top2", row, float((slice_ranks < 2).mean()))
        note("series_top1", row, float(rank < 1))
        note("series_top2", row, float(rank < 2))
        note("series_top1_within_tolerance", row, float(_same(head.keyword, values[row], names[0])))
        if head.keyword in NEAR:
            note("series_near", row, float(abs(float(values[row]) - float(names[0])) <= NEAR[head.keyword] + 1e-9))
        confidence[row] = probabilities[0][1]
        if place is not None:
            confusion[place, head.classes.index(names[0])] += 1
    rows = np.array(sorted(labels), np.intp)
    sure, right = confidence[rows], figures["series_top1"][rows] if len(rows) else np.zeros(0)
    bootstrap = judged.bootstrap
    intervals = {name: bootstrap.mean(found) for name, found in figures.items()}
    error = None
    if len(rows):
        error = calibration_error(sure, right)
        intervals["ece"] = bootstrap.on(rows).calibration_error(sure, right)
    found = {name: _mean(one) for name, one in figures.items()}
    return HeadFigures(
        head.keyword,
        len(head.classes),
        majority=max(list(labels.values()).count(one) for one in head.classes) / len(rows) if len(rows) else None,
        slice_top1=found.get("slice_top1"),
        slice_top2=found.get("slice_top2"),
        series_top1=found.get("series_top1"),
        series_top2=found.get("series_top2"),
        series_top1_within_tolerance=found.get("series_top1_within_tolerance"),
        slice_mae=None, slice_r2=None, series_mae=None, series_r2=None,
        audit=audit,
        n_series=len(rows),
        by_association=head.by_association,
        series_near=found.get("series_near"),
        ece=error,
        intervals=intervals,
        classes=head.classes,
        reliability=_reliability(sure, right),
        confusion=tuple(tuple(int(n) for n in line) for line in confusion),
    )  # fmt: skip


def _rank(order: NDArray[np.intp], place: int | None) -> int:
    return _NOWHERE if place is None else int(np.flatnonzero(order == place)[0])


def _reliability(confidence: Array, right: Array) -> tuple[ReliabilityBin, ...]:
    bins = confidence_bins(confidence)
    found = []
    for one in range(ECE_BINS):
        mine = bins == one
        if mine.any():
            found.append(ReliabilityBin(int(mine.sum()), float(confidence[mine].mean()), float(right[mine].mean())))
    return tuple(found)


# ---------------------------------------------------------------- audit


def _audit(
    head: Head,
    known: Sequence[int],
    truth: Mapping[int, str | float],
    answers: Sequence[ParameterPrediction],
    alpha: float,
    rng: np.random.Generator,
    bootstrap: Bootstrap,
) -> AuditFigures:
    covered, sizes, false, caught = (np.full(len(answers), np.nan) for _ in range(4))
    for row in known:
        answer = answers[row]
        covered[row] = _covers(head, answer, truth[row])
        sizes[row] = _size(answer)
        false[row] = _contradicts(head, answer, truth[row])
        others = [truth[int(other)] for other in rng.choice(known, 20)]
        wrong = next((value for value in others if not _same(head.keyword, truth[row], value)), None)
        if wrong is not None:
            caught[row] = _contradicts(head, answer, wrong)
    return AuditFigures(
        alpha,
        coverage=_mean(covered),
        set_size=float(sizes[known].mean()),
        false_contradictions=_mean(false),
        power=_mean(caught) if np.isfinite(caught).any() else 0.0,
        intervals={
            "coverage": bootstrap.mean(covered),
            "set_size": bootstrap.mean(sizes),
            "false_contradictions": bootstrap.mean(false),
            "power": bootstrap.mean(caught),
        },
    )


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


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _r2(squared_errors: Array, wanted: Array) -> float:
    known = np.isfinite(wanted)
    variance = float(wanted[known].var()) if known.any() else 0.0
    return 1.0 - float(squared_errors[known].mean()) / variance if variance > 0 else float("nan")


# ---------------------------------------------------------------- novelty


def _novelty_scores(package: ModelPackage, test: SeriesSet, split: SplitOutputs, count: int, seed: int) -> Array:
    """(n_series,): of the test split, judged from `count` slices of each series."""
    rng = np.random.default_rng([seed, count])
    scores = []
    for inputs, outputs, features in zip(test.inputs, split.outputs, split.features, strict=True):
        chosen = np.sort(rng.permutation(len(outputs))[:count])
        prepared = inputs[chosen].astype(np.float32)
        prediction = judge(package, prepared, outputs[chosen], features[chosen], ALPHAS[0])
        scores.append(prediction.novelty_score if not prediction.novel else max(prediction.novelty_score, 1 + 1e-9))
    return np.array(scores)


def _novelty(package: ModelPackage, inside: Array, unlike: Sequence[Kind], seed: int) -> tuple[NoveltyFigures, ...]:
    predictor = Predictor(package, device="cpu")
    figures = []
    for number, kind in enumerate(unlike):
        predictions = [predictor.predict(slices, ALPHAS[0]) for slices in kind.series]
        if not predictions:
            continue
        scores = np.array([one.novelty_score for one in predictions])
        rng = np.random.default_rng([seed, number, len(scores)])
        figures.append(
            NoveltyFigures(
                kind.name,
                kind.should_be_novel,
                n_series=len(predictions),
                n_novel=sum(one.novel for one in predictions),
                area=area_under_curve(inside, scores),
                interval=area_interval(inside, scores, rng, rounds=200),
            )
        )
    return tuple(figures)
