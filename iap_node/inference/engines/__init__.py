"""What computes the network: one small protocol, and the choice of the engine.

An engine is handed standardised slices and gives back the network's outputs and pooled features; preparation,
pooling, calibration and novelty are the same whichever computes (`iap_node.inference.predictor`). Engines are
imported when they are chosen: a node with OpenVINO starts without torch.
"""

from __future__ import annotations

import importlib.util
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from iap_node.errors import ConfigError
from iap_node.inference.package import ModelPackage

FloatArray = NDArray[np.float32]
EngineName = Literal["auto", "torch", "openvino"]
DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]


class Engine(Protocol):
    """A network at work."""

    @property
    def description(self) -> str:
        """What computes, where and how exactly: "openvino on cpu, bfloat16"."""

    def forward(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Outputs (n, n_outputs) and features (n, n_features) of standardised slices (n, channels, size, size)."""


def open_engine(
    package: ModelPackage,
    engine: EngineName = "auto",
    device: DeviceName = "auto",
    precision: Precision = "auto",
    threads: int | None = None,
) -> Engine:
    """The engine of these choices with the package's weights.

    Parameters
    ----------
    engine
        `auto`: torch where a CUDA device is to be used, else OpenVINO where it is installed, else torch.
    precision
        `auto`: bfloat16 where the processor computes in it, else float32.
    threads
        CPU threads; None leaves the engine's own choice.

    Raises
    ------
    ModelPackageError
        The weights do not fit the network that model.json describes.
    ConfigError
        The engine or the device is not there.
    """
    if engine == "openvino" and not _has_openvino():
        raise ConfigError(
            "inference.engine is openvino, which is not installed; install iap-node[openvino], or set it to auto"
        )
    if engine == "openvino" and device == "cuda":
        raise ConfigError("inference.engine openvino computes on the CPU; set inference.engine to torch or auto")
    if engine == "openvino" or (engine == "auto" and device != "cuda" and _has_openvino() and not _sees_cuda(device)):
        from iap_node.inference.engines.on_openvino import OpenvinoEngine

        return OpenvinoEngine(package, precision, threads)
    from iap_node.inference.engines.on_torch import TorchEngine

    return TorchEngine(package, device, precision, threads)


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _sees_cuda(device: DeviceName) -> bool:
    """Whether there is a CUDA device that may be used; without torch, which takes seconds to import."""
    if device == "cpu":
        return False
    import ctypes

    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
