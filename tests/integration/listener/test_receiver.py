"""The fast store path on the wire: any legal framing is filed to the bit, anything illegal ends with A-ABORT.

Not covered: hardware that cuts packets; a million-fold fuzz (that is `make soak`'s business).
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.transport import RequestHandler

from iap_node.database.engine import Database
from iap_node.database.tables import ConflictRow, InstanceRow, QuarantineRow
from iap_node.listener import scp
from iap_node.listener.handlers import Handlers
from iap_node.listener.receiver import BUFFER_BYTES, MAX_COMMAND_BYTES
from tests.integration.listener.conftest import Certificates, Node, Sender, encode, make_instance, wait_for
from tests.integration.listener.hostile import mutate
from tests.integration.listener.wire import (
    ABORT,
    COMMAND,
    DATA,
    LAST,
    RELEASE_RQ,
    VERIFICATION,
    RawSender,
    echo_request,
    element,
    item,
    items,
    pdu,
    store_request,
)

SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700
PDU_SIZES = [4096, 16384, 65537, 262144, 4_000_003]


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    """Nothing here depends on which database it is."""
    path = tmp_path / "node.sqlite"
    shutil.copyfile(migrated_sqlite, path)
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.dispose()


def make_dataset(n_pixel_bytes: int = 32) -> tuple[str, bytes]:
    """SOP Instance UID and encoded data set."""
    ds = make_instance()
    ds.PixelData = os.urandom(n_pixel_bytes)
    return str(ds.SOPInstanceUID), encode(ds)


def assert_filed(node: Node, *expected: tuple[str, bytes]) -> None:
    for sop_instance_uid, dataset in expected:
        assert node.stored_dataset(sop_instance_uid) == (ExplicitVRLittleEndian, dataset)
    assert len(node.files()) == len(expected) == len(node.rows(InstanceRow))


# ---------------------------------------------------------------- to the bit


@pytest.mark.parametrize("size", PDU_SIZES)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_instances_are_filed_to_the_bit_whatever_the_pdu_size(
    make_node: Callable[..., Node], connect: Callable[..., Sender], certificates: Certificates, size: int, tls: bool
) -> None:
    settings = certificates.listener(client_certificates=False) if tls else {}
    node = make_node(max_pdu_bytes=size, **settings)
    sender = connect(node.port, tls=certificates.client() if tls else None)
    assert sender.assoc.acceptor.maximum_length == size
    sent = [make_dataset(n) for n in (2, size - 6, size, 5_000_000, 32)]
    for sop_instance_uid, dataset in sent:
        assert sender.store(dataset, sop_instance_uid).Status == SUCCESS
    sender.assoc.release()
    assert_filed(node, *sent)


@pytest.mark.parametrize("size", ["4096", "16384", "131072"])
def test_storescu_of_dcmtk_delivers_to_the_bit_whatever_its_pdu_size(
    node: Node, program: Callable[[str, str], str], tmp_path: Path, size: str
) -> None:
    sent = []
    for number, n_pixel_bytes in enumerate((32, 1_000_000)):
        ds = make_instance(InstanceNumber=number)
        ds.PixelData = os.urandom(n_pixel_bytes)
        ds.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
        sent.append((str(ds.SOPInstanceUID), encode(ds)))
    files = [str(path) for path in sorted(tmp_path.glob("*.dcm"))]
    done = subprocess.run(
        [program("storescu", "dcmtk"), "-xe", "--max-send-pdu", size, "127.0.0.1", str(node.port), *files],
        capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"TCP_NODELAY": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_filed(node, *sent)


def one_pdu_for_all(command: bytes, dataset: bytes) -> list[bytes]:
    return [pdu(item(COMMAND | LAST, command), *items(DATA, dataset, 300))]


def one_byte_fragments(command: bytes, dataset: bytes) -> list[bytes]:
    return [pdu(one) for one in [*items(COMMAND, command, 1), *items(DATA, dataset, 1)]]


def many_fragments_per_pdu(command: bytes, dataset: bytes) -> list[bytes]:
    return [pdu(*items(COMMAND, command, 7)), pdu(*items(DATA, dataset, 11))]


def empty_fragments_and_pdus(command: bytes, dataset: bytes) -> list[bytes]:
    return [
        pdu(item(COMMAND, b""), item(COMMAND, command), item(COMMAND | LAST, b"")),
        pdu(),
        pdu(item(DATA, b"")),
        pdu(item(DATA, dataset), item(DATA | LAST, b"")),
    ]


def reserved_bits_set(command: bytes, dataset: bytes) -> list[bytes]:
    """PS3.8 E.2: only the two low bits are significant."""
    return [pdu(item(0xFC | COMMAND | LAST, command)), pdu(item(0xFC | DATA | LAST, dataset))]


FRAMINGS = [
    one_pdu_for_all, one_byte_fragments, many_fragments_per_pdu, empty_fragments_and_pdus, reserved_bits_set,
]  # fmt: skip


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("n_bytes_at_once", [1, 13, 1 << 30], ids=["byte by byte", "by 13 bytes", "at once"])
def test_any_legal_framing_is_filed_to_the_bit(
    node: Node, framing: Callable[[bytes, bytes], list[bytes]], n_bytes_at_once: int
) -> None:
    sent = [make_dataset(), make_dataset()]
    with RawSender(node.port) as sender:
        for message_id, (sop_instance_uid, dataset) in enumerate(sent, 1):
            content = b"".join(framing(store_request(sop_instance_uid, message_id), dataset))
            sender.send_slowly(content, n_bytes_at_once)
            response = sender.read_response()
            assert (response.Status, response.MessageIDBeingRespondedTo) == (SUCCESS, message_id)
            assert response.CommandField == 0x8001
            assert response.AffectedSOPInstanceUID == sop_instance_uid
        sender.release()
    assert_filed(node, *sent)


def test_fragments_larger_than_the_buffer_are_filed_to_the_bit(node: Node) -> None:
    sent = make_dataset(3 * BUFFER_BYTES + 17)
    with RawSender(node.port) as sender:
        sender.send(pdu(item(COMMAND | LAST, store_request(sent[0]))), pdu(item(DATA | LAST, sent[1])))
        assert sender.read_response().Status == SUCCESS
    assert_filed(node, sent)


def test_messages_that_are_sent_without_waiting_are_answered_one_after_the_other(node: Node) -> None:
    sent = [make_dataset() for _ in range(5)]
    messages = [one_pdu_for_all(store_request(uid, number), data)[0] for number, (uid, data) in enumerate(sent)]
    with RawSender(node.port) as sender:
        sender.send(*messages)
        assert [sender.read_response().MessageIDBeingRespondedTo for _ in sent] == [0, 1, 2, 3, 4]
        sender.release()
    assert_filed(node, *sent)


def test_echoes_between_stores_are_answered_by_pynetdicom(node: Node) -> None:
    sent = [make_dataset() for _ in range(3)]
    with RawSender(node.port) as sender:
        for message_id, (sop_instance_uid, dataset) in enumerate(sent):
            echo = item(COMMAND | LAST, echo_request(message_id + 100), VERIFICATION)
            store = [item(COMMAND | LAST, store_request(sop_instance_uid, message_id)), *items(DATA, dataset, 100)]
            sender.send(pdu(echo, *store))  # the echo must not wait for the store behind it, nor swallow it
            answers = [sender.read_response() for _ in range(2)]
            assert {(a.CommandField, a.MessageIDBeingRespondedTo, a.Status) for a in answers} == {
                (0x8030, message_id + 100, SUCCESS),
                (0x8001, message_id, SUCCESS),
            }
        sender.release()
    assert_filed(node, *sent)


def test_answer_fits_into_the_pdus_that_the_peer_can_take(node: Node) -> None:
    sop_instance_uid, dataset = make_dataset()
    with RawSender(node.port, max_pdu_bytes=32) as sender:
        sender.send_store(sop_instance_uid, dataset)
        sender.longest_pdu = 0
        assert sender.read_response().Status == SUCCESS
        assert sender.longest_pdu == 32


def test_uids_of_thousands_of_characters_are_quarantined_and_not_repeated(node: Node) -> None:
    _, dataset = make_dataset()
    hostile = "1." * 2000 + "/../../x"
    with RawSender(node.port) as sender:
        sender.send_store(hostile, dataset)
        response = sender.read_response()
        assert response.Status == 0xA900
        assert "AffectedSOPInstanceUID" not in response
        sender.release()
    (row,) = node.rows(QuarantineRow)
    assert node.spool.path(row.spool_path).read_bytes() == dataset
    assert all(len(part) < 100 for path in node.files() for part in path.parts)


# ---------------------------------------------------------------- which way


def test_stores_do_not_pass_through_pynetdicom(
    node: Node, connect: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("pynetdicom received it")

    monkeypatch.setattr(Handlers, "on_c_store", fail)
    assert connect(node.port).store_instance(make_instance()).Status == SUCCESS


def test_without_its_one_line_pynetdicom_receives_the_same(
    make_node: Callable[..., Node], connect: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scp, "StoreRequestHandler", lambda _, *arguments: RequestHandler(*arguments))
    node = make_node()
    sent = [make_dataset(100_000), make_dataset()]
    sender = connect(node.port)
    for sop_instance_uid, dataset in sent:
        assert sender.store(dataset, sop_instance_uid).Status == SUCCESS
    assert_filed(node, *sent)


# ---------------------------------------------------------------- broken off


def is_receiving(node: Node) -> bool:
    """Whether a message has begun to come in."""
    return any(activity.busy for activity in list(node.scp._associations._activities.values()))


@pytest.mark.parametrize("half", [50_000, 1_000_000, 5_000_000])  # in memory, in a segment, in a file of its own
@pytest.mark.parametrize("how", ["abort", "lost connection", "reset"])
def test_sender_that_breaks_off_in_a_data_set_leaves_nothing_behind(node: Node, how: str, half: int) -> None:
    sop_instance_uid, dataset = make_dataset(2 * half)
    with RawSender(node.port) as sender:
        sender.send(pdu(item(COMMAND | LAST, store_request(sop_instance_uid))))
        sender.send(pdu(item(DATA, dataset[:half])))
        wait_for(lambda: is_receiving(node), "the first half")
        if how == "abort":
            sender.send(ABORT)
            wait_for(lambda: node.scp.open_associations == 0, "the end of the association")
        elif how == "reset":
            sender.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: node.scp.open_associations == 0, "the end of the association")
    wait_for(node.nothing_is_left, "the spool to be empty")
    assert node.released == []


@pytest.mark.parametrize("cut", [3, 6, 9, 12, 20])
def test_connection_that_ends_anywhere_in_a_message_leaves_nothing_behind(node: Node, cut: int) -> None:
    sop_instance_uid, dataset = make_dataset()
    content = b"".join(many_fragments_per_pdu(store_request(sop_instance_uid), dataset))
    with RawSender(node.port) as sender:
        wait_for(lambda: node.scp.open_associations == 1, "the association")
        sender.send(content[:cut])
    wait_for(lambda: node.scp.open_associations == 0, "the end of the association")
    assert node.nothing_is_left()


def test_sender_that_falls_silent_in_a_data_set_is_aborted(make_node: Callable[..., Node]) -> None:
    node = make_node(idle_timeout_s=0.3)
    sop_instance_uid, dataset = make_dataset(1000)
    with RawSender(node.port) as sender:
        sender.send(pdu(item(COMMAND | LAST, store_request(sop_instance_uid)), item(DATA, dataset), length=1 << 31))
        assert sender.is_aborted()
    wait_for(lambda: node.scp.open_associations == 0, "the end of the association")
    assert node.nothing_is_left()


def test_stopping_cuts_off_a_data_set_that_never_ends(make_node: Callable[..., Node]) -> None:
    node = make_node(stop_timeout_s=0.2)
    sop_instance_uid, dataset = make_dataset(100_000)
    with RawSender(node.port) as sender:
        sender.send(pdu(item(COMMAND | LAST, store_request(sop_instance_uid))), pdu(item(DATA, dataset)))
        wait_for(lambda: is_receiving(node), "the data set")
        node.scp.stop()
        assert sender.is_aborted()
    wait_for(node.nothing_is_left, "the spool to be empty")


def test_disk_that_fills_in_a_data_set_is_out_of_resources_and_the_association_goes_on(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    sop_instance_uid, dataset = make_dataset(100_000)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with RawSender(node.port) as sender:
        monkeypatch.setattr(os, "pwritev", full)
        sender.send_store(sop_instance_uid, dataset)
        response = sender.read_response()
        monkeypatch.undo()
        assert response.Status == OUT_OF_RESOURCES
        assert "send again" in response.ErrorComment
        assert node.nothing_is_left()
        sender.send_store(sop_instance_uid, dataset)
        assert sender.read_response().Status == SUCCESS
    assert_filed(node, (sop_instance_uid, dataset))


# ---------------------------------------------------------------- illegal

UID, DATASET = make_dataset()
REQUEST = item(COMMAND | LAST, store_request(UID))
ILLEGAL = {
    "data before command": pdu(item(DATA | LAST, DATASET)),
    "data within a command": pdu(item(COMMAND, store_request(UID)[:20]), item(DATA | LAST, DATASET)),
    "command within a data set": pdu(REQUEST, item(DATA, DATASET[:50]), REQUEST),
    "context that was not accepted": pdu(item(COMMAND | LAST, store_request(UID), context_id=77)),
    "data set under another context": pdu(REQUEST, item(DATA | LAST, DATASET, context_id=VERIFICATION)),
    "command under two contexts": pdu(item(COMMAND, b"\0\0"), item(COMMAND, b"\0\0", context_id=VERIFICATION)),
    "item longer than its PDU": pdu(REQUEST, item(DATA | LAST, DATASET, length=len(DATASET) + 3)),
    "item of four gigabytes": pdu(REQUEST, item(DATA, DATASET, length=0xFFFFFFFF)),
    "item without header": pdu(REQUEST, item(DATA, DATASET), b"\0\0\0"),
    "item shorter than its header": pdu(item(COMMAND, b"", length=1)),
    "item of no length": pdu(item(COMMAND, b"", length=0)),
    "unknown PDU type": pdu(REQUEST, pdu_type=0x42),
    "A-ASSOCIATE-RQ on a standing association": pdu(bytes(68), pdu_type=0x01),
    "A-RELEASE-RQ of four gigabytes": pdu(bytes(100), pdu_type=0x05, length=0xFFFFFFFF),
    "endless command set": pdu(*[item(COMMAND, bytes(8192))] * (MAX_COMMAND_BYTES // 8192 + 1)),
    "command set of noise": pdu(item(COMMAND | LAST, b"\xff" * 100)),
    "command set cut short": pdu(item(COMMAND | LAST, store_request(UID)[:-3])),
    "empty command set": pdu(item(COMMAND | LAST, b"")),
    "command field of no service": pdu(
        item(COMMAND | LAST, element(0x0100, b"\xee\xee") + element(0x0800, b"\x01\x01"))
    ),
    "endless data set of a service that has none": pdu(
        item(COMMAND | LAST, echo_request().replace(b"\x01\x01", b"\0\0"), VERIFICATION),
        *[item(DATA, bytes(65536), VERIFICATION)] * 17,
    ),
}


@pytest.mark.parametrize("sequence", ILLEGAL.values(), ids=ILLEGAL.keys())
def test_illegal_sequence_is_aborted_and_disturbs_nobody(node: Node, sequence: bytes) -> None:
    sent = [make_dataset(), make_dataset()]
    with RawSender(node.port) as bystander, RawSender(node.port) as sender:
        bystander.send_store(*sent[0])
        assert bystander.read_response().Status == SUCCESS
        sender.send(sequence)
        assert sender.is_aborted()
        bystander.send_store(*sent[1])
        assert bystander.read_response().Status == SUCCESS
        wait_for(lambda: node.scp.open_associations == 1, "the end of the association")
        bystander.release()
    assert {path.name for path in node.files() if path.parts[0] == "incoming"} == set()
    assert {row.sop_instance_uid for row in node.rows(InstanceRow)} - {UID} == {uid for uid, _ in sent}


@pytest.mark.parametrize("length", [0xFFFFFFFF, 2**21])
def test_request_of_absurd_length_is_aborted_before_it_is_read(node: Node, length: int) -> None:
    with socket.create_connection(("127.0.0.1", node.port), timeout=30) as peer:
        peer.sendall(pdu(bytes(1000), pdu_type=0x01, length=length))
        assert peer.recv(1) == b"\x07"


def test_noise_instead_of_tls_disturbs_nobody(
    make_node: Callable[..., Node], connect: Callable[..., Sender], certificates: Certificates
) -> None:
    node = make_node(**certificates.listener(client_certificates=False))
    sender = connect(node.port, tls=certificates.client())
    assert sender.store_instance(make_instance()).Status == SUCCESS
    with socket.create_connection(("127.0.0.1", node.port), timeout=30) as peer:
        peer.sendall(os.urandom(500))
        with contextlib.suppress(ConnectionResetError):
            while peer.recv(100):  # a TLS alert
                pass
    assert sender.store_instance(make_instance()).Status == SUCCESS


def test_associations_leave_no_thread_behind(node: Node) -> None:
    before = threading.active_count()
    for sequence in (*list(ILLEGAL.values())[:3], b""):
        with RawSender(node.port) as sender:
            sender.send(sequence)
            if sequence:
                assert sender.is_aborted()
    wait_for(lambda: threading.active_count() <= before, "the threads to end")


@pytest.mark.parametrize("seed", range(3))
def test_mutated_messages_leave_a_sound_listener_and_nothing_half_written(node: Node, seed: int) -> None:
    rng = random.Random(seed)
    threads, n_messages = threading.active_count() + 1, 60  # the registrar starts with the first instance
    for _ in range(n_messages):
        sop_instance_uid, dataset = make_dataset()
        framing = rng.choice([one_pdu_for_all, many_fragments_per_pdu, empty_fragments_and_pdus])
        content = b"".join(framing(store_request(sop_instance_uid), dataset))
        with RawSender(node.port) as sender:
            try:
                sender.send(mutate(content, rng), RELEASE_RQ)
                sender.socket.shutdown(socket.SHUT_WR)
                while sender.socket.recv(65536):
                    pass
            except (ConnectionResetError, BrokenPipeError):
                pass
    wait_for(lambda: node.scp.open_associations == 0, "the associations to end")
    wait_for(lambda: threading.active_count() <= threads, "the threads to end")
    assert not list((node.spool.root / "incoming").glob("*"))
    n_kept = len(node.rows(InstanceRow)) + len(node.rows(ConflictRow)) + 2 * len(node.rows(QuarantineRow))
    assert len(node.files()) == n_kept
    with RawSender(node.port) as sender:
        sender.send_store(*make_dataset())
        assert sender.read_response().Status == SUCCESS


# ---------------------------------------------------------------- memory


def resident_mib(pid: int, key: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(key)).split()[1]) / 1024


def test_memory_does_not_grow_with_the_instance(tmp_path: Path) -> None:
    """Eight senders of 60 MB at once, into a listener in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "config.yaml"
    settings = {"listener": {"port": port}, "spool": {"prepared_mb": 0}, "log": {"level": "warning"}}
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "iap_node"]
    subprocess.run([*command, "init", "--config", str(config)], check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen([*command, "listen", "--config", str(config)], stdout=subprocess.DEVNULL)
    n_senders, n_pixel_bytes = 8, 60_000_000
    pixels = memoryview(os.urandom(1_000_000))
    try:

        def send() -> None:
            with RawSender(port) as sender:
                ds = make_instance()
                ds.PixelData = b""
                header = encode(ds)[:-4] + struct.pack("<I", n_pixel_bytes)
                sender.send(pdu(item(COMMAND | LAST, store_request(ds.SOPInstanceUID))), pdu(item(DATA, header)))
                for _ in range(n_pixel_bytes // len(pixels)):
                    sender.send(pdu(item(DATA, bytes(pixels))))
                sender.send(pdu(item(DATA | LAST, b"")))
                statuses.append(sender.read_response().Status)

        def is_listening() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        statuses: list[int] = []
        wait_for(is_listening, "the listener")
        before = resident_mib(process.pid, "VmRSS")
        threads = [threading.Thread(target=send) for _ in range(n_senders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [SUCCESS] * n_senders
        peak = resident_mib(process.pid, "VmHWM")
        print(f"listener: {before:.0f} MiB before, {peak:.0f} MiB at most with {n_senders} senders of 60 MB")
        assert peak - before < 20  # 8 buffers of 512 KiB, and what threads and the archive need
    finally:
        process.terminate()
        process.wait(30)
