"""Signing in and out, and changing one's password: the only pages that need no account.

Two ways in: a password of this node, and, by configuration, the hospital's own sign-in (`oidc`). Who comes by the
latter has an account of that subject, made at the first time; its role is what the groups say, at each sign-in
and again after `web.oidc.recheck_min`; who is in none any more is signed out everywhere.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Annotated

import structlog
from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from iap_node.config.web import WebConfig
from iap_node.database import accounts
from iap_node.database.accounts import AccountRefused
from iap_node.records import Account
from iap_node.web.identity import COOKIE, Identity, SignedIn, client_address
from iap_node.web.node import Node, WebNode
from iap_node.web.oidc import PENDING_S, IssuerUnavailable, OpenIdConnect, Person, SignInRefused
from iap_node.web.rendering import page
from iap_node.web.secrets import hash_password, hash_token, is_password, new_token, why_refused

OIDC_COOKIE = "iap_oidc"
OIDC_PATH = "/sign-in/oidc"
BY_OIDC = "OpenID Connect"
RECHECKS = 2  # of web.oidc.recheck_min: who opens no page for so long, and only a form, signs in anew

router = APIRouter(include_in_schema=False)
log = structlog.get_logger("web")


def hospital_sign_in(config: WebConfig) -> OpenIdConnect | None:
    """The hospital's own sign-in, as configured."""
    if config.oidc is None or config.public_url is None:
        return None
    return OpenIdConnect(config.oidc, config.public_url)


@router.get("/sign-in")
def show_sign_in(request: Request, next: str = "/") -> Response:
    """The form."""
    return _form(request, next)


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
    wait_s = node.throttle.attempt(name, address)
    if wait_s > 0:
        return _form(request, next, f"too many wrong passwords; try again in {wait_s / 60:.0f} minutes", 429)
    with node.database.reading() as session:
        found = accounts.password_of(session, name)
    if not is_password(None if found is None else found[1], password) or found is None:
        log.warning("sign-in refused", address=address)
        with node.database.transaction() as session:
            accounts.note(session, name, "sign in refused", "", datetime.now(UTC), address=address)
        return _form(request, next, "name or password is wrong", 401)
    node.throttle.succeeded(name, address)
    return let_in(request, node, found[0], _inside(next))


def let_in(request: Request, node: WebNode, account: Account, target: str, how: str = "") -> Response:
    """Open a session and send the browser on; the one that it had ends."""
    token, now = new_token(), datetime.now(UTC)
    lasts = timedelta(hours=node.config.web.session_hours)
    if how == BY_OIDC and node.config.web.oidc is not None:
        lasts = min(lasts, RECHECKS * timedelta(minutes=node.config.web.oidc.recheck_min))
    with node.database.transaction() as session:
        accounts.close_session(session, hash_token(request.cookies.get(COOKIE, "")))
        accounts.open_session(session, hash_token(token), account.id, new_token(), now, now + lasts)
        accounts.note(session, account.name, "sign in", "", now, how, client_address(request))
    answer = RedirectResponse(target, 303)
    answer.set_cookie(
        COOKIE, token, max_age=int(lasts.total_seconds()), httponly=True, samesite="lax",
        secure=node.config.web.is_secure,
    )  # fmt: skip
    return answer


@router.get(OIDC_PATH)
def go_to_the_hospitals_sign_in(request: Request, node: Node, next: str = "/") -> Response:
    """Send the browser to the issuer, with a cookie that its way back is known by."""
    hospital = _hospital(request)
    if node.throttle.wait_s(client_address(request)) > 0:
        return _form(request, next, "too many sign-ins failed from here; try again in some minutes", 429)
    try:
        begun = hospital.begin(_inside(next))
    except IssuerUnavailable as error:
        return _unavailable(request, error)
    answer = RedirectResponse(begun.url, 303)
    answer.set_cookie(
        OIDC_COOKIE, begun.cookie, max_age=int(PENDING_S), path=OIDC_PATH, httponly=True, samesite="lax",
        secure=node.config.web.is_secure,
    )  # fmt: skip
    return answer


