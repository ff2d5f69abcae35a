"""Packages and the table of models together: add one, promote it, and which model a node begins with. No torch.

A package is checked and lies in its place before the table names it, and it loads before it becomes champion. What is
decided stands in the audit trail in the same transaction. Called by the infer role, `iap-node models`, the console and
`training.retrain`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from iap_node.database import accounts, models
from iap_node.database.engine import Database
from iap_node.database.models import Gate, ModelLifeError, RegisteredModel
from iap_node.database.tables import ModelState
from iap_node.errors import ModelPackageError
from iap_node.inference import store
from iap_node.inference.package import MANIFEST_FILE, load_package, package_folder

CONFIGURED = "inference.model"

log = structlog.get_logger("models")


@dataclass(frozen=True, slots=True)
class Unregistered:
    """A package that lies below the data directory and that the table does not name."""

    model_id: str
    folder: Path


def add_package(
    source: Path,
    data_dir: Path,
    database: Database,
    who: str,
    reason: str,
    now: datetime,
    *,
    gates: Sequence[Gate] | None = None,
    provenance: Mapping[str, Any] | None = None,
    parent_id: str | None = None,
    address: str = "",
) -> RegisteredModel:
    """Copy a package to where all hosts of the node find it, and register it as a candidate.

    Done again after a kill it goes on where it was cut off.

    Raises
    ------
    ModelPackageError
        The package is damaged; nothing was changed.
    RetriableError
        The disk or the database did not take it.
    """
    package, folder = store.install_package(source, data_dir)
    told: dict[str, Any] = {"source": str(source)} if provenance is None else dict(provenance)
    evaluation = store.evaluation_of(package)
    if evaluation is not None:
        told.setdefault("evaluation", evaluation)
    with database.transaction() as session:
        added = models.register_candidate(
            session,
            json.loads((package.folder / MANIFEST_FILE).read_bytes()),
            package.model_id,
            folder,
            gates,
            told,
            now,
            manifest_sha256=store.manifest_sha256(package),
            who=who,
            reason=reason,
            parent_id=parent_id,
        )
        accounts.note(session, who, "add model", added.model_id, now, reason, address)
    return added


def promote(
    model_id: str, data_dir: Path, database: Database, who: str, reason: str, now: datetime, address: str = ""
) -> RegisteredModel:
    """Make a model champion whose package is whole; see `database.models.promote`.

    Raises
    ------
    ModelLifeError, NoSuchModel
    ModelPackageError
        The package is damaged or gone; the champion stays.
    """
    _check_package(model_id, data_dir, database)
    with database.transaction() as session:
        promoted = models.promote(session, model_id, who, reason, now)
        accounts.note(session, who, "promote model", model_id, now, reason, address)
    return promoted


def roll_back(
    data_dir: Path, database: Database, who: str, reason: str, now: datetime, address: str = ""
) -> RegisteredModel:
    """Make the champion before this one champion again, if its package is whole.

    Raises
    ------
    ModelLifeError
        There is none, or another was promoted meanwhile.
    ModelPackageError
        Its package is damaged or gone; the champion stays.
    """
    with database.reading() as session:
        current = models.champion(session)
    before = None if current is None else current.predecessor_id
    if before is not None:
        _check_package(before, data_dir, database)
    with database.transaction() as session:
        restored = models.roll_back(session, who, reason, now)
        if restored.model_id != before:
            raise ModelLifeError("another model was promoted at this moment; look again, and repeat")
        accounts.note(session, who, "roll back model", restored.model_id, now, reason, address)
    return restored


def begin_shadow(
    model_id: str,
    n_series: int,
    data_dir: Path,
    database: Database,
    who: str,
    reason: str,
    now: datetime,
    address: str = "",
) -> RegisteredModel:
    """Put a model whose package is whole into shadow; see `database.models.begin_shadow`.

    Raises
    ------
    ModelLifeError, NoSuchModel, ModelPackageError
    """
    _check_package(model_id, data_dir, database)
    with database.transaction() as session:
        begun = models.begin_shadow(session, model_id, n_series, who, reason, now)
        detail = f"{n_series} series" + (f"; {reason}" if reason else "")
        accounts.note(session, who, "begin shadow", model_id, now, detail, address)
    return begun


def end_shadow(
    model_id: str, database: Database, who: str, reason: str, now: datetime, address: str = ""
) -> RegisteredModel:
    """Take a model out of shadow; see `database.models.end_shadow`.

    Raises
    ------
    ModelLifeError, NoSuchModel
    """
    with database.transaction() as session:
        ended = models.end_shadow(session, model_id, who, reason, now)
        accounts.note(session, who, "end shadow", model_id, now, reason, address)
    return ended


def retire(
    model_id: str, database: Database, who: str, reason: str, now: datetime, address: str = ""
) -> RegisteredModel:
    """Lay a model aside; see `database.models.retire`.

    Raises
    ------
    ModelLifeError, NoSuchModel
    """
    with database.transaction() as session:
        retired = models.retire(session, model_id, who, reason, now)
        accounts.note(session, who, "retire model", model_id, now, reason, address)
    return retired


def begin_with(configured: str, data_dir: Path, database: Database, now: datetime) -> RegisteredModel:
    """The champion, as a node finds it when its infer role starts.

    At the first start the package that `inference.model` names becomes it. Later the table says; a package of the
    configuration that is new to the node becomes a candidate, and the log says how to promote it.

    Raises
    ------
    ModelPackageError
        There is no champion yet, and the configured package is damaged or not there.
    RetriableError
    """
    for name in store.remove_leftovers(data_dir):
        log.warning("unfinished copy of a model package removed", folder=name)
    with database.reading() as session:
        standing = models.champion(session)
    source = package_folder(configured)
    if standing is None:
        first = add_package(source, data_dir, database, "infer", f"{CONFIGURED}: {configured}", now)
        with database.transaction() as session:
            said = f"first start: {CONFIGURED} is {configured}"
            return models.begin_with(session, first.model_id, "infer", said, now)
    _offer(source, configured, standing, data_dir, database, now)
    for one in unregistered(data_dir, database):
        log.warning("a model package lies here that is not registered", folder=str(one.folder),
                    remedy=f"iap-node models add {one.folder}")  # fmt: skip
    return standing


def unregistered(data_dir: Path, database: Database) -> list[Unregistered]:
    """Packages that a kill left between their copy and their registration, or that somebody copied by hand."""
    with database.reading() as session:
        known = {one.folder for one in models.list_models(session)}
    return [
        Unregistered(name, data_dir / store.MODELS / name)
        for name in store.installed(data_dir)
        if f"{store.MODELS}/{name}" not in known
    ]


def _check_package(model_id: str, data_dir: Path, database: Database) -> None:
    with database.reading() as session:
        folder = models.model(session, model_id).folder
    store.load_installed(data_dir, folder, model_id)


def _offer(
    source: Path, configured: str, standing: RegisteredModel, data_dir: Path, database: Database, now: datetime
) -> None:
    """A package of the configuration that is not the champion: say so, and register it where it is new."""
    try:
        model_id = load_package(source).model_id
    except ModelPackageError as error:
        log.warning(f"{CONFIGURED} cannot be used; the champion goes on", champion=standing.model_id, error=str(error))
        return
    if model_id == standing.model_id:
        return
    with database.reading() as session:
        known = {one.model_id: one for one in models.list_models(session)}.get(model_id)
    if known is None or known.folder is None:
        add_package(source, data_dir, database, "infer", f"{CONFIGURED}: {configured}", now)
        log.warning(f"{CONFIGURED} names another model; the champion goes on", champion=standing.model_id,
                    offered=model_id, remedy=f"iap-node models promote {model_id}")  # fmt: skip
    elif known.state is not ModelState.REFUSED:
        log.info(f"{CONFIGURED} is not the model at work", champion=standing.model_id, configured=model_id)
