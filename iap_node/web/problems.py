"""What goes wrong, told: a page for people, `application/problem+json` (RFC 9457) for programs."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from iap_node.database.accounts import AccountRefused
from iap_node.database.dismissal_rules import UnknownRule
from iap_node.database.finding_lists import UnknownFinding, UnknownScanner
from iap_node.database.models import ModelLifeError, NoSuchModel
from iap_node.database.retraining import NotRunning, RetrainingUnderWay
from iap_node.database.series import UnknownSeries
from iap_node.errors import PermanentError, RetriableError
from iap_node.web.actions.destinations import UnknownDestination
from iap_node.web.actions.reports import NoSuchMonth
from iap_node.web.actions.rules import RulesConflict
from iap_node.web.identity import SAFE_METHODS, ChangePasswordFirst, Forbidden, SignInAgain, SignInFirst
from iap_node.web.rendering import page

API = ("/api/", "/dicomweb/")  # what programs ask
MEDIA_TYPE = "application/problem+json"

log = structlog.get_logger("web")


class Problem(BaseModel):
    """What is wrong and what helps (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []


RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
    for status in (400, 401, 403, 404, 405, 409, 422, 503)
}
"""What every route of the API may answer instead; for its schema."""


def problem(request: Request, status: int, detail: str, **more: Any) -> Response:
    """An answer that says what is wrong and what helps."""
    if request.url.path.startswith(API):
        content = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            **more,
        }
        return JSONResponse(content, status, media_type=MEDIA_TYPE)
    if request.headers.get("hx-request"):
        return page(request, "_problem.html", status_code=status, detail=detail)
    return page(request, "problem.html", status_code=status, title=HTTPStatus(status).phrase, detail=detail)


def add_to(app: FastAPI) -> None:
    """Register the handlers."""

    @app.exception_handler(SignInFirst)
    async def sign_in_first(request: Request, error: SignInFirst) -> Response:
        if request.url.path.startswith(API):
            answer = problem(request, 401, "show a bearer token, or sign in; an admin makes tokens in the console")
            answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        where = "/sign-in/oidc" if isinstance(error, SignInAgain) else "/sign-in"
        return _go(request, where + (f"?next={quote(target)}" if request.method in SAFE_METHODS else ""))

    @app.exception_handler(ChangePasswordFirst)
    async def change_password_first(request: Request, _: ChangePasswordFirst) -> Response:
        if request.url.path.startswith(API):
            return problem(request, 403, "change the one-time password in the console first")
        return _go(request, "/password")

    @app.exception_handler(Forbidden)
    async def forbidden(request: Request, error: Forbidden) -> Response:
        return problem(request, 403, str(error))

    @app.exception_handler(UnknownSeries)
    @app.exception_handler(UnknownFinding)
    @app.exception_handler(UnknownScanner)
    @app.exception_handler(UnknownRule)
    @app.exception_handler(UnknownDestination)
    @app.exception_handler(NoSuchMonth)
    @app.exception_handler(NoSuchModel)
    async def unknown(request: Request, error: PermanentError) -> Response:
        return problem(request, 404, str(error))

    @app.exception_handler(AccountRefused)
    @app.exception_handler(RulesConflict)
    @app.exception_handler(ModelLifeError)
    @app.exception_handler(RetrainingUnderWay)
    @app.exception_handler(NotRunning)
    async def refused(request: Request, error: PermanentError) -> Response:
        return problem(request, 409, str(error))

    @app.exception_handler(PermanentError)
    async def permanent(request: Request, error: PermanentError) -> Response:
        return problem(request, 422, str(error))

    @app.exception_handler(RetriableError)
    async def retriable(request: Request, error: RetriableError) -> Response:
        log.warning("request failed", path=request.url.path, error=str(error))
        answer = problem(request, 503, f"{error}; try again")
        answer.headers["Retry-After"] = "5"
        return answer

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [
            {"where": ".".join(str(part) for part in one["loc"]), "what": str(one["msg"])} for one in error.errors()
        ]
        detail = "; ".join(f"{one['where']}: {one['what']}" for one in errors)
        return problem(request, 422, detail, errors=errors)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        answer = problem(request, error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("request failed unexpectedly", path=request.url.path, error=type(error).__name__)
        return problem(request, 500, "an unexpected error; the log has its place")


def _go(request: Request, where: str) -> Response:
    """Send the browser somewhere; htmx must be told in its own way, or it would put the page into a part of one."""
    if request.headers.get("hx-request"):
        return Response(status_code=204, headers={"HX-Redirect": where})
    return RedirectResponse(where, 303)
