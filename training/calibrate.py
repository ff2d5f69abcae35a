"""From a fitted network to a model package: temperatures, conformal quantiles, novelty reference.

Temperatures come from one held-out split, conformal quantiles and novelty thresholds from another (thresholds
from both). Each is fitted for several numbers of slices. Called by the command line and by
`training.reference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from iap_node.inference import novelty, pooling
from iap_node.inference.calibration import (
    ALPHAS,
    Calibration,
    HeadCalibration,
    conformal_quantiles,
    fit_temperature,
)
from iap_node.inference.engines.on_torch import channels_last
from iap_node.inference.heads import Head
from iap_node.inference.network import ResNet18
from iap_node.inference.novelty import View
from iap_node.inference.preprocess import Preprocessing, standardise
from iap_node.records import ParameterKind
from training.recipes import Labels, encode_targets

SLICE_COUNTS = (1, 2, 4, 8)
FALSE_NOVEL_RATE = 0.0025
"""Per view; two views make half a per cent of training-like series novel."""

N_CLUSTERS = {"feature": 16, "input": 16}


@dataclass(frozen=True, slots=True)
class SplitOutputs:
    """What the network says of a split.

    Attributes
    ----------
    outputs
        (n_series, n_slices, n_outputs).
    features
        (n_series, n_slices, n_features).
    descriptions
        (n_series, n_slices, n_dimensions) of `novelty.describe_input`.
    labels
        One mapping per series.
    """

    outputs: NDArray[np.float32]
    features: NDArray[np.float32]
    descriptions: NDArray[np.float32]
    labels: tuple[Labels, ...]

    def view(self, name: str) -> NDArray[np.float32]:
        """Descriptors per slice of one view of the novelty reference."""
        return self.features if name == "feature" else self.descriptions


@torch.inference_mode()
def outputs_of(
    network: ResNet18,
    spec: Preprocessing,
    inputs: NDArray[np.generic],
    labels: Sequence[Labels],
    batch_size: int = 128,
) -> SplitOutputs:
    """Run the network over prepared slices (n_series, n_slices, channels, size, size)."""
    network.eval()
    channels_last(network)
    flat = inputs.reshape(-1, *inputs.shape[2:])
    outputs, features, descriptions = [], [], []
    for start in range(0, len(flat), batch_size):
        batch = flat[start : start + batch_size].astype(np.float32)
        images = torch.from_numpy(standardise(batch, spec)).contiguous(memory_format=torch.channels_last)
        output, feature = network(images)
        outputs.append(output.numpy())
        features.append(feature.numpy())
        descriptions.append(novelty.describe_input(batch).astype(np.float32))
    shape = inputs.shape[:2]
    return SplitOutputs(
        np.concatenate(outputs).reshape(*shape, -1),
        np.concatenate(features).reshape(*shape, -1),
        np.concatenate(descriptions).reshape(*shape, -1),
        tuple(labels),
    )


def calibrate(
    heads: Sequence[Head], temperature: SplitOutputs, conformal: SplitOutputs, seed: int = 0
) -> tuple[Calibration, ...]:
    """Calibrations for every number of slices that the splits allow."""
    temperature_targets = encode_targets(heads, temperature.labels)
    conformal_targets = encode_targets(heads, conformal.labels)
    result = []
    for n_slices in _slice_counts(conformal, temperature):
        rng = np.random.default_rng([seed, n_slices])
        fitting = pooling.pool(subset(temperature.outputs, n_slices, rng), heads)
        scoring = pooling.pool(subset(conformal.outputs, n_slices, rng), heads)
        fitted = [
            _calibrate_head(head, fitting[k], temperature_targets[:, k], scoring[k], conformal_targets[:, k])
            for k, head in enumerate(heads)
        ]
        result.append(Calibration(n_slices, len(conformal.labels), ALPHAS, tuple(fitted)))
    return tuple(result)


def _calibrate_head(
    head: Head,
    fitting: NDArray[np.float64],
    fitting_targets: NDArray[np.float32],
    scoring: NDArray[np.float64],
    scoring_targets: NDArray[np.float32],
) -> HeadCalibration:
    known = ~np.isnan(scoring_targets)
    if head.kind is ParameterKind.CONTINUOUS:
        scores = np.abs(scoring[known, 0] - scoring_targets[known])
        return HeadCalibration(head.keyword, 1.0, conformal_quantiles(scores))
    usable = ~np.isnan(fitting_targets)
    temperature = fit_temperature(fitting[usable], fitting_targets[usable].astype(np.intp)) if usable.any() else 1.0
    shares = pooling.probabilities(scoring[known], temperature)
    scores = 1 - shares[np.arange(len(shares)), scoring_targets[known].astype(np.intp)]
    return HeadCalibration(head.keyword, temperature, conformal_quantiles(scores))


def fit_novelty(training: SplitOutputs, held_out: Sequence[SplitOutputs], seed: int = 0) -> dict[str, View]:
    """The novelty reference: clusters of training series, thresholds from series the network never saw."""
    views = {}
    for name, n_clusters in N_CLUSTERS.items():
        rng = np.random.default_rng([seed, n_clusters])
        descriptors = training.view(name).mean(axis=1).astype(np.float64)
        means, whitening = novelty.fit_clusters(descriptors, min(n_clusters, max(1, len(descriptors) // 50)), rng)
        unlimited = View(means, whitening, ((1, np.inf),))
        by_n_slices = [
            (
                n,
                np.concatenate([subset(split.view(name), n, rng).mean(axis=1) for split in held_out]).astype(
                    np.float64
                ),
            )
            for n in _slice_counts(*held_out)
        ]
        views[name] = View(means, whitening, novelty.thresholds(unlimited, by_n_slices, FALSE_NOVEL_RATE))
    return views


def subset(values: NDArray[np.float32], n_slices: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(n_series, n_slices, ...): a random choice of the slices of each series."""
    if n_slices >= values.shape[1]:
        return values
    chosen = rng.random(values.shape[:2]).argsort(axis=1)[:, :n_slices]
    return np.take_along_axis(values, chosen[:, :, None], axis=1)


def _slice_counts(*splits: SplitOutputs) -> list[int]:
    fewest = min(split.outputs.shape[1] for split in splits)
    return [count for count in SLICE_COUNTS if count <= fewest]
