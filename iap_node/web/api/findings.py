"""`/api/v1/findings`: the inbox and its CSV, one finding with its witnesses, decisions, and the rules of dismissal."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query
from fastapi.responses import StreamingResponse
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


class WhichFindings(BaseModel):
    """Findings that have all of this; empty: any. Without states: those that can become what is asked for."""

    states: list[FindingState] = Field([], max_length=10)
    severities: list[Severity] = Field([], max_length=10)
    kinds: list[FindingKind] = Field([], max_length=20)
    witnesses: list[Witness] = Field([], max_length=10)
    check: str = Field("", max_length=128)
    element: str = Field("", max_length=128)
    manufacturer: str = Field("", max_length=128)
    model: str = Field("", max_length=128)
    serial_number: str = Field("", max_length=128)
    series_id: int | None = Field(None, ge=1, le=2**62)

    def filter(self) -> FindingFilter:
        """What the database is asked."""
        named = self.manufacturer or self.model or self.serial_number
        return FindingFilter(
            states=tuple(self.states),
            severities=tuple(self.severities),
            kinds=tuple(self.kinds),
            witnesses=tuple(self.witnesses),
            checks=(self.check,) if self.check else (),
            elements=(self.element,) if self.element else (),
            scanner=Scanner(self.manufacturer, self.model, self.serial_number) if named else None,
            series_id=self.series_id,
        )

    @property
    def text(self) -> str:
        """For people, as the audit trail has it."""
        said = ", ".join(f"{key} {value}" for key, value in self.model_dump(mode="json").items() if value)
        return f"all findings of {said}" if said else "all findings"


class DecisionOnAll(BaseModel):
    """What becomes of all findings that a filter admits."""

    which: WhichFindings
    state: FindingState = Field(description="accepted as suggested, dismissed (with a reason) or open again")
    reason: str = Field("", max_length=1000)
    expected: int | None = Field(
        None, ge=0, description="`matching` of an answer before; null: only count, nothing is decided"
    )


class DecidedAll(Decided):
    """How many became that, of those that the filter admitted."""

    matching: int


def _asked(
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
) -> FindingFilter:
    return WhichFindings.model_construct(
        states=state or [FindingState.OPEN], severities=severity or [], kinds=kind or [], witnesses=witness or [],
        check=check, element=element, manufacturer=manufacturer, model=model, serial_number=serial_number,
        series_id=series_id,
    ).filter()  # fmt: skip


Asked = Annotated[FindingFilter, Depends(_asked)]


@router.get("/findings", response_model=Page[dict[str, Any]])
def inbox(
    node: Node,
    _: Viewer,
    which: Asked,
    order: FindingOrder = FindingOrder.WORST,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Findings; open ones unless other states are named."""
    with node.database.reading() as session:
        return page_of(list_findings(session, which, order, limit + 1, cursor), limit)


@router.get(
    "/findings.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
def as_csv(node: Node, _: Viewer, which: Asked) -> StreamingResponse:
    """All that the filter admits, safe against formula injection."""
    return StreamingResponse(actions.csv_of(node, which), media_type="text/csv")


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


@router.post("/findings/decisions/all")
def decide_on_all(node: Node, physicist: Physicist, asked: DecisionOnAll) -> DecidedAll:
    """Accept, dismiss or reopen all that a filter admits: first counted, then decided while there are as many."""
    which = actions.deciding(asked.which.filter(), asked.state)
    matching = actions.count(node, which)
    if asked.expected is None:
        return DecidedAll(matching=matching, decided=0, other_state=0, nothing_suggested=0)
    if asked.expected != matching:
        raise HTTPException(409, f"there were {asked.expected}, now there are {matching}: look at them again")
    done = actions.decide(node, physicist, which, asked.state, asked.reason, told=asked.which.text)
    return DecidedAll(
        matching=matching,
        decided=done.n_decided,
        other_state=done.n_other_state,
        nothing_suggested=done.n_nothing_suggested,
    )
