"""How much a request may carry: counted while it is read, before anybody has asked who sends it.

The framework reads forms and JSON before it runs a route's dependencies, so that without a limit whoever reaches the
port could fill memory and disk without an account. Called by `app`.
"""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 2 * 1024**2  # of forms and JSON: the rules of the editor are the longest
UPLOADS = frozenset({"/upload", "/api/v1/files"})
STOW = "/dicomweb/"  # asks first who sends, and counts itself what it reads


class BodyLimit:
    """ASGI middleware; what is longer ends with 413 Content Too Large (RFC 9110, section 15.5.14).

    Parameters
    ----------
    most_upload_bytes
        Of a request that brings files.
    """

    def __init__(self, app: ASGIApp, *, most_upload_bytes: int) -> None:
        self._app = app
        self._most_upload_bytes = most_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and count what is read of it."""
        if scope["type"] != "http" or scope["path"].startswith(STOW):
            await self._app(scope, receive, send)
            return
        most = self._most_upload_bytes if scope["path"] in UPLOADS else MOST_BYTES
        n_bytes = 0

        async def counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > most:
                raise HTTPException(413, f"a request may carry {most} bytes here; send files a few at a time")
            return message

        await self._app(scope, counted, send)
