"""Peers that keep to the protocol strangely, or not at all, against the live port: nobody else notices.

`make fuzz` runs the same with thousands of conversations and a million one-byte fragments
(IAP_NODE_HOSTILE_CONVERSATIONS, IAP_NODE_HOSTILE_FRAGMENTS); IAP_NODE_HOSTILE_SEED changes all of them.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom.presentation import build_context

from iap_node.config import load_config
from iap_node.database.engine import Database
from iap_node.database.tables import ConflictRow, InstanceRow, QuarantineRow
from iap_node.listener.address import read_port
from iap_node.listener.intake import Intake
from iap_node.spool import Spool
from tests.integration.listener.conftest import KEY, Certificates, Node, Sender, make_instance, split_part10, wait_for
from tests.integration.listener.hostile import (
    SEED,
    Footprint,
    converse,
    event_report_request,
    hold,
    judge,
    knock,
    make_dataset,
    mutate,
    requests,
    wait_until_let_go,
)
from tests.integration.listener.wire import (
    COMMAND,
    DATA,
    LAST,
    STORAGE,
    VERIFICATION,
    WAIT_S,
    RawSender,
    association_request,
    echo_request,
    item,
    items,
    pdu,
    store_request,
)

N_CONVERSATIONS = int(os.environ.get("IAP_NODE_HOSTILE_CONVERSATIONS", "40"))
N_FRAGMENTS = int(os.environ.get("IAP_NODE_HOSTILE_FRAGMENTS", "20000"))
AT_ONCE = 4

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

SUCCESS = 0x0000
ACCEPTED, REJECTED, ABORTED, CLOSED = b"\x02", b"\x03", b"\x07", b""  # what a listener says to a request


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    """Nothing here depends on which database it is."""
    path = tmp_path / "node.sqlite"
    shutil.copyfile(migrated_sqlite, path)
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.dispose()


class Bystander:
    """An association that stands all the while, and must not notice."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._sender = RawSender(port, tls=tls)
        self._rng = random.Random(f"{SEED} bystander")
        self.sent: dict[str, bytes] = {}
        self.works()

    def works(self) -> None:
        """Store and echo."""
        sop_instance_uid, dataset = make_dataset(self._rng)
        self._sender.send_store(sop_instance_uid, dataset)
        assert self._sender.read_response().Status == SUCCESS
        self.sent[sop_instance_uid] = dataset
        self._sender.send(pdu(item(COMMAND | LAST, echo_request(), VERIFICATION)))
        assert self._sender.read_response().Status == SUCCESS

    def leave(self) -> None:
        self._sender.release()
        self._sender.socket.close()


def hold_all(
    port: int, n_conversations: int, bystander: Bystander, first: int = 0, tls: ssl.SSLContext | None = None
) -> dict[str, bytes]:
    """Conversations, some at once; what they stored."""
    stored: dict[str, bytes] = {}
    with ThreadPoolExecutor(AT_ONCE) as peers:
        for start in range(first, first + n_conversations, 5 * AT_ONCE):
            stop = min(start + 5 * AT_ONCE, first + n_conversations)
            conversations = [converse(f"{SEED} {n}") for n in range(start, stop)]
            for conversation, heard in zip(
                conversations, peers.map(lambda one: hold(one, port, tls), conversations), strict=True
            ):
                judge(conversation, heard)
                stored |= conversation.stored
            bystander.works()
    return stored


def assert_filed(spool: Spool, database: Database, expected: dict[str, bytes]) -> None:
    """Everything that was acknowledged is there to the bit, and nothing else."""
    node = Node(spool, database, Intake(spool, database, KEY), None, None)  # type: ignore[arg-type]
    wait_for(lambda: len(node.rows(InstanceRow)) >= len(expected), "the rows")
    assert not node.rows(ConflictRow)
    assert not node.rows(QuarantineRow)
    found = {row.sop_instance_uid: split_part10(node.content(row.spool_path)) for row in node.rows(InstanceRow)}
    assert found == {uid: (ExplicitVRLittleEndian, dataset) for uid, dataset in expected.items()}
    assert sorted(node.files()) == sorted(Path(row.spool_path) for row in node.rows(InstanceRow))


