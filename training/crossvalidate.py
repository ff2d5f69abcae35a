"""Cross-validation for data sets that are too small for a test split: every series is predicted by a network that was
fitted without it.

What is left out together is a whole patient, or one series with its copies. The first says what a model makes of people
and scanners it never saw; the second only whether it recognises scanners and protocols in images that it never saw, and
is the easier the fewer there are. Called by `iap-train crossvalidate`.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta

from iap_node.audit.checks import vendors
from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.inference import pooling
from iap_node.inference.heads import n_outputs
from iap_node.inference.network import ResNet18
from training import fit
from training.calibrate import outputs_of
from training.dataset import SPLITS, SeriesSet, describe, load
from training.manifest import read_manifest
from training.recipes import Labels, Recipe, class_label, heads_for

ALIKE = 0.98
"""Correlation of two series' mean prepared slices above which one is a copy of the other."""


PROOF = ("Manufacturer", "MagneticFieldStrength", "SequenceFamily")
"""What a pipeline is tried with on any MR: the maker, the magnet, how the echo is made."""


class Apart(StrEnum):
    """What is left out together."""

    PATIENTS = "patients"
    SERIES = "series"


@dataclass(frozen=True, slots=True)
class Answer:
    """One parameter of one series, predicted by a network that never saw it."""

    series: int
    keyword: str
    truth: str
    predicted: str

    @property
    def right(self) -> bool:
        """Whether it is the header's value, as a physicist would say."""
        return BY_KEYWORD[self.keyword].same(self.truth, self.predicted)


@dataclass(frozen=True, slots=True)
class Score:
    """One parameter over all series that were left out in turn.

    Attributes
    ----------
    majority
        How many would be right with the commonest label every time.
    interval
        Of the share that is right: exact, 95 % (Clopper, Pearson 1934, doi 10.1093/biomet/26.4.404). It takes the
        series for independent; those of one patient are not, so that it is too narrow.
    balanced
        Mean over the classes of the share that is right; 1 / `n_classes` is what the commonest label reaches.
    unlearnable
        Series whose class no other group has: nothing could have learned it.
    """

    keyword: str
    n_series: int
    n_groups: int
    n_classes: int
    right: int
    interval: tuple[float, float]
    majority: int
    balanced: float
    unlearnable: int


def whole(folder: Path) -> tuple[SeriesSet, list[str]]:
    """All series of a prepared data set, whatever their split, and the patient of each.

    Raises
    ------
    DataSetError
        The data set is incomplete, or simulated.
    """
    present = [split for split in SPLITS if int(describe(folder)["splits"][split]["n_series"])]
    rows = [row for row in read_manifest(folder) if row.dropped_reason is None]
    sets = [load(folder, split) for split in present]
    n_slices = min(one.inputs.shape[1] for one in sets)
    inputs = np.concatenate([one.inputs[:, :n_slices] for one in sets])
    labels = tuple(label for one in sets for label in one.labels)
    return SeriesSet(inputs, labels), [row.patient for split in present for row in rows if row.split == split]


def by_vendor(labels: Sequence[Labels]) -> tuple[Labels, ...]:
    """The same labels with one spelling per manufacturer: Siemens Healthineers is SIEMENS."""
    found: list[Labels] = []
    for label in labels:
        name = label.get("Manufacturer")
        found.append(dict(label) | {"Manufacturer": vendors.by_name(str(name)) or name} if name else label)
    return tuple(found)


def copies(inputs: NDArray[np.generic]) -> list[int]:
    """A group for each series; series that show the same images are one group."""
    means = inputs.astype(np.float64).mean(axis=1).reshape(len(inputs), -1)
    means -= means.mean(axis=1, keepdims=True)
    means /= np.linalg.norm(means, axis=1, keepdims=True) + 1e-12
    groups = list(range(len(inputs)))
    for one, other in zip(*np.nonzero(means @ means.T > ALIKE), strict=True):
        if one < other:
            old, new = groups[other], groups[one]
            groups = [new if group == old else group for group in groups]
    return groups


