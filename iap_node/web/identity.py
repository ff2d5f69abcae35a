"""Who asks, and whether they may: the dependency of every route but signing in and health.

A browser shows a cookie, a program a bearer token. Requests that change something and come by cookie must carry the
session's CSRF token, as the header X-CSRF-Token (htmx) or the field `csrf` (plain forms).
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from iap_node.database import accounts
from iap_node.records import Account, Role
from iap_node.web.node import Node, WebNode
from iap_node.web.secrets import hash_token

COOKIE = "iap_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class SignInFirst(Exception):
    """Nobody is signed in, or no longer; pages go to the sign-in, the API answers 401."""


class SignInAgain(SignInFirst):
    """The hospital's sign-in is to say anew which groups the person is in; the session stands until then."""


class ChangePasswordFirst(Exception):
    """Signed in with a one-time password, which must be changed before anything else."""


class Forbidden(Exception):
    """Signed in, but not allowed; or the CSRF token is missing or wrong."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks."""

    account: Account
    csrf_token: str  # "" for programs
    address: str

    @property
    def name(self) -> str:
        """As the audit trail has it."""
        return self.account.name


async def identify(request: Request, node: Node) -> Identity:
    """Who asks.

    Raises
    ------
    SignInFirst, SignInAgain, ChangePasswordFirst, Forbidden
    """
    now = datetime.now(UTC)
    authorization = request.headers.get("authorization", "")
    if authorization:
        scheme, _, token = authorization.partition(" ")
        account = await run_in_threadpool(_by_token, node, token.strip(), now) if scheme.lower() == "bearer" else None
        if account is None:
            raise SignInFirst
        return Identity(account, "", client_address(request))
    cookie = request.cookies.get(COOKIE, "")
    found = await run_in_threadpool(_by_cookie, node, cookie, now) if cookie else None
    if found is None:
        raise SignInFirst
    if found.by_oidc and _is_to_be_asked_again(request, node, now - found.created_at):
        raise SignInAgain
    if request.method not in SAFE_METHODS:
        shown = request.headers.get("x-csrf-token") or await _field(request)
        if not hmac.compare_digest(shown.encode(), found.csrf_token.encode()):
            raise Forbidden("this form is too old, or comes from another site; load the page again")
    return Identity(found.account, found.csrf_token, client_address(request))


def _is_to_be_asked_again(request: Request, node: WebNode, age: timedelta) -> bool:
    """At a page that a person opens, not in the middle of one: what was typed there would be lost."""
    oidc = node.config.web.oidc
    opens = request.method == "GET" and "hx-request" not in request.headers
    page = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")
    return oidc is not None and opens and page and age >= timedelta(minutes=oidc.recheck_min)


async def _field(request: Request) -> str:
    """The token in a plain form; forms with files carry it in the header, so that they are not read for it."""
    if request.headers.get("content-type", "").startswith("multipart/"):
        return ""
    return str((await request.form()).get("csrf", ""))


def _by_token(node: WebNode, token: str, now: datetime) -> Account | None:
    with node.database.reading() as session:
        return accounts.token_account(session, hash_token(token), now)


def _by_cookie(node: WebNode, cookie: str, now: datetime) -> accounts.BrowserSession | None:
    with node.database.reading() as session:
        return accounts.browser_session(session, hash_token(cookie), now)


def client_address(request: Request) -> str:
    """From where a request comes."""
    return request.client.host if request.client is not None else ""


def _may(role: Role) -> Callable[[Identity], Awaitable[Identity]]:
    async def allowed(identity: Annotated[Identity, Depends(identify)]) -> Identity:
        if identity.account.must_change_password:
            raise ChangePasswordFirst
        if not identity.account.may(role):
            raise Forbidden(f"this needs the role {role}; {identity.account.name} is {identity.account.role}")
        return identity

    return allowed


SignedIn = Annotated[Identity, Depends(identify)]
Viewer = Annotated[Identity, Depends(_may(Role.VIEWER))]
Physicist = Annotated[Identity, Depends(_may(Role.PHYSICIST))]
Operator = Annotated[Identity, Depends(_may(Role.OPERATOR))]
Admin = Annotated[Identity, Depends(_may(Role.ADMIN))]
