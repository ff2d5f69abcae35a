"""`/api/v1/jobs`, `/quarantine`, `/destinations`: the work, what could not be filed, where series go."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from iap_node.database import jobs
from iap_node.database.destination_health import health
from iap_node.database.destinations import destination_counts
from iap_node.database.quarantine import list_entries
from iap_node.records import JobState
from iap_node.web.actions import destinations as destination_actions
from iap_node.web.actions import queue as actions
from iap_node.web.api.paging import Cursor, Limit, Page, page_of, plain
from iap_node.web.identity import Operator, Viewer
from iap_node.web.node import Node

router = APIRouter(tags=["queue"])

Name = Annotated[str, Path(max_length=128, description="As the configuration names it.")]


class Retry(BaseModel):
    """Which dead letters are put back; null: all."""

    jobs: list[Annotated[int, Field(ge=1, le=2**62)]] | None = Field(None, max_length=1000)


class Requeued(BaseModel):
    """How many were put back."""

    requeued: int


class Due(BaseModel):
    """How many deliveries go now."""

    due: int


class Echoed(BaseModel):
    """How a destination answered a try."""

    answered: bool
    text: str = Field(description="how fast, or what is wrong and what helps")


class DestinationStatus(BaseModel):
    """One destination: what went there, and how it does."""

    name: str
    kind: str | None = Field(description="null: the configuration names it no more")
    address: str | None
    sends: str | None = Field(description="original or corrected instances, or the result alone")
    results: bool | None = Field(description="whether an SR document follows")
    deliveries: dict[str, Any] | None = Field(description="by state, with the last error; null: none was due yet")
    health: dict[str, Any] | None = Field(description="failures in a row, and until when it is left alone")


@router.get("/jobs", response_model=Page[dict[str, Any]])
def list_jobs(
    node: Node,
    _: Viewer,
    state: Annotated[list[JobState] | None, Query()] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """What waits, what runs, and the dead letters with their reasons, the newest first."""
    wanted = state or [JobState.READY, JobState.LEASED, JobState.DEAD]
    with node.database.reading() as session:
        return page_of(jobs.list_jobs(session, wanted, limit + 1, cursor), limit)


@router.post("/jobs/retry")
def retry(node: Node, operator: Operator, asked: Retry) -> Requeued:
    """Put dead letters back with a fresh count of attempts."""
    return Requeued(requeued=actions.requeue(node, operator, asked.jobs))


@router.get("/quarantine", response_model=Page[dict[str, Any]])
def quarantine(node: Node, _: Viewer, limit: Limit = 100, cursor: Cursor = None) -> dict[str, Any]:
    """What could not be filed, the newest first."""
    with node.database.reading() as session:
        return page_of(list_entries(session, limit + 1, cursor), limit)


@router.get("/destinations")
def destinations(node: Node, _: Viewer) -> list[DestinationStatus]:
    """Those of the configuration, and others that anything was ever sent to, by name."""
    with node.database.reading() as session:
        counts = {one.destination: plain(one) for one in destination_counts(session)}
        answers = health(session)
    found = []
    for name in sorted({*node.config.destinations, *counts}):
        config = node.config.destinations.get(name)
        found.append(
            DestinationStatus(
                name=name,
                kind=None if config is None else getattr(config, "kind", "dicom"),
                address=None if config is None else config.address,
                sends=None if config is None else config.send,
                results=None if config is None else config.results,
                deliveries=counts.get(name),
                health=plain(answers[name]) if name in answers else None,
            )
        )
    return found


@router.post("/destinations/{name}/echo")
def echo(node: Node, operator: Operator, name: Name) -> Echoed:
    """Try a destination, now; nothing is left there."""
    found = destination_actions.echo(node, operator, name)
    return Echoed(answered=found.answered, text=found.text)


@router.post("/destinations/{name}/requeue")
def requeue(node: Node, operator: Operator, name: Name) -> Requeued:
    """Put the dead letters of a destination back."""
    return Requeued(requeued=actions.requeue_of(node, operator, name))


@router.post("/destinations/{name}/try-now")
def try_now(node: Node, operator: Operator, name: Name) -> Due:
    """End its pause, and let what waits for it go at once."""
    return Due(due=destination_actions.try_now(node, operator, name))