@router.get(f"{OIDC_PATH}/callback")
def come_back_from_the_hospitals_sign_in(request: Request, node: Node) -> Response:
    """Let in whom the issuer vouches for."""
    hospital, address = _hospital(request), client_address(request)
    if node.throttle.wait_s(address) > 0:
        return _form(request, "/", "too many sign-ins failed from here; try again in some minutes", 429)
    try:
        person = hospital.finish(request.cookies.get(OIDC_COOKIE, ""), request.query_params)
        with node.database.transaction() as session:
            account = _account_of(session, person, address)
        answer = let_in(request, node, account, person.target, BY_OIDC)
    except IssuerUnavailable as error:
        answer = _unavailable(request, error)
    except SignInRefused as error:
        node.throttle.failed(address)  # there is no account to guess at
        log.warning("sign-in refused", address=address, why=error.why)
        with node.database.transaction() as session:
            now = datetime.now(UTC)
            ended = accounts.close_sessions_of(session, error.subject) if error.subject else 0
            why = f"{BY_OIDC}: {error.why}" + (f"; {ended} browsers signed out" if ended else "")
            accounts.note(session, error.name, "sign in refused", "", now, why, address)
        answer = _form(request, "/", str(error), 403)
    answer.delete_cookie(OIDC_COOKIE, path=OIDC_PATH)
    return answer


def _account_of(session: Session, person: Person, address: str) -> Account:
    """The person's account, made where there is none, with the role that the issuer's groups give now."""
    now = datetime.now(UTC)
    if accounts.is_shut_out(session, person.subject):
        raise SignInRefused("your account is disabled; ask an admin of this node", "account disabled", person.name)
    account = accounts.account_of_subject(session, person.subject)
    if account is None:
        account = _make_account(session, person, now)
        accounts.note(session, account.name, "make account", account.name, now, f"{person.role}, {BY_OIDC}", address)
    elif account.role is not person.role:
        try:
            accounts.change_role(session, account.id, person.role)
        except AccountRefused as error:  # whose groups no longer say admin is none, and without one nobody could help
            raise SignInRefused(
                f"your groups make you {person.role}, but you are the last admin here; make another account an admin",
                "groups no longer say admin, but this is the last one",
                account.name,
            ) from error
        detail = f"{account.role} to {person.role}, {BY_OIDC}"
        accounts.note(session, account.name, "change role", account.name, now, detail, address)
        account = Account(account.id, account.name, person.role)
    return account


def _make_account(session: Session, person: Person, now: datetime) -> Account:
    """Under the person's name; a number behind it where another has it, who may be somebody else."""
    for number in count(1):
        name = person.name if number == 1 else f"{person.name} {number}"
        if not accounts.has_name(session, name):
            return accounts.create_account(session, name, person.role, now, subject=person.subject)
    raise AssertionError  # numbers do not end


def _hospital(request: Request) -> OpenIdConnect:
    hospital: OpenIdConnect | None = request.app.state.oidc
    if hospital is None:
        raise HTTPException(404, "no hospital's sign-in is configured: web.oidc")
    return hospital


def _unavailable(request: Request, error: IssuerUnavailable) -> Response:
    log.error("the hospital's sign-in cannot be used", why=str(error))
    return _form(
        request, "/", "the hospital's sign-in does not answer as it should; the log of this node says why", 503
    )


def _form(request: Request, target: str, error: str = "", status_code: int = 200) -> Response:
    return page(
        request, "sign_in.html", status_code=status_code, next=_inside(target), error=error,
        oidc=request.app.state.oidc is not None,
    )  # fmt: skip


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
    error = why_refused(new) or _why_not_changed(node, identity, old)
    if error is None and new != again:
        error = "the new password was typed in two ways"
    if error is None and new == old:
        error = "the new password is the old one"
    if error is not None:
        return page(request, "password.html", identity, status_code=422, error=error)
    with node.database.transaction() as session:
        accounts.change_password(session, identity.account.id, hash_password(new))
        accounts.note(session, identity.name, "change password", "", datetime.now(UTC), address=identity.address)
    return let_in(request, node, identity.account, "/")


def _why_not_changed(node: WebNode, identity: Identity, old: str) -> str | None:
    wait_s = node.throttle.attempt(identity.name, identity.address)
    if wait_s > 0:
        return f"too many wrong passwords; try again in {wait_s / 60:.0f} minutes"
    with node.database.reading() as session:
        found = accounts.password_of(session, identity.name)
    if found is None:
        return "this account has no password: it signs in elsewhere"
    if not is_password(found[1], old):
        return "the old password is wrong"
    node.throttle.succeeded(identity.name, identity.address)
    return None


def _inside(target: str) -> str:
    """A path of this site; anything else becomes the first page, so that no link leads elsewhere by way of us."""
    is_path = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if is_path else "/"
