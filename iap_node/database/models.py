"""Model packages that have been at work here. The infer role registers its own when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from iap_node.database.insertion import insert_into
from iap_node.database.tables import ModelRow


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model package as it was registered."""

    model_id: str
    manifest: dict[str, Any]
    registered_at: datetime


def register_model(session: Session, model_id: str, manifest: dict[str, Any], now: datetime) -> None:
    """Keep the manifest of a model package beside its predictions; a later one of the model replaces it."""
    statement = insert_into(session, ModelRow).values(model_id=model_id, manifest=manifest, registered_at=now)
    session.execute(
        statement.on_conflict_do_update(index_elements=[ModelRow.model_id], set_={"manifest": manifest})
    )


def list_models(session: Session) -> list[RegisteredModel]:
    """All registered models, the newest first."""
    query = select(ModelRow.model_id, ModelRow.manifest, ModelRow.registered_at)
    newest_first = query.order_by(ModelRow.registered_at.desc(), ModelRow.model_id)
    return [RegisteredModel(*row) for row in session.execute(newest_first)]


def manifest_of(session: Session, model_id: str) -> dict[str, Any]:
    """The manifest of a model package as it was registered; empty where it never was."""
    return session.scalar(select(ModelRow.manifest).where(ModelRow.model_id == model_id)) or {}
