"""Model packages into a backup and back: whole folders, which never change once they are there.

Without them a restored node would have a champion that does not load. Called by `backup` and `restore`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

MODELS = "models"


def copy_packages(source: Path, target: Path, folders: Iterable[str]) -> dict[str, str]:
    """Copy packages that are not there yet; SHA-256 of each file, by its path below `target`.

    A package that is gone meanwhile, as an old candidate goes, is passed over.

    Parameters
    ----------
    folders
        Of the packages, relative to both: `models/MODEL_ID`.
    """
    hashes: dict[str, str] = {}
    for folder in sorted(folders):
        try:
            files = sorted(path for path in (source / folder).iterdir() if path.is_file())
        except FileNotFoundError:
            continue
        (target / folder).mkdir(parents=True, exist_ok=True)
        for path in files:
            hashes[f"{folder}/{path.name}"] = _copy(path, target / folder / path.name)
        _flush(target / folder)
    if hashes:
        _flush(target / MODELS)
    return hashes


def _copy(source: Path, target: Path) -> str:
    digest = _sha256(source)
    if not target.exists() or _sha256(target) != digest:
        partial = target.with_name(f"{target.name}.part")
        shutil.copyfile(source, partial)
        _flush(partial)
        partial.rename(target)
    return digest


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
