"""Signing in by OpenID Connect, against a small issuer over real HTTP: who gets in as what, and who does not."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, Key, OctKey, RSAKey
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from iap_node.config import parse_config
from iap_node.config.web import OidcConfig
from iap_node.database import accounts
from iap_node.database.accounts import AccountSummary
from iap_node.database.engine import Database
from iap_node.database.tables import WebSessionRow
from iap_node.records import Role
from iap_node.spool import Spool
from iap_node.web.node import WebNode
from iap_node.web.oidc import PENDING_S, IssuerUnavailable, OpenIdConnect, SignInRefused
from tests.integration.web.conftest import Browser

CLIENT_ID, SECRET = "iap node", "not: a real/secret"
CALLBACK = "http://console/sign-in/oidc/callback"
KEY = ECKey.generate_key("P-256", {"kid": "one", "use": "sig"})
OTHER = ECKey.generate_key("P-256", {"kid": "one", "use": "sig"})  # says that it is the same


@dataclass
class Issuer:
    """A provider with one person; tests change what it says."""

    url: str = ""
    published: list[Key] = field(default_factory=lambda: [KEY])
    signing: Key = field(default_factory=lambda: KEY)
    algorithm: str = "ES256"
    claims: dict[str, Any] = field(default_factory=dict)  # in place of what is right; None: left out
    metadata: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    n_keys_fetched: int = 0

    def authorize(self, query: dict[str, str], **more: str) -> str:
        """What the browser is sent back to, once the person has signed in there."""
        assert query["response_type"] == "code" and "openid" in query["scope"].split()
        assert (query["client_id"], query["redirect_uri"]) == (CLIENT_ID, CALLBACK)
        assert query["code_challenge_method"] == "S256"
        code = f"code-{len(self.codes)}"
        self.codes[code] = query
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state'], **more})}"

    def token(self, authorization: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """The token endpoint: the secret, the code and its verifier must be right, and each code works once."""
        asked = self.codes.pop(form["code"], None)
        basic = base64.b64encode(f"{quote(CLIENT_ID, safe='')}:{quote(SECRET, safe='')}".encode()).decode()
        if authorization != f"Basic {basic}":
            return 401, {"error": "invalid_client"}
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode()
        if asked is None or asked["code_challenge"] != challenge.rstrip("=") or form["redirect_uri"] != CALLBACK:
            return 400, {"error": "invalid_grant", "error_description": "<b>secret</b>"}
        now = int(time.time())
        claims = {
            "iss": self.url, "aud": CLIENT_ID, "sub": "4711", "exp": now + 300, "iat": now, "nonce": asked["nonce"],
            "preferred_username": "Ada", "roles": ["mr-physics"],
        } | self.claims  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        header = {"alg": self.algorithm} | ({"kid": self.signing.kid} if self.signing.kid else {})
        algorithms = [self.algorithm]
        return 200, {"id_token": jwt.encode(header, claims, self.signing, algorithms), "token_type": "Bearer"}

    def answer(self, method: str, path: str, authorization: str, form: dict[str, str]) -> tuple[int, Any]:
        if path == "/.well-known/openid-configuration":
            endpoints = {"authorization_endpoint": "/authorize", "token_endpoint": "/token", "jwks_uri": "/keys"}
            named = {name: self.url + place for name, place in endpoints.items()}
            return self.status, {"issuer": self.url, **named, **self.metadata}
        if path == "/keys":
            self.n_keys_fetched += 1
            return 200, {
                "keys": [{"kty": "AKP", "kid": "new"}, *(key.as_dict(private=False) for key in self.published)]
            }
        assert (method, path) == ("POST", "/token")
        return self.token(authorization, form)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    one = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            status, content = one.answer(
                self.command, self.path, self.headers.get("Authorization", ""), dict(parse_qsl(body))
            )
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield one
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def oidc_config(issuer: Issuer, tmp_path: Path) -> OidcConfig:
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "secret").chmod(0o600)
    return OidcConfig(
        issuer=issuer.url, client_id=CLIENT_ID, client_secret_file=tmp_path / "secret",
        roles={"mr-physics": Role.PHYSICIST, "pacs-admins": Role.ADMIN, "pacs": Role.OPERATOR},
    )  # fmt: skip


@pytest.fixture
def web_node(migrated_sqlite: Path, tmp_path: Path, oidc_config: OidcConfig) -> Iterator[WebNode]:
    database = Database(f"sqlite:///{shutil.copyfile(migrated_sqlite, tmp_path / 'node.sqlite')}")
    oidc = oidc_config.model_dump(exclude={"default_role"})
    config = parse_config(
        {"spool": {"disk_reserve_mb": 0}, "web": {"public_url": "http://console/", "oidc": oidc}}, tmp_path
    )
    yield WebNode(config, None, database, Spool(tmp_path))
    database.dispose()


Visit = Callable[..., tuple[TestClient, Any]]


@pytest.fixture
def visit(client: Callable[[], TestClient], issuer: Issuer) -> Visit:
    """Somebody goes to the issuer and comes back; the browser and its last answer."""

    def go(target: str = "/queue") -> tuple[TestClient, Any]:
        browser = client()
        away = browser.get("/sign-in/oidc", params={"next": target})
        assert away.status_code == 303 and away.headers["location"].startswith(f"{issuer.url}/authorize?")
        query = dict(parse_qsl(urlsplit(away.headers["location"]).query))
        return browser, browser.get(issuer.authorize(query))

    return go


def people(node: WebNode) -> list[AccountSummary]:
    with node.database.reading() as session:
        return accounts.list_accounts(session)


def told(node: WebNode) -> list[tuple[str, str, str]]:
    """The audit trail, the oldest first."""
    with node.database.reading() as session:
        return [(line.who, line.action, line.detail) for line in reversed(accounts.trail(session))]


def test_who_the_issuer_vouches_for_is_let_in_and_the_role_follows_the_groups(
    visit: Visit, issuer: Issuer, web_node: WebNode, client: Callable[[], TestClient]
) -> None:
    form = client().get("/sign-in?next=/queue").text
    assert 'href="/sign-in/oidc?next=/queue"' in form
    browser, answer = visit()
    assert answer.status_code == 303 and answer.headers["location"] == "/queue"
    cookies = answer.headers.get_list("set-cookie")
    assert any("iap_session=" in one and "HttpOnly" in one and "SameSite=lax" in one for one in cookies)
    assert browser.get("/queue").status_code == 200 and "physicist" in browser.get("/queue").text
    issuer.claims = {"roles": ["unknown", "mr-physics", "pacs"]}  # the role that may most counts
    visit()
    assert Browser(browser).post("/queue/retry", {"every": "true"}).status_code == 200  # the older session too
    (ada,) = people(web_node)
    assert (ada.name, ada.role, ada.signs_in_by) == ("Ada", Role.OPERATOR, "OpenID Connect")
    assert told(web_node)[:4] == [
        ("Ada", "make account", "physicist, OpenID Connect"),
        ("Ada", "sign in", "OpenID Connect"),
        ("Ada", "change role", "physicist to operator, OpenID Connect"),
        ("Ada", "sign in", "OpenID Connect"),
    ]
    issuer.claims = {"sub": "4712", "roles": "pacs"}  # another of the same name; one group as a plain string
    assert visit()[1].status_code == 303
    assert [one.name for one in people(web_node)] == ["Ada", "Ada 2"]


def test_disabled_accounts_and_people_without_a_group_stay_out(visit: Visit, issuer: Issuer, web_node: WebNode) -> None:
    visit()
    with web_node.database.transaction() as session:
        accounts.create_account(session, "chief", Role.ADMIN, datetime.now(UTC))
        (ada,) = (one for one in accounts.list_accounts(session) if one.name == "Ada")
        accounts.disable_account(session, ada.id, datetime.now(UTC))
    browser, answer = visit()
    assert answer.status_code == 403 and "your account is disabled" in answer.text
    assert browser.get("/queue").status_code == 303
    issuer.claims = {"sub": "stranger", "preferred_username": "Eve", "roles": ["cooks"]}
    _, answer = visit()
    assert answer.status_code == 403 and "you are in no group" in answer.text
    assert told(web_node)[-2:] == [
        ("Ada", "sign in refused", "OpenID Connect: account disabled"),
        ("Eve", "sign in refused", "OpenID Connect: in no group of web.oidc.roles"),
    ]
    assert len(people(web_node)) == 2


def test_groups_are_asked_for_again_at_a_page_and_who_lost_them_is_signed_out_everywhere(
    visit: Visit, issuer: Issuer, web_node: WebNode
) -> None:
    """Not under somebody's hands: what a form sends, and what a page fetches, still counts until the session ends."""
    page = {"Accept": "text/html"}
    (browser, _), (elsewhere, _) = visit(), visit()
    assert browser.get("/queue", headers=page).status_code == 200
    with web_node.database.transaction() as session:
        age(session, timedelta(minutes=61))
    again = browser.get("/queue?state=dead", headers=page)
    assert again.status_code == 303 and again.headers["location"] == "/sign-in/oidc?next=/queue%3Fstate%3Ddead"
    assert browser.get("/queue", headers={"HX-Request": "true"} | page).status_code == 200
    assert browser.get("/api/v1/status", headers=page).status_code == 200
    issuer.claims = {"roles": ["cooks"]}
    away = browser.get("/sign-in/oidc", params={"next": "/queue"})
    refused = browser.get(issuer.authorize(dict(parse_qsl(urlsplit(away.headers["location"]).query))))
    assert refused.status_code == 403
    for one in (browser, elsewhere):
        assert one.get("/queue", headers={"HX-Request": "true"}).headers["HX-Redirect"].startswith("/sign-in")
    why = "OpenID Connect: in no group of web.oidc.roles; 2 browsers signed out"
    assert told(web_node)[-1] == ("Ada", "sign in refused", why)
    issuer.claims = {}
    browser, _ = visit()
    with web_node.database.transaction() as session:
        age(session, timedelta(minutes=121))
    assert browser.get("/queue", headers={"HX-Request": "true"}).headers["HX-Redirect"].startswith("/sign-in")


