"""People, tokens, the audit trail, and the configuration as it was loaded."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import yaml
from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import HTMLResponse
from sqlalchemy.orm import Session

from iap_node.database import accounts
from iap_node.records import Role
from iap_node.web.identity import Admin, Identity
from iap_node.web.node import Node, WebNode
from iap_node.web.rendering import page
from iap_node.web.secrets import hash_password, hash_token, new_token, one_time_password

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
    password = one_time_password()
    password_hash = hash_password(password)
    with node.database.transaction() as session:
        made = accounts.create_account(
            session, name, role, datetime.now(UTC), password_hash=password_hash, must_change_password=True
        )
        _note(session, identity, "make account", made.name, role.value)
    return _shown(request, node, identity, secret=f"one-time password of {made.name}", value=password)


@router.post("/users/{account_id}")
def change_user(
    request: Request,
    node: Node,
    identity: Admin,
    account_id: RowId,
    action: Annotated[str, Form(pattern="^(role|password|disable|enable)$")],
    role: Annotated[Role, Form()] = Role.VIEWER,
) -> HTMLResponse:
    """Change an account: its role, a new one-time password, let in or not."""
    now = datetime.now(UTC)
    password = one_time_password() if action == "password" else ""
    password_hash = hash_password(password) if password else ""
    with node.database.transaction() as session:
        name = _name(session, account_id)
        if action == "role":
            accounts.change_role(session, account_id, role)
        elif action == "password":
            accounts.change_password(session, account_id, password_hash, must_change=True)
        elif action == "disable":
            accounts.disable_account(session, account_id, now)
        else:
            accounts.enable_account(session, account_id)
        _note(session, identity, f"{action} of account", name, role.value if action == "role" else "")
    return _shown(request, node, identity, secret=f"one-time password of {name}" if password else "", value=password)


@router.post("/tokens")
def add_token(
    request: Request,
    node: Node,
    identity: Admin,
    name: Annotated[str, Form(min_length=1, max_length=64)],
    role: Annotated[Role, Form()],
    days: Annotated[float | None, Form(gt=0, le=3660)] = None,
) -> HTMLResponse:
    """Make a token of one's own for a program; it is shown once."""
    token, now = new_token(), datetime.now(UTC)
    expires_at = None if days is None else now + timedelta(days=days)
    with node.database.transaction() as session:
        accounts.create_token(session, hash_token(token), name, identity.account, role, now, expires_at)
        _note(session, identity, "make token", name, role.value)
    return _shown(request, node, identity, secret=f"token {name}", value=token)


@router.post("/tokens/{token_id}/revoke")
def revoke_token(request: Request, node: Node, identity: Admin, token_id: RowId) -> HTMLResponse:
    """End a token."""
    with node.database.transaction() as session:
        if accounts.revoke_token(session, token_id, datetime.now(UTC)):
            _note(session, identity, "revoke token", str(token_id), "")
    return _shown(request, node, identity)


def _note(session: Session, identity: Identity, action: str, subject: str, detail: str) -> None:
    accounts.note(session, identity.name, action, subject, datetime.now(UTC), detail, identity.address)


def _name(session: Session, account_id: int) -> str:
    for one in accounts.list_accounts(session):
        if one.id == account_id:
            return one.name
    raise accounts.AccountRefused(f"there is no account {account_id}")


def _shown(
    request: Request, node: WebNode, identity: Identity, *, before: int | None = None, secret: str = "", value: str = ""
) -> HTMLResponse:
    with node.database.reading() as session:
        found = accounts.list_accounts(session)
        tokens = accounts.list_tokens(session)
        lines = accounts.trail(session, LINES, before)
    template = "_admin.html" if request.headers.get("hx-request") else "admin.html"
    config = yaml.safe_dump(node.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return page(
        request, template, identity, accounts=found, tokens=tokens, trail=lines, roles=list(Role), secret=secret,
        value=value, config=_without_secrets(config), older=lines[-1].id if len(lines) == LINES else None,
    )  # fmt: skip


def _without_secrets(config: str) -> str:
    """The configuration holds no secret but a password in the database's URL."""
    return re.sub(r"(://[^:/@\s]+:)[^@\s]+@", r"\1***@", config)
