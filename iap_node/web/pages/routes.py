"""Which series had a model and which fell between, what waits for a person, and the rules in force."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import yaml
from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from iap_node.database import accounts, route_history
from iap_node.database import routes as rows
from iap_node.records import Role
from iap_node.routing.coverage import coverage
from iap_node.web.identity import Operator, Viewer
from iap_node.web.node import Node
from iap_node.web.pages.rules import editor, rules_in_force
from iap_node.web.rendering import page

MOST_HELD = 200

router = APIRouter(include_in_schema=False)


@router.get("/routes")
def routes(
    request: Request, node: Node, viewer: Viewer, days: Annotated[int, Query(ge=1, le=366)] = 30
) -> HTMLResponse:
    """The page."""
    since = datetime.now(UTC) - timedelta(days=days)
    with node.database.reading() as session:
        held = rows.held_series(session, MOST_HELD)
    routing = rules_in_force(node)
    covered = coverage(routing, route_history.decided(node.database, since), since)
    rules = yaml.safe_dump(routing.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    return page(
        request, "routes.html", viewer, days=days, held=held, coverage=covered, rules=rules,
        destinations=sorted(node.config.destinations), **(editor(node) if viewer.account.may(Role.OPERATOR) else {}),
    )  # fmt: skip


@router.post("/series/{series_id}/release")
def release(
    node: Node, operator: Operator, series_id: int, reason: Annotated[str, Form(max_length=1000)] = ""
) -> RedirectResponse:
    """Let a held series go where the rules would have sent it."""
    now = datetime.now(UTC)
    with node.database.transaction() as session:
        sent = rows.release(session, series_id, operator.name, reason, now)
        accounts.note(session, operator.name, "release series", str(series_id), now, ", ".join(sent), operator.address)
    return RedirectResponse("/routes", 303)


@router.post("/series/{series_id}/reroute")
def reroute(
    node: Node,
    operator: Operator,
    series_id: int,
    to: Annotated[list[str], Form()],
    reason: Annotated[str, Form(max_length=1000)] = "",
) -> RedirectResponse:
    """Send a judged series to these destinations, whatever the rules say."""
    unknown = [name for name in to if name not in node.config.destinations]
    if unknown:
        raise HTTPException(422, f"no destination {unknown[0]!r} in the configuration")
    now = datetime.now(UTC)
    with node.database.transaction() as session:
        rows.reroute(session, series_id, to, operator.name, reason, now)
        accounts.note(session, operator.name, "reroute series", str(series_id), now, ", ".join(to), operator.address)
    return RedirectResponse(f"/series/{series_id}", 303)
