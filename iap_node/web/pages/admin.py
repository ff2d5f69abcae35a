"""People, tokens, the audit trail, and the configuration as it was loaded."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import HTMLResponse

from iap_node.database import accounts
from iap_node.records import Role, TokenScope
from iap_node.web.actions import people
from iap_node.web.identity import Admin, Identity
from iap_node.web.node import Node, WebNode
from iap_node.web.rendering import page

LINES = 100  # of the audit trail on a page

RowId = Annotated[int, Path(ge=1, le=2**62)]

router = APIRouter(include_in_schema=False, prefix="/admin")


@router.get("")
def admin(
    request: Request, node: Node, identity: Admin, before: Annotated[int | None, Query(ge=1, le=2**62)] = None
) -> HTMLResponse:
    """The page; `before` leads to older lines of the audit trail."""
    return _shown(request, node, identity, before=before)


@router.post("/users")
def add_user(
    request: Request,
    node: Node,
    identity: Admin,
    name: Annotated[str, Form(max_length=64)],
    role: Annotated[Role, Form()],
) -> HTMLResponse:
    """Make an account; its one-time password is shown once."""
    made = people.add_account(node, identity, name, role)
    return _shown(request, node, identity, secret=f"one-time password of {made.name}", value=made.secret)


@router.post("/users/{account_id}")
def change_user(
    request: Request,
    node: Node,
    identity: Admin,
    account_id: RowId,
    action: Annotated[Literal["role", "password", "disable", "enable"], Form()],
    role: Annotated[Role, Form()] = Role.VIEWER,
) -> HTMLResponse:
    """Change an account: its role, a new one-time password, let in or not."""
    if action == "role":
        made = people.change_role(node, identity, account_id, role)
    else:
        made = people.change_account(node, identity, account_id, people.AccountChange(action))
    secret = f"one-time password of {made.name}" if made.secret else ""
    return _shown(request, node, identity, secret=secret, value=made.secret)


@router.post("/tokens")
def add_token(
    request: Request,
    node: Node,
    identity: Admin,
    name: Annotated[str, Form(min_length=1, max_length=64)],
    role: Annotated[Role, Form()],
    days: Annotated[float | None, Form(gt=0, le=3660)] = None,
    scope: Annotated[TokenScope, Form()] = TokenScope.API,
) -> HTMLResponse:
    """Make a token of one's own for a program; it is shown once."""
    made = people.add_token(node, identity, name, role, days, scope)
    return _shown(request, node, identity, secret=f"token {made.name}", value=made.secret)


@router.post("/tokens/{token_id}/revoke")
def revoke_token(request: Request, node: Node, identity: Admin, token_id: RowId) -> HTMLResponse:
    """End a token."""
    people.revoke_token(node, identity, token_id)
    return _shown(request, node, identity)


def _shown(
    request: Request, node: WebNode, identity: Identity, *, before: int | None = None, secret: str = "", value: str = ""
) -> HTMLResponse:
    with node.database.reading() as session:
        found = accounts.list_accounts(session)
        tokens = accounts.list_tokens(session)
        lines = accounts.trail(session, LINES, before)
    template = "_admin.html" if request.headers.get("hx-request") else "admin.html"
    return page(
        request, template, identity, accounts=found, tokens=tokens, trail=lines, roles=list(Role), secret=secret,
        value=value, config=people.configuration(node), older=lines[-1].id if len(lines) == LINES else None,
    )  # fmt: skip
