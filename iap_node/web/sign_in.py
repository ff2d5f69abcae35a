"""Signing in and out, and changing one's password: the only pages that need no account."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import structlog
from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from iap_node.database import accounts
from iap_node.records import Account
from iap_node.web.identity import COOKIE, SignedIn, client_address
from iap_node.web.node import Node, WebNode
from iap_node.web.rendering import page
from iap_node.web.secrets import hash_password, hash_token, is_password, new_token, why_refused

router = APIRouter(include_in_schema=False)
log = structlog.get_logger("web")


@router.get("/sign-in")
def show_sign_in(request: Request, next: str = "/") -> Response:
    """The form."""
    return page(request, "sign_in.html", next=_inside(next), error="")


@router.post("/sign-in")
def sign_in(
    request: Request,
    node: Node,
    name: Annotated[str, Form(max_length=64)],
    password: Annotated[str, Form(max_length=256)],
    next: Annotated[str, Form()] = "/",
) -> Response:
    """Check the password; wrong ones are counted, and after some of them nobody is heard for minutes.

    No CSRF token stands in this form: who makes another sign in as himself gains nothing here, and SameSite keeps the
    cookie of whoever is signed in.
    """
    address = client_address(request)
    wait_s = node.throttle.wait_s(name, address)
    if wait_s > 0:
        error = f"too many wrong passwords; try again in {wait_s / 60:.0f} minutes"
        return page(request, "sign_in.html", status_code=429, next=_inside(next), error=error)
    with node.database.reading() as session:
        found = accounts.password_of(session, name)
    if not is_password(None if found is None else found[1], password) or found is None:
        node.throttle.failed(name, address)
        log.warning("sign-in refused", address=address)
        with node.database.transaction() as session:
            accounts.note(session, name, "sign in refused", "", datetime.now(UTC), address=address)
        error = "name or password is wrong"
        return page(request, "sign_in.html", status_code=401, next=_inside(next), error=error)
    node.throttle.succeeded(name)
    return let_in(request, node, found[0], _inside(next))


def let_in(request: Request, node: WebNode, account: Account, target: str) -> Response:
    """Open a session and send the browser on."""
    token, now = new_token(), datetime.now(UTC)
    expires_at = now + timedelta(hours=node.config.web.session_hours)
    with node.database.transaction() as session:
        accounts.open_session(session, hash_token(token), account.id, new_token(), now, expires_at)
        accounts.note(session, account.name, "sign in", "", now, address=client_address(request))
    answer = RedirectResponse(target, 303)
    answer.set_cookie(
        COOKIE, token, max_age=int(node.config.web.session_hours * 3600), httponly=True, samesite="lax",
        secure=node.config.web.is_secure,
    )  # fmt: skip
    return answer


@router.post("/sign-out")
def sign_out(request: Request, node: Node, identity: SignedIn) -> Response:
    """End this browser's session."""
    with node.database.transaction() as session:
        accounts.close_session(session, hash_token(request.cookies.get(COOKIE, "")))
        accounts.note(session, identity.name, "sign out", "", datetime.now(UTC), address=identity.address)
    answer = RedirectResponse("/sign-in", 303)
    answer.delete_cookie(COOKIE)
    return answer


@router.get("/password")
def show_password(request: Request, identity: SignedIn) -> Response:
    """The form."""
    return page(request, "password.html", identity, error="")


@router.post("/password")
def change_password(
    request: Request,
    node: Node,
    identity: SignedIn,
    old: Annotated[str, Form(max_length=256)],
    new: Annotated[str, Form(max_length=1024)],
    again: Annotated[str, Form(max_length=1024)],
) -> Response:
    """Change one's own password; all one's browsers sign in anew."""
    wait_s = node.throttle.wait_s(identity.name, identity.address)
    with node.database.reading() as session:
        found = accounts.password_of(session, identity.name)
    error = why_refused(new)
    if wait_s > 0:
        error = f"too many wrong passwords; try again in {wait_s / 60:.0f} minutes"
    elif found is None:
        error = "this account has no password: it signs in elsewhere"
    elif not is_password(found[1], old):
        node.throttle.failed(identity.name, identity.address)
        error = "the old password is wrong"
    elif new != again:
        error = "the new password was typed in two ways"
    elif new == old:
        error = "the new password is the old one"
    if error is not None:
        return page(request, "password.html", identity, status_code=422, error=error)
    with node.database.transaction() as session:
        accounts.change_password(session, identity.account.id, hash_password(new))
        accounts.note(session, identity.name, "change password", "", datetime.now(UTC), address=identity.address)
    return let_in(request, node, identity.account, "/")


def _inside(target: str) -> str:
    """A path of this site; anything else becomes the first page, so that no link leads elsewhere by way of us."""
    is_path = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if is_path else "/"
