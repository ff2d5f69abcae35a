"""Model packages below the data directory, `models/MODEL_ID`, where every host of the node finds them. No torch.

A package is copied beside its place, flushed to the disk, checked and renamed: a folder of this name is whole, or not
there. What a kill leaves is a folder whose name begins with a point, which the infer role removes when it starts.
Shipped packages are copied too: an upgrade brings others, and the champion of yesterday must still load. Called by
the worker's wiring, `iap-node models`, the console and `training.retrain`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iap_node.errors import ModelPackageError, RetriableError
from iap_node.inference.package import MANIFEST_FILE, ModelPackage, load_package

MODELS = "models"  # below the data directory
EVALUATION_FILE = "evaluation.json"  # what `iap-train evaluate` found out, where it lies beside the package's files
LEFTOVER_S = 3600.0  # an unfinished copy that nobody has touched for so long is nobody's
_PARTIAL = ".partial"
_LARGEST_EVALUATION = 4 * 1024**2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,120}")


def install_package(source: Path, data_dir: Path) -> tuple[ModelPackage, str]:
    """Copy a package to where the node keeps them; the package there, and its folder relative to `data_dir`.

    One that is there already, whole, is left as it is. The registry is told afterwards, by
    `database.models.register_candidate`: a kill between the two leaves a whole package that nobody uses, and the same
    command done again registers it.

    Raises
    ------
    ModelPackageError
        The package is damaged, not whole, or its name cannot be the name of a folder. Nothing is left behind.
    RetriableError
        The disk did not take it.
    """
    package = load_package(source)
    if not _NAME.fullmatch(package.model_id):
        raise ModelPackageError(
            f"{source}: name and version make {package.model_id!r}; write the package again with a name and a version "
            "of letters, digits, '.', '_', '+' and '-'"
        )
    place = data_dir / MODELS / package.model_id
    with _disk_errors(place):
        if not _is_whole(place, package.model_id):
            _copy(source, place, package)
    return load_package(place), f"{MODELS}/{package.model_id}"


def load_installed(data_dir: Path, folder: str | None, model_id: str) -> ModelPackage:
    """The package of a registered model, checked to be that model.

    Raises
    ------
    ModelPackageError
        It is not here, damaged, or another one.
    """
    if folder is None:
        raise ModelPackageError(f"the package of {model_id} is not here; add it: `iap-node models add FOLDER`")
    package = load_package(data_dir / folder)
    if package.model_id != model_id:
        raise ModelPackageError(
            f"{data_dir / folder} holds {package.model_id}, not {model_id}; add the right one: `iap-node models add`"
        )
    return package


def manifest_sha256(package: ModelPackage) -> str:
    """Hash of model.json: the model's identity begins with it."""
    return hashlib.sha256((package.folder / MANIFEST_FILE).read_bytes()).hexdigest()


def evaluation_of(package: ModelPackage) -> dict[str, Any] | None:
    """What was found out about a package on series that it never saw; None without, or where it is about another."""
    path = package.folder / EVALUATION_FILE
    try:
        content = path.read_bytes() if path.stat().st_size <= _LARGEST_EVALUATION else b""
        found = json.loads(content)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("model_id") == package.model_id else None


def remove_leftovers(data_dir: Path, now: float | None = None) -> list[str]:
    """Remove unfinished copies that are older than `LEFTOVER_S`; their names."""
    limit = (time.time() if now is None else now) - LEFTOVER_S
    removed = []
    for folder in sorted((data_dir / MODELS).glob(f".*{_PARTIAL}")):
        with contextlib.suppress(OSError):  # another process removes it at this moment
            if folder.stat().st_mtime < limit:
                shutil.rmtree(folder)
                removed.append(folder.name)
    return removed


def installed(data_dir: Path) -> list[str]:
    """Names of the packages that lie below the data directory, registered or not."""
    return sorted(
        folder.name for folder in (data_dir / MODELS).glob("*") if _NAME.fullmatch(folder.name) and folder.is_dir()
    )


def _is_whole(place: Path, model_id: str) -> bool:
    try:
        return load_package(place).model_id == model_id
    except ModelPackageError:
        return False


def _copy(source: Path, place: Path, package: ModelPackage) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=_PARTIAL, dir=place.parent))
    try:
        for name in _files_of(package):
            shutil.copyfile(source / name, partial / name)
            _flush(partial / name)
        partial.chmod(0o755)  # mkdtemp's is for this user alone; the roles may be others
        _flush(partial)
        load_package(partial)  # what is there now, not what was read before
        if place.exists():
            shutil.rmtree(place)  # damaged, or it would have been left as it is
        try:
            partial.rename(place)
        except OSError:
            if not _is_whole(place, package.model_id):  # else another process was faster
                raise
        _flush(place.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _files_of(package: ModelPackage) -> list[str]:
    """model.json last, as it is written."""
    manifest = package.manifest
    header = () if manifest.header is None else (manifest.header.file.file,)
    told = (EVALUATION_FILE,) if (package.folder / EVALUATION_FILE).is_file() else ()
    return [manifest.weights.file, manifest.novelty.file.file, *header, *told, MANIFEST_FILE]


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _disk_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RetriableError(
            f"{place} cannot be written: {error.strerror}; nothing was changed, make room or set its owner and repeat"
        ) from error
