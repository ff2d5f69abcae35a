"""ResNet-18 on OpenVINO: the graph is built from the package's arrays, so that neither torch nor a converter is needed.

Batch normalisation is folded into the convolution before it (running statistics; the epsilon is torch's default).
Called by `iap_node.inference.engines`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from iap_node.inference.engines import FloatArray, Precision
from iap_node.inference.package import ModelPackage
from iap_node.inference.weights import BLOCKS, STAGE_CHANNELS, Weights, read_weights

_EPSILON = 1e-5  # of torch.nn.BatchNorm2d


class OpenvinoEngine:
    """The network of a package, compiled for the CPU.

    Parameters
    ----------
    precision
        `auto`: bfloat16 where the processor has instructions for it. It is pinned in any case: OpenVINO would choose
        by itself, and a verdict must not depend on a default.

    Raises
    ------
    ModelPackageError
        The weights do not fit the network.
    """

    def __init__(self, package: ModelPackage, precision: Precision = "auto", threads: int | None = None) -> None:
        core = ov.Core()
        if precision == "auto":
            fast = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            precision = "bfloat16" if fast else "float32"
        self._precision = precision
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        self._request = core.compile_model(_graph(package), "CPU", settings).create_infer_request()

    @property
    def description(self) -> str:
        """What computes, where and how exactly."""
        return f"openvino on cpu, {self._precision}"

    def forward(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Outputs and features of standardised slices (n, channels, size, size)."""
        answer = self._request.infer([np.ascontiguousarray(images)], share_inputs=True)
        outputs, features = (np.array(answer[index], np.float32) for index in (0, 1))
        return outputs, features


def _graph(package: ModelPackage) -> ov.Model:
    manifest, weights = package.manifest, read_weights(package)
    size = manifest.preprocessing.size
    images = ops.parameter([-1, manifest.network.in_channels, size, size], np.float32)
    x = ops.relu(_normalised(images, weights, "conv1", "bn1", stride=2))
    x = ops.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)
    for stage in range(1, len(STAGE_CHANNELS) + 1):
        for block in range(BLOCKS):
            x = _block(x, weights, f"layer{stage}.{block}", stride=2 if stage > 1 and block == 0 else 1)
    features = ops.reduce_mean(x, np.array([2, 3]), keep_dims=False)
    product = ops.matmul(features, ops.constant(weights["fc.weight"]), transpose_a=False, transpose_b=True)
    return ov.Model([ops.add(product, ops.constant(weights["fc.bias"])), features], [images], package.model_id)


def _block(x: Any, weights: Weights, name: str, stride: int) -> Any:
    """Two 3 x 3 convolutions and a shortcut."""
    shortcut = x
    if f"{name}.downsample.0.weight" in weights:
        shortcut = _normalised(x, weights, f"{name}.downsample.0", f"{name}.downsample.1", stride)
    inner = ops.relu(_normalised(x, weights, f"{name}.conv1", f"{name}.bn1", stride))
    return ops.relu(ops.add(_normalised(inner, weights, f"{name}.conv2", f"{name}.bn2", 1), shortcut))


def _normalised(x: Any, weights: Weights, convolution: str, normalisation: str, stride: int) -> Any:
    """A convolution (padded to keep the size, then strided) with the normalisation that follows it."""
    filters = weights[f"{convolution}.weight"]
    gain = weights[f"{normalisation}.weight"] / np.sqrt(weights[f"{normalisation}.running_var"] + _EPSILON)
    offset = weights[f"{normalisation}.bias"] - weights[f"{normalisation}.running_mean"] * gain
    reach = filters.shape[-1] // 2
    convolved = ops.convolution(
        x, ops.constant(filters * gain[:, None, None, None]), [stride] * 2, [reach] * 2, [reach] * 2, [1, 1]
    )
    return ops.add(convolved, ops.constant(offset.reshape(1, -1, 1, 1)))
