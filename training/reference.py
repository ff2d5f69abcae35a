"""The shipped reference model, end to end: simulate, fit, calibrate, write the package, evaluate.

Every stage leaves its result in the work folder and is skipped or resumed when run again. Called by
`iap-train reference`; `package_from` also by `iap-train fit`, `recalibrated` by `iap-train recalibrate`.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from iap_node.inference.engines.on_torch import build_network
from iap_node.inference.heads import Head, n_outputs
from iap_node.inference.network import ResNet18
from iap_node.inference.novelty import View
from iap_node.inference.package import (
    FORMAT,
    FORMAT_VERSION,
    FileReference,
    Manifest,
    ModelPackage,
    Network,
    NoveltyReference,
    load_package,
    write_package,
)
from training.calibrate import calibrate, fit_novelty, outputs_of
from training.dataset import DataSetError, SeriesSet, describe, load, preprocessing_of, training_sentence
from training.fit import FittedNetwork
from training.joint import fit_header_reference
from training.recipes import Recipe


@dataclass(frozen=True, slots=True)
class Naming:
    """How a package calls itself."""

    name: str
    version: str


def package_from(
    folder: Path,
    naming: Naming,
    recipe: Recipe,
    heads: Sequence[Head],
    fitted: FittedNetwork,
    data: Path,
    seed: int,
    begun_from: ModelPackage | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> ModelPackage:
    """Calibrate a fitted network on the held-out splits of its data set and write the package.

    The weights are stored, and calibrated, in half precision: what is judged later is what was calibrated.

    Parameters
    ----------
    begun_from
        The model whose weights it was fitted from; what the model says of its training data names it.
    provenance
        What is to be known of its making beyond recipe, data and software.
    """
    weights = half_precision(fitted.weights)
    network = ResNet18(len(recipe.preprocessing.channels), n_outputs(heads), recipe.width)
    network.load_state_dict({name: torch.from_numpy(array.astype(_full(array))) for name, array in weights.items()})
    outputs = {}
    for split in ("training", "temperature", "conformal"):
        series: SeriesSet = load(data, split)
        outputs[split] = outputs_of(network, recipe.preprocessing, series.inputs, series.labels)
    manifest = Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        name=naming.name,
        version=naming.version,
        training_data=training_sentence(data) + (f", begun from {begun_from.model_id}" if begun_from else ""),
        network=Network("resnet18", len(recipe.preprocessing.channels), recipe.width),
        preprocessing=recipe.preprocessing,
        parameters=tuple(heads),
        calibration=calibrate(heads, outputs["temperature"], outputs["conformal"], seed),
        novelty=NoveltyReference(FileReference("", ""), {}),
        weights=FileReference("", ""),
        provenance={**_provenance(recipe, fitted, data, seed), **(provenance or {})},
    )
    views = fit_novelty(outputs["training"], [outputs["temperature"], outputs["conformal"]], seed)
    header = fit_header_reference(manifest, outputs["temperature"], outputs["conformal"], seed)
    write_package(folder, manifest, weights, views, header)
    return load_package(folder)


def recalibrated(package: ModelPackage, folder: Path, data: Path, seed: int) -> ModelPackage:
    """A package with the same weights, calibrated anew on the held-out splits of a data set.

    The novelty reference, which comes from training series, stays. A package without one, as an imported checkpoint
    is, gets its clusters from the temperature split and its thresholds from the conformal one: "unlike the training
    data" then means unlike these series.

    Raises
    ------
    DataSetError
        The data set is incomplete or was not prepared as the package's network needs it.
    """
    manifest = package.manifest
    if preprocessing_of(data) != manifest.preprocessing:
        raise DataSetError(f"{data} was not prepared as {package.model_id} needs it; simulate one for its recipe")
    network = build_network(package)
    outputs = {}
    for split in ("temperature", "conformal"):
        series = load(data, split)
        outputs[split] = outputs_of(network, manifest.preprocessing, series.inputs, series.labels)
    description = describe(data)
    splits = {split: description["splits"][split] for split in outputs}
    fresh = replace(
        manifest,
        calibration=calibrate(manifest.parameters, outputs["temperature"], outputs["conformal"], seed),
        provenance={
            **manifest.provenance,
            "recalibrated": {
                "images": description["images"],
                "data": {"seed": description["seed"], "splits": splits},
                "seed": seed,
                "from": package.model_id,
                "software": _software(),
            },
        },
    )
    header = fit_header_reference(fresh, outputs["temperature"], outputs["conformal"], seed)
    views: dict[str, View] = dict(package.novelty)
    views = views or fit_novelty(outputs["temperature"], [outputs["conformal"]], seed)
    write_package(folder, fresh, safetensors.numpy.load(package.weights), views, header)
    return load_package(folder)


def half_precision(weights: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Matrices in half precision; biases, scales and running statistics as they are."""
    return {name: array.astype(np.float16) if array.ndim > 1 else array for name, array in weights.items()}


def _full(array: NDArray[Any]) -> Any:
    return np.float32 if array.dtype == np.float16 else array.dtype


def _provenance(recipe: Recipe, fitted: FittedNetwork, data: Path, seed: int) -> dict[str, Any]:
    description = describe(data)
    return {
        "images": description["images"],
        "data": {key: description[key] for key in ("seed", "splits", "manifest_sha256") if key in description},
        "recipe": {name: value for name, value in asdict(recipe).items() if name != "preprocessing"},
        "seed": seed,
        "steps": fitted.steps,
        "epochs": round(fitted.epochs, 3),
        "minutes": round(fitted.elapsed_s / 60, 1),
        "device": fitted.device,
        "paper": "arXiv 2303.04911",
        "software": _software(),
    }


def _software() -> dict[str, str]:
    packages = ("iap-node", "torch", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}
