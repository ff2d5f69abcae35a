"""A backup of a node that goes on working: database, patient key, configuration and, if wanted, the spool. Called by
`iap-node backup`.

The folder holds, when it is whole: `manifest.json`, written last; `node.sqlite` or `node.dump`; `patient.key`;
`config.yaml`; `models/`, the packages of all registered models; `spool/`, laid out as the node's own. All of it says
who was examined, in hashes, and the spool says it plainly: the folder is for its owner only, and belongs on an
encrypted disk.

Rows are of the moment at which the database was copied. What is acknowledged later, or has no row yet, is not in it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from iap_node import __version__
from iap_node.config import NodeConfig
from iap_node.config.section import Section
from iap_node.database.consistency import HeldBytes, all_held_bytes, unchanged
from iap_node.database.dump import dump, file_name
from iap_node.database.engine import SCHEMA, Database
from iap_node.database.models import package_folders
from iap_node.database.quarantine import all_entries
from iap_node.errors import PermanentError
from iap_node.spool import Spool, disk_errors_are_retriable
from iap_node.upkeep.model_copy import copy_packages
from iap_node.upkeep.spool_copy import Copied, copy_spool

FORMAT = 1
MANIFEST = "manifest.json"
UNFINISHED = "unfinished"  # an empty file, in a folder that is not a whole backup yet
KEY = "patient.key"
CONFIG = "config.yaml"
SPOOL = "spool"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds."""

    format: int
    node_version: str
    schema: str  # the migration that the database is at
    made_at: str  # ISO 8601, when the database was copied
    database: str  # the file of the dump
    rows: dict[str, int]  # by table
    files: dict[str, str]  # name: SHA-256
    spool: dict[str, Any] | None  # counts of `Copied`; None: the spool is not in it
    not_copied: list[str] = field(default_factory=list)  # files that the configuration names: certificates, secrets


def back_up(
    config: NodeConfig,
    config_path: Path,
    database: Database,
    folder: Path,
    now: datetime,
    *,
    with_spool: bool = False,
    progress: Callable[[Copied], None] = lambda _: None,
) -> Manifest:
    """Make a backup, or bring the one that is there up to date; one that was cut off goes on.

    The backup that is there stays whole until the new one is.

    Raises
    ------
    PermanentError
        The folder holds something else, or lies in the spool; the database or the key cannot be copied.
    RetriableError
        A disk or the database does not work.
    """
    folder = folder.absolute()
    _check_folder(folder, config)
    with disk_errors_are_retriable(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        if not (folder / MANIFEST).exists():
            (folder / UNFINISHED).touch()
        name = file_name(database)
        partial = folder / f"{name}.part"
        partial.unlink(missing_ok=True)
        rows = dump(database, partial)
        with rows_of(database, partial) as source, source.reading() as session:
            packages = package_folders(session)
        models = copy_packages(config.data_dir, folder, packages)
        copied = None
        if with_spool:
            with rows_of(database, partial) as source:
                copied = copy_spool(
                    Spool(config.spool_dir),
                    Spool(folder / SPOOL),
                    all_held_bytes(source),
                    all_entries(source),
                    progress,
                    still=lambda row: _still(database, row),
                )
        # until here the backup that was there is whole; now it becomes the new one
        (folder / UNFINISHED).touch()
        (folder / MANIFEST).unlink(missing_ok=True)
        partial.chmod(0o600)
        partial.rename(folder / name)
        write_privately(folder / KEY, config.patient_key_path.read_bytes())
        write_privately(folder / CONFIG, config_path.read_bytes())
        manifest = Manifest(
            format=FORMAT,
            node_version=__version__,
            schema=SCHEMA,
            made_at=now.isoformat(),
            database=name,
            rows=rows,
            files={kept: sha256_of(folder / kept) for kept in (name, KEY, CONFIG)} | models,
            spool=None if copied is None else asdict(copied) | {"is_whole": copied.is_whole},
            not_copied=sorted(map(str, _named_files(config, config.data_dir))),
        )
        write_privately(folder / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
        (folder / UNFINISHED).unlink()
    return manifest


@contextmanager
def rows_of(database: Database, copy: Path) -> Iterator[Database]:
    """The database whose rows are of the backup: the copy, or the live one of PostgreSQL."""
    if not database.is_sqlite:
        yield database
        return
    copied = Database(f"sqlite:///{copy}")
    try:
        yield copied
    finally:
        copied.dispose()


def read_manifest(folder: Path) -> Manifest:
    """What a backup says of itself.

    Raises
    ------
    PermanentError
        It is none, is not whole, or was made by a newer version.
    """
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        unfinished = "is not finished: run `iap-node backup` again" if (folder / UNFINISHED).exists() else "is none"
        raise PermanentError(f"the backup in {folder} {unfinished}") from None
    except (OSError, ValueError) as error:
        raise PermanentError(f"cannot read {folder / MANIFEST}: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise PermanentError(f"{folder / MANIFEST} is of another format than this version reads")
    try:
        return Manifest(**content)
    except TypeError as error:
        raise PermanentError(f"{folder / MANIFEST} is damaged: {error}") from error


def write_privately(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read; durable, and never half there."""
    partial = path.with_name(f"{path.name}.part")
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(path)


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal digits; what was read is on the disk afterwards."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_folder(folder: Path, config: NodeConfig) -> None:
    if folder.is_relative_to(config.data_dir.absolute()):
        raise PermanentError(f"{folder} lies in the data directory itself; name a folder on another disk")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise PermanentError(f"{folder} is no folder")
    if any(folder.iterdir()) and not any((folder / name).exists() for name in (MANIFEST, UNFINISHED)):
        raise PermanentError(f"{folder} holds something else than a backup; name an empty folder")


def _still(database: Database, row: HeldBytes) -> bool:
    """Whether retention has left a row alone since the database was copied."""
    with database.reading() as session:
        return unchanged(session, row)


def _named_files(section: Section, data_dir: Path) -> Iterator[Path]:
    """Files that a configuration names and a backup leaves out."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        for one in value.values() if isinstance(value, dict) else (value,):
            if isinstance(one, Section):
                yield from _named_files(one, data_dir)
            elif isinstance(one, Path) and one != data_dir:
                yield one
