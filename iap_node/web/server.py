"""Runs the application by uvicorn until the role is told to stop. Called by `iap-node web`."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
from fastapi import FastAPI

from iap_node.config.web import WebConfig
from iap_node.errors import PermanentError

STOP_TIMEOUT_S = 5  # for requests that run; streams of events end at once

log = structlog.get_logger("web")


@contextmanager
def listening(config: WebConfig) -> Iterator[socket.socket]:
    """The socket that browsers connect to, listening; port 0 takes a free one.

    Raises
    ------
    PermanentError
        The address cannot be used.
    """
    family = socket.AF_INET6 if ":" in config.bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((config.bind, config.port))
            bound.listen()  # who reads the port connects at once, and waits until it is served
        except OSError as error:
            raise PermanentError(
                f"the console cannot listen at {config.bind}:{config.port} ({error.strerror}); choose another web.port"
            ) from error
        yield bound


def serve(app: FastAPI, config: WebConfig, bound: socket.socket, stop: threading.Event) -> None:
    """Serve until `stop` is set."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,  # structlog has it
            access_log=False,
            server_header=False,
            ssl_certfile=config.certificate,
            ssl_keyfile=config.private_key,
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
            h11_max_incomplete_event_size=64 * 1024,
        )
    )

    def end() -> None:
        stop.wait()
        server.should_exit = True

    threading.Thread(target=end, name="web-stop", daemon=True).start()
    scheme = "https" if config.is_secure else "http"
    log.info("console at", url=f"{scheme}://{config.bind}:{bound.getsockname()[1]}/")
    server.run(sockets=[bound])
