"""ResNet-18 on torch: CUDA where there is a device, else the CPU. What every other engine is held against.

`build_network` and `channels_last` are training's as well. Called by `iap_node.inference.engines` and `training`.
"""

from __future__ import annotations

import torch

from iap_node.errors import ConfigError
from iap_node.inference.engines import DeviceName, FloatArray, Precision
from iap_node.inference.heads import n_outputs
from iap_node.inference.network import ResNet18
from iap_node.inference.package import ModelPackage
from iap_node.inference.weights import read_weights


class TorchEngine:
    """The network of a package on torch.

    Parameters
    ----------
    device
        `auto` takes CUDA when present, else the CPU.
    precision
        bfloat16 by autocast: convolutions in it, sums and the last layer's outputs as torch finds safe.

    Raises
    ------
    ModelPackageError
        The weights do not fit the network that model.json describes.
    ConfigError
        CUDA is asked for and not there.
    """

    def __init__(
        self,
        package: ModelPackage,
        device: DeviceName = "auto",
        precision: Precision = "auto",
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = _device(device)
        if precision == "auto":
            precision = "bfloat16" if _is_fast_in_bfloat16(self._device) else "float32"
        self._precision = precision
        self._network = build_network(package).to(self._device)
        channels_last(self._network)

    @property
    def description(self) -> str:
        """What computes, where and how exactly."""
        return f"torch on {self._device.type}, {self._precision}"

    @torch.inference_mode()
    def forward(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Outputs and features of standardised slices (n, channels, size, size)."""
        batch = torch.from_numpy(images)
        if self._device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self._device, non_blocking=True, memory_format=torch.channels_last)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
            outputs, features = self._network(batch)
        return outputs.float().cpu().numpy(), features.float().cpu().numpy()


def build_network(package: ModelPackage) -> ResNet18:
    """The package's network in evaluation mode, on the CPU.

    Raises
    ------
    ModelPackageError
        The weights do not fit.
    """
    manifest = package.manifest
    network = ResNet18(manifest.network.in_channels, n_outputs(manifest.parameters), manifest.network.width)
    # Not strict: the counters of batch normalisation matter to training only; all else was checked by name and shape.
    network.load_state_dict(
        {name: torch.from_numpy(array) for name, array in read_weights(package).items()}, strict=False
    )
    network.eval()
    return network


def channels_last(network: torch.nn.Module) -> None:
    """Put convolution weights into the memory format that CPUs and GPUs convolve fastest."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _device(name: DeviceName) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("inference.device is cuda, but torch sees no CUDA device; set it to auto or cpu")
    return torch.device(name)


def _is_fast_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private, and absent from older versions of torch, which then compute in float32.
    tests = (getattr(torch.cpu, f"_is_{one}_supported", None) for one in ("avx512_bf16", "amx_tile"))
    return any(bool(test()) for test in tests if test is not None)