# ---------------------------------------------------------------- conversations


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_legal_peers_are_served_and_illegal_ones_aborted_and_nothing_is_left_of_them(
    make_node: Callable[..., Node], certificates: Certificates, tls: bool
) -> None:
    node = make_node(**certificates.listener(client_certificates=False) if tls else {})
    client = certificates.client() if tls else None
    bystander = Bystander(node.port, client)
    stored = hold_all(node.port, 20, bystander, first=1_000_000, tls=client)
    before = Footprint.of(os.getpid())
    stored |= hold_all(node.port, N_CONVERSATIONS, bystander, tls=client)
    wait_until_let_go(os.getpid(), before, spare_descriptors=10)  # the database keeps some connections
    bystander.leave()
    assert_filed(node.spool, node.database, stored | bystander.sent)


class Listening:
    """`iap-node listen` in a folder of its own, with everything that it could write to below it."""

    def __init__(self, folder: Path, **listener: object) -> None:
        self.folder = folder
        config = folder / "config.yaml"
        config.write_text(
            yaml.safe_dump({"data_dir": "data", "listener": {"port": 0, **listener}, "log": {"level": "warning"}})
        )
        for name in ("elsewhere", "temporary"):
            (folder / name).mkdir()
        environment = os.environ | {"TMPDIR": str(folder / "temporary"), "HOME": str(folder / "elsewhere")}
        command = [sys.executable, "-m", "iap_node"]
        subprocess.run([*command, "init", "--config", str(config)], check=True, stdout=subprocess.DEVNULL)
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [*command, "listen", "--config", str(config)], cwd=folder / "elsewhere", env=environment,
            stdout=self._log, stderr=self._log,
        )  # fmt: skip
        self.config = load_config(config)
        self.pid = self._process.pid
        self.port = int(wait_for(lambda: read_port(self.config.data_dir), "the listener"))

    def stop(self) -> str:
        """End it in order; its log."""
        self._process.terminate()
        assert self._process.wait(60) == 0
        self._log.close()
        return (self.folder / "log").read_text()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)

    def files_outside(self) -> set[str]:
        """What lies beside spool and database."""
        data = self.config.data_dir
        return {
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.is_file() and not path.is_relative_to(data / "spool") and ".sqlite" not in path.name
        }


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Callable[..., Listening]]:
    """Factory of listeners in processes of their own."""
    started: list[Listening] = []

    def start(**listener: object) -> Listening:
        folder = tmp_path / f"node-{len(started)}"
        folder.mkdir()
        started.append(Listening(folder, **listener))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def test_listener_process_keeps_its_size_and_writes_nowhere_else(listening: Callable[..., Listening]) -> None:
    listener = listening()
    files = listener.files_outside()
    bystander = Bystander(listener.port)
    stored = hold_all(listener.port, 20, bystander, first=2_000_000)
    before = Footprint.of(listener.pid)
    stored |= hold_all(listener.port, N_CONVERSATIONS, bystander, first=3_000_000)
    after = wait_until_let_go(listener.pid, before, spare_descriptors=10)
    print(f"{N_CONVERSATIONS} conversations: {before}, then {after}")
    assert after.resident_mib < before.resident_mib + 30
    assert listener.files_outside() == files
    bystander.leave()
    log = listener.stop()
    assert "Traceback" not in log
    spool, database = Spool(listener.config.spool_dir), Database(listener.config.database_url)
    assert_filed(spool, database, stored | bystander.sent)
    database.dispose()


def test_one_byte_fragments_without_end_cost_nothing_but_their_time(node: Node) -> None:
    """A legal data set in as many fragments as there are bytes, each in a PDU of its own."""
    bystander = Bystander(node.port)
    sop_instance_uid, dataset = make_dataset(random.Random(SEED))
    dataset += bytes(max(0, N_FRAGMENTS - len(dataset)))
    dataset = dataset[: -len(dataset) % 2 or None]
    with RawSender(node.port) as sender:
        sender.send(pdu(item(COMMAND | LAST, store_request(sop_instance_uid))))
        before = Footprint.of(os.getpid())
        for start in range(0, len(dataset), 5000):
            sender.send(*(pdu(item(DATA, dataset[n : n + 1])) for n in range(start, min(start + 5000, len(dataset)))))
        after = Footprint.of(os.getpid())
        assert after.resident_mib < before.resident_mib + 30
        bystander.works()
        sender.send(pdu(item(DATA | LAST, b"")))
        assert sender.read_response().Status == SUCCESS
        sender.send(pdu(*[item(COMMAND, b"")] * 20_000))
        bystander.works()
        sender.send(pdu(*items(COMMAND, echo_request(), 1, VERIFICATION)))
        assert sender.is_aborted()  # the empty fragments were of another context
    bystander.leave()
    assert_filed(node.spool, node.database, {sop_instance_uid: dataset} | bystander.sent)


