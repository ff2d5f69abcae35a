"""`/api/v1/status`, `/overview`: how the node is doing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from iap_node.database.finding_lists import count_findings
from iap_node.database.routes import count_held
from iap_node.database.status import arrivals, status_counts
from iap_node.errors import RetriableError
from iap_node.upkeep.capacity import capacity
from iap_node.web.api.paging import plain
from iap_node.web.identity import Viewer
from iap_node.web.node import Node

HOURS = 24

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


@router.get("/overview")
def overview(node: Node, _: Viewer) -> dict[str, Any]:
    """What arrived in the last hours, open findings by severity, what waits for a person, how much room there is."""
    now = datetime.now(UTC)
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    with node.database.reading() as session:
        hours = arrivals(session, [this_hour - timedelta(hours=n) for n in range(HOURS - 1, -1, -1)])
        findings = count_findings(session)
        held = count_held(session)
    reserve_bytes = node.config.spool.disk_reserve_mb * 1024**2
    try:
        room = capacity(node.database, node.config.spool_dir, reserve_bytes, node.config.retention, now)
    except OSError as error:
        raise RetriableError(f"the spool's disk cannot be asked: {error.strerror or type(error).__name__}") from error
    return {
        "arrivals": plain(hours),
        "findings": {severity.value: n for severity, n in findings.items()},
        "held": held,
        "room": plain(room),
    }
