"""What one peer, one instance and the disk may cost, over real sockets and on a real disk.

Peers are told apart by their addresses: all of 127.0.0.0/8 is this machine.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from sqlalchemy import update

from iap_node.database.engine import Database
from iap_node.database.tables import InstanceRow, QuarantineRow
from iap_node.listener import registrar
from iap_node.listener.folder import ImportOutcome, import_files
from iap_node.listener.intake import Intake
from iap_node.listener.limits import MIB, DiskLow, DiskReserve
from iap_node.listener.scp import NEGOTIATING, NEGOTIATING_OF_ONE
from iap_node.spool import Spool
from tests.disk import free_bytes, occupied
from tests.integration.listener.conftest import KEY, Node, encode, make_instance, wait_for
from tests.integration.listener.wire import (
    COMMAND,
    DATA,
    LAST,
    RawSender,
    echo_request,
    item,
    items,
    pdu,
    store_request,
)

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)  # transient, service provider: PS3.8 Table 9-21
MARGIN = 1024 * MIB  # more than whatever else writes to this disk meanwhile


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    """Nothing here depends on which database it is."""
    path = tmp_path / "node.sqlite"
    shutil.copyfile(migrated_sqlite, path)
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.dispose()


@pytest.fixture
def associate() -> Iterator[Callable[..., Association]]:
    """Factory of associations from any address of this machine."""
    opened: list[Association] = []

    def establish(port: int, address: str = "127.0.0.1", calling_ae_title: str = "SCANNER") -> Association:
        ae = AE(ae_title=calling_ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
        contexts = [build_context(MRImageStorage, ExplicitVRLittleEndian), build_context("1.2.840.10008.1.1")]
        opened.append(ae.associate("127.0.0.1", port, contexts, ae_title="IAP_NODE", bind_address=(address, 0)))
        return opened[-1]

    yield establish
    for assoc in opened:
        if assoc.is_established:
            assoc.abort()


def warnings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was logged for somebody to read."""
    return [line for line in "".join(capsys.readouterr()).splitlines() if "[debug" not in line]


def rejection(assoc: Association) -> tuple[int, int, int]:
    assert assoc.is_rejected
    answer: Any = assoc.acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


# ---------------------------------------------------------------- associations of one peer


def test_peer_with_all_its_associations_is_rejected_for_now_and_others_are_not(
    make_node: Callable[..., Node], associate: Callable[..., Association], capsys: pytest.CaptureFixture[str]
) -> None:
    node = make_node(max_associations=4, max_associations_per_peer=2)
    first, _ = associate(node.port, "127.0.0.2"), associate(node.port, "127.0.0.2")
    for calling_ae_title in ("SCANNER", "OTHER", "OTHER"):  # anybody may send here, under any title
        assert rejection(associate(node.port, "127.0.0.2", calling_ae_title)) == LOCAL_LIMIT_EXCEEDED
    assert associate(node.port, "127.0.0.3").is_established
    first.release()
    wait_for(lambda: associate(node.port, "127.0.0.2").is_established, "room for another one of this peer")
    told = [line for line in warnings(capsys) if "LOCAL_LIMIT_EXCEEDED" in line]
    assert len(told) == 1  # when it begins, and not for every try
    assert "listener.max_associations_per_peer" in told[0]


def test_named_senders_behind_one_address_have_their_own_share(
    make_node: Callable[..., Node], associate: Callable[..., Association]
) -> None:
    node = make_node(max_associations_per_peer=1, calling_ae_titles=["MR", "CT"])
    assert associate(node.port, calling_ae_title="MR").is_established
    assert rejection(associate(node.port, calling_ae_title="MR")) == LOCAL_LIMIT_EXCEEDED
    assert associate(node.port, calling_ae_title="CT").is_established


def test_peer_that_leaves_before_it_is_answered_takes_no_place_with_it(
    make_node: Callable[..., Node], associate: Callable[..., Association]
) -> None:
    node = make_node(max_associations=1)
    ae = AE(ae_title="SCANNER")
    for _ in range(20):
        assoc = ae.associate("127.0.0.1", node.port, [build_context(MRImageStorage)])
        assoc.abort()
    with socket.create_connection(("127.0.0.1", node.port)) as connection:
        connection.sendall(b"\x01\0\0\0\0\x44")
    wait_for(lambda: associate(node.port).is_established, "the only place to be free")


