"""An HTTPS server with a certificate of a CA of the tests' own."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from tests.integration.listener.conftest import Certificates, certificates
from tests.integration.routing.https_server import HttpsServer, running

__all__ = ["certificates"]


@pytest.fixture
def https_server(certificates: Certificates) -> Iterator[HttpsServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.file("node.pem"), certificates.file("node.key"))
    context.load_verify_locations(certificates.file("ca.pem"))
    context.verify_mode = ssl.CERT_OPTIONAL
    with running(context) as server:
        yield server
