"""A checkpoint of the published code (arXiv 2303.04911) becomes a model package.

The published code writes `torch.save({'net': state_dict, 'epoch': n})`: torchvision's names for a ResNet-18 with one
input channel, before them `module.` where the network was wrapped in DataParallel. The width of the last layer says
which layout it has: 96 outputs (all ten parameters as classes), 97 (the same with all 11 matrices of the table of
categories), 47 (slice thickness, flip angle and field of view as numbers). The package gets the published preprocessing
and no calibration, which a checkpoint does not bring: the node shows its answers, and rests nothing on them until
`iap-train recalibrate` has seen series with right headers. Called by the command line.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from iap_node.dicom.parameters import PARAMETERS
from iap_node.inference.heads import Head, n_outputs
from iap_node.inference.network import ResNet18
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
from iap_node.inference.preprocess import PAPER
from iap_node.records import ParameterKind
from training import checkpoint_file
from training.checkpoint_file import CheckpointError
from training.recipes import BY_ASSOCIATION

CheckpointLayout = Literal["96", "97", "47"]

TRAINING_DATA = (
    "trained on Duke-Breast-Cancer-MRI with the published code (arXiv 2303.04911), as whoever imported it says"
)

_REGRESSED = ("SliceThickness", "FlipAngle", "FieldOfView")
_MATRICES = {"96": 10, "97": 11, "47": 10}
_PREFIX = "module."
_NAMED = 3  # unexpected things that a reason lists


def import_checkpoint(
    file: Path,
    folder: Path,
    *,
    layout: CheckpointLayout | None = None,
    name: str = "published",
    version: str = "1",
    training_data: str = TRAINING_DATA,
    vocabulary: Mapping[str, list[str]] | None = None,
) -> ModelPackage:
    """Write the package of a checkpoint.

    Parameters
    ----------
    layout
        None: what the width of the last layer says.
    training_data
        One sentence, shown with every answer.
    vocabulary
        Classes by keyword in output order; None: the published ones.

    Raises
    ------
    CheckpointError
        The file is not a checkpoint of the published code; the text names what was found in it.
    """
    try:
        epoch, weights = _weights(checkpoint_file.read(file))
        found = str(weights["fc.weight"].shape[0])
        if layout is not None and layout != found:
            raise CheckpointError(f"its last layer has {found} outputs, not the {layout} that were asked for")
        heads = heads_of(found, vocabulary or published_vocabulary())
        _check_against(weights, ResNet18(1, n_outputs(heads)).state_dict())
    except CheckpointError as error:
        raise CheckpointError(f"{file} is no checkpoint of the published code: {error}") from error
    manifest = Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        name=name,
        version=version,
        training_data=training_data,
        network=Network("resnet18", 1, 1.0),
        preprocessing=PAPER,
        parameters=heads,
        calibration=(),
        novelty=NoveltyReference(FileReference("", ""), {}),
        weights=FileReference("", ""),
        provenance={
            "imported": {
                "file": file.name,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "epoch": epoch,
                "layout": found,
            },
            "paper": "arXiv 2303.04911",
            "software": {
                "python": platform.python_version(),
                **{package: metadata.version(package) for package in ("iap-node", "torch")},
            },
        },
    )
    write_package(folder, manifest, {key: value.numpy() for key, value in weights.items()}, {})
    return load_package(folder)


def published_vocabulary() -> dict[str, list[str]]:
    """Classes by keyword, in output order; the numbers' lists are empty."""
    return read_vocabulary(resources.files("training").joinpath("published_vocabulary.yaml").read_text("utf-8"))


def read_vocabulary(text: str) -> dict[str, list[str]]:
    """A vocabulary from YAML.

    Raises
    ------
    CheckpointError
        It is not a list of texts for every parameter, in the order of the parameters' table.
    """
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CheckpointError(f"the vocabulary is no YAML: {error}") from error
    keywords = [parameter.keyword for parameter in PARAMETERS]
    if not isinstance(read, dict) or list(read) != keywords:
        raise CheckpointError(f"the vocabulary must list the classes of {', '.join(keywords)}, in this order")
    if any(not isinstance(one, list) or any(not isinstance(item, str) for item in one) for one in read.values()):
        raise CheckpointError("the vocabulary must give a list of texts (numbers in quotes) for every parameter")
    return {str(keyword): list(classes) for keyword, classes in read.items()}


