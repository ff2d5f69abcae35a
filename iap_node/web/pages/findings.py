"""The inbox of findings: filters, one by one or many at once, and a CSV of what is shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from iap_node.audit.cells import harmless_cell
from iap_node.database import accounts
from iap_node.database.finding_lists import (
    FindingFilter,
    Scanner,
    count_findings,
    every_finding,
    finding,
    finding_events,
    list_findings,
)
from iap_node.database.findings import AcceptedValue, decide_all
from iap_node.records import FindingState, Severity, Witness
from iap_node.web.identity import Identity, Physicist, Viewer
from iap_node.web.node import Node, WebNode
from iap_node.web.rendering import page

LINES = 100  # findings on a page
CSV_COLUMNS = (
    "id", "state", "severity", "kind", "check", "element", "raw", "suggested_value", "accepted_value", "evidence",
    "raised_by", "series_instance_uid", "study_instance_uid", "series_description", "manufacturer",
    "manufacturer_model_name", "device_serial_number", "found_at", "model_id", "training_data",
)  # fmt: skip

router = APIRouter(include_in_schema=False, prefix="/findings")

State = Annotated[str, Query(max_length=16)]
Text = Annotated[str, Query(max_length=128)]


def _filter(
    state: str, severity: str, witness: str, check: str, element: str, manufacturer: str, model: str, serial: str
) -> FindingFilter:
    scanner = Scanner(manufacturer, model, serial) if manufacturer or model or serial else None
    return FindingFilter(
        states=(FindingState(state),) if state in set(FindingState) else (),
        severities=(Severity(severity),) if severity in set(Severity) else (),
        witnesses=(Witness(witness),) if witness in set(Witness) else (),
        checks=(check,) if check else (),
        elements=(element,) if element else (),
        scanner=scanner,
    )


@router.get("")
def inbox(
    request: Request,
    node: Node,
    viewer: Viewer,
    state: State = FindingState.OPEN.value,
    severity: State = "",
    witness: State = "",
    check: Text = "",
    element: Text = "",
    manufacturer: Text = "",
    model: Text = "",
    serial: Text = "",
    after: Annotated[int | None, Query(ge=1)] = None,
) -> HTMLResponse:
    """The inbox, or its rows alone when htmx asks."""
    which = _filter(state, severity, witness, check, element, manufacturer, model, serial)
    asked = {
        "state": state, "severity": severity, "witness": witness, "check": check, "element": element,
        "manufacturer": manufacturer, "model": model, "serial": serial,
    }  # fmt: skip
    return _shown(request, node, viewer, which, asked, after, "")


@router.get(".csv")
def as_csv(
    node: Node,
    _: Viewer,
    state: State = "",
    severity: State = "",
    witness: State = "",
    check: Text = "",
    element: Text = "",
    manufacturer: Text = "",
    model: Text = "",
    serial: Text = "",
) -> StreamingResponse:
    """What the filter admits, all of it, safe against formula injection."""
    which = _filter(state, severity, witness, check, element, manufacturer, model, serial)

    def lines() -> Iterator[str]:
        yield ",".join(CSV_COLUMNS) + "\r\n"
        with node.database.reading() as session:
            for one in every_finding(session, which):
                row = asdict(one)
                yield ",".join(_quoted(row[column]) for column in CSV_COLUMNS) + "\r\n"

    headers = {"Content-Disposition": 'attachment; filename="findings.csv"'}
    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/{finding_id}")
def one_finding(request: Request, node: Node, viewer: Viewer, finding_id: int) -> HTMLResponse:
    """One finding: all witnesses with their numbers, and what happened to it."""
    with node.database.reading() as session:
        found = finding(session, finding_id)
        events = finding_events(session, finding_id)
    template = "_finding.html" if request.headers.get("hx-request") else "finding.html"
    return page(request, template, viewer, finding=found, events=events, message="")


@router.post("/decide")
def decide(
    request: Request,
    node: Node,
    physicist: Physicist,
    state: Annotated[FindingState, Form()],
    finding_ids: Annotated[list[int] | None, Form(alias="finding")] = None,
    reason: Annotated[str, Form(max_length=1000)] = "",
    value: Annotated[str, Form(max_length=256)] = "",
    single: Annotated[bool, Form()] = False,
) -> HTMLResponse:
    """Accept, dismiss or reopen the findings that were ticked."""
    now, ids = datetime.now(UTC), finding_ids or []
    # Of many, those without a suggestion are passed over; of one, the person has seen that nobody knows the value.
    without = AcceptedValue.UNKNOWN if single else AcceptedValue.SUGGESTED
    with node.database.transaction() as session:
        decided = decide_all(session, ids, state, physicist.name, reason.strip(), value.strip() or without, now=now)
        accounts.note(
            session, physicist.name, f"findings {state.value}", ", ".join(map(str, ids)), now,
            reason or value, physicist.address,
        )  # fmt: skip
    passed_over = decided.n_other_state + decided.n_nothing_suggested
    message = f"{decided.n_decided} {state.value}" + (f", {passed_over} passed over" if passed_over else "")
    if single and len(ids) == 1:
        with node.database.reading() as session:
            found, events = finding(session, ids[0]), finding_events(session, ids[0])
        return page(request, "_finding.html", physicist, finding=found, events=events, message=message)
    return _shown(request, node, physicist, FindingFilter(), {"state": "open"}, None, message)


def _shown(
    request: Request,
    node: WebNode,
    identity: Identity,
    which: FindingFilter,
    asked: dict[str, str],
    after: int | None,
    message: str,
) -> HTMLResponse:
    with node.database.reading() as session:
        found = list_findings(session, which, limit=LINES + 1, after=after)
        counts = count_findings(session, which)
    template = "_findings.html" if request.headers.get("hx-request") else "findings.html"
    keys = ("state", "severity", "witness", "check", "element", "manufacturer", "model", "serial")
    return page(
        request, template, identity, findings=found[:LINES], counts=counts, asked=dict.fromkeys(keys, "") | asked,
        query=urlencode({key: value for key, value in asked.items() if value}), message=message,
        more=found[LINES - 1].id if len(found) > LINES else None, states=list(FindingState),
        severities=list(Severity), witnesses=list(Witness),
    )  # fmt: skip


def _quoted(value: object) -> str:
    text = harmless_cell(value.isoformat() if isinstance(value, datetime) else value)
    return '"' + text.replace('"', '""') + '"'