def test_silent_connections_of_one_address_keep_only_itself_out(
    make_node: Callable[..., Node], associate: Callable[..., Association]
) -> None:
    node = make_node(max_associations=2)
    silent = [
        socket.create_connection(("127.0.0.1", node.port), source_address=("127.0.0.2", 0))
        for _ in range(NEGOTIATING)
    ]
    try:
        wait_for(
            lambda: len(select.select(silent, [], [], 0)[0]) >= NEGOTIATING - NEGOTIATING_OF_ONE,
            "those that are too many to be closed",
        )
        assert associate(node.port, "127.0.0.3").is_established
        assert associate(node.port, "127.0.0.3").is_established
        assert not associate(node.port, "127.0.0.2").is_rejected  # the connection is closed without a word
    finally:
        for connection in silent:
            connection.close()
    wait_for(lambda: associate(node.port, "127.0.0.2").is_rejected, "an answer to the address that was silent")


@pytest.mark.parametrize("said", [b"", b"\x01\0", b"GET / HTTP/1.1\r\n\r\n"], ids=["nothing", "half a header", "HTTP"])
def test_connections_that_come_to_nothing_leave_no_thread_until_the_timeout(
    make_node: Callable[..., Node], associate: Callable[..., Association], said: bytes
) -> None:
    node = make_node(association_timeout_s=3600)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", node.port)) as connection:
            connection.sendall(said)
    associate(node.port).release()  # accepted in order: it was the last one
    wait_for(lambda: not any("Acceptor" in thread.name for thread in threading.enumerate()), "their threads to end")


def test_stopping_ends_connections_that_did_not_say_yet_what_they_want(make_node: Callable[..., Node]) -> None:
    node = make_node(association_timeout_s=3600)
    with socket.create_connection(("127.0.0.1", node.port), timeout=30) as silent:
        wait_for(lambda: any("Acceptor" in thread.name for thread in threading.enumerate()), "the connection")
        node.scp.stop()
        assert silent.recv(1) == b""
    wait_for(lambda: not any("Acceptor" in thread.name for thread in threading.enumerate()), "its thread to end")


# ---------------------------------------------------------------- size


def archived(node: Node) -> list[Any]:
    node.intake.flush(30)
    return node.rows(InstanceRow)


def dataset_of(n_bytes: int) -> tuple[str, bytes]:
    ds = make_instance(PixelData=bytes(n_bytes))
    return ds.SOPInstanceUID, encode(ds)


def test_instance_that_is_too_large_is_refused_for_good_and_the_association_goes_on(
    make_node: Callable[..., Node],
) -> None:
    node = make_node(max_instance_mb=3)
    with RawSender(node.port) as sender:
        for n_bytes in (3 * MIB + 10, 5 * MIB):
            sop_instance_uid, dataset = dataset_of(n_bytes)
            sender.send_store(sop_instance_uid, dataset)
            response = sender.read_response()
            assert response.Status == CANNOT_UNDERSTAND
            assert "max_instance_mb" in response.ErrorComment
        sender.send_store(*dataset_of(3 * MIB - 10_000))
        assert sender.read_response().Status == SUCCESS
        sender.release()
    assert len(archived(node)) == 1
    assert node.rows(QuarantineRow) == []


