"""What the network's outputs mean: one head per acquisition parameter, side by side in table order.

A head is categorical with a vocabulary, or continuous with a transform of its target. Both come from the
model package; nothing about a vocabulary is in code. Called by pooling, calibration, the package and
training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.records import ParameterKind


@dataclass(frozen=True, slots=True)
class Head:
    """The outputs for one acquisition parameter.

    Attributes
    ----------
    keyword
        DICOM keyword, of `iap_node.dicom.parameters`.
    classes
        Vocabulary in output order (categorical).
    transform, mean, std
        A continuous output is (transform(value) - mean) / std; value in the parameter's unit.
    by_association
        Learned from protocol habits, not from physics: may question a header, never contradict it.
    """

    keyword: str
    kind: ParameterKind
    classes: tuple[str, ...] = ()
    transform: Literal["identity", "log"] = "identity"
    mean: float = 0.0
    std: float = 1.0
    by_association: bool = False

    def __post_init__(self) -> None:
        if self.keyword not in BY_KEYWORD:
            raise ValueError(f"{self.keyword} is not an acquisition parameter of iap_node.dicom.parameters")
        if self.kind is ParameterKind.CATEGORICAL and (
            len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)
        ):
            raise ValueError(f"{self.keyword} needs at least two classes, each once")
        if self.kind is ParameterKind.CONTINUOUS and (self.classes or not self.std > 0):
            raise ValueError(f"{self.keyword} is continuous: no classes, and a positive std")

    @property
    def n_outputs(self) -> int:
        """How many outputs of the network belong to this head."""
        return len(self.classes) or 1

    def encode(self, value: float) -> float:
        """Target of a value, both as floats; `value` in the parameter's unit."""
        return ((math.log(value) if self.transform == "log" else value) - self.mean) / self.std

    def decode(self, target: float) -> float:
        """Value in the parameter's unit that an output stands for."""
        raw = target * self.std + self.mean
        return math.exp(min(raw, 700.0)) if self.transform == "log" else raw


def output_slices(heads: Sequence[Head]) -> tuple[slice, ...]:
    """Where each head's outputs lie in the last layer."""
    slices, start = [], 0
    for head in heads:
        slices.append(slice(start, start + head.n_outputs))
        start += head.n_outputs
    return tuple(slices)


def n_outputs(heads: Sequence[Head]) -> int:
    """Width of the last layer."""
    return sum(head.n_outputs for head in heads)
