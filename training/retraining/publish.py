"""What becomes of a candidate: its package where the node finds it, its row, its shadow or promotion, the run's end.

The package is there whole before its row is; the row, the shadow, the promotion and the end of the run are one
transaction. A kill before it leaves the model at work and a package that nobody uses. Called by `run`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.orm import Session

from iap_node.config import NodeConfig
from iap_node.config.notifications import TroubleKind
from iap_node.database import models, retraining
from iap_node.database.engine import Database
from iap_node.database.models import Gate, ModelLifeError, RegisteredModel
from iap_node.database.notifications import announce
from iap_node.database.retraining import RetrainingRun
from iap_node.database.tables import ModelState, RetrainingState
from iap_node.inference.engines.on_torch import build_network
from iap_node.inference.package import MANIFEST_FILE, ModelPackage
from iap_node.inference.store import install_package, manifest_sha256
from training.gates import GateResult

log = structlog.get_logger("retraining")


def publish(
    package: ModelPackage,
    gates: Sequence[GateResult],
    provenance: dict[str, Any],
    *,
    node: NodeConfig,
    database: Database,
    run: RetrainingRun,
    champion: ModelPackage,
    now: datetime,
) -> RetrainingRun:
    """Install and register a package, begin its shadow or promote it as configured, and end the run.

    Raises
    ------
    NotRunning
        The run was ended from outside: nothing is registered.
    RetriableError
        Disk or database did not take it.
    """
    installed, folder = install_package(package.folder, node.data_dir)
    build_network(installed)  # what is registered loads
    manifest = json.loads((installed.folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    who = f"retraining {run.id}"
    with database.transaction() as session:
        registered = models.register_candidate(
            session,
            manifest,
            installed.model_id,
            folder,
            [Gate(gate.name, gate.passed, gate.says, gate.measured, gate.limit) for gate in gates],
            provenance,
            now,
            manifest_sha256=manifest_sha256(installed),
            who=who,
            reason=f"trained beside {champion.model_id}",
            parent_id=champion.model_id if provenance["start"] == "champion" else None,
        )
        refused = registered.state is ModelState.REFUSED
        said = _refusal(gates) if refused else _life_of(session, registered, champion, node, who, now)
        ended = end(
            session,
            run,
            RetrainingState.REFUSED if refused else RetrainingState.SUCCEEDED,
            f"{registered.model_id} {'is refused' if refused else 'is registered'}: {said}",
            now,
            registered.model_id,
        )
        gone = models.forget_packages(session, node.retraining.keep_candidates, who, now)
    for one in gone:
        assert one.folder is not None  # it had one until now
        shutil.rmtree(node.data_dir / one.folder, ignore_errors=True)
    log.info("retraining ended", run=run.id, model=registered.model_id, state=ended.state, message=ended.message,
             packages_removed=len(gone))
    return ended


def end(
    session: Session,
    run: RetrainingRun,
    state: RetrainingState,
    message: str,
    now: datetime,
    candidate_model_id: str | None = None,
) -> RetrainingRun:
    """End a run, and let people be told."""
    ended = retraining.end_run(session, run.id, state, message, now, candidate_model_id)
    if state is not RetrainingState.INTERRUPTED:
        remedy = "`iap-node retrain status` says more"
        if candidate_model_id is not None:
            remedy += "; `iap-node models list` shows what may be done with it"
        announce(session, TroubleKind.TRAINING_ENDED, f"retraining {run.id} {state}: {message}", remedy, now)
    return ended


def _refusal(gates: Sequence[GateResult]) -> str:
    return "; ".join(gate.says for gate in gates if not gate.passed)


def _life_of(
    session: Session, model: RegisteredModel, champion: ModelPackage, node: NodeConfig, who: str, now: datetime
) -> str:
    """Begin what the configuration wants of a candidate that passed every gate; one line of what was done."""
    config = node.retraining
    at_work = models.champion(session)
    if at_work is not None and at_work.model_id != champion.model_id:
        return f"{at_work.model_id} became champion meanwhile, and was not compared with it; it waits for a person"
    try:
        if config.promote == "by_gate" and not config.shadow_series:
            models.promote(session, model.model_id, who, "every gate passed, promote: by_gate", now)
            return "every gate passed, it is champion"
        if config.shadow_series:
            models.begin_shadow(session, model.model_id, config.shadow_series, who, "every gate passed", now)
            return f"every gate passed, it is in shadow for {config.shadow_series} series"
    except ModelLifeError as error:
        return f"every gate passed; {error}"
    return "every gate passed, it waits for a person"


def remove_works(node: NodeConfig, keep: set[str]) -> None:
    """Remove the folders of runs that nobody goes on with."""
    for folder in sorted(node.retraining_dir.glob("run-*")):
        if folder.name not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def remove_work(node: NodeConfig, run: RetrainingRun) -> None:
    """Remove the folder of a run that is over."""
    if run.work is not None:
        shutil.rmtree(node.retraining_dir / Path(run.work).name, ignore_errors=True)
