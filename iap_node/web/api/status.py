"""`/api/v1/status`: how the node is doing."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel

from iap_node.database.status import status_counts
from iap_node.web.identity import Viewer
from iap_node.web.node import Node

router = APIRouter(tags=["status"])


class Status(BaseModel):
    """Rows by state; every state has its number, zero included."""

    series: dict[str, int]
    jobs: dict[str, dict[str, int]]
    deliveries: dict[str, int]
    quarantine: int
    conflicts: int
    lost_instances: int
    oldest_waiting_job_at: datetime | None


@router.get("/status")
def status(node: Node, _: Viewer) -> Status:
    """Series, jobs and deliveries by state, and what stands aside."""
    with node.database.reading() as session:
        counts = status_counts(session)
    jobs: dict[str, dict[str, int]] = {}
    for (kind, state), n in counts.jobs.items():
        jobs.setdefault(kind.value, {})[state.value] = n
    return Status(
        series={state.value: n for state, n in counts.series.items()},
        jobs=jobs,
        deliveries={state.value: n for state, n in counts.deliveries.items()},
        quarantine=counts.n_quarantined,
        conflicts=counts.n_conflicts,
        lost_instances=counts.n_lost,
        oldest_waiting_job_at=counts.oldest_waiting_job_at,
    )
