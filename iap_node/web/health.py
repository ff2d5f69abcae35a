"""`/healthz`: this process answers. `/readyz`: its database does too. For load balancers; no account.

What works and is not as it should be, such as a champion that some worker cannot load, is told and changes no status:
nothing is won by taking a console away from people who must mend it.
"""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from iap_node.database import models
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
        problems = []
        if ready:
            with node.database.reading() as session:
                problems = models.load_problems(session)
    except NodeError:
        return PlainTextResponse("the database does not answer\n", 503)
    if not ready:
        return PlainTextResponse("the database has another schema: run `iap-node migrate`\n", 503)
    told = [f"model {one.model_id} does not load at {one.who}; another works in its place\n" for one in problems]
    return PlainTextResponse("".join(["ready\n", *told]))
