"""SIGKILL of the process that takes STOW-RS, in the middle of a request: what was answered 200 is there, and once.

Power cuts are drill/'s: the bytes go through the same spool as C-STORE's.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import func, select

from iap_node.cli.setup import prepare
from iap_node.config import load_config
from iap_node.database import accounts
from iap_node.database.engine import Database
from iap_node.database.tables import ConflictRow, InstanceRow, QuarantineRow
from iap_node.listener.address import WEB_FILE_NAME, read_port
from iap_node.records import Role, TokenScope
from iap_node.spool import Spool
from iap_node.web.secrets import hash_token
from tests.acceptance.conftest import wait_for
from tests.integration.listener.conftest import encode, lying_in, make_instance, split_part10
from tests.integration.web.test_upload import part10

TOKEN = "a-token-of-the-tests"
PER_REQUEST = 4
ANSWERED = 12  # requests, before the process is killed
HEADERS = {
    "Authorization": f"Bearer {TOKEN}",
    "Content-Type": 'multipart/related; type="application/dicom"; boundary=b',
}


class WebRole:
    """`iap-node web` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.config_path = folder / "config.yaml"
        web = {"port": 0, "stow": {"enabled": True}}
        self.config_path.write_text(yaml.safe_dump({"data_dir": "data", "spool": {"prepared_mb": 0}, "web": web}))
        self.config = load_config(self.config_path)
        prepare(self.config)
        self.database = Database(self.config.database_url)
        with self.database.transaction() as session:
            now = datetime.now(UTC)
            owner = accounts.create_account(session, "Ada", Role.ADMIN, now)
            accounts.create_token(session, hash_token(TOKEN), "PACS", owner, Role.VIEWER, now, scope=TokenScope.STORE)
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        (self.config.data_dir / WEB_FILE_NAME).unlink(missing_ok=True)
        with self.log.open("ab") as stream:
            command = [sys.executable, "-m", "iap_node", "web", "--config", str(self.config_path)]
            self.process = subprocess.Popen(command, stderr=stream, stdout=stream, env=dict(os.environ))
        return int(wait_for(self._port, "the console's port"))

    def _port(self) -> int | None:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        return read_port(self.config.data_dir, WEB_FILE_NAME)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebRole]:
    role = WebRole(tmp_path)
    yield role
    role.kill()
    role.database.dispose()


def request_of(series: list[Dataset]) -> bytes:
    parts = (b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part10(ds) + b"\r\n" for ds in series)
    return b"".join(parts) + b"--b--"


def test_what_was_answered_200_survives_the_kill_of_its_process(web: WebRole) -> None:
    requests = [
        [make_instance(SOPInstanceUID=generate_uid(), PatientID=f"P{number}") for _ in range(PER_REQUEST)]
        for number in range(ANSWERED + 1)
    ]
    port = web.start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for series in requests[:ANSWERED]:
        connection.request("POST", "/dicomweb/studies", request_of(series), HEADERS)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
    last = request_of(requests[-1])
    connection.putrequest("POST", "/dicomweb/studies")
    for name, value in {**HEADERS, "Content-Length": str(len(last))}.items():
        connection.putheader(name, value)
    connection.endheaders(last[: len(last) // 2])  # whole instances, and a piece of one
    web.kill()
    connection.close()
    answered = {ds.SOPInstanceUID: encode(ds) for series in requests[:ANSWERED] for ds in series}
    assert answered.items() <= kept(web).items()
    port = web.start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for series in (requests[-1], requests[0]):
        connection.request("POST", "/dicomweb/studies", request_of(series), HEADERS)
        assert connection.getresponse().status == 200
        connection.close()
    assert kept(web) == {ds.SOPInstanceUID: encode(ds) for series in requests for ds in series}
    with web.database.reading() as session:
        assert [session.scalar(select(func.count()).select_from(t)) for t in (ConflictRow, QuarantineRow)] == [0, 0]
    assert len(lying_in(Spool(web.config.spool_dir))) == PER_REQUEST * len(requests)


def kept(web: WebRole) -> dict[str, bytes]:
    """Data sets that rows name, by SOP Instance UID."""
    spool = Spool(web.config.spool_dir)
    with web.database.reading() as session:
        rows = session.execute(select(InstanceRow.sop_instance_uid, InstanceRow.spool_path)).all()
    found = {}
    for uid, path in rows:
        with spool.locate(path).open("rb") as file:
            found[uid] = split_part10(file.read())[1]
    assert len(found) == len(rows)
    return found
