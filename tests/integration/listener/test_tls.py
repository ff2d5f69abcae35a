"""DICOM TLS with certificates made for the test."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iap_node.config import TlsConfig
from iap_node.database.engine import Database
from iap_node.errors import ConfigError
from iap_node.listener.scp import server_tls_context
from tests.integration.listener.conftest import Certificates, Node, Sender, make_instance, wait_for


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    """Nothing here depends on which database it is."""
    path = tmp_path / "node.sqlite"
    shutil.copyfile(migrated_sqlite, path)
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.dispose()


def test_instances_come_over_tls(
    make_node: Callable[..., Node], connect: Callable[..., Sender], certificates: Certificates
) -> None:
    node = make_node(**certificates.listener(client_certificates=False))
    sender = connect(node.port, tls=certificates.client())
    for _ in range(3):
        assert sender.store_instance(make_instance()).Status == 0x0000
    sender.assoc.release()
    assert len(node.files()) == 3


def test_sender_without_tls_is_not_served_and_others_still_are(
    make_node: Callable[..., Node], connect: Callable[..., Sender], certificates: Certificates
) -> None:
    node = make_node(**certificates.listener(client_certificates=False))
    assert not connect(node.port).assoc.is_established
    assert connect(node.port, tls=certificates.client()).assoc.is_established


def test_peer_ca_lets_in_those_with_its_certificates_only(
    make_node: Callable[..., Node],
    connect: Callable[..., Sender],
    certificates: Certificates,
    capsys: pytest.CaptureFixture[str],
) -> None:
    node = make_node(**certificates.listener(client_certificates=True))
    assert not connect(node.port, tls=certificates.client()).assoc.is_established
    assert not connect(node.port, tls=certificates.client("stranger")).assoc.is_established
    sender = connect(node.port, tls=certificates.client("scanner"))
    assert sender.store_instance(make_instance()).Status == 0x0000
    assert "connection failed before the association" in "".join(capsys.readouterr())


def test_peer_that_never_shakes_hands_keeps_nobody_waiting(
    make_node: Callable[..., Node], connect: Callable[..., Sender], certificates: Certificates
) -> None:
    node = make_node(association_timeout_s=0.5, **certificates.listener(client_certificates=False))
    with socket.create_connection(("127.0.0.1", node.port), timeout=30) as silent:
        assert connect(node.port, tls=certificates.client()).assoc.is_established
        assert silent.recv(1) == b""


def test_tls_older_than_1_2_is_refused(make_node: Callable[..., Node], certificates: Certificates) -> None:
    settings = certificates.listener(client_certificates=False)["tls"]
    assert server_tls_context(TlsConfig.model_validate(settings)).minimum_version is ssl.TLSVersion.TLSv1_2


def test_running_listener_with_tls_stops(
    make_node: Callable[..., Node], connect: Callable[..., Sender], certificates: Certificates
) -> None:
    node = make_node(**certificates.listener(client_certificates=False))
    sender = connect(node.port, tls=certificates.client())
    node.scp.stop()
    wait_for(lambda: not sender.assoc.is_established, "the end of the association")


def test_key_of_another_certificate_is_an_error_that_names_both(
    make_node: Callable[..., Node], certificates: Certificates
) -> None:
    files = {"certificate": certificates.file("node.pem"), "private_key": certificates.file("scanner.key")}
    with pytest.raises(ConfigError, match=r"node\.pem.*scanner\.key.*belong together"):
        make_node(start=False, tls=files).scp.start()


def test_missing_peer_ca_is_an_error_that_names_its_key(
    make_node: Callable[..., Node], certificates: Certificates
) -> None:
    tls = certificates.listener(client_certificates=True)["tls"] | {"peer_ca": "/nowhere/ca.pem"}
    with pytest.raises(ConfigError, match=r"listener\.tls\.peer_ca"):
        make_node(start=False, tls=tls).scp.start()
