"""What keeps wrong labels out of training, looked at before anything is fitted. Called by `training.retraining.run`.

Headers with open findings are left out where the data set is made; classes that few patients show, in `start`. Here
the labels as a whole are held against the model at work: where it is sure, and does not abstain, headers rarely
disagree with it. When many suddenly do, somebody relabels: a broken interface, a wrong import, an attack. A person
decides then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iap_node.config.retraining import GuardsConfig
from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.records import ParameterKind, ParameterPrediction, SeriesPrediction
from training.gates import GateResult, share_interval
from training.recipes import Labels
from training.retraining.judging import confidence

MIN_SURE = 5  # labels that the model is sure about; fewer say nothing of a parameter


@dataclass(frozen=True, slots=True)
class Contradicted:
    """How many labels of a parameter the model at work is sure about, and how many of these it is sure are wrong."""

    keyword: str
    n_sure: int
    n_contradicted: int

    @property
    def share(self) -> float:
        """Of the labels that it is sure about."""
        return self.n_contradicted / self.n_sure if self.n_sure else 0.0


def contradicted_labels(
    predictions: Sequence[tuple[SeriesPrediction, tuple[ParameterPrediction, ...]]],
    labels: Sequence[Labels],
    confident_probability: float,
) -> list[Contradicted]:
    """Per parameter, of the series that a calibrated model does not call novel.

    Of classes alone: a number is never so sure. What is known by association contradicts nothing.
    """
    counts: dict[str, tuple[int, int]] = {}
    for (whole, parameters), label in zip(predictions, labels, strict=True):
        if not whole.speaks:
            continue
        for answer in parameters:
            value = label.get(answer.keyword)
            if value is None or answer.by_association:
                continue
            if answer.kind is not ParameterKind.CATEGORICAL or confidence(answer) < confident_probability:
                continue
            wrong = not BY_KEYWORD[answer.keyword].same(value, answer.probabilities[0][0])
            n_sure, n_wrong = counts.get(answer.keyword, (0, 0))
            counts[answer.keyword] = (n_sure + 1, n_wrong + wrong)
    return [Contradicted(keyword, *counts[keyword]) for keyword in BY_KEYWORD if keyword in counts]


def judge_labels(found: Sequence[Contradicted], config: GuardsConfig) -> tuple[GateResult, ...]:
    """One gate per parameter: it fails where the share is above the limit beyond chance."""
    results = []
    for one in found:
        if one.n_sure < MIN_SURE:
            continue
        low, high = share_interval(one.share, one.n_sure)
        says = (
            f"{BY_KEYWORD[one.keyword].title}: the model at work is sure that {one.n_contradicted} of {one.n_sure} "
            f"labels are wrong ({one.share:.1%} [{low:.1%}, {high:.1%}], at most {config.max_contradicted:.1%})"
        )
        figures = {"n_sure": one.n_sure, "n_contradicted": one.n_contradicted}
        passed, limit = low <= config.max_contradicted, config.max_contradicted
        results.append(GateResult(f"labels: {one.keyword}", passed, says, one.share, limit, figures))
    return tuple(results)
