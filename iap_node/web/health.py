"""`/healthz`: this process answers. `/readyz`: its database does too. For load balancers; no account."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from iap_node.database.engine import is_current
from iap_node.errors import NodeError
from iap_node.web.node import Node

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> PlainTextResponse:
    """Alive."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
def readyz(node: Node) -> PlainTextResponse:
    """Able to serve."""
    try:
        ready = is_current(node.database)
    except NodeError:
        return PlainTextResponse("the database does not answer\n", 503)
    if not ready:
        return PlainTextResponse("the database has another schema: run `iap-node migrate`\n", 503)
    return PlainTextResponse("ready\n")
