"""What stands in the labels of a data set: the supplement of arXiv 2303.04911 for any manifest.

Distributions per parameter and split, Spearman correlations, which combinations of parameters the splits share, and
what the commonest label would reach. No image is read. Written as Markdown, JSON and one self-contained HTML page by
`training.analysis_report`; called by `iap-train analyze`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from iap_node.dicom.parameters import ALL_PARAMETERS, BY_KEYWORD, AcquisitionParameter, Nature
from training.dataset import SHARD_SERIES, SIMULATED, SPLITS, DataSetError, describe, shard_path
from training.manifest import MANIFEST_FILE, read_manifest
from training.recipes import Labels, class_label

Array = NDArray[np.float64]

BINS = 20
SCANNER = ("Manufacturer", "ManufacturerModelName", "MagneticFieldStrength")
"""What makes a scanner; the rest of the parameters, those of chance excepted, makes a protocol."""

PROTOCOL = (*SCANNER, "ScanOptions", "AcquisitionMatrix", "SliceThickness", "FlipAngle", "FieldOfView")


@dataclass(frozen=True, slots=True)
class LabelledSeries:
    """What is known of one series: its labels, its split, its patient."""

    labels: Labels
    split: str
    patient: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """One parameter over all series with a label.

    Attributes
    ----------
    classes
        (value, series, patients), the commonest first; numbers as classes too.
    histogram
        (low, high, series) of a number, in its unit; empty for text.
    summary
        Smallest, quartiles and largest of a number, in its unit; empty for text.
    majority
        By split, the share that is right with the commonest label of the training split (of all series where there is
        no training split): what any model must beat.
    """

    keyword: str
    n_labelled: int
    n_missing: int
    classes: tuple[tuple[str, int, int], ...]
    histogram: tuple[tuple[float, float, int], ...]
    summary: tuple[float, ...]
    majority: dict[str, float]


@dataclass(frozen=True, slots=True)
class Sharing:
    """Combinations of some parameters: of each split, what also stands in the training split.

    Attributes
    ----------
    distinct
        Combinations by split.
    shared_combinations, shared_series
        Of each other split: how many of its combinations, and what share of its series, the training split has.
    """

    keywords: tuple[str, ...]
    distinct: dict[str, int]
    shared_combinations: dict[str, int]
    shared_series: dict[str, float]


@dataclass(frozen=True, slots=True)
class Analysis:
    """All of a data set."""

    images: str
    n_series: dict[str, int]
    n_patients: dict[str, int]
    distributions: tuple[Distribution, ...]
    correlated: tuple[str, ...]  # keywords in the order of the matrix
    correlations: tuple[tuple[float | None, ...], ...]  # None: too few series state both, or one never varies
    sharing: tuple[Sharing, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def read_labelled(path: Path) -> tuple[str, list[LabelledSeries]]:
    """Where the images come from, and what is known of the series.

    Parameters
    ----------
    path
        Folder of a data set, simulated or prepared, or a manifest.

    Raises
    ------
    DataSetError
        There is neither.
    """
    if path.is_file() or (path / MANIFEST_FILE).exists():
        rows = [row for row in read_manifest(path) if row.dropped_reason is None]
        folder = path.parent if path.is_file() else path
        try:
            images = str(describe(folder)["images"])
        except DataSetError:
            images = "series of a manifest"
        return images, [LabelledSeries(row.labels, row.split, row.patient) for row in rows]
    description = describe(path)
    found = []
    for split, part in description["splits"].items():
        for first in range(0, int(part["n_series"]), SHARD_SERIES):
            try:
                labels = json.loads(shard_path(path, split, first).with_suffix(".json").read_text())
            except OSError:
                continue  # not simulated yet: what is there is analysed
            found += [LabelledSeries(one, split, f"{split} {first + row}") for row, one in enumerate(labels)]
    if not found:
        raise DataSetError(f"{path} holds no labels yet; make the data set with iap-train simulate or prepare")
    images = description["images"]
    return (f"{SIMULATED} images" if images == SIMULATED else images), found


def analyze(images: str, series: Sequence[LabelledSeries]) -> Analysis:
    """Everything that the report shows."""
    splits = [split for split in SPLITS if any(one.split == split for one in series)]
    correlated, correlations = spearman(series)
    return Analysis(
        images=images,
        n_series={split: sum(one.split == split for one in series) for split in splits},
        n_patients={split: len({one.patient for one in series if one.split == split}) for split in splits},
        distributions=tuple(_distribution(parameter, series, splits) for parameter in ALL_PARAMETERS),
        correlated=correlated,
        correlations=correlations,
        sharing=tuple(_sharing(keywords, series, splits) for keywords in _combinations()),
    )


def _distribution(
    parameter: AcquisitionParameter, series: Sequence[LabelledSeries], splits: Sequence[str]
) -> Distribution:
    keyword = parameter.keyword
    counted, patients = Counter[str](), defaultdict[str, set[str]](set)
    of_split: dict[str, Counter[str]] = {split: Counter() for split in splits}
    numbers = []
    for one in series:
        value = one.labels.get(keyword)
        if value is None:
            continue
        name = class_label(keyword, value)
        counted[name] += 1
        patients[name].add(one.patient)
        of_split[one.split][name] += 1
        if parameter.nature is Nature.NUMBER:
            numbers.append(float(value))
    classes = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return Distribution(
        keyword=keyword,
        n_labelled=counted.total(),
        n_missing=len(series) - counted.total(),
        classes=tuple((name, number, len(patients[name])) for name, number in classes),
        histogram=_histogram(numbers),
        summary=tuple(float(value) for value in np.percentile(numbers, (0, 25, 50, 75, 100))) if numbers else (),
        majority=_majority(of_split),
    )


def _histogram(numbers: Sequence[float]) -> tuple[tuple[float, float, int], ...]:
    if not numbers:
        return ()
    counts, edges = np.histogram(numbers, bins=min(BINS, max(1, len(set(numbers)))))
    return tuple((float(low), float(high), int(n)) for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True))


def _majority(of_split: dict[str, Counter[str]]) -> dict[str, float]:
    learned = of_split.get("training") or sum(of_split.values(), Counter[str]())
    if not learned:
        return {}
    commonest = min(learned, key=lambda name: (-learned[name], name))
    return {split: counted[commonest] / counted.total() for split, counted in of_split.items() if counted}


# ---------------------------------------------------------------- correlations


def spearman(series: Sequence[LabelledSeries]) -> tuple[tuple[str, ...], tuple[tuple[float | None, ...], ...]]:
    """Spearman's rank correlation of every two parameters over the series that state both.

    Numbers and matrices (by their area) rank by size. Other text ranks by how common it is, as the paper's code does by
    the order of its class numbers: of these only the strength says something, and the sign nothing.
    """
    keywords = tuple(parameter.keyword for parameter in ALL_PARAMETERS)
    columns = [_ranked(keyword, series) for keyword in keywords]
    return keywords, tuple(tuple(_correlation(one, other) for other in columns) for one in columns)


def _ranked(keyword: str, series: Sequence[LabelledSeries]) -> Array:
    """A number for each series that orders it, NaN where there is no label."""
    values = [one.labels.get(keyword) for one in series]
    nature = BY_KEYWORD[keyword].nature
    if nature is Nature.NUMBER:
        return np.array([np.nan if value is None else float(value) for value in values])
    if nature is Nature.MATRIX:
        return np.array([np.nan if value is None else _area(str(value)) for value in values])
    counted = Counter(str(value) for value in values if value is not None)
    order = {name: place for place, (name, _) in enumerate(sorted(counted.items(), key=lambda item: (-item[1], item)))}
    return np.array([np.nan if value is None else float(order[str(value)]) for value in values])


def _area(matrix: str) -> float:
    frequency, _, phase = matrix.partition("x")
    return float(frequency) * float(phase)


def _correlation(one: Array, other: Array) -> float | None:
    known = np.isfinite(one) & np.isfinite(other)
    if known.sum() < 3:
        return None
    left, right = rankdata(one[known]), rankdata(other[known])
    left, right = left - left.mean(), right - right.mean()
    scale = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return round(float((left * right).sum()) / scale, 4) if scale > 0 else None


# ---------------------------------------------------------------- what the splits share


def _combinations() -> list[tuple[str, ...]]:
    single = [(parameter.keyword,) for parameter in ALL_PARAMETERS]
    return [*single, SCANNER, PROTOCOL]


def _sharing(keywords: tuple[str, ...], series: Sequence[LabelledSeries], splits: Sequence[str]) -> Sharing:
    found: dict[str, Counter[tuple[str, ...]]] = {split: Counter() for split in splits}
    for one in series:
        values = [one.labels.get(keyword) for keyword in keywords]
        if any(value is not None for value in values):
            named = zip(keywords, values, strict=True)
            found[one.split][tuple("" if value is None else class_label(key, value) for key, value in named)] += 1
    learned = found.get("training", Counter())
    others = [split for split in splits if split != "training" and found[split]]
    return Sharing(
        keywords=keywords,
        distinct={split: len(counted) for split, counted in found.items()},
        shared_combinations={split: sum(one in learned for one in found[split]) for split in others},
        shared_series={
            split: sum(n for one, n in found[split].items() if one in learned) / found[split].total()
            for split in others
        },
    )
