"""Rules of dismissal: made from a finding's page, listed, withdrawn."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import HTMLResponse

from iap_node.database.dismissal_rules import rules
from iap_node.database.finding_lists import ANY_SCANNER, ArchivedFinding, Scanner, finding
from iap_node.database.findings import IllegalDecision
from iap_node.web.actions import findings as actions
from iap_node.web.identity import Identity, Physicist, Viewer
from iap_node.web.node import Node, WebNode
from iap_node.web.pages.findings import FindingId, Reason, shown_finding
from iap_node.web.rendering import page

router = APIRouter(include_in_schema=False, prefix="/findings")


class Scope(StrEnum):
    """Of which scanners a rule dismisses findings."""

    SCANNER = "scanner"
    MODEL = "model"
    ALL = "all"


@router.get("/rules")
def list_rules(
    request: Request, node: Node, viewer: Viewer, withdrawn: Annotated[bool, Query()] = False
) -> HTMLResponse:
    """The rules in force; those that were withdrawn too if asked for."""
    return _shown(request, node, viewer, withdrawn, "")


@router.post("/rules/{rule_id}/withdraw")
def withdraw(
    request: Request,
    node: Node,
    physicist: Physicist,
    rule_id: Annotated[int, Path(ge=1, le=2**62)],
    reason: Reason = "",
) -> HTMLResponse:
    """End a rule; what it dismissed is open again."""
    n_reopened = actions.withdraw_rule(node, physicist, rule_id, reason.strip())
    return _shown(request, node, physicist, False, f"rule {rule_id} is withdrawn; {n_reopened} findings are open again")


@router.post("/{finding_id}/rule")
def make(
    request: Request,
    node: Node,
    physicist: Physicist,
    finding_id: FindingId,
    scope: Annotated[Scope, Form()],
    reason: Reason,
    only_element: Annotated[bool, Form()] = False,
    expected: Annotated[int | None, Form(ge=0)] = None,
) -> HTMLResponse:
    """Dismiss what the finding's check finds: first asked how many are open, then done."""
    if not reason.strip():
        raise IllegalDecision("a dismissal needs a reason")
    with node.database.reading() as session:
        found = finding(session, finding_id)
    scanner = _scanner(found, scope)
    element = found.element if only_element else ""
    n = actions.count(node, actions.rule_covers(found.check, element, scanner))
    if expected != n:
        return page(
            request, "_make_rule.html", physicist, finding=found, scope=scope, element=element, scanner=scanner,
            reason=reason.strip(), n=n, only_element=only_element,
        )  # fmt: skip
    rule, n_dismissed = actions.make_rule(node, physicist, found.check, element, scanner, reason.strip())
    message = f"rule {rule.id} dismissed {n_dismissed} findings, and dismisses what comes"
    return shown_finding(request, node, physicist, finding_id, message)


def _scanner(found: ArchivedFinding, scope: Scope) -> Scanner:
    serial = found.device_serial_number if scope is Scope.SCANNER else ""
    if scope is Scope.SCANNER and not serial:
        raise IllegalDecision("the headers do not say which scanner it is; choose its model, or all scanners")
    scanner = (
        ANY_SCANNER
        if scope is Scope.ALL
        else Scanner(found.manufacturer, found.manufacturer_model_name, serial)
    )
    if scope is not Scope.ALL and scanner == ANY_SCANNER:
        raise IllegalDecision("the headers do not say which scanner it is; a rule can only be about all of them")
    return scanner


def _shown(
    request: Request, node: WebNode, identity: Identity, withdrawn: bool, message: str
) -> HTMLResponse:
    with node.database.reading() as session:
        found = rules(session, withdrawn=withdrawn)
    template = "_finding_rules.html" if request.headers.get("hx-request") else "finding_rules.html"
    return page(request, template, identity, rules=found, withdrawn=withdrawn, message=message)