def folds(groups: Sequence[Any], n_folds: int) -> list[list[int]]:
    """Rows of each fold: whole groups, the largest first to the fold that has least."""
    members: dict[Any, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    found: list[list[int]] = [[] for _ in range(min(n_folds, len(members)))]
    for rows in sorted(members.values(), key=lambda rows: (-len(rows), rows)):
        min(found, key=len).extend(rows)
    return [sorted(rows) for rows in found]


def crossvalidate(
    series: SeriesSet,
    groups: Sequence[Any],
    recipe: Recipe,
    keywords: Sequence[str],
    *,
    n_folds: int,
    seed: int = 0,
    done: Callable[[int], None] = lambda n_series: None,
) -> list[Answer]:
    """Predict every series by a network that was fitted without its group.

    Parameters
    ----------
    groups
        Of each series; what is in one group is left out together.
    keywords
        Parameters to learn, as classes.
    n_folds
        At most so many networks are fitted.
    done
        Told of so many series more that were predicted.
    """
    answers: list[Answer] = []
    for number, left_out in enumerate(folds(groups, n_folds)):
        seen = [row for row in range(len(groups)) if row not in set(left_out)]
        answers += _predict(series, seen, left_out, recipe, keywords, seed + number)
        done(len(left_out))
    return answers


def _predict(
    series: SeriesSet, seen: Sequence[int], left_out: Sequence[int], recipe: Recipe, keywords: Sequence[str], seed: int
) -> Iterator[Answer]:
    learned = tuple({keyword: series.labels[row].get(keyword) for keyword in keywords} for row in seen)
    heads = heads_for(replace(recipe, continuous=()), learned)
    if not heads:
        return
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit.fit(recipe, heads, SeriesSet(series.inputs[seen], learned), Path(folder), seed=seed)
    network = ResNet18(len(recipe.preprocessing.channels), n_outputs(heads), recipe.width)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in fitted.weights.items()})
    labels = [series.labels[row] for row in left_out]
    found = outputs_of(network, recipe.preprocessing, series.inputs[left_out], labels)
    for head, scores in zip(heads, pooling.pool(found.outputs, heads), strict=True):
        for row, label, mine in zip(left_out, labels, scores, strict=True):
            truth = label.get(head.keyword)
            if truth is not None:
                yield Answer(row, head.keyword, class_label(head.keyword, truth), head.classes[int(np.argmax(mine))])


def of_vendors(
    series: SeriesSet,
    patients: Sequence[str],
    apart: Apart,
    recipe: Recipe,
    keywords: Sequence[str],
    *,
    n_folds: int,
    seed: int = 0,
    done: Callable[[int], None] = lambda n_series: None,
) -> list[Score]:
    """Scores of a cross-validation, one spelling per manufacturer."""
    groups: Sequence[Any] = patients if apart is Apart.PATIENTS else copies(series.inputs)
    named = replace(series, labels=by_vendor(series.labels))
    return score(crossvalidate(named, groups, recipe, keywords, n_folds=n_folds, seed=seed, done=done), groups)


def score(answers: Sequence[Answer], groups: Sequence[Any]) -> list[Score]:
    """Right answers by parameter, beside those of the commonest label."""
    found = []
    for keyword in dict.fromkeys(answer.keyword for answer in answers):
        mine = [answer for answer in answers if answer.keyword == keyword]
        right = sum(answer.right for answer in mine)
        classes = Counter(answer.truth for answer in mine)
        groups_of: dict[str, set[Any]] = {}
        for answer in mine:
            groups_of.setdefault(answer.truth, set()).add(groups[answer.series])
        recalls = [np.mean([answer.right for answer in mine if answer.truth == truth]) for truth in classes]
        found.append(
            Score(
                keyword=keyword,
                n_series=len(mine),
                n_groups=len({groups[answer.series] for answer in mine}),
                n_classes=len(classes),
                right=right,
                interval=exact_interval(right, len(mine)),
                majority=classes.most_common(1)[0][1],
                balanced=float(np.mean(recalls)),
                unlearnable=sum(number for truth, number in classes.items() if len(groups_of[truth]) == 1),
            )
        )
    return found


def exact_interval(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a share."""
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, right, n - right + 1)) if right else 0.0
    high = float(beta.ppf(1 - tail, right + 1, n - right)) if right < n else 1.0
    return low, high


def as_markdown(scores: Sequence[Score], apart: str) -> str:
    """A table for people."""
    lines = [
        f"| parameter ({apart} apart) | series | {apart} | classes | right | 95 % exact | commonest label | balanced | "
        f"class of one of the {apart} only |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in scores:
        low, high = one.interval
        lines.append(
            f"| {BY_KEYWORD[one.keyword].title} | {one.n_series} | {one.n_groups} | {one.n_classes} | {one.right} "
            f"({one.right / one.n_series:.0%}) | {low:.0%} to {high:.0%} | {one.majority} "
            f"({one.majority / one.n_series:.0%}) | {one.balanced:.2f}, by chance {1 / one.n_classes:.2f} | "
            f"{one.unlearnable} |"
        )
    return "\n".join(lines)


def as_json(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Plain values."""
    return [asdict(one) for one in scores]
