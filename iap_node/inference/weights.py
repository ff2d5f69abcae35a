"""The weights of a package as arrays, checked against the network that model.json describes. No torch, no pickle.

Every engine takes its weights from here, so that a package that one engine refuses is refused by all. Called by
`iap_node.inference.engines`.
"""

from __future__ import annotations

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from iap_node.errors import ModelPackageError
from iap_node.inference.heads import n_outputs
from iap_node.inference.package import ModelPackage

Weights = dict[str, NDArray[np.float32]]

STAGE_CHANNELS = (64, 128, 256, 512)  # of ResNet-18 at width 1 (He et al. 2016, arXiv 1512.03385, table 1)
BLOCKS = 2  # per stage


def stage_channels(width: float) -> tuple[int, ...]:
    """Channels of the four stages of a network of this width."""
    return tuple(round(n * width) for n in STAGE_CHANNELS)


def read_weights(package: ModelPackage) -> Weights:
    """All floating-point tensors of the network by torchvision's names, float32.

    Raises
    ------
    ModelPackageError
        The file is not safetensors, does not fit the network, or holds values that are not finite.
    """
    path = package.folder / package.manifest.weights.file
    try:
        tensors = safetensors.numpy.load(package.weights)
    except safetensors.SafetensorError as error:
        raise ModelPackageError(f"{path} is not a safetensors file ({error}); write the package again") from error
    weights = {name: array.astype(np.float32) for name, array in tensors.items() if array.dtype.kind == "f"}
    expected = _shapes(package)
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is unexpected" for name in weights if name not in expected]
    problems += [
        f"{name} is of shape {weights[name].shape}, not {shape}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    if problems:
        raise ModelPackageError(
            f"{path} does not fit the network of model.json: {'; '.join(problems[:3])}; write the package again"
        )
    if not all(np.isfinite(array).all() for array in weights.values()):
        raise ModelPackageError(f"{path} holds values that are not finite; train the model again")
    return weights


def _shapes(package: ModelPackage) -> dict[str, tuple[int, ...]]:
    """What a ResNet-18 of the package's kind consists of, the counters of its normalisation aside."""
    network = package.manifest.network
    stages = stage_channels(network.width)
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, normalisation: str, n_in: int, n_out: int, size: int) -> None:
        shapes[f"{name}.weight"] = (n_out, n_in, size, size)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{normalisation}.{part}"] = (n_out,)

    convolution("conv1", "bn1", network.in_channels, stages[0], 7)
    n_in = stages[0]
    for stage, n_out in enumerate(stages, start=1):
        for block in range(BLOCKS):
            name = f"layer{stage}.{block}"
            convolution(f"{name}.conv1", f"{name}.bn1", n_in, n_out, 3)
            convolution(f"{name}.conv2", f"{name}.bn2", n_out, n_out, 3)
            if block == 0 and (stage > 1 or n_in != n_out):
                convolution(f"{name}.downsample.0", f"{name}.downsample.1", n_in, n_out, 1)
            n_in = n_out
    n_last = n_outputs(package.manifest.parameters)
    return shapes | {"fc.weight": (n_last, stages[-1]), "fc.bias": (n_last,)}