def heads_of(layout: str, vocabulary: Mapping[str, list[str]]) -> tuple[Head, ...]:
    """What the outputs of a layout mean.

    Raises
    ------
    CheckpointError
        No layout has so many outputs, or the vocabulary has another number of classes.
    """
    if layout not in _MATRICES:
        raise CheckpointError(f"its last layer has {layout} outputs; the published layouts have 96, 97 or 47")
    heads = []
    for keyword, classes in vocabulary.items():
        known = tuple(classes[: _MATRICES[layout]] if keyword == "AcquisitionMatrix" else classes)
        if not known or (layout == "47" and keyword in _REGRESSED):
            heads.append(Head(keyword, ParameterKind.CONTINUOUS))
        else:
            by_association = keyword in BY_ASSOCIATION
            heads.append(Head(keyword, ParameterKind.CATEGORICAL, known, by_association=by_association))
    if n_outputs(heads) != int(layout):
        raise CheckpointError(f"the vocabulary makes {n_outputs(heads)} outputs, and its last layer has {layout}")
    return tuple(heads)


def _weights(content: object) -> tuple[int, dict[str, Tensor]]:
    """Epoch and tensors by torchvision's names."""
    if not isinstance(content, dict) or "net" not in content or "epoch" not in content:
        keys = sorted(map(str, content)) if isinstance(content, dict) else [type(content).__name__]
        raise CheckpointError(f"it must hold 'net' and 'epoch', and holds {_listed(keys)}")
    net, epoch = content["net"], content["epoch"]
    if not isinstance(epoch, int) or isinstance(epoch, bool):
        raise CheckpointError(f"'epoch' is no whole number but {type(epoch).__name__}")
    if not isinstance(net, dict) or not net or any(not isinstance(key, str) for key in net):
        raise CheckpointError(f"'net' is no state_dict but {type(net).__name__}")
    wrapped = [key for key in net if key.startswith(_PREFIX)]
    if wrapped and len(wrapped) != len(net):
        plain = [key for key in net if not key.startswith(_PREFIX)]
        raise CheckpointError(f"some names begin with '{_PREFIX}' and some do not: {_listed(plain)}")
    weights = {key.removeprefix(_PREFIX): value for key, value in net.items()}
    for key, value in weights.items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.device.type != "cpu":
            raise CheckpointError(f"{key[:80]} is no dense tensor but {_what(value)}")
    last = weights.get("fc.weight")
    if last is None or last.ndim != 2:
        raise CheckpointError(f"it has no last layer 'fc.weight' of a ResNet-18; it has {_listed(list(weights))}")
    return epoch, weights


def _check_against(weights: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Names, shapes and types of the published network, values finite; tensors become contiguous copies in place."""
    # torchvision counts batches in every normalisation layer; files from before torch 0.4.1 do not hold it.
    missing, unexpected = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    if missing or unexpected:
        parts = [f"without {_listed(missing)}"] if missing else []
        parts += [f"with {_listed(unexpected)}"] if unexpected else []
        raise CheckpointError(f"not the names of a ResNet-18: {' and '.join(parts)}")
    for key, like in wanted.items():
        value = weights[key]
        if value.shape != like.shape:
            raise CheckpointError(f"{key} has shape {tuple(value.shape)}, not {tuple(like.shape)}")
        if value.dtype != like.dtype:
            raise CheckpointError(f"{key} has values of type {_type(value)}, not {_type(like)}")
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{key} holds values that are not finite: the training had failed")
        if key.endswith("running_var") and bool((value < 0).any()):
            raise CheckpointError(f"{key} holds negative variances")
        weights[key] = value.detach().clone().contiguous()


def _what(value: Any) -> str:
    return f"{value.layout} on {value.device}" if isinstance(value, Tensor) else type(value).__name__


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name[:80]) for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown or "nothing"
