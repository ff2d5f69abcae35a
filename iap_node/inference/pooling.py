"""One answer per series from one answer per slice. NumPy only.

Called by the predictor, calibration and evaluation. Slices of one series are far from independent: the *mean*
of their log-probabilities (a geometric mean) keeps the confidence of one slice whatever their number, and a
temperature fitted per series does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from iap_node.inference.heads import Head, output_slices
from iap_node.records import ParameterKind

Array = NDArray[np.float64]


def log_softmax(logits: Array) -> Array:
    """Log-probabilities over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normalised: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised


def pool(outputs: NDArray[np.floating], heads: Sequence[Head]) -> tuple[Array, ...]:
    """Series answers from slice outputs.

    Parameters
    ----------
    outputs
        (..., n_slices, n_outputs) of the network.

    Returns
    -------
    tuple of arrays
        Per head (..., n_classes) mean log-probabilities, or (..., 1) mean target.
    """
    values = outputs.astype(np.float64)
    pooled = []
    for head, where in zip(heads, output_slices(heads), strict=True):
        mine = values[..., where]
        if head.kind is ParameterKind.CATEGORICAL:
            mine = log_softmax(mine)
        pooled.append(mine.mean(axis=-2))
    return tuple(pooled)


def probabilities(mean_log_probabilities: Array, temperature: float) -> Array:
    """Class probabilities (..., n_classes) of a series at a temperature."""
    result: Array = np.exp(log_softmax(mean_log_probabilities / temperature))
    return result
