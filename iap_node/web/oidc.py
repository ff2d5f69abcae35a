"""OpenID Connect Core 1.0, the authorization code flow with PKCE (RFC 7636), as a relying party of one issuer.

A client of our own, of httpx2 and joserfc, and no framework's: what it needs of OpenID Connect is this page long, each
check stands where it can be read, and what a browser carries between the two halves of a sign-in is one random number.
What that number stands for (state, nonce, code verifier) is kept here, once, for minutes. Called by `sign_in`, by which
accounts are made; knows nothing of requests. Imports of httpx2 and joserfc are made when somebody signs in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import quote, urlencode, urlsplit

from iap_node.config.secret import read_secret
from iap_node.config.web import OidcConfig
from iap_node.errors import ConfigError, NodeError
from iap_node.records import Role
from iap_node.web.secrets import hash_token, new_token

if TYPE_CHECKING:
    import ssl

    import httpx2
    from joserfc.jwk import Key, KeySet

ALGORITHMS = ("RS256", "ES256", "PS256")
PENDING_S = 600.0  # for the form of the issuer
_MOST_PENDING = 10_000
_DISCOVERED_S = 3600.0  # metadata and keys are looked at anew after so long
_KEYS_AGAIN_S = 30.0  # a token with a key that is not known has them fetched anew, not more often
_CLOCKS_S = 60.0  # between the issuer's clock and ours
_TIMEOUT_S = 10.0
_MOST_BYTES = 1_000_000  # of an answer of the issuer
_LONGEST_SUBJECT = 255  # OpenID Connect Core 1.0, section 2
_LONGEST_NAME = 48


class SignInRefused(NodeError):
    """Somebody is not let in. The text is for the person, and tells nothing of tokens."""

    def __init__(self, text: str, why: str, name: str = "", subject: str = "") -> None:
        super().__init__(text)
        self.subject = subject  # of whom the issuer vouched for, who may do nothing here; "": nobody
        self.why = why  # for the log and the audit trail: still nothing of tokens
        self.name = name  # as the issuer calls the person, where it vouched for that


class IssuerUnavailable(NodeError):
    """The issuer does not answer, or not as OpenID Connect says; the text is for the log."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A sign-in that began: where the browser is to go, and what it has to bring back as a cookie."""

    url: str
    cookie: str


@dataclass(frozen=True, slots=True)
class Person:
    """Whom the issuer vouches for."""

    subject: str  # "ISSUER SUB": as the account has it
    name: str
    role: Role
    target: str  # where the person wanted to go


@dataclass(frozen=True, slots=True)
class _Pending:
    state: str
    nonce: str
    verifier: str
    target: str
    ends_at: float


