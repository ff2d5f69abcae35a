"""Who sends to the node by STOW-RS, over real sockets: Orthanc, dicomweb-client, and a node."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from iap_node.config import NodeConfig, parse_config
from iap_node.config.destinations import DicomwebConfig
from iap_node.database import accounts
from iap_node.database.engine import Database
from iap_node.database.tables import InstanceRow
from iap_node.listener.intake import Intake
from iap_node.listener.limits import DiskReserve
from iap_node.listener.stow import StowIntake
from iap_node.records import Role, TokenScope
from iap_node.routing.destinations.destination import open_destination
from iap_node.routing.destinations.outgoing import OutgoingInstance
from iap_node.spool import Spool
from iap_node.web.app import create_app
from iap_node.web.node import WebNode
from iap_node.web.secrets import hash_token
from iap_node.web.server import listening, serve
from tests.integration.listener.conftest import encode, make_instance, split_part10
from tests.integration.partners.conftest import DICOMWEB_PLUGIN, Orthanc, part10

TOKEN = "a-token-of-the-tests"
CLIENT = Path(__file__).resolve().parents[3] / "build" / "dicomweb-client"
MIB = 1024**2


@dataclass
class Server:
    """A node that takes instances by STOW-RS."""

    url: str
    port: int
    config: NodeConfig
    database: Database
    spool: Spool

    def data_sets(self) -> dict[str, bytes]:
        """What is archived: data sets by SOP Instance UID."""
        with self.database.reading() as session:
            rows = session.execute(select(InstanceRow.sop_instance_uid, InstanceRow.spool_path)).all()
        found = {}
        for uid, path in rows:
            with self.spool.locate(path).open("rb") as file:
                found[uid] = split_part10(file.read())[1]
        return found


@pytest.fixture
def server(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Server]:
    shutil.copyfile(migrated_sqlite, tmp_path / "node.sqlite")
    database = Database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    content = {"data_dir": "data", "spool": {"disk_reserve_mb": 0}, "web": {"port": 0, "stow": {"enabled": True}}}
    config = parse_config(content, tmp_path)
    config.spool_dir.mkdir(parents=True)
    with database.transaction() as session:
        now = datetime.now(UTC)
        owner = accounts.create_account(session, "Ada", Role.ADMIN, now)
        accounts.create_token(session, hash_token(TOKEN), "PACS", owner, Role.VIEWER, now, scope=TokenScope.STORE)
    spool, stop = Spool(config.spool_dir), threading.Event()
    with closing(Intake(spool, database, b"k" * 32)) as intake, listening(config.web) as bound:
        stow = StowIntake(intake, DiskReserve(config.spool_dir, 0), config.listener, config.web.stow)
        app = create_app(WebNode(config, None, database, spool, stow=stow))
        thread = threading.Thread(target=serve, args=(app, config.web, bound, stop))
        thread.start()
        port = bound.getsockname()[1]
        yield Server(f"http://127.0.0.1:{port}/dicomweb", port, config, database, spool)
        stop.set()
        thread.join()
    database.dispose()


def test_orthanc_sends_a_study(
    orthanc: Orthanc, server: Server, make_series: Callable[..., list[Dataset]]
) -> None:
    if not DICOMWEB_PLUGIN.exists():
        pytest.skip("Orthanc's DICOMweb plugin is not installed; apt-get install orthanc-dicomweb")
    series = make_series("1.2.826.30", 12)
    ids = [orthanc.upload(ds) for ds in series]
    settings = {"Url": f"{server.url}/", "HttpHeaders": {"Authorization": f"Bearer {TOKEN}"}}
    orthanc.ask("PUT", "/dicom-web/servers/iap", settings)
    done = orthanc.ask("POST", "/dicom-web/servers/iap/stow", {"Resources": ids, "Synchronous": True})
    assert done["InstancesCount"] == "12"
    kept = server.data_sets()
    assert {uid: ds.PixelData in kept[uid] for ds in series for uid in [ds.SOPInstanceUID]} == dict.fromkeys(kept, True)
    assert len(kept) == 12


def test_dicomweb_client_stores_and_reads_what_is_told(server: Server, tmp_path: Path) -> None:
    if not (CLIENT / "dicomweb_client").is_dir():
        pytest.skip("dicomweb-client is not there; tests/integration/partners/install-dicomweb-client gets it")
    study = "1.2.826.31"
    series = [make_instance(StudyInstanceUID=study) for _ in range(3)]
    elsewhere = make_instance(StudyInstanceUID="1.2.826.31.9")
    for number, ds in enumerate([*series, elsewhere]):
        (tmp_path / f"{number}.dcm").write_bytes(part10(ds))
    program = (
        "import sys, pydicom\n"
        "from dicomweb_client.api import DICOMwebClient\n"
        "url, token, study, *files = sys.argv[1:]\n"
        "client = DICOMwebClient(url, headers={'Authorization': f'Bearer {token}'})\n"
        "told = client.store_instances([pydicom.dcmread(one) for one in files], study)\n"
        "print(len(told.ReferencedSOPSequence), [one.FailureReason for one in told.get('FailedSOPSequence', [])])\n"
    )
    files = sorted(map(str, tmp_path.glob("*.dcm")))
    run = subprocess.run(
        [sys.executable, "-c", program, server.url, TOKEN, study, *files],
        env={**os.environ, "PYTHONPATH": str(CLIENT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[0] == "3 [43265]"
    assert server.data_sets().keys() == {ds.SOPInstanceUID for ds in series}


def test_a_node_delivers_to_a_node(server: Server, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    there = open_destination(
        DicomwebConfig(kind="dicomweb", url=server.url, token_file=token, instances_per_request=2)
    )
    there.echo()
    series = [make_instance() for _ in range(3)]
    outgoing = []
    for number, ds in enumerate(series):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(part10(ds))
        syntax = str(ds.file_meta.TransferSyntaxUID)
        outgoing.append(OutgoingInstance(number, str(ds.SOPClassUID), str(ds.SOPInstanceUID), syntax, path))
    for _ in range(2):
        assert [(answer.accepted, answer.status) for answer in there.send(outgoing)] == [(True, 0)] * 3
    assert server.data_sets() == {ds.SOPInstanceUID: encode(ds) for ds in series}


def test_an_instance_larger_than_what_the_node_may_have_in_memory_goes_to_the_disk_as_it_comes(
    server: Server,
) -> None:
    """Client and node share this process: what both hold is measured."""
    ds, piece = make_instance(PixelData=None), bytes(64 * 1024)
    n_pieces = 64 * 16
    head = part10(ds) + b"\xe0\x7f\x10\x00OW\0\0" + (n_pieces * len(piece)).to_bytes(4, "little")
    begin = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
    tracemalloc.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as wire:
            wire.sendall(
                b"POST /dicomweb/studies HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n"
                b'Content-Type: multipart/related; type="application/dicom"; boundary=b\r\n'
                + f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
            )
            for content in (begin + head, *(piece for _ in range(n_pieces)), b"\r\n--b--", b""):
                wire.sendall(f"{len(content):x}\r\n".encode() + content + b"\r\n")
            answer = wire.recv(65_536)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert peak < 16 * MIB < n_pieces * len(piece)
    assert len(server.data_sets()[ds.SOPInstanceUID]) > n_pieces * len(piece)


@pytest.mark.parametrize(("token", "status"), [("another", b"401"), (TOKEN, b"400")])
def test_a_refusal_is_heard_by_a_sender_that_writes_on(server: Server, token: str, status: bytes) -> None:
    content = b"no boundary" + bytes(8 * MIB)  # more than sockets buffer
    with socket.create_connection(("127.0.0.1", server.port)) as wire:
        wire.settimeout(30)
        wire.sendall(
            b"POST /dicomweb/studies HTTP/1.1\r\nHost: node\r\nContent-Type: multipart/related; boundary=b\r\n"
            + f"Authorization: Bearer {token}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
        )  # fmt: skip
        assert wire.recv(65_536).split()[1] == status


def test_a_sender_that_asks_first_need_not_send_what_is_refused(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as wire:
        wire.settimeout(30)
        wire.sendall(
            b"POST /dicomweb/studies HTTP/1.1\r\nHost: node\r\nContent-Type: multipart/related; boundary=b\r\n"
            b"Authorization: Bearer another\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n"
        )
        assert wire.recv(65_536).split()[1] == b"401"
