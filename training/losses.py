"""The losses of all heads in one number, and what they know of the classes: how near they are, and how rare.

Called by `training.fit`.

Classes that are numbers (slice thickness, flip angle, field of view, field strength) have distances: to cross-entropy
the continuous ranked probability score of the classes' distribution is added, in a unit of the parameter's own
(Matheson & Winkler 1976, doi 10.1287/mnsc.22.10.1087). Taking 1.2 mm for 1.25 mm then costs less than taking it for
2.5 mm. Both are proper scores, so that the best a network can say stays the true distribution; soft targets, which
share a class's mass with its neighbours, are not, and blur what calibration starts from. Nothing of the package
changes: a head stays one logit per class.

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
    distances
        By keyword, (n_classes - 1,): from each class to the next, in the unit of the score; other classes have none.
    weights
        By keyword, (n_classes,): how much each true class counts.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        weighed: bool,
        distances: Mapping[str, NDArray[np.float64]] | None = None,
        weights: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> None:
        super().__init__()
        self._heads = tuple(zip(heads, output_slices(heads), strict=True))
        self._weighed = weighed
        self.log_variances = nn.Parameter(torch.zeros(len(self._heads)), requires_grad=weighed)
        for head in heads:
            tables = ((f"distance_{head.keyword}", distances), (f"weight_{head.keyword}", weights))
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
        distances: Tensor | None = getattr(self, f"distance_{head.keyword}")
        weights: Tensor | None = getattr(self, f"weight_{head.keyword}")
        if distances is None and weights is None:
            return functional.cross_entropy(outputs, target)
        losses = functional.cross_entropy(outputs, target, reduction="none")
        if distances is not None:
            losses = losses + ranked_score(outputs, target, distances)
        if weights is None:
            return losses.mean()
        return (weights[target] * losses).mean()


def ranked_score(outputs: Tensor, target: Tensor, distances: Tensor) -> Tensor:
    """(n,): integral of the squared difference between the distribution function and the truth's step.

    Parameters
    ----------
    outputs
        (n, n_classes) logits, classes by rising value.
    distances
        (n_classes - 1,) from each class to the next.
    """
    below = torch.softmax(outputs, dim=1).cumsum(dim=1)[:, :-1]
    reached = target[:, None] <= torch.arange(outputs.shape[1] - 1, device=target.device)
    return ((below - reached.to(below.dtype)) ** 2 * distances).sum(dim=1)


def distances_of(head: Head, unit: float) -> NDArray[np.float64] | None:
    """(n_classes - 1,): from each class to the next in units of `unit`, which is in the parameter's; None where the
    classes do not rise."""
    steps: NDArray[np.float64] = np.diff([float(label) for label in head.classes]) / unit
    return steps if (steps > 0).all() else None


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
