"""What waits, what runs, the dead letters with their reasons, and the quarantine; putting back is an operator's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import Field

from iap_node.database import jobs
from iap_node.database.destination_health import pauses
from iap_node.database.quarantine import list_entries
from iap_node.database.status import status_counts
from iap_node.records import JobState
from iap_node.web.actions import queue as actions
from iap_node.web.identity import Identity, Operator, Viewer
from iap_node.web.node import Node, WebNode
from iap_node.web.rendering import page

MOST = 200  # jobs on the page

router = APIRouter(include_in_schema=False)


@router.get("/queue")
def queue(
    request: Request,
    node: Node,
    viewer: Viewer,
    state: Annotated[list[JobState] | None, Query()] = None,
    destination: Annotated[str, Query(max_length=128)] = "",
) -> HTMLResponse:
    """The page, or its live part when htmx asks."""
    return _shown(request, node, viewer, state, "", destination)


@router.post("/queue/retry")
def retry(
    request: Request,
    node: Node,
    operator: Operator,
    job: Annotated[list[Annotated[int, Field(ge=1, le=2**62)]] | None, Form()] = None,
    every: Annotated[bool, Form()] = False,
) -> HTMLResponse:
    """Put dead letters back: those that were ticked, or all."""
    requeued = actions.requeue(node, operator, None if every else job or [])
    return _shown(request, node, operator, None, f"{requeued} dead letters are back in the queue")


def _shown(
    request: Request,
    node: WebNode,
    identity: Identity,
    states: list[JobState] | None,
    message: str,
    destination: str = "",
) -> HTMLResponse:
    chosen = states or [JobState.READY, JobState.LEASED, JobState.DEAD]
    with node.database.reading() as session:
        found = jobs.list_jobs(session, chosen, MOST, destination=destination or None)
        paused = {one.destination: one for one in pauses(session) if one.paused_until > datetime.now(UTC)}
        counts = status_counts(session)
        quarantined = list_entries(session, MOST)
    by_state = dict.fromkeys(JobState, 0)
    for (_, state), n in counts.jobs.items():
        by_state[state] += n
    template = "_queue.html" if request.headers.get("hx-request") else "queue.html"
    return page(
        request, template, identity, jobs=found, by_state=by_state, chosen=chosen, quarantined=quarantined,
        oldest=counts.oldest_waiting_job_at, message=message, most=MOST, destination=destination, paused=paused,
        max_attempts=node.config.jobs.max_attempts,
    )  # fmt: skip
