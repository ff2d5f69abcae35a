"""What a new model begins with: its heads and its first weights, taken from the model at work or made anew.

From the model at work: network, preparation and heads stay as they are, so that every convolution fits. A categorical
head keeps its classes, in their order, and gets those that enough patients show behind them; classes that the archive
no longer shows stay too, since scanners come back. A parameter that the model did not predict gets a head as the recipe
makes it. Weights are copied where they fit, rows of the last layer by what they stand for; what is new begins as any
new layer does. From scratch: all of it as the recipe says, classes from enough patients alone.

Called by `training.retraining.run`; no data set is read here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.inference.engines.on_torch import build_network
from iap_node.inference.heads import Head, n_outputs, output_slices
from iap_node.inference.network import ResNet18
from iap_node.inference.package import ModelPackage
from iap_node.records import ParameterKind
from training.recipes import Labels, Recipe, class_label, heads_for

WARM_LEARNING_RATE = 0.1
"""Of the recipe's rate, so that what the model knows is refined and not washed out: with 0.3 the reference model lost
on an archive of ninety simulated series, with 0.1 it did not."""

Weights = dict[str, NDArray[Any]]


def recipe_from(recipe: Recipe, champion: ModelPackage) -> Recipe:
    """The recipe as it goes on from a model: with the model's network and preparation, at a lower learning rate."""
    manifest = champion.manifest
    return replace(
        recipe,
        name=f"{recipe.name}, from {champion.model_id}",
        preprocessing=manifest.preprocessing,
        width=manifest.network.width,
        continuous=tuple(dict.fromkeys([*_continuous(manifest.parameters), *recipe.continuous])),
        learning_rate=recipe.learning_rate * WARM_LEARNING_RATE,
    )


def _continuous(heads: Sequence[Head]) -> list[str]:
    return [head.keyword for head in heads if head.kind is ParameterKind.CONTINUOUS]


def heads_from(
    recipe: Recipe,
    labels: Sequence[Labels],
    patients: Sequence[str],
    class_min_patients: int,
    known: Sequence[Head] = (),
) -> tuple[Head, ...]:
    """Heads for these labels.

    Parameters
    ----------
    labels, patients
        Of each training series.
    class_min_patients
        A class that is not in `known` needs so many patients; labels with another one are no labels.
    known
        Heads to go on with: they stay, with all their classes.
    """
    kept = learnable(recipe, labels, patients, class_min_patients, known)
    fresh = {head.keyword: head for head in heads_for(recipe, kept)}
    before = {head.keyword: head for head in known}
    heads = []
    for keyword in (parameter for parameter in BY_KEYWORD if parameter in fresh or parameter in before):
        old, new = before.get(keyword), fresh.get(keyword)
        if old is None:
            assert new is not None  # one of the two is there
            heads.append(new)
        elif old.kind is ParameterKind.CATEGORICAL and new is not None:
            added = tuple(name for name in new.classes if BY_KEYWORD[keyword].match(name, old.classes) is None)
            heads.append(replace(old, classes=old.classes + added))
        else:
            heads.append(old)
    return tuple(heads)


def class_patients(keyword: str, labels: Sequence[Labels], patients: Sequence[str]) -> dict[str, int]:
    """How many patients show each class of a parameter."""
    seen: dict[str, set[str]] = {}
    for label, patient in zip(labels, patients, strict=True):
        value = label.get(keyword)
        if value is not None:
            seen.setdefault(class_label(keyword, value), set()).add(patient)
    return {name: len(them) for name, them in seen.items()}


def learnable(
    recipe: Recipe,
    labels: Sequence[Labels],
    patients: Sequence[str],
    class_min_patients: int,
    known: Sequence[Head] = (),
) -> list[Labels]:
    """The labels without those whose class too few patients show: a burst from one patient teaches nothing."""
    heads = {head.keyword: head.classes for head in known}
    numbers = {keyword for keyword in recipe.continuous if not heads.get(keyword)} | set(_continuous(known))
    kept: list[dict[str, str | float | None]] = [dict(label) for label in labels]
    for keyword in BY_KEYWORD:
        if keyword in numbers:
            continue
        enough = {
            name
            for name, n in class_patients(keyword, labels, patients).items()
            if n >= class_min_patients or BY_KEYWORD[keyword].match(name, heads.get(keyword, ())) is not None
        }
        for label in kept:
            value = label.get(keyword)
            if value is not None and class_label(keyword, value) not in enough:
                label[keyword] = None
    return list(kept)


def first_weights(champion: ModelPackage, heads: Sequence[Head], recipe: Recipe, seed: int) -> Weights:
    """All weights of the new network, those of the champion where they fit."""
    torch.manual_seed(seed)
    network = ResNet18(len(recipe.preprocessing.channels), n_outputs(heads), recipe.width)
    state = {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}
    trained = {name: value.detach().numpy() for name, value in build_network(champion).state_dict().items()}
    for name, array in trained.items():
        if not name.startswith("fc.") and state[name].shape == array.shape:
            state[name] = np.array(array)
    for new, old in _same_outputs(heads, champion.manifest.parameters):
        for name in ("fc.weight", "fc.bias"):
            if state[name].shape[1:] == trained[name].shape[1:]:
                state[name][new] = trained[name][old]
    return state


def _same_outputs(new: Sequence[Head], old: Sequence[Head]) -> list[tuple[int, int]]:
    """Outputs that stand for the same thing: (place in the new last layer, place in the old one)."""
    before: Mapping[str, tuple[Head, slice]] = {
        head.keyword: (head, where) for head, where in zip(old, output_slices(old), strict=True)
    }
    pairs = []
    for head, where in zip(new, output_slices(new), strict=True):
        other, place = before.get(head.keyword, (None, slice(0)))
        if other is None or other.kind is not head.kind:
            continue
        if head.kind is ParameterKind.CONTINUOUS:
            if (head.transform, head.mean, head.std) == (other.transform, other.mean, other.std):
                pairs.append((where.start, place.start))
            continue
        pairs += [
            (where.start + k, place.start + other.classes.index(name))
            for k, name in enumerate(head.classes)
            if name in other.classes
        ]
    return pairs
