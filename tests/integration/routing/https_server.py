"""An HTTPS server that records what it is sent and answers as told."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, bytes]


@dataclass(frozen=True)
class Received:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    peer_certificate: object


@dataclass
class HttpsServer:
    """Running; `answer` decides by the request, None closes the connection without a word."""

    answer: Callable[[Received], Answer | None] = lambda _: (200, b"")
    received: list[Received] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"


@contextmanager
def running(context: ssl.SSLContext | None) -> Iterator[HttpsServer]:
    """A server while the block runs; without a context it speaks HTTP, as on one machine it may."""
    server = HttpsServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            chunked = self.headers.get("Transfer-Encoding") == "chunked"
            body = _chunks(self) if chunked else self.rfile.read(int(self.headers.get("Content-Length", 0)))
            certificate = None if context is None else self.connection.getpeercert()  # type: ignore[attr-defined]
            request = Received(self.command, self.path, dict(self.headers.items()), body, certificate)
            server.received.append(request)
            answer = server.answer(request)
            self.close_connection = True
            if answer is not None:
                code, content = answer
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Location", "https://localhost:1/")
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # clients that hang up are what is tested

    http = Quiet(("127.0.0.1", 0), Handler)
    if context is not None:
        http.socket = context.wrap_socket(http.socket, server_side=True)
    server.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def _chunks(handler: BaseHTTPRequestHandler) -> bytes:
    """RFC 9112 section 7.1."""
    body = b""
    while size := int(handler.rfile.readline().split(b";")[0] or b"0", 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body
