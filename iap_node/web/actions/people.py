"""What admins do about people and programs: accounts, one-time passwords, tokens. Secrets come back this once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import yaml
from sqlalchemy.orm import Session

from iap_node.database import accounts
from iap_node.records import Role, TokenScope
from iap_node.web.identity import Identity
from iap_node.web.node import WebNode
from iap_node.web.secrets import hash_password, hash_token, new_token, one_time_password


class AccountChange(StrEnum):
    """What can be done to an account beside giving it another role."""

    PASSWORD = "password"  # a new one-time password
    DISABLE = "disable"
    ENABLE = "enable"


@dataclass(frozen=True, slots=True)
class Made:
    """An account or token that was made or changed, with the secret that is shown this once."""

    id: int
    name: str
    secret: str  # "" where none was made


def add_account(node: WebNode, identity: Identity, name: str, role: Role) -> Made:
    """Make an account with a one-time password.

    Raises
    ------
    AccountRefused
    """
    password = one_time_password()
    password_hash = hash_password(password)
    with node.database.transaction() as session:
        made = accounts.create_account(
            session, name, role, datetime.now(UTC), password_hash=password_hash, must_change_password=True
        )
        _note(session, identity, "make account", made.name, role.value)
    return Made(made.id, made.name, password)


def change_role(node: WebNode, identity: Identity, account_id: int, role: Role) -> Made:
    """Give an account another role.

    Raises
    ------
    AccountRefused
        There is none such, or it is the last admin.
    """
    with node.database.transaction() as session:
        name = _name(session, account_id)
        accounts.change_role(session, account_id, role)
        _note(session, identity, "role of account", name, role.value)
    return Made(account_id, name, "")


def change_account(node: WebNode, identity: Identity, account_id: int, change: AccountChange) -> Made:
    """Give an account a new one-time password, let it in no more, or again.

    Raises
    ------
    AccountRefused
        There is none such, or it is the last admin.
    """
    password = one_time_password() if change is AccountChange.PASSWORD else ""
    password_hash = hash_password(password) if password else ""
    with node.database.transaction() as session:
        name = _name(session, account_id)
        if change is AccountChange.PASSWORD:
            accounts.change_password(session, account_id, password_hash, must_change=True)
        elif change is AccountChange.DISABLE:
            accounts.disable_account(session, account_id, datetime.now(UTC))
        else:
            accounts.enable_account(session, account_id)
        _note(session, identity, f"{change} of account", name, "")
    return Made(account_id, name, password)


def add_token(
    node: WebNode,
    identity: Identity,
    name: str,
    role: Role,
    days: float | None,
    scope: TokenScope = TokenScope.API,
) -> Made:
    """Make a token for a program, of one's own; None: it does not end by itself.

    Raises
    ------
    AccountRefused
    """
    token, now = new_token(), datetime.now(UTC)
    expires_at = None if days is None else now + timedelta(days=days)
    with node.database.transaction() as session:
        number = accounts.create_token(
            session, hash_token(token), name, identity.account, role, now, expires_at, scope
        )
        _note(session, identity, "make token", name, scope if scope is TokenScope.STORE else role)
    return Made(number, name, token)


def revoke_token(node: WebNode, identity: Identity, token_id: int) -> bool:
    """End a token; False: there is none such that still is one."""
    with node.database.transaction() as session:
        ended = accounts.revoke_token(session, token_id, datetime.now(UTC))
        if ended:
            _note(session, identity, "revoke token", str(token_id), "")
    return ended


def configuration(node: WebNode) -> str:
    """The configuration as it was loaded, YAML. Secrets stand in files of their own; what URLs may hold of them is
    left out: passwords, queries, and the path of a chat's hook, which is all that it asks for.
    """
    content = node.config.model_dump(mode="json")
    hook = content["notifications"]["webhook"]
    if hook is not None:
        hook["url"] = re.sub(r"^(https?://[^/?]+).*$", r"\1/***", hook["url"])
    config = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    config = re.sub(r"(://[^:/@\s]*:)[^@\s]+@", r"\1***@", config)
    return re.sub(r"(://[^\s?']+\?)[^\s']+", r"\1***", config)


def _note(session: Session, identity: Identity, action: str, subject: str, detail: str) -> None:
    accounts.note(session, identity.name, action, subject, datetime.now(UTC), detail, identity.address)


def _name(session: Session, account_id: int) -> str:
    for one in accounts.list_accounts(session):
        if one.id == account_id:
            return one.name
    raise accounts.AccountRefused(f"there is no account {account_id}")
