"""A webhook as a destination: signed results, and what becomes of a series by the answer."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iap_node.config.destinations import ResultWebhookConfig
from iap_node.errors import ConfigError, DeliveryError, PermanentError
from iap_node.routing.destinations.outgoing import OutgoingInstance
from iap_node.routing.destinations.webhook import WebhookDestination
from tests.integration.listener.conftest import Certificates
from tests.integration.routing.https_server import HttpsServer

SECRET = b"both sides know it"


@pytest.fixture
def destination(https_server: HttpsServer, certificates: Certificates, tmp_path: Path) -> Callable[..., Any]:
    """Factory of destinations at the server."""
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET + b"\n")
    secret.chmod(0o600)

    def make(**changes: Any) -> WebhookDestination:
        content = {
            "kind": "webhook", "url": f"{https_server.url}/hook?key=1", "secret_file": secret,
            "ca": certificates.file("ca.pem"), "timeout_s": 5,
        }  # fmt: skip
        config = ResultWebhookConfig.model_validate(content | changes)
        return WebhookDestination(config, lambda: {"event": "result", "revision": 3})

    return make


def test_a_result_is_signed_and_2xx_delivers_the_series(
    destination: Callable[..., Any], https_server: HttpsServer, write_instance: Callable[..., OutgoingInstance]
) -> None:
    https_server.answer = lambda _: (204, b"")
    series = [write_instance(), write_instance()]
    answers = destination().send(series)
    assert [(one.instance_id, one.accepted) for one in answers] == [(one.instance_id, True) for one in series]
    (request,) = https_server.received
    assert json.loads(request.body) == {"event": "result", "revision": 3}
    signed = request.headers["IAP-Node-Timestamp"].encode() + b"." + request.body
    expected = hmac.new(SECRET, signed, hashlib.sha256).hexdigest()
    assert request.headers["IAP-Node-Signature"] == f"sha256={expected}"


@pytest.mark.parametrize(
    ("code", "error"),
    [(400, PermanentError), (401, PermanentError), (302, PermanentError), (408, DeliveryError), (429, DeliveryError),
     (500, DeliveryError), (503, DeliveryError)],
)  # fmt: skip
def test_what_is_tried_again_depends_on_the_answer(
    destination: Callable[..., Any], https_server: HttpsServer, code: int, error: type[Exception]
) -> None:
    https_server.answer = lambda _: (code, b"John Doe")
    with pytest.raises(error, match=f"answers {code}") as caught:
        destination().send([])
    assert type(caught.value) is error
    assert "Doe" not in str(caught.value) and "key=1" not in str(caught.value)
    assert len(https_server.received) == 1


def test_a_server_of_another_ca_or_without_a_word_is_tried_again(
    destination: Callable[..., Any], https_server: HttpsServer, certificates: Certificates
) -> None:
    with pytest.raises(DeliveryError, match="check"):
        destination(ca=certificates.file("stranger.pem")).send([])
    https_server.answer = lambda _: None
    with pytest.raises(DeliveryError, match="cannot be reached"):
        destination().send([])


def test_a_secret_that_others_can_read_is_not_used(
    destination: Callable[..., Any], https_server: HttpsServer, tmp_path: Path
) -> None:
    (tmp_path / "secret").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod"):
        destination().send([])
    assert https_server.received == []


def test_echo_is_a_message_of_its_own(destination: Callable[..., Any], https_server: HttpsServer) -> None:
    destination().echo()
    assert json.loads(https_server.received[0].body) == {"event": "echo"}
