"""Accounts, their browser sessions and API tokens, and the audit trail of what people did. Called by the web and the
command line.

Secrets come in as hashes: argon2id of passwords, SHA-256 of random tokens (`iap_node.web.secrets`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from iap_node.database.tables import AccountRow, ApiTokenRow, AuditTrailRow, WebSessionRow
from iap_node.errors import PermanentError
from iap_node.records import Account, Role, TokenScope

# How histories name what is no person: the audit, the delivery, the node, rules of dismissal, tokens.
_NOT_PEOPLE = frozenset({"audit", "delivery", "iap-node", "somebody"})
_NOT_PEOPLE_BEGIN = ("rule ", "token ")


# PS3.5 Table 6.2-1 (AE): 16 characters of the default repertoire, no backslash, not only spaces.
_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}", re.ASCII)


class AccountRefused(PermanentError):
    """An account cannot be made or changed so; the text says why."""


@dataclass(frozen=True, slots=True)
class AccountSummary:
    """An account in a list."""

    id: int
    name: str
    role: Role
    signs_in_by: str  # "password" or "OpenID Connect"
    must_change_password: bool
    created_at: datetime
    disabled_at: datetime | None
    n_sessions: int
    n_tokens: int


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """A browser that is signed in."""

    account: Account
    csrf_token: str
    created_at: datetime
    expires_at: datetime
    by_oidc: bool  # the account signs in through OpenID Connect


@dataclass(frozen=True, slots=True)
class TokenSummary:
    """A token in a list; the token itself was shown once, when it was made."""

    id: int
    name: str
    owner: str
    scope: TokenScope
    role: Role  # of the API's: what it may do there
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class TrailEntry:
    """One line of the audit trail."""

    id: int
    at: datetime
    who: str
    action: str
    subject: str
    detail: str
    address: str


# ---------------------------------------------------------------- accounts


def has_accounts(session: Session) -> bool:
    """Whether anybody may sign in at all."""
    return session.scalar(select(AccountRow.id).limit(1)) is not None


def has_name(session: Session, name: str) -> bool:
    """Whether an account has this name."""
    return session.scalar(select(AccountRow.id).where(AccountRow.name == name)) is not None


def create_account(
    session: Session,
    name: str,
    role: Role,
    now: datetime,
    *,
    password_hash: str | None = None,
    subject: str | None = None,
    must_change_password: bool = False,
) -> Account:
    """Make an account that signs in by password or, with `subject`, through OpenID Connect.

    Raises
    ------
    AccountRefused
        The name is taken, empty or longer than 64 characters.
    """
    name = name.strip()
    if not 0 < len(name) <= 64 or not name.isprintable():
        raise AccountRefused("an account's name has 1 to 64 printable characters")
    if name.casefold() in _NOT_PEOPLE or name.casefold().startswith(_NOT_PEOPLE_BEGIN):
        raise AccountRefused(f"{name!r} is how the node signs what it does itself; choose another name")
    if has_name(session, name):
        raise AccountRefused(f"there is an account {name!r} already")
    account_id = session.scalars(
        insert(AccountRow)
        .values(
            name=name, password_hash=password_hash, subject=subject, role=role,
            must_change_password=must_change_password, created_at=now,
        )
        .returning(AccountRow.id)
    ).one()  # fmt: skip
    return Account(account_id, name, role, must_change_password)


def password_of(session: Session, name: str) -> tuple[Account, str] | None:
    """An account that signs in by password, with its hash; None: there is none of that name, or it is disabled."""
    if not name.isprintable():  # no account has such a name, and PostgreSQL refuses some of them
        return None
    row = session.scalars(select(AccountRow).where(AccountRow.name == name, AccountRow.disabled_at.is_(None))).first()
    return None if row is None or row.password_hash is None else (_account(row), row.password_hash)


def account_of_subject(session: Session, subject: str) -> Account | None:
    """The account that OpenID Connect knows as `subject`; None: there is none yet, or it is disabled."""
    row = session.scalars(select(AccountRow).where(AccountRow.subject == subject)).first()
    return None if row is None or row.disabled_at is not None else _account(row)


def is_shut_out(session: Session, subject: str) -> bool:
    """Whether the account that OpenID Connect knows as `subject` is there, and disabled."""
    query = select(AccountRow.id).where(AccountRow.subject == subject, AccountRow.disabled_at.is_not(None))
    return session.scalar(query) is not None


def change_password(session: Session, account_id: int, password_hash: str, *, must_change: bool = False) -> None:
    """Give an account a new password; its browsers must sign in again."""
    session.execute(
        update(AccountRow)
        .where(AccountRow.id == account_id)
        .values(password_hash=password_hash, must_change_password=must_change)
    )
    session.execute(delete(WebSessionRow).where(WebSessionRow.account_id == account_id))


def change_role(session: Session, account_id: int, role: Role) -> None:
    """Give an account another role.

    Raises
    ------
    AccountRefused
        It is the last admin.
    """
    if role is not Role.ADMIN:
        _refuse_without_admin(session, account_id)
    session.execute(update(AccountRow).where(AccountRow.id == account_id).values(role=role))


def disable_account(session: Session, account_id: int, now: datetime) -> None:
    """Let somebody in no more; sessions and tokens end at once.

    Raises
    ------
    AccountRefused
        It is the last admin.
    """
    _refuse_without_admin(session, account_id)
    session.execute(update(AccountRow).where(AccountRow.id == account_id).values(disabled_at=now))
    session.execute(delete(WebSessionRow).where(WebSessionRow.account_id == account_id))
    session.execute(
        update(ApiTokenRow)
        .where(ApiTokenRow.account_id == account_id, ApiTokenRow.revoked_at.is_(None))
        .values(revoked_at=now)
    )


def enable_account(session: Session, account_id: int) -> None:
    """Let somebody in again."""
    session.execute(update(AccountRow).where(AccountRow.id == account_id).values(disabled_at=None))


def list_accounts(session: Session) -> list[AccountSummary]:
    """All accounts by name."""
    sessions = select(func.count()).where(WebSessionRow.account_id == AccountRow.id).scalar_subquery()
    tokens = (
        select(func.count())
        .where(ApiTokenRow.account_id == AccountRow.id, ApiTokenRow.revoked_at.is_(None))
        .scalar_subquery()
    )
    return [
        AccountSummary(
            id=row.id, name=row.name, role=row.role,
            signs_in_by="password" if row.subject is None else "OpenID Connect",
            must_change_password=row.must_change_password, created_at=row.created_at, disabled_at=row.disabled_at,
            n_sessions=n_sessions, n_tokens=n_tokens,
        )
        for row, n_sessions, n_tokens in session.execute(
            select(AccountRow, sessions, tokens).order_by(AccountRow.name)
        )
    ]  # fmt: skip


def _refuse_without_admin(session: Session, account_id: int) -> None:
    admins = select(AccountRow.id).where(AccountRow.role == Role.ADMIN, AccountRow.disabled_at.is_(None))
    if session.scalars(admins.limit(2)).all() == [account_id]:
        raise AccountRefused("this is the last admin; make another account an admin first")


def _account(row: AccountRow) -> Account:
    return Account(row.id, row.name, row.role, row.must_change_password)


# ---------------------------------------------------------------- sessions and tokens


def open_session(
    session: Session, token_hash: str, account_id: int, csrf_token: str, now: datetime, expires_at: datetime
) -> None:
    """Sign a browser in; sessions that are over are forgotten."""
    session.execute(delete(WebSessionRow).where(WebSessionRow.expires_at <= now))
    session.execute(
        insert(WebSessionRow).values(
            token_hash=token_hash, account_id=account_id, csrf_token=csrf_token, created_at=now, expires_at=expires_at
        )
    )


def browser_session(session: Session, token_hash: str, now: datetime) -> BrowserSession | None:
    """The session of a cookie's token; None: unknown, over, or its account is disabled."""
    found = session.execute(
        select(WebSessionRow, AccountRow)
        .join(AccountRow, AccountRow.id == WebSessionRow.account_id)
        .where(WebSessionRow.token_hash == token_hash, WebSessionRow.expires_at > now, AccountRow.disabled_at.is_(None))
    ).one_or_none()
    if found is None:
        return None
    row, account = found
    return BrowserSession(
        _account(account), row.csrf_token, row.created_at, row.expires_at, account.subject is not None
    )


