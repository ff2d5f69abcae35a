"""Who gets in, who stays out, and what the browser is told to keep to."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from iap_node.config import parse_config
from iap_node.database import accounts
from iap_node.database.accounts import AccountRefused
from iap_node.records import Role
from iap_node.web.actions.people import configuration
from iap_node.web.node import WebNode
from iap_node.web.secrets import hash_token, new_token
from iap_node.web.throttle import PER_ACCOUNT, Throttle
from tests.integration.web.conftest import PASSWORD, Browser

People = Callable[..., Browser]


def test_pages_lead_to_the_sign_in_and_back(client: Callable[[], TestClient], signed_in: People) -> None:
    answer = client().get("/queue?state=dead")
    assert answer.status_code == 303 and answer.headers["location"] == "/sign-in?next=/queue%3Fstate%3Ddead"
    signed_in(name="Ada")
    back = client().post("/sign-in", data={"name": "Ada", "password": PASSWORD, "next": "/queue?state=dead"})
    assert back.headers["location"] == "/queue?state=dead"


@pytest.mark.parametrize("target", ["https://else.example/", "//else.example", "/\\elsewhere", "javascript:x"])
def test_sign_in_leads_nowhere_else(client: Callable[[], TestClient], signed_in: People, target: str) -> None:
    signed_in(name="Ada")
    answer = client().post("/sign-in", data={"name": "Ada", "password": PASSWORD, "next": target})
    assert answer.headers["location"] == "/"


def test_htmx_is_told_to_load_the_sign_in(client: Callable[[], TestClient]) -> None:
    answer = client().get("/queue", headers={"HX-Request": "true"})
    assert answer.status_code == 204 and answer.headers["hx-redirect"].startswith("/sign-in")


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(
    client: Callable[[], TestClient], signed_in: People
) -> None:
    signed_in(name="Ada")
    cookie = client().post("/sign-in", data={"name": "Ada", "password": PASSWORD}).headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "path=/" in cookie


def test_every_answer_forbids_what_the_console_does_not_need(client: Callable[[], TestClient]) -> None:
    for path in ("/sign-in", "/api/v1/status", "/static/console.css", "/nowhere"):
        headers = client().get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_wrong_passwords_close_the_door_for_a_while(
    client: Callable[[], TestClient], signed_in: People, web_node: WebNode
) -> None:
    signed_in(name="Ada")
    for _ in range(PER_ACCOUNT):
        assert client().post("/sign-in", data={"name": "Ada", "password": "wrong"}).status_code == 401
    assert client().post("/sign-in", data={"name": "Ada", "password": PASSWORD}).status_code == 429
    with web_node.database.reading() as session:
        assert [line.action for line in accounts.trail(session)].count("sign in refused") == PER_ACCOUNT


def test_unknown_names_are_told_no_more_than_known_ones(client: Callable[[], TestClient], signed_in: People) -> None:
    signed_in(name="Ada")
    known = client().post("/sign-in", data={"name": "Ada", "password": "wrong"})
    unknown = client().post("/sign-in", data={"name": "Nobody", "password": "wrong"})
    assert (known.status_code, known.text) == (unknown.status_code, unknown.text)


def test_a_one_time_password_opens_nothing_but_its_change(signed_in: People) -> None:
    browser = signed_in(Role.ADMIN, must_change_password=True)
    assert browser.get("/").headers["location"] == "/password"
    assert browser.get("/api/v1/status").status_code == 403
    weak = browser.post("/password", {"old": PASSWORD, "new": "short", "again": "short"})
    assert weak.status_code == 422 and "at least" in weak.text
    new = "another good pass phrase"
    assert browser.post("/password", {"old": PASSWORD, "new": new, "again": new}).status_code == 303
    assert browser.get("/").status_code == 200


def test_changing_needs_the_token_of_the_session(signed_in: People) -> None:
    browser = signed_in(Role.OPERATOR)
    assert browser.client.post("/queue/retry", data={"every": "true"}).status_code == 403
    stranger = {"X-CSRF-Token": new_token()}
    assert browser.client.post("/queue/retry", data={"every": "true"}, headers=stranger).status_code == 403
    assert browser.post("/queue/retry", {"every": "true"}).status_code == 200


def test_a_viewer_may_not_what_an_operator_may(signed_in: People) -> None:
    answer = signed_in(Role.VIEWER).post("/queue/retry", {"every": "true"})
    assert answer.status_code == 403 and "needs the role operator" in answer.text
    assert signed_in(Role.OPERATOR).get("/admin").status_code == 403


def test_signing_out_and_being_disabled_end_a_session(signed_in: People, web_node: WebNode) -> None:
    browser = signed_in()
    assert browser.post("/sign-out").status_code == 303
    assert browser.get("/").status_code == 303
    other = signed_in(name="Bea")
    with web_node.database.transaction() as session:
        bea = next(one for one in accounts.list_accounts(session) if one.name == "Bea")
        signed_in_admin = accounts.create_account(session, "chief", Role.ADMIN, datetime.now(UTC))
        accounts.disable_account(session, bea.id, datetime.now(UTC))
    assert signed_in_admin.role is Role.ADMIN
    assert other.get("/").status_code == 303


def test_sessions_end_by_themselves(web_node: WebNode) -> None:
    now = datetime.now(UTC)
    with web_node.database.transaction() as session:
        account = accounts.create_account(session, "Ada", Role.VIEWER, now)
        accounts.open_session(session, hash_token("t"), account.id, "csrf", now, now + timedelta(hours=1))
        assert accounts.browser_session(session, hash_token("t"), now + timedelta(minutes=59)) is not None
        assert accounts.browser_session(session, hash_token("t"), now + timedelta(hours=1)) is None


def test_tokens_speak_for_their_owner_and_no_louder(
    program: Callable[[Role], TestClient], client: Callable[[], TestClient], web_node: WebNode
) -> None:
    assert program(Role.VIEWER).get("/api/v1/status").status_code == 200
    assert client().get("/api/v1/status", headers={"Authorization": "Bearer wrong"}).status_code == 401
    now = datetime.now(UTC)
    with web_node.database.transaction() as session:
        viewer = accounts.create_account(session, "viewer", Role.VIEWER, now)
        with pytest.raises(AccountRefused, match="cannot make a token"):
            accounts.create_token(session, hash_token("x"), "x", viewer, Role.OPERATOR, now)
        operator = accounts.create_account(session, "operator", Role.OPERATOR, now)
        accounts.create_token(session, hash_token("y"), "y", operator, Role.OPERATOR, now)
        accounts.change_role(session, operator.id, Role.VIEWER)
        speaks = accounts.token_account(session, hash_token("y"), now)
        assert speaks is not None and speaks.role is Role.VIEWER


def test_the_last_admin_stays(signed_in: People, web_node: WebNode) -> None:
    browser = signed_in(Role.ADMIN, name="only")
    with web_node.database.reading() as session:
        (only,) = accounts.list_accounts(session)
    answer = browser.post(f"/admin/users/{only.id}", {"action": "disable"})
    assert answer.status_code == 409 and "last admin" in answer.text


def test_what_people_do_is_in_the_audit_trail(signed_in: People) -> None:
    browser = signed_in(Role.ADMIN, name="chief")
    made = browser.post("/admin/users", {"name": "<b>Eve</b>", "role": "viewer"})
    assert made.status_code == 200 and "&lt;b&gt;Eve&lt;/b&gt;" in made.text and "<b>Eve" not in made.text
    trail = browser.get("/admin").text
    for text in ("make account", "sign in", "chief"):
        assert text in trail


def test_health_needs_no_account(client: Callable[[], TestClient]) -> None:
    assert client().get("/healthz").text == "ok\n"
    assert client().get("/readyz").status_code == 200


def test_errors_of_the_api_are_problems(
    client: Callable[[], TestClient], program: Callable[[Role], TestClient]
) -> None:
    for answer in (client().get("/api/v1/status"), program(Role.VIEWER).get("/api/v1/nothing")):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code


def test_many_tries_at_once_are_no_more_than_one_by_one() -> None:
    throttle = Throttle()
    with ThreadPoolExecutor(16) as pool:
        waits = list(pool.map(lambda _: throttle.attempt("Ada", "10.0.0.1"), range(40)))
    assert waits.count(0.0) == PER_ACCOUNT
    throttle.succeeded("Ada", "10.0.0.1")
    assert throttle.attempt("Ada", "10.0.0.1") == 0.0


@pytest.mark.parametrize("name", ["\0", "a\0b", "\ud800"])
def test_names_that_no_account_has_are_refused_like_others(client: Callable[[], TestClient], name: str) -> None:
    body = f"name={quote(name, errors='surrogatepass')}&password=wrong"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client().post("/sign-in", content=body, headers=headers).status_code == 401


@pytest.mark.parametrize("name", ["audit", "Delivery", "rule 7", "token x of y", ""])
def test_nobody_signs_as_the_node_does(web_node: WebNode, name: str) -> None:
    with web_node.database.transaction() as session, pytest.raises(AccountRefused):
        accounts.create_account(session, name, Role.VIEWER, datetime.now(UTC))


@pytest.mark.parametrize(
    "path",
    ["/series?before=9223372036854775808", "/series/9223372036854775808/slices/0.png", "/findings/9223372036854775808",
     "/admin?before=9223372036854775808", "/findings?after=9223372036854775808"],
)  # fmt: skip
def test_numbers_that_no_row_has_are_refused(signed_in: People, path: str) -> None:
    assert signed_in(Role.ADMIN).get(path).status_code in (404, 422)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_configuration_is_shown_without_what_its_urls_keep_secret(web_node: WebNode, tmp_path: Path) -> None:
    content = {
        "database": {"url": "postgresql://iap:hush1@db/iap?sslmode=require&password=hush2"},
        "notifications": {"webhook": {"url": "https://chat.example/hooks/hush3", "secret_file": "s"}},
    }
    shown = configuration(replace(web_node, config=parse_config(content, tmp_path)))
    assert "hush" not in shown and "iap:***@db" in shown and "https://chat.example/***" in shown
