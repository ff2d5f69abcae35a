"""Messages as JSON by POST, signed. Called by `watch`.

The signature lets the receiver know that a message is from this node, and not one of yesterday: ``IAP-Node-Signature``
is ``sha256=`` and the HMAC-SHA256 (RFC 2104) in hexadecimal digits of what ``IAP-Node-Timestamp`` says (seconds since
the epoch), a full stop, and the body, keyed with the secret.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from typing import Any

from iap_node import __version__
from iap_node.config.notifications import WebhookConfig
from iap_node.config.secret import SIGNATURE_HEADER, TIMESTAMP_HEADER, read_secret, signature
from iap_node.notify.message import Message, NotTold


class WebhookChannel:
    """Posts to one URL."""

    name = "webhook"

    def __init__(self, config: WebhookConfig) -> None:
        self._config = config

    def send(self, message: Message) -> None:
        """Post a message.

        Raises
        ------
        NotTold
            Nobody answered, or not with a status of 2xx.
        ConfigError
            The file with the secret cannot be used.
        """
        secret = read_secret(self._config.secret_file, "notifications.webhook.secret_file")
        body, timestamp = as_json(message), str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"iap-node/{__version__}",
            TIMESTAMP_HEADER: timestamp,
            SIGNATURE_HEADER: f"sha256={signature(secret, timestamp, body)}",
        }
        request = urllib.request.Request(self._config.url, body, headers, method="POST")
        try:
            context = ssl.create_default_context(cafile=self._config.ca)
            opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirect())
            with opener.open(request, timeout=self._config.timeout_s):
                pass
        except urllib.error.HTTPError as error:
            error.close()
            raise NotTold(f"the webhook answers {error.code}; check notifications.webhook.url") from None
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise NotTold(f"the webhook cannot be reached: {reason}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is signed for one address goes to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def as_json(message: Message) -> bytes:
    """The body."""
    content = {
        "node": message.node,
        "kind": message.kind,
        "event": message.event.value,
        "title": message.title,
        "text": f"{message.title}. {message.remedy}",  # what chat programs show
        "summary": message.summary,
        "remedy": message.remedy,
        "amounts": message.amounts,
        "series_instance_uids": list(message.series_instance_uids),
        "at": message.at.isoformat(),
        "console_url": message.console_url,
    }
    return json.dumps(content).encode()
