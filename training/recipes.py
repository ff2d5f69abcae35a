"""How a model is trained: the shipped reference recipe, and the published one (arXiv 2303.04911).

A recipe is data. It says how slices are prepared, which parameters are numbers and which are classes, and how
the network is fitted; vocabularies come from the training labels. Called by `dataset`, `fit` and the command
line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from iap_node.dicom.parameters import ALL_PARAMETERS, BY_KEYWORD, PARAMETERS, Nature
from iap_node.inference.heads import Head
from iap_node.inference.preprocess import PAPER, Preprocessing
from iap_node.records import ParameterKind

Labels = Mapping[str, str | float | None]
Layout = Literal["96", "47"]

BY_ASSOCIATION = frozenset({"ContrastBolusAgent"})
"""Pre-contrast images do not show the agent: what predicts it is protocol habit."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained.

    Attributes
    ----------
    continuous
        Parameters predicted as numbers; all others are classes.
    target
        `log`: standardised logarithm of the value; `raw`: the value in its unit.
    loss
        `uncertainty`: heads weighed by learned variances (Kendall, Gal, Cipolla 2018, arXiv 1705.07115);
        `sum`: unweighted sum of cross-entropies and squared errors.
    schedule
        `cycle`: linear warm-up over `warm_up` of the run, then cosine to zero; `constant`.
    average_decay
        Exponential moving average of the weights, per step; 0 takes the last weights.
    intensity_jitter
        Largest relative change of gain and exponent of the image channel; nothing that moves k-space.
    position_jitter
        Largest shift of the image channel, pixels; the spectrum of a shifted patient is the same.
    spectrum_noise
        Standard deviation of noise added to the spectrum channel, of 255: about the speckle that one slice
        has.
    parts
        A batch is split into so many, fitted side by side on one core each; normalisation statistics are
        those of a part.
    bfloat16
        Forward and backward in bfloat16 where the device is fast at it (CPU, CUDA).
    ordinal
        Class parameters that are numbers, each with the distance, in its unit, that costs one in the loss; see
        `training.losses`.
    rare_classes
        Power of the inverse frequency by which rare classes weigh more; 0: all series alike.
    further
        Whether parameters beyond the paper's get heads where there are labels.
    """

    name: str
    preprocessing: Preprocessing
    width: float
    continuous: tuple[str, ...]
    target: Literal["log", "raw"]
    loss: Literal["uncertainty", "sum"]
    optimiser: Literal["AdamW", "Adam"]
    learning_rate: float
    weight_decay: float
    schedule: Literal["cycle", "constant"]
    batch_size: int
    epochs: int
    warm_up: float = 0.1
    average_decay: float = 0.0
    intensity_jitter: float = 0.0
    position_jitter: int = 0
    spectrum_noise: float = 0.0
    parts: int = 1
    bfloat16: bool = False
    ordinal: tuple[tuple[str, float], ...] = ()
    rare_classes: float = 0.0
    further: bool = True


REFERENCE = Recipe(
    name="reference",
    # Offsets and scales are rounded means and deviations of simulated slices: constants, not fitted.
    preprocessing=Preprocessing(
        size=96, channels=("image", "spectrum"), rounded=True, offset=(55.0, 105.0), scale=(45.0, 30.0)
    ),
    width=0.5,
    continuous=("EchoTime", "RepetitionTime"),
    target="log",
    loss="uncertainty",
    optimiser="AdamW",
    learning_rate=3e-3,
    weight_decay=0.05,
    schedule="cycle",
    batch_size=128,
    epochs=12,
    average_decay=0.998,
    intensity_jitter=0.15,
    position_jitter=4,
    spectrum_noise=2.5,
    parts=2,
    bfloat16=True,
    # About what two usual protocols of the Duke vocabulary differ by.
    ordinal=(("MagneticFieldStrength", 1.0), ("SliceThickness", 0.25), ("FlipAngle", 2.0), ("FieldOfView", 20.0)),
    rare_classes=0.25,
)


def paper(layout: Layout = "96") -> Recipe:
    """The published recipe in one of its two layouts, named by their number of outputs in the Duke data."""
    regressed = ("SliceThickness", "FlipAngle", "FieldOfView") if layout == "47" else ()
    return Recipe(
        name=f"paper-{layout}",
        preprocessing=PAPER,
        width=1.0,
        continuous=(*regressed, "EchoTime", "RepetitionTime"),
        target="raw",
        loss="sum",
        optimiser="Adam",
        learning_rate=1e-3,
        weight_decay=1e-4,
        schedule="constant",
        batch_size=512,
        epochs=100,
        further=False,
    )


def class_label(keyword: str, value: str | float) -> str:
    """A canonical value as a class of a vocabulary."""
    return f"{float(value):g}" if BY_KEYWORD[keyword].nature is Nature.NUMBER else str(value)


def heads_for(recipe: Recipe, labels: Sequence[Labels]) -> tuple[Head, ...]:
    """Heads of a recipe with the vocabularies and target statistics of the training labels.

    A parameter with fewer than two classes in the labels gets no head: there is nothing to learn.
    """
    heads = []
    for parameter in ALL_PARAMETERS if recipe.further else PARAMETERS:
        keyword = parameter.keyword
        values = [value for label in labels if (value := label.get(keyword)) is not None]
        if keyword in recipe.continuous:
            numbers = [float(value) for value in values]
            if len(numbers) < 2:
                continue
            if recipe.target == "log":
                logs = np.log(numbers)
                mean, std = float(logs.mean()), max(float(logs.std()), 1e-6)
                heads.append(Head(keyword, ParameterKind.CONTINUOUS, transform="log", mean=mean, std=std))
            else:
                heads.append(Head(keyword, ParameterKind.CONTINUOUS))
            continue
        classes = _ordered(keyword, {class_label(keyword, value) for value in values})
        if len(classes) > 1:
            by_association = keyword in BY_ASSOCIATION
            heads.append(Head(keyword, ParameterKind.CATEGORICAL, classes, by_association=by_association))
    return tuple(heads)


def _ordered(keyword: str, classes: Iterable[str]) -> tuple[str, ...]:
    if BY_KEYWORD[keyword].nature is Nature.NUMBER:
        return tuple(sorted(classes, key=float))
    return tuple(sorted(classes))


def encode_targets(heads: Sequence[Head], labels: Sequence[Labels]) -> NDArray[np.float32]:
    """(n_series, n_heads): class index or continuous target; NaN where missing or not in the vocabulary.

    A value that is no class itself counts as the one that it is the same as: "Siemens" as "SIEMENS".
    """
    targets = np.full((len(labels), len(heads)), np.nan, np.float32)
    for column, head in enumerate(heads):
        index = {label: position for position, label in enumerate(head.classes)}
        for row, label in enumerate(labels):
            value = label.get(head.keyword)
            if value is None:
                continue
            if head.kind is ParameterKind.CATEGORICAL:
                name = class_label(head.keyword, value)
                same = name if name in index else BY_KEYWORD[head.keyword].match(value, head.classes)
                targets[row, column] = math.nan if same is None else index[same]
            elif head.transform != "log" or float(value) > 0:
                targets[row, column] = head.encode(float(value))
    return targets


SMALL = Recipe(
    name="small",
    # Real slices of any body part and matrix: the spectrum out to 128 cycles per field of view holds what most have.
    preprocessing=Preprocessing(
        size=64, channels=("image", "spectrum"), rounded=True, offset=(55.0, 105.0), scale=(45.0, 30.0),
        spectrum_extent=128,
    ),
    width=0.25,
    continuous=("EchoTime", "RepetitionTime"),
    target="log",
    loss="uncertainty",
    optimiser="AdamW",
    learning_rate=3e-3,
    weight_decay=0.05,
    schedule="cycle",
    batch_size=32,
    epochs=12,
    average_decay=0.98,
    intensity_jitter=0.15,
    position_jitter=2,
    spectrum_noise=2.5,
)  # fmt: skip
"""For some dozens of series, and seconds of a CPU: proof that the pipeline learns, not a model to rely on."""
