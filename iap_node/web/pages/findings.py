"""The inbox of findings: filters, one by one, many or all at once, and a CSV of what is shown."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import Field

from iap_node.database.finding_lists import count_findings, finding, finding_events, list_findings
from iap_node.database.findings import AcceptedValue, Decided, IllegalDecision
from iap_node.records import FindingState, Severity, Witness
from iap_node.web.actions import findings as actions
from iap_node.web.identity import Identity, Physicist, Viewer
from iap_node.web.node import Node, WebNode
from iap_node.web.pages.finding_filter import AskedFindings, FromForm, FromQuery
from iap_node.web.rendering import page

LINES = 100  # findings on a page

FindingId = Annotated[int, Path(ge=1, le=2**62)]
Reason = Annotated[str, Form(max_length=1000)]

router = APIRouter(include_in_schema=False, prefix="/findings")


@router.get("")
def inbox(
    request: Request,
    node: Node,
    viewer: Viewer,
    asked: FromQuery,
    after: Annotated[int | None, Query(ge=1, le=2**62)] = None,
) -> HTMLResponse:
    """The inbox, or its rows alone when htmx asks."""
    return _shown(request, node, viewer, asked, after, "")


@router.get(".csv")
def as_csv(node: Node, _: Viewer, asked: FromQuery) -> StreamingResponse:
    """What the filter admits, all of it, safe against formula injection."""

    headers = {"Content-Disposition": 'attachment; filename="findings.csv"'}
    lines = actions.csv_of(node, asked.filter())
    return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/{finding_id}")
def one_finding(request: Request, node: Node, viewer: Viewer, finding_id: FindingId) -> HTMLResponse:
    """One finding: all witnesses with their numbers, and what happened to it."""
    return shown_finding(request, node, viewer, finding_id, "")


def shown_finding(request: Request, node: WebNode, identity: Identity, finding_id: int, message: str) -> HTMLResponse:
    """The page of a finding, or its live part when htmx asks; for what people do about it too."""
    with node.database.reading() as session:
        found = finding(session, finding_id)
        events = finding_events(session, finding_id)
    template = "_finding.html" if request.headers.get("hx-request") else "finding.html"
    return page(request, template, identity, finding=found, events=events, message=message)


@router.post("/decide")
def decide(
    request: Request,
    node: Node,
    physicist: Physicist,
    asked: FromForm,
    state: Annotated[FindingState, Form()],
    finding_ids: Annotated[list[Annotated[int, Field(ge=1, le=2**62)]] | None, Form(alias="finding")] = None,
    reason: Reason = "",
    value: Annotated[str, Form(max_length=256)] = "",
    single: Annotated[bool, Form()] = False,
) -> HTMLResponse:
    """Accept, dismiss or reopen the findings that were ticked."""
    ids = finding_ids or []
    # Of many, those without a suggestion are passed over; of one, the person has seen that nobody knows the value.
    without = AcceptedValue.UNKNOWN if single else AcceptedValue.SUGGESTED
    if not ids:
        raise IllegalDecision("tick findings first, or decide on all that the filter shows")
    done = actions.decide(node, physicist, ids, state, reason.strip(), value.strip() or without)
    if single and len(ids) == 1:
        return shown_finding(request, node, physicist, ids[0], _told(done, state))
    return _shown(request, node, physicist, asked, None, _told(done, state))


@router.post("/decide-all")
def decide_all(
    request: Request,
    node: Node,
    physicist: Physicist,
    asked: FromForm,
    state: Annotated[FindingState, Form()],
    reason: Reason = "",
    expected: Annotated[int | None, Form(ge=0)] = None,
) -> HTMLResponse:
    """Accept, dismiss or reopen all that the filter admits: first asked how many that are, then done."""
    which = actions.deciding(asked.filter(), state)
    if state is FindingState.DISMISSED and not reason.strip():
        raise IllegalDecision("a dismissal needs a reason")
    n = actions.count(node, which)
    if expected != n:  # not asked yet, or others came or went since
        changed = "" if expected is None else f"there were {expected}, now there are {n}: "
        return page(
            request, "_decide_all.html", physicist, asked=asked, state=state, reason=reason.strip(), n=n,
            changed=changed, taken=" or ".join(which.states),
        )  # fmt: skip
    done = actions.decide(node, physicist, which, state, reason.strip(), told=asked.text)
    return _shown(request, node, physicist, asked, None, _told(done, state))


def _told(done: Decided, state: FindingState) -> str:
    passed_over = done.n_other_state + done.n_nothing_suggested
    return f"{done.n_decided} {state.value}" + (f", {passed_over} passed over" if passed_over else "")


def _shown(
    request: Request, node: WebNode, identity: Identity, asked: AskedFindings, after: int | None, message: str
) -> HTMLResponse:
    which = asked.filter()
    with node.database.reading() as session:
        found = list_findings(session, which, limit=LINES + 1, after=after)
        counts = count_findings(session, which)
    template = "_findings.html" if request.headers.get("hx-request") else "findings.html"
    return page(
        request, template, identity, findings=found[:LINES], counts=counts, asked=asked, message=message,
        more=found[LINES - 1].id if len(found) > LINES else None, states=list(FindingState),
        severities=list(Severity), witnesses=list(Witness),
    )  # fmt: skip
