"""The console and the API over ASGI, with a real database; browsers and sockets are the acceptance tests'."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from iap_node.config import parse_config
from iap_node.database import accounts
from iap_node.database.engine import Database
from iap_node.records import Role
from iap_node.spool import Spool
from iap_node.web.app import create_app
from iap_node.web.node import WebNode
from iap_node.web.secrets import hash_password, hash_token, new_token

PASSWORD = "correct horse battery"
_HASH = hash_password(PASSWORD)  # slow on purpose: once for all tests


class Browser:
    """Somebody at the console; forms carry the CSRF token by themselves."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def get(self, path: str, **kwargs: Any) -> Any:
        return self.client.get(path, **kwargs)

    def post(self, path: str, data: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        headers = {"X-CSRF-Token": self.csrf(), "HX-Request": "true"} | kwargs.pop("headers", {})
        return self.client.post(path, data=data or {}, headers=headers, **kwargs)

    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.client.get("/password").text)
        assert found is not None
        return found[1]


@pytest.fixture
def web_node(database: Database, tmp_path: Path) -> WebNode:
    config = parse_config({"data_dir": "data", "spool": {"disk_reserve_mb": 0}}, tmp_path)
    config.spool_dir.mkdir(parents=True)
    return WebNode(config, None, database, Spool(config.spool_dir))


@pytest.fixture
def client(web_node: WebNode) -> Iterator[Callable[[], TestClient]]:
    """Factory of browsers that are not signed in."""
    app = create_app(web_node)
    with ExitStack() as stack:
        stack.enter_context(TestClient(app, base_url="http://console"))  # the application's life

        def make() -> TestClient:
            return TestClient(app, base_url="http://console", follow_redirects=False)

        yield make


@pytest.fixture
def signed_in(client: Callable[[], TestClient], web_node: WebNode) -> Callable[..., Browser]:
    """Factory of people at the console: `signed_in(Role.OPERATOR)`."""

    def sign_in(role: Role = Role.VIEWER, name: str | None = None, *, must_change_password: bool = False) -> Browser:
        name = name or f"{role} {new_token()[:6]}"
        with web_node.database.transaction() as session:
            accounts.create_account(
                session, name, role, datetime.now(UTC), password_hash=_HASH, must_change_password=must_change_password
            )
        browser = client()
        answer = browser.post("/sign-in", data={"name": name, "password": PASSWORD})
        assert answer.status_code == 303, answer.text
        return Browser(browser)

    return sign_in


@pytest.fixture
def program(client: Callable[[], TestClient], web_node: WebNode) -> Callable[[Role], TestClient]:
    """Factory of programs with a token of their own."""

    def make(role: Role) -> TestClient:
        token, now = new_token(), datetime.now(UTC)
        with web_node.database.transaction() as session:
            owner = accounts.create_account(session, f"owner {token[:6]}", role, now)
            accounts.create_token(session, hash_token(token), "test", owner, role, now)
        one = client()
        one.headers["Authorization"] = f"Bearer {token}"
        return one

    return make
