"""The application: every router, the middleware, what answers errors. Called by `server` and by the tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from iap_node import __version__
from iap_node.web import health, metrics, problems, pulse, sign_in
from iap_node.web.api import API_ROUTERS
from iap_node.web.bodies import BodyLimit
from iap_node.web.dicomweb import store as stow
from iap_node.web.headers import SecurityHeaders
from iap_node.web.node import WebNode
from iap_node.web.pages import PAGE_ROUTERS
from iap_node.web.pulse import Pulse
from iap_node.web.rendering import STATIC_FOLDER

API_PREFIX = "/api/v1"
UPLOAD_MB = 65  # what the upload page puts into one request beside one file of any size, and its form


def create_app(node: WebNode) -> FastAPI:
    """The console and the API of a node."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        app.state.pulse = heart = Pulse(node)
        beating = asyncio.create_task(heart.run())
        try:
            yield
        finally:
            await heart.end()
            beating.cancel()

    app = FastAPI(
        title="IAP node",
        version=__version__,
        description="What the console does, for programs. Show a bearer token, made in the console under Admin.",
        lifespan=life,
        docs_url=None,  # its page would load scripts from elsewhere; /api/v1/openapi.json is there for all
        redoc_url=None,
        openapi_url=f"{API_PREFIX}/openapi.json",
    )
    app.state.node = node
    app.state.oidc = sign_in.hospital_sign_in(node.config.web)
    most_upload_bytes = (node.config.listener.max_instance_mb + UPLOAD_MB) * 1024**2
    app.add_middleware(BodyLimit, most_upload_bytes=most_upload_bytes)
    app.add_middleware(SecurityHeaders, tls=node.config.web.is_secure)
    problems.add_to(app)
    for router in (health.router, metrics.router, sign_in.router, pulse.router, stow.router, *PAGE_ROUTERS):
        app.include_router(router)
    for router in API_ROUTERS:
        app.include_router(router, prefix=API_PREFIX, responses=problems.RESPONSES)
    app.mount("/static", StaticFiles(directory=STATIC_FOLDER), name="static")
    return app
