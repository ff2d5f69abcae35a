"""A webhook as a destination: the result of a series as JSON by POST, signed. No instances go there.

``IAP-Node-Signature`` is ``sha256=`` and the HMAC-SHA256 (RFC 2104) in hexadecimal digits of what
``IAP-Node-Timestamp`` says (seconds since the epoch), a full stop, and the body, keyed with the secret: as
notifications are signed. A result may come twice where an answer got lost: `delivery` in it is the same then. What is
posted is made in `iap_node.results.message` and published as `docs/result-message.schema.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from iap_node.config.destinations import ResultWebhookConfig
from iap_node.config.secret import SIGNATURE_HEADER, TIMESTAMP_HEADER, read_secret, signature
from iap_node.errors import DeliveryError, PermanentError
from iap_node.records import InstanceDelivery
from iap_node.routing.destinations import https
from iap_node.routing.destinations.outgoing import OutgoingInstance, delivered


class WebhookDestination:
    """Posts to one URL."""

    def __init__(self, config: ResultWebhookConfig, message: Callable[[], dict[str, Any]]) -> None:
        self._config = config
        self._message = message

    def send(self, instances: Sequence[OutgoingInstance]) -> list[InstanceDelivery]:
        """Post the result; 2xx delivers it, for all instances of the series.

        Raises
        ------
        DeliveryError
            Nobody answered, or with 5xx, 408, 425, 429.
        PermanentError
            It was answered otherwise, or the secret or the CA cannot be used.
        """
        code = self._post(self._message())
        return [delivered(instance, f"HTTP {code}") for instance in instances]

    def echo(self) -> None:
        """Post `{"event": "echo"}`, signed as a result is; the receiver answers 2xx and does nothing.

        Raises
        ------
        DeliveryError, PermanentError
            See `send`.
        """
        self._post({"event": "echo"})

    def _post(self, message: dict[str, Any]) -> int:
        secret = read_secret(self._config.secret_file, "secret_file")
        body, timestamp = json.dumps(message, allow_nan=False).encode(), str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            TIMESTAMP_HEADER: timestamp,
            SIGNATURE_HEADER: f"sha256={signature(secret, timestamp, body)}",
        }
        with (
            https.client(self._config.timeout_s, self._config.ca) as client,
            client.stream("POST", self._config.url, content=body, headers=headers) as answer,
        ):
            code = answer.status_code  # what else it says is nobody's business here
        if 200 <= code < 300:
            return code
        text = f"{self._config.address} answers {code}: {https.remedy(code)}"
        raise PermanentError(text) if https.is_permanent_code(code) else DeliveryError(text)
