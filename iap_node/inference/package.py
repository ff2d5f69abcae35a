"""A model package on disk: `model.json`, `weights.safetensors`, `novelty.safetensors`, and `header.safetensors` where
the model judges headers as a whole. No torch, no pickle.

Everything that makes one model different from another stands in the package: parameters, vocabularies,
preparation, calibration, provenance, novelty reference. `load_package` checks all of it before anything is
believed; the hashes of the binary files stand in model.json, and the model's identity is a hash of
model.json. Called by the worker, the CLI and `training.reference`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

import iap_node
from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.errors import ModelPackageError
from iap_node.inference.calibration import Calibration
from iap_node.inference.heads import Head
from iap_node.inference.joint import HeaderReference
from iap_node.inference.novelty import View
from iap_node.inference.preprocess import Preprocessing

FORMAT: Final = "iap-model-package"
FORMAT_VERSION = 1
MANIFEST_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
NOVELTY_FILE = "novelty.safetensors"
HEADER_FILE = "header.safetensors"

ViewName = Literal["feature", "input"]
_LARGEST_FILE = 512 * 1024**2

NOT_CALIBRATED = "not calibrated: its answers are shown, no verdict and no route rests on them"


@dataclass(frozen=True, slots=True)
class Network:
    """Which network the weights belong to."""

    architecture: Literal["resnet18"]
    in_channels: int
    width: float


@dataclass(frozen=True, slots=True)
class FileReference:
    """A binary file of the package and its SHA-256."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class NoveltyReference:
    """Thresholds per view; the arrays stand in the file."""

    file: FileReference
    thresholds: dict[ViewName, tuple[tuple[int, float], ...]]


@dataclass(frozen=True, slots=True)
class JointCalibration:
    """For which numbers of slices the file holds scores of right headers."""

    file: FileReference
    n_slices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """model.json.

    `training_data` is one sentence that every surface shows beside the model's answers; `provenance` says how
    the model came about (recipe, data, seeds, versions, evaluation) and is never interpreted. `header` is None in a
    package that judges single values only. `calibration` and the novelty reference are empty, together, in a package
    that is not calibrated: its answers are shown, and nothing rests on them.
    """

    format: Literal["iap-model-package"]
    format_version: int
    name: str
    version: str
    training_data: str
    network: Network
    preprocessing: Preprocessing
    parameters: tuple[Head, ...]
    calibration: tuple[Calibration, ...]
    novelty: NoveltyReference
    weights: FileReference
    header: JointCalibration | None = None
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A checked package in memory."""

    folder: Path
    model_id: str  # name, version and the first digits of model.json's hash
    manifest: Manifest
    novelty: Mapping[str, View] = field(repr=False)
    weights: bytes = field(repr=False)  # safetensors, hash checked
    header: HeaderReference | None = field(default=None, repr=False)

    @property
    def training_data(self) -> str:
        """What the model learned from, as every surface shows it."""
        said = self.manifest.training_data
        return said if self.calibrated else f"{said}; {NOT_CALIBRATED}"

    @property
    def calibrated(self) -> bool:
        """Whether the model knows how sure it may be, and what is unlike its training data."""
        return bool(self.manifest.calibration)


_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)


def package_folder(name_or_path: str) -> Path:
    """Folder of a package: a shipped model by its name (`reference`), or any other folder by its path."""
    if name_or_path and not any(mark in name_or_path for mark in ("/", "\\", ".")):
        shipped = Path(iap_node.__file__).parent / "models" / name_or_path
        if shipped.is_dir():
            return shipped
    return Path(name_or_path)


def load_package(folder: Path) -> ModelPackage:
    """Read and check a package.

    Raises
    ------
    ModelPackageError
        A file is missing, damaged or does not fit; the text names the file and the remedy.
    """
    content = _read(folder / MANIFEST_FILE)
    try:
        manifest = _MANIFEST.validate_json(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "top level"
        raise ModelPackageError(
            f"{folder / MANIFEST_FILE}: {where}: {problem['msg']}; write the package again with iap-train"
        ) from error
    _check(folder, manifest)
    weights = _read_checked(folder, manifest.weights)
    arrays = _tensors(folder / manifest.novelty.file.file, _read_checked(folder, manifest.novelty.file))
    return ModelPackage(
        folder=folder,
        model_id=f"{manifest.name}-{manifest.version}-{hashlib.sha256(content).hexdigest()[:8]}",
        manifest=manifest,
        novelty=_views(folder, manifest, arrays),
        weights=weights,
        header=_header_reference(folder, manifest),
    )


def write_package(
    folder: Path,
    manifest: Manifest,
    weights: Mapping[str, NDArray[Any]],
    novelty: Mapping[str, View],
    header: HeaderReference | None = None,
) -> None:
    """Write a package; the file references of `manifest` are replaced by those of the files written.

    model.json comes last, so that an interrupted write leaves no package that loads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    arrays = {
        f"{name}.{part}": getattr(view, part) for name, view in novelty.items() for part in ("means", "whitening")
    }
    files = {
        WEIGHTS_FILE: _encoded(weights),
        NOVELTY_FILE: _encoded({name: array.astype("float32") for name, array in arrays.items()}),
    }
    if header is not None:
        of_right_headers = {f"scores.{n_slices}": scores.astype("float32") for n_slices, scores in header.scores}
        files[HEADER_FILE] = _encoded({"weights": header.weights.astype("float32"), **of_right_headers})
    for name, content in files.items():
        _write(folder / name, content)
    reference = {name: FileReference(name, hashlib.sha256(content).hexdigest()) for name, content in files.items()}
    complete = replace(
        manifest,
        weights=reference[WEIGHTS_FILE],
        novelty=NoveltyReference(
            reference[NOVELTY_FILE], {_view_name(name): view.thresholds for name, view in novelty.items()}
        ),
        header=None
        if header is None
        else JointCalibration(reference[HEADER_FILE], tuple(n_slices for n_slices, _ in header.scores)),
    )
    _write(folder / MANIFEST_FILE, _MANIFEST.dump_json(complete, indent=1))


