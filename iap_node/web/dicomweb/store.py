"""`POST /dicomweb/studies` and `/dicomweb/studies/{study}`: the Store transaction, STOW-RS (PS3.18 section 10.5).

A program shows a token of the scope `store`; cookies and tokens of the API open nothing here. The body is never in
memory as a whole: what the socket gives goes through the parser to the disk, and the socket waits for the disk. The
answer comes when all that it calls stored would survive a power cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from datetime import UTC, datetime
from http import HTTPStatus

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from iap_node.database import accounts
from iap_node.dicom.part10 import is_safe_uid
from iap_node.dicom.store_instances import http_status, store_instances_response
from iap_node.errors import NodeError, RetriableError
from iap_node.web.dicomweb.multipart import (
    APPLICATION_DICOM,
    NotMultipart,
    RelatedParser,
    TooManyParts,
    media_type,
)
from iap_node.web.identity import client_address
from iap_node.web.node import Node, Stow, StowRequest, WebNode
from iap_node.web.secrets import hash_token

PREFIX = "/dicomweb"
DICOM_JSON = "application/dicom+json"
_JSON_RANGES = frozenset({DICOM_JSON, "application/json", "application/*", "*/*"})
AGAIN_S = "5"  # Retry-After
DRAIN_BYTES, DRAIN_S = 64 * 1024**2, 5.0  # read of a request that is refused already

log = structlog.get_logger("stow")

router = APIRouter(prefix=PREFIX, include_in_schema=False)


@router.post("/studies")
async def store(request: Request, node: Node) -> Response:
    """Store instances of any studies."""
    return await _heard(request, node, None)


@router.post("/studies/{study}")
async def store_of_study(request: Request, node: Node, study: str) -> Response:
    """Store instances of one study; those of others fail."""
    if not is_safe_uid(study):
        raise HTTPException(400, "the path names no Study Instance UID")
    return await _heard(request, node, study)


class _Body:
    """The body of a request, piece by piece."""

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._asks_first = "100-continue" in request.headers.get("expect", "").lower()
        self._at_end = False

    async def read(self) -> bytes | None:
        """The next piece; None: that was all.

        Raises
        ------
        ClientDisconnect
            The sender is gone.
        """
        if self._at_end:
            return None
        message = await self._receive()
        self._at_end = not message.get("more_body", False)
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece: bytes = message.get("body", b"")
        return piece

    async def drain(self) -> None:
        """Read on for a while and forget it, so that the sender hears that it is refused: to close on one that still
        writes resets the connection, and the answer is lost with it. One that asked first (`Expect: 100-continue`,
        RFC 9110 section 10.1.1) waits for the answer.
        """
        n_bytes = 0
        if not self._asks_first:
            with contextlib.suppress(TimeoutError, ClientDisconnect):
                async with asyncio.timeout(DRAIN_S):
                    while n_bytes < DRAIN_BYTES and (piece := await self.read()) is not None:
                        n_bytes += len(piece)


async def _heard(request: Request, node: WebNode, study: str | None) -> Response:
    body = _Body(request)
    try:
        response = await _store(request, node, study, body)
    except HTTPException:
        await body.drain()
        raise
    if response.status_code >= 400:
        await body.drain()
    return response


async def _store(request: Request, node: WebNode, study: str | None, body: _Body) -> Response:
    stow = node.stow
    if stow is None:
        raise HTTPException(404, "this node takes nothing by STOW-RS; web.stow.enabled says so")
    sender = await run_in_threadpool(_sender, node, request.headers.get("authorization", ""))
    boundary = _boundary(request.headers.get("content-type", ""), request.headers.get("content-encoding", ""))
    _check_accept(request.headers.get("accept", ""))
    most_bytes = node.config.web.stow.max_request_mb * 1024**2
    _check_length(request, most_bytes)
    try:
        reception = await run_in_threadpool(stow.begin, sender, client_address(request), study)
    except RetriableError as error:  # before anything is read
        raise HTTPException(503, str(error), {"Retry-After": AGAIN_S}) from error
    try:
        refusal = await _receive(body, stow, reception, boundary, most_bytes)
        if any(one.stored for one in reception.parts):
            await run_in_threadpool(reception.settle)
    finally:
        await run_in_threadpool(reception.close)
    parts = reception.parts
    status = http_status(parts) if refusal is None else refusal.status
    log.info(
        "request of STOW-RS", sender=sender, source_address=client_address(request), status=int(status),
        n_stored=sum(one.stored for one in parts), n_failed=sum(not one.stored for one in parts),
        refused=None if refusal is None else refusal.why,
    )  # fmt: skip
    if not parts:  # nothing to be said of instances
        assert refusal is not None
        raise HTTPException(status, refusal.why)
    headers = {"Retry-After": AGAIN_S} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    content = json.dumps(store_instances_response(parts))
    return Response(content, int(status), headers, DICOM_JSON)


# ---------------------------------------------------------------- before the body


def _sender(node: WebNode, authorization: str) -> str:
    """The name of the token that is shown."""
    scheme, _, token = authorization.partition(" ")
    now, shown = datetime.now(UTC), hash_token(token.strip())
    if scheme.lower() == "bearer":
        with node.database.reading() as session:
            name = accounts.storing_token(session, shown, now)
            if name is not None:
                return name
            if accounts.token_account(session, shown, now) is not None:
                raise HTTPException(403, "this token opens the API; make one by `iap-node tokens add --scope store`")
    raise HTTPException(401, "show a bearer token of the scope store", {"WWW-Authenticate": "Bearer"})


def _boundary(content_type: str, content_encoding: str) -> str:
    kind, parameters = media_type(content_type)
    if kind != "multipart/related" or parameters.get("type", APPLICATION_DICOM).lower() != APPLICATION_DICOM:
        raise HTTPException(415, 'send multipart/related; type="application/dicom"')
    if content_encoding.strip().lower() not in ("", "identity"):
        raise HTTPException(415, "send the body without Content-Encoding")
    if not parameters.get("boundary"):
        raise HTTPException(400, "Content-Type names no boundary")
    return parameters["boundary"]


def _check_accept(accept: str) -> None:
    """Answers are `application/dicom+json` (PS3.18 section 8.7.3.1), not XML."""
    ranges = {one.partition(";")[0].strip().lower() for one in accept.split(",")}
    if accept.strip() and not ranges & _JSON_RANGES:
        raise HTTPException(406, f"answers are {DICOM_JSON}")


def _check_length(request: Request, most_bytes: int) -> None:
    length = request.headers.get("content-length")
    if length is None and "transfer-encoding" not in request.headers and request.scope.get("http_version") != "2":
        raise HTTPException(411, "the request has neither Content-Length nor a chunked body")
    if length is not None and (not length.isdecimal() or int(length) > most_bytes):
        raise HTTPException(413, _too_long(most_bytes))


def _too_long(most_bytes: int) -> str:
    return f"a request may carry {most_bytes // 1024**2} MiB (web.stow.max_request_mb); send the study in several"


# ---------------------------------------------------------------- the body


class _Refusal:
    """Why a request was not read to its end, or is none."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        self.status = status
        self.why = why


