"""A mail server and a web server that keep what they are told."""

from __future__ import annotations

import base64
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class MailServer:
    """As much of RFC 5321, 3207 and 4954 as a client needs; it takes no mail and no password in clear."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    refuses: bool = False
    unknown: str = ""  # a recipient
    password: str = "a password"


@contextmanager
def mail_server(certificate: Path, key: Path) -> Iterator[MailServer]:
    """A mail server on a free port while the block runs."""
    said = MailServer()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    class Conversation(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            stream, secure = self.request.makefile("rb"), False
            self.request.sendall(b"220 test\r\n")
            while line := stream.readline().decode().strip():
                verb, _, rest = line.partition(" ")
                answer = "250 OK"
                match verb.upper():
                    case "EHLO":
                        answer = "250-test\r\n250 " + ("AUTH PLAIN" if secure else "STARTTLS")
                    case "STARTTLS":
                        self.request.sendall(b"220 go\r\n")
                        self.request = context.wrap_socket(self.request, server_side=True)
                        stream, secure = self.request.makefile("rb"), True
                        continue
                    case "AUTH" if secure:
                        _, user, password = base64.b64decode(rest.split()[1]).decode().split("\0")
                        said.users.append(user)
                        answer = "235 welcome" if password == said.password else f"535 wrong: {password}"
                    case "MAIL" if not secure or said.refuses:
                        answer = "451 not now"
                    case "RCPT" if said.unknown and said.unknown in rest:
                        answer = "550 no such person"
                    case "DATA":
                        self.request.sendall(b"354 go on\r\n")
                        lines = iter(stream.readline, b".\r\n")
                        said.mails.append(BytesParser(EmailMessage, policy=default).parsebytes(b"".join(lines)))
                    case "QUIT":
                        self.request.sendall(b"221 bye\r\n")
                        return
                self.request.sendall(f"{answer}\r\n".encode())

    with _running(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Conversation)) as port:
        said.port = port
        yield said


@dataclass
class WebServer:
    """What was posted."""

    port: int = 0
    posts: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    status: int = 204


@contextmanager
def web_server() -> Iterator[WebServer]:
    """A web server on a free port while the block runs; it redirects to itself when its status is 307."""
    said = WebServer()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            said.posts.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(said.status)
            self.send_header("Location", f"http://127.0.0.1:{said.port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with _running(ThreadingHTTPServer(("127.0.0.1", 0), Answer)) as port:
        said.port = port
        yield said


@contextmanager
def _running(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
