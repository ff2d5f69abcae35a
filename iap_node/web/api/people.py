"""`/api/v1/accounts`, `/tokens`, `/audit-trail`, `/configuration`: who may what, who did what, and what was loaded."""

from __future__ import annotations

from typing import Annotated, Any

import yaml
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from iap_node.database import accounts
from iap_node.records import Role, TokenScope
from iap_node.web.actions import people as actions
from iap_node.web.actions.people import AccountChange
from iap_node.web.api.paging import Cursor, Limit, Page, page_of, plain
from iap_node.web.identity import Admin
from iap_node.web.node import Node

router = APIRouter(tags=["people"])

RowId = Annotated[int, Path(ge=1, le=2**62)]


class NewAccount(BaseModel):
    """Somebody who is to sign in by password."""

    name: str = Field(min_length=1, max_length=64)
    role: Role


class NewRole(BaseModel):
    """What an account may do."""

    role: Role


class NewToken(BaseModel):
    """A key for a program; it speaks for the account that makes it."""

    name: str = Field(min_length=1, max_length=64, description="what it is for; of one that stores, its AE title")
    role: Role = Role.VIEWER
    scope: TokenScope = TokenScope.API
    days: float | None = Field(None, gt=0, le=3660, description="it ends by itself after so many; null: it does not")


class Secret(BaseModel):
    """What was made, and a secret that is told this once."""

    id: int
    name: str
    secret: str = Field(description="one-time password or token; empty where none was made")


class Revoked(BaseModel):
    """Whether a token ended by this; it may have ended before."""

    revoked: bool


@router.get("/accounts")
def list_accounts(node: Node, _: Admin) -> dict[str, Any]:
    """All accounts, by name."""
    with node.database.reading() as session:
        return {"items": plain(accounts.list_accounts(session))}


@router.post("/accounts")
def add_account(node: Node, admin: Admin, asked: NewAccount) -> Secret:
    """Make an account; the secret is its one-time password."""
    return _told(actions.add_account(node, admin, asked.name, asked.role))


@router.put("/accounts/{account_id}/role")
def change_role(node: Node, admin: Admin, account_id: RowId, asked: NewRole) -> Secret:
    """Give an account another role."""
    return _told(actions.change_role(node, admin, account_id, asked.role))


@router.post("/accounts/{account_id}/{change}")
def change_account(node: Node, admin: Admin, account_id: RowId, change: AccountChange) -> Secret:
    """Give an account a new one-time password, let it in no more, or again."""
    return _told(actions.change_account(node, admin, account_id, change))


@router.get("/tokens")
def list_tokens(node: Node, _: Admin) -> dict[str, Any]:
    """All tokens, the newest first; what a token is was told once."""
    with node.database.reading() as session:
        return {"items": plain(accounts.list_tokens(session))}


@router.post("/tokens")
def add_token(node: Node, admin: Admin, asked: NewToken) -> Secret:
    """Make a token; the secret is the token."""
    return _told(actions.add_token(node, admin, asked.name, asked.role, asked.days, asked.scope))


@router.post("/tokens/{token_id}/revoke")
def revoke_token(node: Node, admin: Admin, token_id: RowId) -> Revoked:
    """End a token."""
    return Revoked(revoked=actions.revoke_token(node, admin, token_id))


@router.get("/audit-trail", response_model=Page[dict[str, Any]])
def audit_trail(
    node: Node,
    _: Admin,
    who: Annotated[str | None, Query(max_length=128)] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Who did what, the last thing first."""
    with node.database.reading() as session:
        return page_of(accounts.trail(session, limit + 1, cursor, who), limit)


@router.get("/configuration")
def configuration(node: Node, _: Admin) -> dict[str, Any]:
    """The configuration as it was loaded; no secret is in it."""
    loaded: dict[str, Any] = yaml.safe_load(actions.configuration(node))
    return loaded


def _told(made: actions.Made) -> Secret:
    return Secret(id=made.id, name=made.name, secret=made.secret)