async def _receive(
    body: _Body, stow: Stow, reception: StowRequest, boundary: str, most_bytes: int
) -> _Refusal | None:
    """Read the body; what came whole by then is stored, whatever follows."""
    n_bytes = 0
    try:
        parser = RelatedParser(boundary, reception)
        while True:
            began = time.monotonic()
            async with asyncio.timeout(stow.idle_timeout_s):
                piece = await body.read()
            if piece is None:
                break
            n_bytes += len(piece)
            if n_bytes > most_bytes:
                return _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_long(most_bytes))
            try:
                reception.waited(time.monotonic() - began, len(piece))
            except NodeError as error:
                return _Refusal(HTTPStatus.REQUEST_TIMEOUT, str(error))
            if piece:
                await run_in_threadpool(parser.write, piece)
    except TimeoutError:
        return _Refusal(HTTPStatus.REQUEST_TIMEOUT, f"nothing came for {stow.idle_timeout_s:g} s")
    except ClientDisconnect:
        return _Refusal(HTTPStatus.BAD_REQUEST, "the connection ended before the request did")
    except NotMultipart as error:
        return _Refusal(HTTPStatus.BAD_REQUEST, str(error))
    except TooManyParts as error:
        return _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error))
    except NodeError as error:
        return _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error))
    if not parser.ended:
        return _Refusal(HTTPStatus.BAD_REQUEST, "the body ends within a part: its last boundary is missing")
    if not reception.parts:
        return _Refusal(HTTPStatus.BAD_REQUEST, "the body holds no instance")
    return None
