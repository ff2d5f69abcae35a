"""`/api/v1/jobs`, `/api/v1/quarantine`, `/api/v1/destinations`: the work, what could not be filed, where series go."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from iap_node.database import accounts, jobs
from iap_node.database.destinations import destination_counts
from iap_node.database.quarantine import list_entries
from iap_node.records import JobState
from iap_node.web.api.paging import Limit, plain
from iap_node.web.identity import Operator, Viewer
from iap_node.web.node import Node

router = APIRouter(tags=["queue"])


class Retry(BaseModel):
    """Which dead letters are put back; null: all."""

    jobs: list[Annotated[int, Field(ge=1, le=2**62)]] | None = Field(None, max_length=1000)


class Requeued(BaseModel):
    """How many were put back."""

    requeued: int


@router.get("/jobs")
def list_jobs(
    node: Node, _: Viewer, state: Annotated[list[JobState] | None, Query()] = None, limit: Limit = 100
) -> list[dict[str, Any]]:
    """What waits, what runs, and the dead letters with their reasons."""
    wanted = state or [JobState.READY, JobState.LEASED, JobState.DEAD]
    with node.database.reading() as session:
        return [plain(one) for one in jobs.list_jobs(session, wanted, limit)]


@router.post("/jobs/retry")
def retry(node: Node, operator: Operator, asked: Retry) -> Requeued:
    """Put dead letters back with a fresh count of attempts."""
    now = datetime.now(UTC)
    with node.database.transaction() as session:
        n = jobs.retry(session, asked.jobs, now)
        subject = "all dead letters" if asked.jobs is None else ", ".join(map(str, asked.jobs))
        accounts.note(session, operator.name, "requeue jobs", subject, now, f"{n} put back", operator.address)
    return Requeued(requeued=n)


@router.get("/quarantine")
def quarantine(node: Node, _: Viewer, limit: Limit = 100) -> list[dict[str, Any]]:
    """What could not be filed, the newest first."""
    with node.database.reading() as session:
        return [plain(one) for one in list_entries(session, limit)]


@router.get("/destinations")
def destinations(node: Node, _: Viewer) -> list[dict[str, Any]]:
    """Deliveries by destination, and the last error."""
    with node.database.reading() as session:
        return [plain(one) for one in destination_counts(session)]