@dataclass(frozen=True, slots=True)
class _Issuer:
    """Of the issuer's metadata (OpenID Connect Discovery 1.0, section 3) what is used."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    posts_secret: bool  # client_secret_post; else client_secret_basic
    names_itself: bool  # RFC 9207: answers carry `iss`
    ends_at: float


class OpenIdConnect:
    """Sign-ins by one issuer.

    Parameters
    ----------
    config
        The section `web.oidc`.
    public_url
        Where browsers reach this console.
    clock, wall_clock
        Seconds: monotonic, and since 1970 as tokens count them.
    """

    def __init__(
        self,
        config: OidcConfig,
        public_url: str,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self.redirect_uri = f"{public_url.rstrip('/')}/sign-in/oidc/callback"
        self._clock = clock
        self._wall_clock = wall_clock
        self._turn = threading.Lock()
        self._pending: OrderedDict[str, _Pending] = OrderedDict()  # by the hash of the cookie
        self._issuer: _Issuer | None = None
        self._keys: KeySet | None = None
        self._keys_at = 0.0

    def begin(self, target: str) -> Begun:
        """Send somebody to the issuer.

        Raises
        ------
        IssuerUnavailable
        """
        issuer = self._discovered()
        cookie = new_token()
        begun = _Pending(new_token(), new_token(), new_token(), target, self._clock() + PENDING_S)
        with self._turn:
            self._pending[hash_token(cookie)] = begun
            while len(self._pending) > _MOST_PENDING:
                self._pending.popitem(last=False)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(begun.verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self._config.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": "openid profile",
            "state": begun.state,
            "nonce": begun.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        joint = "&" if urlsplit(issuer.authorization_endpoint).query else "?"
        return Begun(issuer.authorization_endpoint + joint + urlencode(query), cookie)

    def finish(self, cookie: str, answer: Mapping[str, str]) -> Person:
        """Who came back from the issuer, by its answer in the URL. Each sign-in that began ends here once.

        Raises
        ------
        SignInRefused, IssuerUnavailable
        """
        with self._turn:
            begun = self._pending.pop(hash_token(cookie), None)
        if begun is None or begun.ends_at < self._clock():
            raise SignInRefused("this sign-in took too long or was finished before; begin anew", "no such sign-in")
        if not hmac.compare_digest(answer.get("state", "").encode(), begun.state.encode()):
            raise SignInRefused("this is the answer to another sign-in; begin anew", "wrong state")
        issuer = self._discovered()
        named = answer.get("iss", "" if issuer.names_itself else self._config.issuer)
        if named.rstrip("/") != self._config.issuer:
            raise SignInRefused("another issuer answered; begin anew", "wrong issuer in the answer")
        if "error" in answer:
            cause = answer["error"] if answer["error"] in _ERRORS else "an error"
            raise SignInRefused("the hospital's sign-in let you not through", f"the issuer answered {cause}")
        claims = self._claims(self._id_token(issuer, answer.get("code", ""), begun.verifier), issuer)
        self._check(claims, begun.nonce)
        return self._person(claims, begun.target)

    # ------------------------------------------------------------ the issuer

    def _discovered(self) -> _Issuer:
        found = self._issuer
        if found is not None and found.ends_at > self._clock():
            return found
        metadata = self._fetch("GET", f"{self._config.issuer}/.well-known/openid-configuration")
        if str(metadata.get("issuer", "")).rstrip("/") != self._config.issuer:
            raise IssuerUnavailable("the metadata at web.oidc.issuer names another issuer")
        methods = metadata.get("token_endpoint_auth_methods_supported")
        self._issuer = found = _Issuer(
            self._endpoint(metadata, "authorization_endpoint"),
            self._endpoint(metadata, "token_endpoint"),
            self._endpoint(metadata, "jwks_uri"),
            posts_secret=isinstance(methods, list)
            and "client_secret_basic" not in methods
            and "client_secret_post" in methods,
            names_itself=metadata.get("authorization_response_iss_parameter_supported") is True,
            ends_at=self._clock() + _DISCOVERED_S,
        )
        return found

    def _endpoint(self, metadata: Mapping[str, Any], name: str) -> str:
        url = metadata.get(name)
        secure = isinstance(url, str) and (
            url.startswith("https://") or (self._config.issuer.startswith("http://") and url.startswith("http://"))
        )
        if not secure:
            raise IssuerUnavailable(f"the issuer's metadata has no {name} that begins with https://")
        return str(url)

    def _id_token(self, issuer: _Issuer, code: str, verifier: str) -> str:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": verifier,
        }
        try:
            secret = read_secret(self._config.client_secret_file, "web.oidc.client_secret_file")
        except ConfigError as error:
            raise IssuerUnavailable(str(error)) from error
        headers = {}
        if issuer.posts_secret:
            form |= {"client_id": self._config.client_id, "client_secret": secret}
        else:  # RFC 6749, section 2.3.1: both are encoded before they are joined
            joined = f"{quote(self._config.client_id, safe='')}:{quote(secret, safe='')}"
            headers["Authorization"] = "Basic " + base64.b64encode(joined.encode()).decode()
        answer = self._fetch("POST", issuer.token_endpoint, data=form, headers=headers)
        token = answer.get("id_token")
        if not isinstance(token, str):
            cause = answer.get("error") if answer.get("error") in _ERRORS else "no ID token"
            raise SignInRefused("the hospital's sign-in did not confirm this sign-in; begin anew", f"token: {cause}")
        return token

    def _key_set(self, issuer: _Issuer, *, anew: bool = False) -> KeySet:
        """The issuer's keys for signatures; those of kinds that are not taken are left out."""
        from joserfc.errors import JoseError
        from joserfc.jwk import ECKey, JWKRegistry, KeySet, RSAKey

        now = self._clock()
        age = now - self._keys_at
        if self._keys is not None and age < (_KEYS_AGAIN_S if anew else _DISCOVERED_S):
            return self._keys
        keys: list[Key] = []
        published = self._fetch("GET", issuer.jwks_uri).get("keys")
        for one in published if isinstance(published, list) else ():
            try:
                key = JWKRegistry.import_key(one)
            except (JoseError, ValueError, TypeError, KeyError):
                continue
            if isinstance(key, RSAKey | ECKey) and one.get("use", "sig") == "sig":
                keys.append(key)
        if not keys:
            raise IssuerUnavailable("the issuer publishes no key that signatures can be checked with")
        self._keys, self._keys_at = KeySet(keys), now
        return self._keys

    def _fetch(self, method: str, url: str, **more: Any) -> dict[str, Any]:
        """The JSON object that the issuer answers; follows it nowhere else, and reads no more than is sensible."""
        import httpx2

        try:
            plain = {"Accept": "application/json", "Accept-Encoding": "identity"}
            with (
                httpx2.Client(timeout=_TIMEOUT_S, headers=plain, verify=_trusted_cas()) as client,
                client.stream(method, url, **more) as answer,
            ):
                content = _read(answer, self._clock() + _TIMEOUT_S, self._clock)
                status = answer.status_code
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise IssuerUnavailable(f"the issuer does not answer: {type(error).__name__}") from error
        if status != 200 and not (method == "POST" and status in (400, 401)):  # RFC 6749, 5.2: an error, told as JSON
            raise IssuerUnavailable(f"the issuer answered with status {status}")
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise IssuerUnavailable("the issuer's answer is not JSON") from error
        if not isinstance(found, dict):
            raise IssuerUnavailable("the issuer's answer is not a JSON object")
        return found

    # ------------------------------------------------------------ the token

    def _claims(self, token: str, issuer: _Issuer) -> dict[str, Any]:
        """What the token says, when the issuer signed it."""
        from joserfc import jwt
        from joserfc.errors import InvalidKeyIdError, JoseError

        try:
            try:
                return jwt.decode(token, self._key_set(issuer), algorithms=ALGORITHMS).claims
            except InvalidKeyIdError:  # the issuer has changed its keys
                return jwt.decode(token, self._key_set(issuer, anew=True), algorithms=ALGORITHMS).claims
        except (JoseError, ValueError, TypeError) as error:
            raise _untrusted(f"signature: {type(error).__name__}") from error

    def _check(self, claims: Mapping[str, Any], nonce: str) -> None:
        """OpenID Connect Core 1.0, section 3.1.3.7."""
        now, own = self._wall_clock(), self._config.client_id
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        authorized = claims.get("azp", own if len(audiences) == 1 else None)
        issuer, ends_at, begins_at = claims.get("iss"), claims.get("exp"), claims.get("nbf", claims.get("iat"))
        if not isinstance(issuer, str) or issuer.rstrip("/") != self._config.issuer:
            raise _untrusted("wrong issuer")
        if own not in audiences or authorized != own:
            raise _untrusted("wrong audience")
        if not _is_time(ends_at) or ends_at + _CLOCKS_S <= now:
            raise _untrusted("expired")
        if not _is_time(begins_at) or begins_at - _CLOCKS_S > now:
            raise _untrusted("issued in the future: compare the clocks")
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode("utf-8", "replace"), nonce.encode()):
            raise _untrusted("wrong nonce")
        sub = claims.get("sub")
        if (
            not isinstance(sub, str)
            or not 0 < len(sub) <= _LONGEST_SUBJECT
            or not (sub.isascii() and sub.isprintable())
        ):
            raise _untrusted("no subject")

    def _person(self, claims: Mapping[str, Any], target: str) -> Person:
        name = _name(claims)
        groups = _groups(claims, self._config.roles_claim)
        roles = [role for group, role in self._config.roles.items() if group in groups]
        role = max(roles, key=list(Role).index) if roles else self._config.default_role
        subject = f"{self._config.issuer} {claims['sub']}"
        if role is None:
            raise SignInRefused(
                "you are in no group that may use this node; ask who looks after it",
                "in no group of web.oidc.roles",
                name,
                subject,
            )
        return Person(subject, name, role, target)