def test_instance_that_never_ends_is_aborted_beyond_twice_the_limit(
    make_node: Callable[..., Node], capsys: pytest.CaptureFixture[str]
) -> None:
    node = make_node(max_instance_mb=1)
    piece = pdu(item(DATA, bytes(MIB // 4)))
    with RawSender(node.port) as sender:
        sender.send(pdu(item(COMMAND | LAST, store_request(generate_uid()))), *[piece] * 13)
        assert sender.is_aborted()
    wait_for(lambda: node.scp.open_associations == 0, "the end of the association")
    assert "more than 2 times 1 MB (listener.max_instance_mb)" in "".join(capsys.readouterr())
    assert archived(node) == []


# ---------------------------------------------------------------- pace


@pytest.mark.parametrize("where", ["in a command set", "in a data set"])
def test_peer_that_trickles_is_aborted_and_the_log_says_why(
    make_node: Callable[..., Node], where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    node = make_node(idle_timeout_s=0.6, min_bytes_per_s=100_000)
    sop_instance_uid, dataset = dataset_of(1_000_000)
    request = pdu(item(COMMAND | LAST, store_request(sop_instance_uid)))
    content = {
        "in a command set": request,
        "in a data set": b"".join(pdu(one) for one in items(DATA, dataset, 16_000)),
    }[where]
    with RawSender(node.port) as sender:
        stop = threading.Event()
        if where == "in a data set":
            sender.send(request)

        def trickle() -> None:
            for n in range(len(content)):
                try:
                    sender.send(content[n : n + 1])
                except OSError:
                    return
                if stop.wait(0.05):
                    return

        trickling = threading.Thread(target=trickle)
        trickling.start()
        try:
            assert sender.is_aborted()
        finally:
            stop.set()
            trickling.join()
    assert "(listener.min_bytes_per_s)" in "".join(capsys.readouterr())
    wait_for(lambda: node.scp.open_associations == 0, "the end of the association")
    assert archived(node) == []


def test_pause_between_messages_is_not_slowness(make_node: Callable[..., Node]) -> None:
    """Whole messages, however small and seldom, are for the idle timeout to judge."""
    node = make_node(idle_timeout_s=0.6, min_bytes_per_s=100_000)
    pause = threading.Event()
    with RawSender(node.port) as sender:
        for _ in range(8):
            sender.send(pdu(item(COMMAND | LAST, echo_request(), context_id=3)))
            assert sender.read_response().Status == SUCCESS
            pause.wait(0.2)
        sender.release()


class SlowSpool(Spool):
    """Takes long to make an instance durable."""

    def keep(self, *arguments: Any, **facts: Any) -> str:
        threading.Event().wait(1.0)
        return super().keep(*arguments, **facts)


def test_store_that_we_take_long_to_file_is_not_the_peers_slowness(
    make_node: Callable[..., Node], tmp_path: Path, database: Database
) -> None:
    intake = Intake(SlowSpool(tmp_path / "spool"), database, KEY)
    node = make_node(idle_timeout_s=0.3, min_bytes_per_s=10**9, intake=intake)  # a window shorter than filing takes
    with RawSender(node.port) as sender:
        for _ in range(2):
            sender.send_store(*dataset_of(1000))
            assert sender.read_response().Status == SUCCESS
        sender.release()


# ---------------------------------------------------------------- room on the disk


def test_low_disk_is_out_of_resources_before_it_is_full_and_passes_by_itself(
    make_node: Callable[..., Node], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = make_node(disk=DiskReserve(tmp_path, free_bytes(tmp_path) - MARGIN))
    with RawSender(node.port) as sender:

        def store() -> int:
            sender.send_store(*dataset_of(1000))
            response = sender.read_response()
            assert response.Status in (SUCCESS, OUT_OF_RESOURCES)
            if response.Status == OUT_OF_RESOURCES:
                assert response.ErrorComment == "Not stored: the disk of the receiver is low; send again later"
            return int(response.Status)

        assert store() == SUCCESS
        with occupied(tmp_path, 2 * MARGIN):
            wait_for(lambda: store() == OUT_OF_RESOURCES, "the disk to be noticed as low")
            assert [store() for _ in range(50)] == [OUT_OF_RESOURCES] * 50
            n_archived = len(archived(node))
        wait_for(lambda: store() == SUCCESS, "the disk to be noticed as having room")
        assert [store() for _ in range(50)] == [SUCCESS] * 50
        sender.release()
    assert len(archived(node)) == n_archived + 51
    told = warnings(capsys)
    assert len([line for line in told if "disk low" in line]) == 1
    assert len([line for line in told if "disk has room again" in line]) == 1
    assert not [line for line in told if "instance not stored" in line]


def test_large_store_that_runs_is_refused_when_half_of_the_reserve_is_gone(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    class SmallDisk(DiskReserve):
        """A disk that fills while a store runs."""

        def refusal(self, expected_bytes: int = 0) -> str | None:
            return None

    node = make_node(disk=SmallDisk(tmp_path, 4 * free_bytes(tmp_path)))
    with RawSender(node.port) as sender:
        sender.send_store(*dataset_of(8 * MIB))
        assert sender.read_response().Status == OUT_OF_RESOURCES
        sender.send_store(*dataset_of(MIB // 2))  # small ones that run are let through
        assert sender.read_response().Status == SUCCESS
        sender.release()
    assert len(archived(node)) == 1


# ---------------------------------------------------------------- fairness


def test_flood_of_one_peer_starves_no_other(
    make_node: Callable[..., Node], associate: Callable[..., Association]
) -> None:
    node = make_node(max_associations=6, max_associations_per_peer=4)
    stop = threading.Event()
    answered = [0] * 4

    def flood(n: int) -> None:
        sop_instance_uid, dataset = dataset_of(200_000)
        with RawSender(node.port, address="127.0.0.2") as sender:
            while not stop.is_set():
                sender.send_store(sop_instance_uid, dataset)
                assert sender.read_response().Status == SUCCESS
                answered[n] += 1
            sender.release()

    flooding = [threading.Thread(target=flood, args=(n,)) for n in range(4)]
    for thread in flooding:
        thread.start()
    try:
        wait_for(lambda: all(answered), "the flood")
        assert rejection(associate(node.port, "127.0.0.2")) == LOCAL_LIMIT_EXCEEDED
        victim = associate(node.port, "127.0.0.3")
        before = list(answered)
        for _ in range(20):
            assert victim.send_c_echo().Status == SUCCESS
            assert victim.send_c_store(make_instance()).Status == SUCCESS
        wait_for(lambda: all(n > m for n, m in zip(answered, before, strict=True)), "the flood to go on meanwhile")
        assert all(thread.is_alive() for thread in flooding)
        victim.release()
    finally:
        stop.set()
        for thread in flooding:
            thread.join(30)
    assert not any(thread.is_alive() for thread in flooding)


def test_flood_that_the_database_cannot_keep_up_with_waits_and_nobody_is_refused(
    make_node: Callable[..., Node], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrar, "MANY_WAITING", 20)
    monkeypatch.setattr(registrar, "MOST_WAITING", 30)
    monkeypatch.setattr(registrar, "PATIENCE_S", 60.0)
    node = make_node()
    statuses: list[list[int]] = [[] for _ in range(4)]

    def flood(answered: list[int]) -> None:
        with RawSender(node.port) as sender:
            for _ in range(20):
                sender.send_store(*dataset_of(100))
                answered.append(sender.read_response().Status)
            sender.release()

    flooding = [threading.Thread(target=flood, args=(answered,)) for answered in statuses]
    with database.transaction() as session:
        session.execute(update(InstanceRow).values(size_bytes=0))  # nobody else can write now
        for thread in flooding:
            thread.start()
        wait_for(lambda: sum(map(len, statuses)) >= 20, "as many answers as may wait for their rows")
        assert all(thread.is_alive() for thread in flooding)
    for thread in flooding:
        thread.join(60)
    assert statuses == [[SUCCESS] * 20] * 4
    assert len(archived(node)) == 80


def test_import_leaves_the_reserve_of_the_disk_alone(make_node: Callable[..., Node], tmp_path: Path) -> None:
    node = make_node()
    ds = make_instance()
    path = tmp_path / "one.dcm"
    ds.save_as(path, enforce_file_format=True)
    found = os.statvfs(tmp_path)
    with pytest.raises(DiskLow, match=r"spool\.disk_reserve_mb"):
        list(import_files([path], node.intake, DiskReserve(tmp_path, found.f_blocks * found.f_frsize)))
    (imported,) = import_files([path], node.intake, DiskReserve(tmp_path, 0))
    assert imported.outcome is ImportOutcome.STORED
