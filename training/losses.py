"""The losses of all heads in one number, and what they know of the classes: how near they are, and how rare.

Called by `training.fit`.

Classes that are numbers (slice thickness, flip angle, field of view, field strength) are targets with neighbours: the
truth's place in the vocabulary gets most of the mass, its neighbours some by their distance (Diaz & Marathe 2019, CVPR,
"Soft labels for ordinal regression"). Taking 1.2 mm for 1.25 mm then costs less than taking it for 2.5 mm, and nothing
of the package changes, since a head stays one logit per class.

Rare classes weigh more, by a power of their frequency. A network fitted so is too fond of them, by a known factor: it
is taken out of the last layer's bias at the end, so that probabilities are again those of the training data (the same
arithmetic as Menon et al. 2021, arXiv 2007.07314, with the prior put back). Calibration comes after that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from iap_node.inference.heads import Head, output_slices
from iap_node.records import ParameterKind


class HeadLosses(nn.Module):
    """Losses of all heads in one number: weighed by learned log-variances, or summed.

    Parameters
    ----------
    neighbours
        By keyword, (n_classes, n_classes): the target of each true class; None: the class itself and nothing else.
    weights
        By keyword, (n_classes,): how much each true class counts.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        weighed: bool,
        neighbours: Mapping[str, NDArray[np.float64]] | None = None,
        weights: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> None:
        super().__init__()
        self._heads = tuple(zip(heads, output_slices(heads), strict=True))
        self._weighed = weighed
        self.log_variances = nn.Parameter(torch.zeros(len(self._heads)), requires_grad=weighed)
        for head in heads:
            tables = ((f"near_{head.keyword}", neighbours), (f"weight_{head.keyword}", weights))
            for name, table in tables:
                known = (table or {}).get(head.keyword)
                value = None if known is None else torch.from_numpy(known.astype(np.float32))
                self.register_buffer(name, value, persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of (n, n_outputs) against (n, n_heads); a target that is NaN counts for nothing."""
        total = outputs.new_zeros(())
        for column, (head, where) in enumerate(self._heads):
            target = targets[:, column]
            known = ~torch.isnan(target)
            if not bool(known.any()):
                continue
            mine = outputs[known, where]
            if head.kind is ParameterKind.CATEGORICAL:
                loss = self._class_loss(head, mine, target[known].long())
            else:
                loss = functional.mse_loss(mine[:, 0], target[known])
            if self._weighed:
                log_variance = self.log_variances[column]
                loss = loss * torch.exp(-log_variance) + log_variance / 2
            total = total + loss
        return total

    def _class_loss(self, head: Head, outputs: Tensor, target: Tensor) -> Tensor:
        near: Tensor | None = getattr(self, f"near_{head.keyword}")
        weights: Tensor | None = getattr(self, f"weight_{head.keyword}")
        if near is None and weights is None:
            return functional.cross_entropy(outputs, target)
        losses = functional.cross_entropy(outputs, target if near is None else near[target], reduction="none")
        if weights is None:
            return losses.mean()
        return (weights[target] * losses).mean()


def neighbours_of(head: Head, width: float) -> NDArray[np.float64]:
    """(n_classes, n_classes): for each true class the mass of every class, a Gaussian of its distance.

    Parameters
    ----------
    width
        Standard deviation in the parameter's unit: a class two widths away gets an eighth of the truth's own mass.
    """
    values = np.array([float(label) for label in head.classes])
    mass = np.exp(-0.5 * ((values[:, None] - values[None, :]) / width) ** 2)
    shares: NDArray[np.float64] = mass / mass.sum(axis=1, keepdims=True)
    return shares


def class_weights(head: Head, targets: NDArray[np.floating[Any]], power: float) -> NDArray[np.float64]:
    """(n_classes,): frequency to the power of `-power`, 1 on the average of the training labels.

    Parameters
    ----------
    targets
        (n,) class indices; NaN where the label is missing. A class that no label has counts as if one had it.
    """
    counts = np.bincount(targets[~np.isnan(targets)].astype(np.intp), minlength=len(head.classes)).astype(np.float64)
    weights = np.maximum(counts, 1) ** -power
    scaled: NDArray[np.float64] = weights * (counts.sum() / (weights * counts).sum() if counts.sum() else 1.0)
    return scaled


def weight_bias(heads: Sequence[Head], weights: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float32]:
    """(n_outputs,): what class weights add to the last layer's bias; nothing for numbers."""
    parts = [np.log(weights[head.keyword]) if head.keyword in weights else np.zeros(head.n_outputs) for head in heads]
    return np.concatenate(parts).astype(np.float32)
