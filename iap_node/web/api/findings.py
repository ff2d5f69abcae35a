"""`/api/v1/findings`: the inbox, one finding with its witnesses, and decisions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from iap_node.database import accounts
from iap_node.database.finding_lists import (
    FindingFilter,
    FindingOrder,
    Scanner,
    finding,
    finding_events,
    list_findings,
)
from iap_node.database.findings import AcceptedValue, decide_all
from iap_node.records import FindingKind, FindingState, Severity, Witness
from iap_node.web.api.paging import Cursor, Limit, Page, page_of, plain
from iap_node.web.identity import Physicist, Viewer
from iap_node.web.node import Node

router = APIRouter(tags=["findings"])

Text = Annotated[str, Query(max_length=128)]


class Decision(BaseModel):
    """What becomes of findings."""

    findings: list[Annotated[int, Field(ge=1, le=2**62)]] = Field(min_length=1, max_length=1000)
    state: FindingState = Field(description="accepted, dismissed (with a reason) or open again")
    reason: str = Field("", max_length=1000)
    value: str | None = Field(None, max_length=256, description="the right value; null: what the witnesses suggest")


class Decided(BaseModel):
    """How many became that; the others are passed over."""

    decided: int
    other_state: int
    nothing_suggested: int


@router.get("/findings", response_model=Page[dict[str, Any]])
def inbox(
    node: Node,
    _: Viewer,
    state: Annotated[list[FindingState] | None, Query()] = None,
    severity: Annotated[list[Severity] | None, Query()] = None,
    kind: Annotated[list[FindingKind] | None, Query()] = None,
    witness: Annotated[list[Witness] | None, Query()] = None,
    check: Text = "",
    element: Text = "",
    manufacturer: Text = "",
    model: Text = "",
    serial_number: Text = "",
    series_id: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    order: FindingOrder = FindingOrder.WORST,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Findings; open ones unless other states are named."""
    which = FindingFilter(
        states=tuple(state or (FindingState.OPEN,)),
        severities=tuple(severity or ()),
        kinds=tuple(kind or ()),
        witnesses=tuple(witness or ()),
        checks=(check,) if check else (),
        elements=(element,) if element else (),
        scanner=Scanner(manufacturer, model, serial_number) if manufacturer or model or serial_number else None,
        series_id=series_id,
    )
    with node.database.reading() as session:
        return page_of(list_findings(session, which, order, limit + 1, cursor), limit)


@router.get("/findings/{finding_id}")
def one_finding(node: Node, _: Viewer, finding_id: Annotated[int, Path(ge=1, le=2**62)]) -> dict[str, Any]:
    """One finding with all witnesses, and what happened to it."""
    with node.database.reading() as session:
        return {"finding": plain(finding(session, finding_id)), "events": plain(finding_events(session, finding_id))}


@router.post("/findings/decisions")
def decide(node: Node, physicist: Physicist, asked: Decision) -> Decided:
    """Accept, dismiss or reopen findings."""
    now = datetime.now(UTC)
    value = AcceptedValue.SUGGESTED if asked.value is None else asked.value
    with node.database.transaction() as session:
        done = decide_all(session, asked.findings, asked.state, physicist.name, asked.reason, value, now=now)
        subject = ", ".join(map(str, asked.findings))
        accounts.note(
            session, physicist.name, f"findings {asked.state.value}", subject, now, asked.reason, physicist.address
        )
    return Decided(
        decided=done.n_decided, other_state=done.n_other_state, nothing_suggested=done.n_nothing_suggested
    )
