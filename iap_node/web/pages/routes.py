"""Which series had a model and which fell between, what waits for a person, and the rules in force."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import yaml
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from iap_node.database import route_history
from iap_node.database import routes as rows
from iap_node.records import Role
from iap_node.routing.coverage import coverage
from iap_node.web.actions.rules import rules_in_force
from iap_node.web.identity import Viewer
from iap_node.web.node import Node
from iap_node.web.pages.rules import editor
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