def age(session: Session, by: timedelta) -> None:
    """Make every browser's session older."""
    for row in session.scalars(select(WebSessionRow)):
        row.created_at, row.expires_at = row.created_at - by, row.expires_at - by


def test_the_last_admin_is_not_left_without_a_word(visit: Visit, issuer: Issuer, web_node: WebNode) -> None:
    issuer.claims = {"roles": ["pacs-admins"]}
    visit()
    issuer.claims = {}
    _, answer = visit()
    assert answer.status_code == 403 and "you are the last admin" in answer.text
    assert people(web_node)[0].role is Role.ADMIN


def test_an_answer_counts_once_and_only_in_the_browser_that_asked(
    visit: Visit, issuer: Issuer, client: Callable[[], TestClient], web_node: WebNode
) -> None:
    browser, other = client(), client()
    query = dict(parse_qsl(urlsplit(browser.get("/sign-in/oidc").headers["location"]).query))
    back = issuer.authorize(query)
    assert other.get(back).status_code == 403  # another browser has no cookie of this sign-in
    cookie = browser.cookies["iap_oidc"]
    assert browser.get(back).status_code == 303
    assert "iap_oidc" not in browser.cookies
    issuer.codes["code-0"] = query  # even if the issuer took its code twice
    again = client()
    again.cookies.set("iap_oidc", cookie)
    assert again.get(back).status_code == 403
    third = client()
    third.get("/sign-in/oidc")
    answer = third.get(back)  # the answer to another sign-in
    assert answer.status_code == 403 and "answer to another sign-in" in answer.text
    assert [one[1] for one in told(web_node)].count("sign in") == 1