def _encoded(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    # safetensors writes the bytes as they lie: a transposed or channels-last array would come back as another one.
    ordered = {name: np.array(array, order="C") for name, array in arrays.items()}
    return bytes(safetensors.numpy.save(ordered))


def _view_name(name: str) -> ViewName:
    if name == "feature":
        return "feature"
    if name == "input":
        return "input"
    raise ValueError(f"{name} is not a view of the novelty reference")


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ModelPackageError(f"{path} is larger than {_LARGEST_FILE} bytes; this is no model package")
        return path.read_bytes()
    except OSError as error:
        raise ModelPackageError(
            f"cannot read {path}: {error.strerror}; name the folder of a model package, or write one with iap-train"
        ) from error


def _read_checked(folder: Path, reference: FileReference) -> bytes:
    path = folder / reference.file
    if Path(reference.file).name != reference.file or path.suffix != ".safetensors":
        raise ModelPackageError(
            f"{folder / MANIFEST_FILE}: {reference.file!r} is not the name of a .safetensors file "
            "in the package; convert the weights with iap-train"
        )
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != reference.sha256:
        raise ModelPackageError(
            f"{path} is not the file that {MANIFEST_FILE} names (SHA-256 differs); copy the whole package again"
        )
    return content


def _tensors(path: Path, content: bytes) -> dict[str, NDArray[Any]]:
    try:
        arrays: dict[str, NDArray[Any]] = safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise ModelPackageError(f"{path} is not a safetensors file ({error}); write the package again") from error
    return arrays


def _check(folder: Path, manifest: Manifest) -> None:
    """What one field alone cannot tell."""
    path = folder / MANIFEST_FILE
    if manifest.format_version != FORMAT_VERSION:
        raise ModelPackageError(
            f"{path}: format version {manifest.format_version} is not known, this node reads "
            f"{FORMAT_VERSION}; "
            "install the version of the node that wrote it, or write the package again"
        )
    problem = ""
    keywords = [head.keyword for head in manifest.parameters]
    order = [keyword for keyword in BY_KEYWORD if keyword in keywords]
    if keywords != order:
        problem = "parameters must stand in the order of the parameters' table, each once"
    elif not keywords:
        problem = "parameters is empty"
    elif manifest.network.in_channels != len(manifest.preprocessing.channels):
        problem = "network.in_channels is not the number of preprocessing.channels"
    elif bool(manifest.calibration) != bool(manifest.novelty.thresholds):
        problem = "calibration and novelty go together, or are empty together"
    elif not manifest.calibration and manifest.header is not None:
        problem = "header needs calibration"
    elif any([head.keyword for head in item.heads] != keywords for item in manifest.calibration):
        problem = "calibration must list the heads of parameters, in their order"
    elif not manifest.training_data.strip():
        problem = "training_data must say what the model was trained on"
    if problem:
        raise ModelPackageError(f"{path}: {problem}; write the package again with iap-train")


def _views(folder: Path, manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> dict[str, View]:
    views: dict[str, View] = {}
    for name, limits in manifest.novelty.thresholds.items():
        means, whitening = arrays.get(f"{name}.means"), arrays.get(f"{name}.whitening")
        if (
            means is None
            or whitening is None
            or not limits
            or means.ndim != 2
            or whitening.shape != (means.shape[1],) * 2
        ):
            raise ModelPackageError(
                f"{folder / manifest.novelty.file.file}: no usable arrays {name}.means and {name}.whitening; "
                "write the package again with iap-train"
            )
        views[name] = View(means.astype("float64"), whitening.astype("float64"), limits)
    return views


def _header_reference(folder: Path, manifest: Manifest) -> HeaderReference | None:
    if manifest.header is None:
        return None
    path = folder / manifest.header.file.file
    arrays = _tensors(path, _read_checked(folder, manifest.header.file))
    n_heads, counts = len(manifest.parameters), manifest.header.n_slices
    weights = arrays.get("weights", np.zeros(0))
    scores = [arrays.get(f"scores.{count}", np.zeros(0)) for count in counts]
    if (
        weights.shape != (n_heads,)
        or not (np.isfinite(weights).all() and (weights >= 0).all())
        or not counts
        or list(counts) != sorted(set(counts))
        or any(one.ndim != 2 or one.shape[1] != n_heads for one in scores)
    ):
        raise ModelPackageError(
            f"{path}: weights and scores do not fit the parameters of {MANIFEST_FILE}; write the package again with "
            "iap-train"
        )
    return HeaderReference(
        weights.astype("float64"),
        tuple((count, one.astype("float64")) for count, one in zip(counts, scores, strict=True)),
    )
