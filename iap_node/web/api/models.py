"""`/api/v1/models`, `/api/v1/model-events`, `/api/v1/retrainings`: which model is at work, which is tried beside
it, and what was done to each.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path
from pydantic import BaseModel, Field

from iap_node.database import models, retraining, shadow
from iap_node.database.models import Gate, ModelEvent, RegisteredModel
from iap_node.database.retraining import RetrainingRun
from iap_node.database.shadow import Agreement
from iap_node.database.tables import ModelState
from iap_node.web.actions import models as actions
from iap_node.web.api.paging import Cursor, Limit
from iap_node.web.identity import Admin, Viewer
from iap_node.web.node import Node

MOST_SERIES = 100_000  # that a shadow may last

router = APIRouter(tags=["models"])

ModelId = Annotated[str, Path(max_length=200, description="Name, version and hash of a model.")]
RunId = Annotated[int, Path(ge=1, le=2**62)]


class Why(BaseModel):
    """Why something is done, for those who read what happened."""

    reason: str = Field("", max_length=2000)


class ShadowAsked(Why):
    """How long a model is tried; null: as long as the configuration says."""

    series: int | None = Field(None, ge=1, le=MOST_SERIES)


class Model(BaseModel):
    """A model in the registry."""

    model_id: str
    state: ModelState
    training_data: str
    parameters: list[str]
    package_is_here: bool
    manifest_sha256: str | None
    registered_at: datetime
    parent_id: str | None
    predecessor_id: str | None
    shadow_series: int | None
    shadow_begun_at: datetime | None
    shadow_ended_at: datetime | None


class ModelDetail(Model):
    """A model with all that is known of it."""

    manifest: dict[str, Any]
    provenance: dict[str, Any]
    gates: list[Gate] | None


class AgreementFound(BaseModel):
    """How far a model agrees with the champion, and what a promotion by gate would ask."""

    agreement: Agreement
    gates: list[Gate]


class EventPage(BaseModel):
    """A page of events; `next` is the cursor of the next one."""

    items: list[ModelEvent]
    next: int | None = None


class RunPage(BaseModel):
    """A page of trainings; `next` is the cursor of the next one."""

    items: list[RetrainingRun]
    next: int | None = None


@router.get("/models")
def list_models(node: Node, _: Viewer) -> list[Model]:
    """The registry: the champion, the model in shadow, then the newest first."""
    with node.database.reading() as session:
        return [_summary(one) for one in models.list_models(session)]


@router.post("/models/roll-back")
def roll_back(node: Node, admin: Admin, why: Why) -> Model:
    """Return to the champion before this one; the answer is that one."""
    return _summary(actions.roll_back(node, admin, why.reason))


@router.get("/models/{model_id}")
def show_model(node: Node, _: Viewer, model_id: ModelId) -> ModelDetail:
    """One model, its model.json and the gates that it was held against."""
    with node.database.reading() as session:
        found = models.model(session, model_id)
    more = {"manifest": found.manifest, "provenance": found.provenance, "gates": found.gates}
    return ModelDetail.model_validate(_summary(found).model_dump() | more)


@router.get("/models/{model_id}/agreement")
def agreement(node: Node, _: Viewer, model_id: ModelId) -> AgreementFound:
    """How far a model agreed with the champion in its shadow, and both with the headers."""
    config = node.config.retraining
    with node.database.reading() as session:
        found = shadow.agreement(session, model_id)
    gates = shadow.agreement_gates(found, config.agreement, config.gates.parameters)
    return AgreementFound(agreement=found, gates=list(gates))


@router.post("/models/{model_id}/promote")
def promote(node: Node, admin: Admin, model_id: ModelId, why: Why) -> Model:
    """Make a model champion; workers change to it between two series."""
    return _summary(actions.promote(node, admin, model_id, why.reason))


@router.post("/models/{model_id}/shadow")
def begin_shadow(node: Node, admin: Admin, model_id: ModelId, asked: ShadowAsked) -> Model:
    """Let a model predict the next series beside the champion."""
    return _summary(actions.begin_shadow(node, admin, model_id, asked.series, asked.reason))


@router.post("/models/{model_id}/end-shadow")
def end_shadow(node: Node, admin: Admin, model_id: ModelId, why: Why) -> Model:
    """Take a model out of shadow."""
    return _summary(actions.end_shadow(node, admin, model_id, why.reason))


@router.post("/models/{model_id}/retire")
def retire(node: Node, admin: Admin, model_id: ModelId, why: Why) -> Model:
    """Lay a candidate aside."""
    return _summary(actions.retire(node, admin, model_id, why.reason))


@router.get("/model-events")
def list_events(
    node: Node, _: Viewer, model_id: str | None = None, limit: Limit = 100, cursor: Cursor = None
) -> EventPage:
    """What happened to models, the newest first."""
    with node.database.reading() as session:
        found = models.list_events(session, model_id, limit + 1, cursor)
    shown = found[:limit]
    return EventPage(items=shown, next=shown[-1].id if len(found) > limit else None)


@router.get("/retrainings")
def list_retrainings(node: Node, _: Viewer, limit: Limit = 100, cursor: Cursor = None) -> RunPage:
    """Trainings on the node's own archive, the newest first."""
    with node.database.reading() as session:
        found = retraining.list_runs(session, limit + 1, cursor)
    shown = found[:limit]
    return RunPage(items=shown, next=shown[-1].id if len(found) > limit else None)


@router.post("/retrainings", status_code=202)
def retrain(node: Node, admin: Admin) -> RetrainingRun:
    """Ask for a training; the scheduler begins it, and the answer's number tells how far it is."""
    return actions.retrain(node, admin)


@router.post("/retrainings/cancel")
def cancel_retraining(node: Node, admin: Admin) -> RetrainingRun:
    """End the training that is asked for or runs; nothing of it is registered."""
    return actions.cancel_retraining(node, admin)


@router.get("/retrainings/{run_id}")
def show_retraining(node: Node, _: Viewer, run_id: RunId) -> RetrainingRun:
    """How far one training is, or how it ended."""
    with node.database.reading() as session:
        found = retraining.retraining_run(session, run_id)
    if found is None:
        raise HTTPException(404, f"there is no retraining {run_id}")
    return found


def _summary(one: RegisteredModel) -> Model:
    return Model(
        model_id=one.model_id,
        state=one.state,
        training_data=one.training_data,
        parameters=one.parameters,
        package_is_here=one.folder is not None,
        manifest_sha256=one.manifest_sha256,
        registered_at=one.registered_at,
        parent_id=one.parent_id,
        predecessor_id=one.predecessor_id,
        shadow_series=one.shadow_series,
        shadow_begun_at=one.shadow_begun_at,
        shadow_ended_at=one.shadow_ended_at,
    )
