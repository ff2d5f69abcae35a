"""What admins do to models: promote, roll back, try beside the champion, lay aside, and have one trained."""

from __future__ import annotations

from datetime import UTC, datetime

from iap_node.database import accounts, retraining
from iap_node.database.models import RegisteredModel
from iap_node.database.retraining import RetrainingRun
from iap_node.inference import registry
from iap_node.web.identity import Identity
from iap_node.web.node import WebNode

DEFAULT_SHADOW_SERIES = 200  # where the configuration wants none of its own accord


def shadow_series(node: WebNode) -> int:
    """For how many series a model is tried unless somebody says otherwise."""
    return node.config.retraining.shadow_series or DEFAULT_SHADOW_SERIES


def promote(node: WebNode, identity: Identity, model_id: str, reason: str) -> RegisteredModel:
    """Make a model champion.

    Raises
    ------
    NoSuchModel, ModelLifeError, ModelPackageError
    """
    return registry.promote(
        model_id, node.config.data_dir, node.database, identity.name, reason, datetime.now(UTC), identity.address
    )


def roll_back(node: WebNode, identity: Identity, reason: str) -> RegisteredModel:
    """Return to the champion before this one.

    Raises
    ------
    ModelLifeError, ModelPackageError
    """
    return registry.roll_back(
        node.config.data_dir, node.database, identity.name, reason, datetime.now(UTC), identity.address
    )


def begin_shadow(
    node: WebNode, identity: Identity, model_id: str, n_series: int | None, reason: str
) -> RegisteredModel:
    """Let a model predict the next series beside the champion.

    Raises
    ------
    NoSuchModel, ModelLifeError, ModelPackageError
    """
    return registry.begin_shadow(
        model_id,
        n_series or shadow_series(node),
        node.config.data_dir,
        node.database,
        identity.name,
        reason,
        datetime.now(UTC),
        identity.address,
    )


def end_shadow(node: WebNode, identity: Identity, model_id: str, reason: str) -> RegisteredModel:
    """Take a model out of shadow.

    Raises
    ------
    NoSuchModel, ModelLifeError
    """
    return registry.end_shadow(model_id, node.database, identity.name, reason, datetime.now(UTC), identity.address)


def retire(node: WebNode, identity: Identity, model_id: str, reason: str) -> RegisteredModel:
    """Lay a model aside.

    Raises
    ------
    NoSuchModel, ModelLifeError
    """
    return registry.retire(model_id, node.database, identity.name, reason, datetime.now(UTC), identity.address)


def retrain(node: WebNode, identity: Identity) -> RetrainingRun:
    """Ask for a training; the scheduler begins it.

    Raises
    ------
    RetrainingUnderWay
    """
    now = datetime.now(UTC)
    with node.database.transaction() as session:
        run = retraining.request_run(session, identity.name, now)
        accounts.note(session, identity.name, "retrain", str(run.id), now, "asked for", identity.address)
    return run


def cancel_retraining(node: WebNode, identity: Identity) -> RetrainingRun:
    """End the training that is asked for or runs.

    Raises
    ------
    NotRunning
    """
    now = datetime.now(UTC)
    with node.database.transaction() as session:
        run = retraining.cancel_run(session, identity.name, now)
        accounts.note(session, identity.name, "cancel retraining", str(run.id), now, "", identity.address)
    return run
