"""A backup back into an empty data directory. Called by `iap-node restore`.

Everything that the manifest names is compared with it first. The database gets its name last: a restore that was cut
off is no node that starts, and is begun again by the same command.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from iap_node.config import NodeConfig
from iap_node.database.consistency import all_held_bytes
from iap_node.database.dump import POSTGRESQL_FILE, SQLITE_FILE, count_rows, is_empty, load
from iap_node.database.engine import SCHEMA, Database, is_current, migrate
from iap_node.database.quarantine import all_entries
from iap_node.errors import PermanentError
from iap_node.spool import Spool, disk_errors_are_retriable
from iap_node.upkeep.backup import KEY, SPOOL, Manifest, read_manifest, sha256_of, write_privately
from iap_node.upkeep.model_copy import MODELS, copy_packages
from iap_node.upkeep.spool_copy import Copied, copy_spool

RESTORING = "restoring.json"  # in the data directory while it is not whole: which backup


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back."""

    manifest: Manifest
    rows: int
    migrated: bool  # the backup was of an older version's schema
    spool: Copied | None  # None: it is not in the backup


def restore(
    config: NodeConfig,
    config_path: Path,
    folder: Path,
    progress: Callable[[Copied], None] = lambda _: None,
) -> Restored:
    """Put a backup into the data directory and the database that the configuration names.

    Raises
    ------
    PermanentError
        The backup is not whole, or of a newer version; the data directory or the database is not empty.
    RetriableError
        A disk or the database does not work; run it again when that is mended.
    """
    manifest = read_manifest(folder)
    _check(manifest, folder, config)
    data = config.data_dir
    _check_empty(data, config_path, manifest)
    with disk_errors_are_retriable(data):
        data.mkdir(parents=True, exist_ok=True)
        if not _says(data / RESTORING, manifest):
            _write_marker(data / RESTORING, manifest, filled=False)
        write_privately(config.patient_key_path, (folder / KEY).read_bytes())
        if manifest.database == SQLITE_FILE:
            return _with_sqlite(config, folder, manifest, progress)
        database = Database(config.database_url)
        try:
            marker = data / RESTORING
            if not _says(marker, manifest, filled=True):
                if not is_empty(database):
                    raise PermanentError(f"the database {database.name} is not empty; restore into a new one")
                load(database, folder / manifest.database)
                _write_marker(marker, manifest, filled=True)
            restored = _finish(config, database, folder, manifest, progress)
            marker.unlink()
        finally:
            database.dispose()
        return restored


def _with_sqlite(
    config: NodeConfig, folder: Path, manifest: Manifest, progress: Callable[[Copied], None]
) -> Restored:
    final = Path(Database(config.database_url).engine.url.database or "")
    if final.exists():
        raise PermanentError(f"there is a database at {final}; restore never overwrites one")
    unfinished = final.with_name(f"{final.name}.restoring")
    for name in ("", "-wal", "-shm"):
        unfinished.with_name(unfinished.name + name).unlink(missing_ok=True)
    shutil.copyfile(folder / manifest.database, unfinished)
    unfinished.chmod(0o640)
    if sha256_of(unfinished) != manifest.files[manifest.database]:
        raise PermanentError(f"{folder / manifest.database} could not be read as it was written; check the disk")
    database = Database(f"sqlite:///{unfinished}")
    try:
        restored = _finish(config, database, folder, manifest, progress)
    finally:
        database.dispose()
    unfinished.rename(final)
    (config.data_dir / RESTORING).unlink()
    return restored


def _finish(
    config: NodeConfig, database: Database, folder: Path, manifest: Manifest, progress: Callable[[Copied], None]
) -> Restored:
    """Compare the rows with the manifest, bring them to this version's schema, then the instances that they name."""
    with database.reading() as session:
        rows = count_rows(session.connection())
    different = [name for name, n in rows.items() if n != manifest.rows.get(name)]
    if different:
        raise PermanentError(f"the backup has other rows than its manifest says, in {', '.join(different)}")
    is_old = not is_current(database)
    if is_old:
        migrate(database)
    packages = {name.rpartition("/")[0] for name in manifest.files if name.startswith(f"{MODELS}/")}
    copy_packages(folder, config.data_dir, packages)
    copied = None
    if manifest.spool is not None:
        copied = copy_spool(
            Spool(folder / SPOOL), Spool(config.spool_dir), all_held_bytes(database), all_entries(database), progress
        )
    return Restored(manifest, sum(rows.values()), is_old, copied)


def _check(manifest: Manifest, folder: Path, config: NodeConfig) -> None:
    if manifest.schema > SCHEMA:
        raise PermanentError(
            f"the backup is of version {manifest.node_version} (schema {manifest.schema}), this one knows {SCHEMA}; "
            "install that version or a newer one"
        )
    wanted = SQLITE_FILE if config.database_url.startswith("sqlite") else POSTGRESQL_FILE
    if manifest.database != wanted:
        raise PermanentError(f"the backup holds {manifest.database}, database.url asks for {wanted}: change the URL")
    for name, digest in manifest.files.items():
        try:
            is_right = sha256_of(folder / name) == digest
        except OSError as error:
            raise PermanentError(f"the backup is not whole: {name}: {error.strerror}") from error
        if not is_right:
            raise PermanentError(f"the backup is damaged: {folder / name} is not what its manifest says")


def _check_empty(data: Path, config_path: Path, manifest: Manifest) -> None:
    """Nothing is in the data directory, save the configuration, packages of models, which are compared with those of
    the backup, what trainings worked with, and a spool that the backup leaves alone.
    """
    if not data.exists() or _says(data / RESTORING, manifest):
        return
    allowed = {config_path.absolute(), *(data / name for name in ("lost+found", MODELS, "retraining"))}
    allowed |= {data / SPOOL} if manifest.spool is None else set()
    others = sorted(path.name for path in data.iterdir() if path not in allowed)
    if others:
        raise PermanentError(f"{data} is not empty ({', '.join(others[:5])}): restore into an empty data_dir")


def _write_marker(path: Path, manifest: Manifest, *, filled: bool) -> None:
    write_privately(path, json.dumps({"manifest": asdict(manifest), "filled": filled}).encode())


def _says(path: Path, manifest: Manifest, *, filled: bool = False) -> bool:
    """Whether this very backup is being restored here; `filled`: the rows of PostgreSQL are there."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return bool(content["manifest"] == asdict(manifest) and (content["filled"] or not filled))
