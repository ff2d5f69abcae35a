"""The models: which is at work, which is tried beside it, what each knows of itself, and what happened to them.

Everybody may look; promoting, rolling back, trying and training are an admin's.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Request
from fastapi.responses import HTMLResponse
from sqlalchemy.orm import Session

from iap_node.database import models, report_figures, retraining, shadow
from iap_node.database.alarms import alarm_rates
from iap_node.database.tables import ModelState
from iap_node.web import model_report
from iap_node.web.actions import models as actions
from iap_node.web.identity import Admin, Identity, Viewer
from iap_node.web.node import Node, WebNode
from iap_node.web.rendering import page

DAYS = 30
MOST_EVENTS = 50
MOST_RUNS = 5
MOST_SERIES = 100_000  # that a shadow may last

router = APIRouter(include_in_schema=False)

ModelId = Annotated[str, Path(max_length=200)]
Reason = Annotated[str, Form(max_length=2000)]


@router.get("/models")
def registry(request: Request, node: Node, viewer: Viewer) -> HTMLResponse:
    """The registry, trainings, the models at work in the last month, and the alarms that they raised."""
    return _registry(request, node, viewer, "")


@router.post("/models/roll-back")
def roll_back(request: Request, node: Node, admin: Admin, reason: Reason = "") -> HTMLResponse:
    """Return to the champion before this one."""
    restored = actions.roll_back(node, admin, reason)
    return _registry(request, node, admin, f"{restored.model_id} is champion again")


@router.post("/models/retrain")
def retrain(request: Request, node: Node, admin: Admin) -> HTMLResponse:
    """Ask for a training."""
    run = actions.retrain(node, admin)
    return _registry(request, node, admin, f"training {run.id} is asked for; the scheduler begins it")


@router.post("/models/cancel-retraining")
def cancel_retraining(request: Request, node: Node, admin: Admin) -> HTMLResponse:
    """End the training that is asked for or runs."""
    run = actions.cancel_retraining(node, admin)
    return _registry(request, node, admin, f"training {run.id} ends")


@router.get("/models/{model_id}")
def one_model(request: Request, node: Node, viewer: Viewer, model_id: ModelId) -> HTMLResponse:
    """Where one model comes from, its figures, its agreement with the champion, and what happened to it."""
    return _one(request, node, viewer, model_id, "")


@router.post("/models/{model_id}/promote")
def promote(request: Request, node: Node, admin: Admin, model_id: ModelId, reason: Reason = "") -> HTMLResponse:
    """Make a model champion."""
    actions.promote(node, admin, model_id, reason)
    return _one(request, node, admin, model_id, "champion; workers change to it between two series")


@router.post("/models/{model_id}/shadow")
def begin_shadow(
    request: Request,
    node: Node,
    admin: Admin,
    model_id: ModelId,
    series: Annotated[int, Form(ge=1, le=MOST_SERIES)],
    reason: Reason = "",
) -> HTMLResponse:
    """Let a model predict the next series beside the champion."""
    actions.begin_shadow(node, admin, model_id, series, reason)
    return _one(request, node, admin, model_id, f"in shadow for the next {series} series")


@router.post("/models/{model_id}/end-shadow")
def end_shadow(request: Request, node: Node, admin: Admin, model_id: ModelId, reason: Reason = "") -> HTMLResponse:
    """Take a model out of shadow."""
    actions.end_shadow(node, admin, model_id, reason)
    return _one(request, node, admin, model_id, "out of shadow; its predictions are kept")


@router.post("/models/{model_id}/retire")
def retire(request: Request, node: Node, admin: Admin, model_id: ModelId, reason: Reason = "") -> HTMLResponse:
    """Lay a model aside."""
    actions.retire(node, admin, model_id, reason)
    return _one(request, node, admin, model_id, "retired")


def _registry(request: Request, node: WebNode, identity: Identity, message: str) -> HTMLResponse:
    now = datetime.now(UTC)
    since = now - timedelta(days=DAYS)
    with node.database.reading() as session:
        registered = models.list_models(session)
        champion = next((one for one in registered if one.state is ModelState.CHAMPION), None)
        context: dict[str, Any] = {
            "registered": registered,
            "champion": champion,
            "shadowed": _shadow(session, registered),
            "problems": models.load_problems(session),
            "events": models.list_events(session, limit=MOST_EVENTS),
            "runs": retraining.list_runs(session, MOST_RUNS),
            "at_work": report_figures.models_at_work(session, report_figures.Scope(since, now)),
            "rates": alarm_rates(session, since, now),
        }
    return page(
        request, _template(request, "models"), identity, message=message, days=DAYS, cron=node.config.retraining.cron,
        configured=node.config.inference.model, alpha=node.config.audit.alpha, **context,
    )  # fmt: skip


def _one(request: Request, node: WebNode, identity: Identity, model_id: str, message: str) -> HTMLResponse:
    config = node.config.retraining
    with node.database.reading() as session:
        found = models.model(session, model_id)
        agreed = shadow.agreement(session, model_id)
        events = models.list_events(session, model_id, MOST_EVENTS)
    return page(
        request, _template(request, "model"), identity, model=found, agreed=agreed, events=events, message=message,
        asked=shadow.agreement_gates(agreed, config.agreement, config.gates.parameters) if agreed.n_series else (),
        evaluation=model_report.evaluation_of(found), facts=model_report.facts_of(found), promote_by=config.promote,
        shadow_series=actions.shadow_series(node), alpha=model_report.ALPHA,
    )  # fmt: skip


def _shadow(session: Session, registered: list[models.RegisteredModel]) -> dict[str, Any] | None:
    """The model in shadow and how many of its series are over."""
    for one in registered:
        if one.state is ModelState.SHADOW and one.shadow_begun_at is not None:
            n = models.n_shadow_predictions(session, one.model_id, one.shadow_begun_at)
            return {"model_id": one.model_id, "n": n, "wanted": one.shadow_series or 0}
    return None


def _template(request: Request, name: str) -> str:
    """The live part alone when htmx asks."""
    return f"_{name}.html" if request.headers.get("hx-request") else f"{name}.html"