def test_what_the_issuer_says_is_not_repeated_on_the_page(
    client: Callable[[], TestClient], issuer: Issuer, web_node: WebNode
) -> None:
    browser = client()
    issuer.status = 500
    answer = browser.get("/sign-in/oidc")
    assert answer.status_code == 503 and issuer.url not in answer.text
    issuer.status = 200
    query = dict(parse_qsl(urlsplit(browser.get("/sign-in/oidc").headers["location"]).query))
    answer = browser.get(f"{CALLBACK}?state={query['state']}&error=access_denied&error_description=%3Cb%3Ehello")
    assert answer.status_code == 403 and "hello" not in answer.text
    assert told(web_node)[-1][2] == "OpenID Connect: the issuer answered access_denied"


# ---------------------------------------------------------------- without pages


@dataclass
class Times:
    """Clocks that tests turn."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def back_from(issuer: Issuer, party: OpenIdConnect, **more: str) -> tuple[str, dict[str, str]]:
    begun = party.begin("/")
    query = dict(parse_qsl(urlsplit(begun.url).query))
    back = parse_qs(urlsplit(issuer.authorize(query, **more)).query)
    return begun.cookie, {name: values[0] for name, values in back.items()}


NOW = int(time.time())


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"nonce": "another"}, "wrong nonce"),
        ({"nonce": None}, "wrong nonce"),
        ({"aud": "another"}, "wrong audience"),
        ({"aud": ["another", CLIENT_ID]}, "wrong audience"),
        ({"aud": ["another", CLIENT_ID], "azp": "another"}, "wrong audience"),
        ({"aud": None}, "wrong audience"),
        ({"iss": "https://else.example"}, "wrong issuer"),
        ({"exp": NOW - 61}, "expired"),
        ({"exp": float("nan")}, "expired"),
        ({"exp": None}, "expired"),
        ({"exp": "tomorrow"}, "expired"),
        ({"iat": NOW + 3600}, "issued in the future: compare the clocks"),
        ({"nbf": NOW + 3600}, "issued in the future: compare the clocks"),
        ({"sub": ""}, "no subject"),
        ({"sub": "x" * 256}, "no subject"),
        ({"sub": 4711}, "no subject"),
    ],
)
def test_tokens_that_are_not_for_this_sign_in_are_refused(
    relying_party: OpenIdConnect, issuer: Issuer, claims: dict[str, Any], why: str
) -> None:
    issuer.claims = claims
    with pytest.raises(SignInRefused) as refused:
        relying_party.finish(*back_from(issuer, relying_party))
    assert refused.value.why == why


@pytest.fixture
def clock() -> Times:
    return Times()


@pytest.fixture
def relying_party(oidc_config: OidcConfig, clock: Times) -> OpenIdConnect:
    return OpenIdConnect(oidc_config, "http://console", clock)


def test_only_signatures_of_the_issuer_count(relying_party: OpenIdConnect, issuer: Issuer) -> None:
    secret = OctKey.import_key(SECRET)
    for signing, algorithm in ((OTHER, "ES256"), (secret, "HS256")):
        issuer.signing, issuer.algorithm = signing, algorithm
        with pytest.raises(SignInRefused) as refused:
            relying_party.finish(*back_from(issuer, relying_party))
        assert refused.value.why.startswith("signature: ")


@pytest.mark.parametrize("algorithm", ["RS256", "PS256"])
def test_other_algorithms_and_new_keys_of_the_issuer_are_taken(
    relying_party: OpenIdConnect, issuer: Issuer, clock: Times, algorithm: str
) -> None:
    assert relying_party.finish(*back_from(issuer, relying_party)).name == "Ada"
    key = RSAKey.generate_key(2048, {"kid": "two"})
    issuer.published, issuer.signing, issuer.algorithm = [KEY, key], key, algorithm
    with pytest.raises(SignInRefused):  # asked again so soon, the issuer would be flooded by anybody
        relying_party.finish(*back_from(issuer, relying_party))
    clock.now += 31
    assert relying_party.finish(*back_from(issuer, relying_party)).role is Role.PHYSICIST
    assert issuer.n_keys_fetched == 2


def test_a_default_role_is_for_those_in_no_group(oidc_config: OidcConfig, issuer: Issuer) -> None:
    party = OpenIdConnect(
        oidc_config.model_copy(update={"default_role": Role.VIEWER, "roles_claim": "realm_access.roles"}),
        "http://console",
    )
    for access, role in (({"roles": ["pacs"]}, Role.OPERATOR), ({"roles": ["cooks"]}, Role.VIEWER), (3, Role.VIEWER)):
        issuer.claims = {"realm_access": access}
        assert party.finish(*back_from(issuer, party)).role is role


def test_sign_ins_that_take_too_long_are_over(relying_party: OpenIdConnect, issuer: Issuer, clock: Times) -> None:
    cookie, answer = back_from(issuer, relying_party)
    clock.now += PENDING_S + 1
    with pytest.raises(SignInRefused, match="took too long"):
        relying_party.finish(cookie, answer)


def test_an_issuer_that_names_itself_is_held_to_it(relying_party: OpenIdConnect, issuer: Issuer) -> None:
    issuer.metadata = {"authorization_response_iss_parameter_supported": True}
    assert relying_party.finish(*back_from(issuer, relying_party, iss=issuer.url)).name == "Ada"
    for more in ({}, {"iss": "https://else.example"}):
        with pytest.raises(SignInRefused, match="another issuer"):
            relying_party.finish(*back_from(issuer, relying_party, **more))


@pytest.mark.parametrize(
    "metadata",
    [{"issuer": "https://else.example"}, {"token_endpoint": "ftp://x"}, {"jwks_uri": None}, {"jwks_uri": 5}],
)
def test_metadata_that_leads_elsewhere_is_not_followed(
    relying_party: OpenIdConnect, issuer: Issuer, metadata: dict[str, Any]
) -> None:
    issuer.metadata = metadata
    with pytest.raises(IssuerUnavailable):
        relying_party.begin("/")


def test_a_wrong_secret_or_none_is_said_in_the_log_only(
    relying_party: OpenIdConnect, issuer: Issuer, oidc_config: OidcConfig
) -> None:
    oidc_config.client_secret_file.write_text("another")
    with pytest.raises(SignInRefused) as refused:
        relying_party.finish(*back_from(issuer, relying_party))
    assert refused.value.why == "token: invalid_client"
    oidc_config.client_secret_file.chmod(0o644)
    with pytest.raises(IssuerUnavailable, match="everybody can read"):
        relying_party.finish(*back_from(issuer, relying_party))
    oidc_config.client_secret_file.unlink()
    with pytest.raises(IssuerUnavailable, match="client_secret_file: cannot read"):
        relying_party.finish(*back_from(issuer, relying_party))
