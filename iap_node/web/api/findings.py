"""`/api/v1/findings`: the inbox, one finding with its witnesses, decisions, and the rules of dismissal."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from iap_node.database.dismissal_rules import rules
from iap_node.database.finding_lists import (
    FindingFilter,
    FindingOrder,
    Scanner,
    finding,
    finding_events,
    list_findings,
)
from iap_node.database.findings import AcceptedValue
from iap_node.records import FindingKind, FindingState, Severity, Witness
from iap_node.web.actions import findings as actions
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


class NewRule(BaseModel):
    """Which findings are no fault; "" stands for any."""

    check: str = Field(min_length=1, max_length=128, description="name of the check, as its findings have it")
    element: str = Field("", max_length=128, description="DICOM keyword")
    manufacturer: str = Field("", max_length=128)
    model: str = Field("", max_length=128)
    serial_number: str = Field("", max_length=128)
    reason: str = Field(min_length=1, max_length=1000)


class Withdrawal(BaseModel):
    """Why a rule ends."""

    reason: str = Field("", max_length=1000)


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


@router.get("/findings/rules")
def list_rules(node: Node, _: Viewer, withdrawn: bool = False) -> dict[str, Any]:
    """The rules that dismiss findings as they come; those that were withdrawn too if asked for."""
    with node.database.reading() as session:
        return {"items": plain(rules(session, withdrawn=withdrawn))}


@router.post("/findings/rules")
def make_rule(node: Node, physicist: Physicist, asked: NewRule) -> dict[str, Any]:
    """Dismiss what a check finds, now and from now on."""
    scanner = Scanner(asked.manufacturer, asked.model, asked.serial_number)
    rule, n_dismissed = actions.make_rule(node, physicist, asked.check, asked.element, scanner, asked.reason)
    return {"rule": plain(rule), "dismissed": n_dismissed}


@router.post("/findings/rules/{rule_id}/withdraw")
def withdraw_rule(
    node: Node, physicist: Physicist, rule_id: Annotated[int, Path(ge=1, le=2**62)], asked: Withdrawal
) -> dict[str, int]:
    """End a rule; what it dismissed is open again."""
    return {"reopened": actions.withdraw_rule(node, physicist, rule_id, asked.reason)}


@router.get("/findings/{finding_id}")
def one_finding(node: Node, _: Viewer, finding_id: Annotated[int, Path(ge=1, le=2**62)]) -> dict[str, Any]:
    """One finding with all witnesses, and what happened to it."""
    with node.database.reading() as session:
        return {"finding": plain(finding(session, finding_id)), "events": plain(finding_events(session, finding_id))}


@router.post("/findings/decisions")
def decide(node: Node, physicist: Physicist, asked: Decision) -> Decided:
    """Accept, dismiss or reopen findings."""
    value = AcceptedValue.SUGGESTED if asked.value is None else asked.value
    done = actions.decide(node, physicist, asked.findings, asked.state, asked.reason, value)
    return Decided(
        decided=done.n_decided, other_state=done.n_other_state, nothing_suggested=done.n_nothing_suggested
    )
