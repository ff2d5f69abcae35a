"""HTTP as the destinations speak it: TLS with a CA of one's own, no redirects, answers of bounded size.

Called by `webhook` and `dicomweb`.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from iap_node import __version__
from iap_node.errors import ConfigError, DeliveryError

LONGEST_ANSWER_BYTES = 16 * 1024**2
_RETRIED = (408, 425, 429)  # of the 4xx: RFC 9110 15.5.9, RFC 8470, RFC 6585


@contextmanager
def client(
    timeout_s: float, ca: Path | None, certificate: Path | None = None, private_key: Path | None = None
) -> Iterator[httpx2.Client]:
    """A client for one conversation. What is meant for one address is not carried to another by a redirect.

    Raises
    ------
    ConfigError
        The TLS files cannot be used.
    DeliveryError
        Nobody answers, or not as HTTP does; nothing is known of what was sent.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # BCP 195 (RFC 9325)
        if certificate is not None:
            context.load_cert_chain(certificate, private_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"TLS files are not usable ({error}); check ca, certificate, private_key") from error
    headers = {"User-Agent": f"iap-node/{__version__}"}
    with httpx2.Client(verify=context, timeout=timeout_s, follow_redirects=False, headers=headers) as one:
        try:
            yield one
        except httpx2.TimeoutException as error:
            raise DeliveryError(f"no answer within {timeout_s:g} s; see whether it is overloaded") from error
        except httpx2.HTTPError as error:
            raise DeliveryError(f"it cannot be reached ({error}); check that it runs, url, firewall, ca") from error


def content(answer: httpx2.Response) -> bytes:
    """The body of an answer that is being streamed.

    Raises
    ------
    DeliveryError
        It is longer than any honest one.
    """
    body = bytearray()
    for piece in answer.iter_bytes():
        body += piece
        if len(body) > LONGEST_ANSWER_BYTES:
            raise DeliveryError(f"its answer is longer than {LONGEST_ANSWER_BYTES} bytes; look what answers there")
    return bytes(body)


def is_permanent_code(code: int) -> bool:
    """Whether asking again for the same cannot help: 3xx and 4xx, save those that speak of this moment."""
    return 300 <= code < 500 and code not in _RETRIED


def remedy(code: int) -> str:
    """What to look at, by a status code."""
    if code in (401, 403):
        return "check its token, secret or certificate, and what we are allowed there"
    if 300 <= code < 400:
        return "it is elsewhere now: correct its url"
    if code in (404, 405, 501):
        return "check its url"
    if code == 413:
        return "raise its limit of the size of requests"
    if code == 429 or code >= 500:
        return "it may pass; see the log there if it stays"
    return "see the log there"