def test_event_reports_start_no_threads(node: Node) -> None:
    """pynetdicom would serve each in a thread of its own."""
    before = Footprint.of(os.getpid())
    with RawSender(node.port) as sender:
        sender.send(pdu(item(COMMAND | LAST, event_report_request())) * 500)
        assert sender.is_aborted()
    wait_until_let_go(os.getpid(), before)


# ---------------------------------------------------------------- before an association stands


def test_request_that_comes_a_byte_now_and_then_is_not_waited_for_for_ever(
    make_node: Callable[..., Node], connect: Callable[..., Sender]
) -> None:
    node = make_node(association_timeout_s=0.5)
    with socket.create_connection(("127.0.0.1", node.port), timeout=WAIT_S) as peer:
        peer.sendall(struct.pack(">BxI", 0x01, 100_000))

        def is_cut_off() -> bool:
            try:
                peer.sendall(b"\0")
                peer.settimeout(0.02)
                return not peer.recv(1)
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        wait_for(is_cut_off, "the listener to lose patience")
        assert connect(node.port).store_instance(make_instance()).Status == SUCCESS


def test_requests_of_every_kind_of_nonsense_end_and_leave_nothing(make_node: Callable[..., Node]) -> None:
    node = make_node(association_timeout_s=2)  # for those that are cut short
    bystander = Bystander(node.port)
    rng = random.Random(SEED)
    assert knock(node.port, pdu(bytes(68), pdu_type=0x01)) == ABORTED
    before = Footprint.of(os.getpid())
    with ThreadPoolExecutor(3 * AT_ONCE) as peers:
        answers = list(peers.map(lambda one: (one[0], knock(node.port, one[1])), requests(rng)))
    for what, answer in answers:
        assert answer in (ACCEPTED, REJECTED, ABORTED, CLOSED), what
        expected = {
            "128 contexts of 60 transfer syntaxes": ACCEPTED, "64 KB of user identity": ACCEPTED,
            "data before any association": ABORTED, "an A-ASSOCIATE-AC": ABORTED, "a release": ABORTED,
            "300 contexts, even IDs and 0 among them": ABORTED, "HTTP": ABORTED,
            "a TLS ClientHello": ABORTED, "an abort": CLOSED, "a request cut short": CLOSED,
        }.get(what, answer)  # fmt: skip
        assert answer == expected, what
    bystander.works()
    wait_until_let_go(os.getpid(), before, spare_descriptors=10)
    bystander.leave()
    assert_filed(node.spool, node.database, bystander.sent)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_half_handshakes_and_noise_end_and_leave_nothing(
    make_node: Callable[..., Node], connect: Callable[..., Sender], certificates: Certificates, tls: bool
) -> None:
    settings = certificates.listener(client_certificates=False) if tls else {}
    node = make_node(association_timeout_s=1, **settings)
    client = certificates.client() if tls else None
    bystander = connect(node.port, tls=client)
    assert bystander.store_instance(make_instance()).Status == SUCCESS
    rng = random.Random(SEED)
    hello = client_hello(certificates.client())
    knocks = [
        b"", b"\x16", hello[:5], hello[:50], hello[:-1], hello, hello + hello, hello[:100] + hello,
        hello + rng.randbytes(3000), rng.randbytes(1), rng.randbytes(5000), bytes(5000), b"\xff" * 5000,
        association_request([]), *(mutate(hello, rng) for _ in range(10)),
    ]  # fmt: skip
    before = Footprint.of(os.getpid())
    with ThreadPoolExecutor(len(knocks)) as peers:
        answers = list(peers.map(lambda content: knock(node.port, content), knocks))
    assert ACCEPTED not in answers[:-11]
    assert bystander.store_instance(make_instance()).Status == SUCCESS
    wait_until_let_go(os.getpid(), before, spare_descriptors=10)
    assert connect(node.port, tls=client).store_instance(make_instance()).Status == SUCCESS


def client_hello(client: ssl.SSLContext) -> bytes:
    """What a TLS client says first."""
    said = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        client.wrap_bio(ssl.MemoryBIO(), said, server_hostname="localhost").do_handshake()
    return said.read()


def test_request_that_comes_byte_by_byte_is_accepted(node: Node) -> None:
    context = build_context(MRImageStorage, ExplicitVRLittleEndian)
    context.context_id = STORAGE
    assert knock(node.port, association_request([context]), n_bytes_at_once=1) == ACCEPTED