def close_sessions_of(session: Session, subject: str) -> int:
    """Sign out all browsers of whom OpenID Connect knows as `subject`; how many there were."""
    account = select(AccountRow.id).where(AccountRow.subject == subject).scalar_subquery()
    ended = delete(WebSessionRow).where(WebSessionRow.account_id == account).returning(WebSessionRow.token_hash)
    return len(session.scalars(ended).all())


def close_session(session: Session, token_hash: str) -> None:
    """Sign a browser out."""
    session.execute(delete(WebSessionRow).where(WebSessionRow.token_hash == token_hash))


def create_token(
    session: Session,
    token_hash: str,
    name: str,
    owner: Account,
    role: Role,
    now: datetime,
    expires_at: datetime | None = None,
    scope: TokenScope = TokenScope.API,
) -> int:
    """Make a token.

    Raises
    ------
    AccountRefused
        It would be allowed more than its owner is, or the name of a token that stores is no AE title: archive, rules
        and logs know its sender by that.
    """
    if not 0 < len(name) <= 64 or not name.isprintable():
        raise AccountRefused("a token's name has 1 to 64 printable characters")
    if scope is TokenScope.STORE and not _AE_TITLE.fullmatch(name.strip()):
        raise AccountRefused(
            "a token that stores is named as an AE title is, by 1 to 16 ASCII characters and no backslash: rules and "
            "archive know its sender by that"
        )
    if not owner.may(role):
        raise AccountRefused(f"{owner.name} is {owner.role} and cannot make a token that may do what {role} may")
    return session.scalars(
        insert(ApiTokenRow)
        .values(
            token_hash=token_hash, name=name, account_id=owner.id, role=role, scope=scope, created_at=now,
            expires_at=expires_at,
        )
        .returning(ApiTokenRow.id)
    ).one()