_ERRORS = frozenset(  # RFC 6749 (4.1.2.1, 5.2), OpenID Connect Core 1.0 (3.1.2.6): others are not repeated
    {
        "access_denied", "account_selection_required", "consent_required", "interaction_required", "invalid_client",
        "invalid_grant", "invalid_request", "invalid_scope", "login_required", "server_error",
        "temporarily_unavailable", "unauthorized_client", "unsupported_grant_type", "unsupported_response_type",
    }
)  # fmt: skip


@cache
def _trusted_cas() -> ssl.SSLContext:
    """The system's, the hospital's own among them; slow to load, so once."""
    import httpx2

    return httpx2.create_ssl_context()


def _untrusted(why: str) -> SignInRefused:
    return SignInRefused("what the hospital's sign-in sent cannot be trusted; tell who looks after this node", why)


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read(answer: httpx2.Response, until: float, clock: Callable[[], float]) -> bytes:
    content = bytearray()
    for part in answer.iter_raw():  # as asked for: not compressed, so that its length is its length
        content += part
        if len(content) > _MOST_BYTES or clock() > until:
            raise IssuerUnavailable("the issuer's answer is too long, or takes too long")
    return bytes(content)


def _name(claims: Mapping[str, Any]) -> str:
    """What to call a person: for reading only, never what an account is found by."""
    for key in ("preferred_username", "email", "name", "sub"):
        value = claims.get(key)
        if isinstance(value, str):
            name = "".join(character for character in value if character.isprintable()).strip()[:_LONGEST_NAME].strip()
            if name:
                return name
    return "somebody"


def _groups(claims: Mapping[str, Any], claim: str) -> frozenset[str]:
    """A person's groups: the claim of that name, or within others, as Keycloak has `realm_access.roles`."""
    value: Any = claims.get(claim)
    if value is None and "." in claim:
        value = claims
        for part in claim.split("."):
            value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, str):
        return frozenset({value})
    return frozenset(one for one in value if isinstance(one, str)) if isinstance(value, list) else frozenset()