def token_account(session: Session, token_hash: str, now: datetime) -> Account | None:
    """Who a token of the API speaks for, with the lesser of its own and its owner's role; None: it is no such token,
    or is over or revoked.
    """
    found = _token(session, token_hash, now)
    if found is None or found[0].scope is not TokenScope.API:
        return None
    token, row = found
    owner = _account(row)
    role = token.role if owner.may(token.role) else owner.role
    return Account(owner.id, f"token {token.name} of {owner.name}", role)


def storing_token(session: Session, token_hash: str, now: datetime) -> str | None:
    """The name of a token that stores; None: it is no such token, or is over or revoked."""
    found = _token(session, token_hash, now)
    return found[0].name if found is not None and found[0].scope is TokenScope.STORE else None


def _token(session: Session, token_hash: str, now: datetime) -> tuple[ApiTokenRow, AccountRow] | None:
    found = session.execute(
        select(ApiTokenRow, AccountRow)
        .join(AccountRow, AccountRow.id == ApiTokenRow.account_id)
        .where(ApiTokenRow.token_hash == token_hash, ApiTokenRow.revoked_at.is_(None), AccountRow.disabled_at.is_(None))
    ).one_or_none()
    if found is None or (found[0].expires_at is not None and found[0].expires_at <= now):
        return None
    return found[0], found[1]


def list_tokens(session: Session, account_id: int | None = None) -> list[TokenSummary]:
    """Tokens of an account, or of all; the newest first."""
    query = (
        select(ApiTokenRow, AccountRow.name)
        .join(AccountRow, AccountRow.id == ApiTokenRow.account_id)
        .order_by(ApiTokenRow.id.desc())
    )
    if account_id is not None:
        query = query.where(ApiTokenRow.account_id == account_id)
    return [
        TokenSummary(row.id, row.name, owner, row.scope, row.role, row.created_at, row.expires_at, row.revoked_at)
        for row, owner in session.execute(query)
    ]


def revoke_token(session: Session, token_id: int, now: datetime, account_id: int | None = None) -> bool:
    """End a token (of one account); False: there is none such."""
    query = update(ApiTokenRow).where(ApiTokenRow.id == token_id, ApiTokenRow.revoked_at.is_(None))
    if account_id is not None:
        query = query.where(ApiTokenRow.account_id == account_id)
    return bool(session.execute(query.values(revoked_at=now).returning(ApiTokenRow.id)).all())


# ---------------------------------------------------------------- audit trail


def note(
    session: Session, who: str, action: str, subject: str, now: datetime, detail: str = "", address: str = ""
) -> None:
    """Add a line to the audit trail, in the transaction of what it tells of."""
    session.execute(
        insert(AuditTrailRow).values(
            at=now, who=who, action=action[:64], subject=subject, detail=detail, address=address
        )
    )


def trail(
    session: Session, limit: int = 100, before: int | None = None, who: str | None = None
) -> Sequence[TrailEntry]:
    """The audit trail, the newest first; `before` is the id of the last line of the page before."""
    query = select(AuditTrailRow).order_by(AuditTrailRow.id.desc()).limit(limit)
    if before is not None:
        query = query.where(AuditTrailRow.id < before)
    if who is not None:
        query = query.where(AuditTrailRow.who == who)
    return [
        TrailEntry(row.id, row.at, row.who, row.action, row.subject, row.detail, row.address)
        for row in session.scalars(query)
    ]
