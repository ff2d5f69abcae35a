"""Several listener processes on one port: they share the work and the limits, and each may die without the others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from sqlalchemy import func, select

from iap_node.database.tables import InstanceRow
from iap_node.listener.address import read_port
from tests.acceptance.conftest import RunningNode, wait_for
from tests.integration.listener.conftest import encode, make_instance
from tests.integration.listener.wire import COMMAND, DATA, LAST, RawSender, item, items, pdu, store_request

SOCKET_BYTES = 48 * 1024**2  # above the sum of both buffers of a loopback connection (tcp_rmem, tcp_wmem)
FRAGMENT_BYTES = 60_000
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)  # result, source, reason: PS3.8 Table 9-21


class Listener(RunningNode):
    """A node of which only `iap-node listen` runs."""

    def start(self) -> None:
        assert self.command("init").returncode == 0
        with self.log_path.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "iap_node", "listen", "--config", str(self.config_path)],
                stdout=stream,
                stderr=stream,
            )
        wait_for(self.port_or_none, "the listener's port")

    def terminate(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def exit_code(self) -> int:
        assert self._process is not None
        return self._process.wait(60)

    def associations_of(self) -> Counter[str]:
        """How many associations each process has accepted so far."""
        return Counter(event["role"] for event in self.events("association established"))


@pytest.fixture
def make_listener(tmp_path: Path) -> Iterator[Callable[..., Listener]]:
    started: list[Listener] = []

    def make(**listener: Any) -> Listener:
        node = Listener(tmp_path, {"listener": {"processes": 2, **listener}, "spool": {"prepared_mb": 0}})
        started.append(node)
        node.start()
        return node

    yield make
    for node in started:
        node.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., Association]]:
    opened: list[Association] = []

    def associate(port: int) -> Association:
        ae = AE(ae_title="SCANNER")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
        contexts = [build_context(MRImageStorage, ExplicitVRLittleEndian)]
        opened.append(ae.associate("127.0.0.1", port, contexts=contexts, ae_title="IAP_NODE"))
        return opened[-1]

    yield associate
    for assoc in opened:
        if assoc.is_established:
            assoc.abort()


def store(assoc: Association) -> int:
    return int(assoc.send_c_store(make_instance()).Status)


def n_rows(node: Listener) -> int:
    database = node.database()
    with database.reading() as session:
        n_rows = session.scalar(select(func.count()).select_from(InstanceRow)) or 0
    database.dispose()
    return n_rows


def test_associations_are_spread_over_the_processes_and_their_instances_archived(
    make_listener: Callable[..., Listener], connect: Callable[..., Association]
) -> None:
    node = make_listener()
    wait_for(lambda: len(node.events("listening")) == 2, "both processes to listen")
    senders = [connect(node.port) for _ in range(8)]
    assert [store(sender) for sender in senders for _ in range(3)] == [0x0000] * 24
    assert set(node.associations_of()) == {"listen-1", "listen-2"}
    for sender in senders:
        sender.release()
    node.terminate()
    assert node.exit_code() == 0
    wait_for(lambda: n_rows(node) == 24, "the rows")
    assert node.events("stopped listening")[-1]["n_aborted_associations"] == 0


def test_limit_of_associations_holds_over_all_processes(
    make_listener: Callable[..., Listener], connect: Callable[..., Association]
) -> None:
    node = make_listener(max_associations=3)
    wait_for(lambda: len(node.events("listening")) == 2, "both processes to listen")
    first, *_ = [connect(node.port) for _ in range(3)]
    for _ in range(6):  # whichever process accepts it
        beyond = connect(node.port)
        assert beyond.is_rejected
        answer = beyond.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == LOCAL_LIMIT_EXCEEDED
    first.release()
    wait_for(lambda: connect(node.port).is_established, "room for another association")


def test_process_that_is_killed_is_started_again_and_takes_no_place_with_it(
    make_listener: Callable[..., Listener], connect: Callable[..., Association]
) -> None:
    node = make_listener(max_associations=6)
    wait_for(lambda: len(node.events("listening")) == 2, "both processes to listen")
    port = node.port
    senders = [connect(port) for _ in range(6)]
    before = node.associations_of()
    assert set(before) == {"listen-1", "listen-2"}
    os.kill(node.role_pid("listen-1"), signal.SIGKILL)
    wait_for(lambda: sum(not sender.is_established for sender in senders) == before["listen-1"], "their end")
    undisturbed = [sender for sender in senders if sender.is_established]
    assert [store(sender) for sender in undisturbed] == [0x0000] * before["listen-2"]
    wait_for(lambda: len(node.events("listening")) == 3, "a new process")
    assert node.port == port
    new = [connect(port) for _ in range(before["listen-1"])]
    assert [store(sender) for sender in new] == [0x0000] * before["listen-1"]
    assert connect(port).is_rejected
    wait_for(lambda: n_rows(node) == 6, "the rows")


def test_processes_end_when_the_one_that_started_them_is_killed(make_listener: Callable[..., Listener]) -> None:
    node = make_listener()
    wait_for(lambda: len(node.events("listening")) == 2, "both processes to listen")
    port, pids = node.port, [node.role_pid(f"listen-{number}") for number in (1, 2)]
    node.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the orphans to end")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_running_store_is_finished_and_no_connection_accepted_when_all_are_stopped(
    make_listener: Callable[..., Listener],
) -> None:
    node = make_listener()
    # More than a connection can hold on its way: whoever has sent it knows that the listener reads it.
    ds = make_instance(PixelData=bytes(SOCKET_BYTES))
    *fragments, last = items(DATA, encode(ds), FRAGMENT_BYTES)

    def is_refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return True
        return False

    port = node.port
    with RawSender(port) as sender:
        sender.send(pdu(item(COMMAND | LAST, store_request(ds.SOPInstanceUID))), *map(pdu, fragments))
        node.terminate()
        wait_for(is_refused, "the port to close")
        sender.send(pdu(last))
        assert sender.read_response().Status == 0x0000
        assert sender.is_aborted()
    assert node.exit_code() == 0
    wait_for(lambda: n_rows(node) == 1, "the rows")
    assert read_port(node.config.data_dir) is None


def test_second_node_on_the_same_port_is_told_so(make_listener: Callable[..., Listener], tmp_path: Path) -> None:
    node = make_listener()
    second = tmp_path / "second"
    second.mkdir()
    other = Listener(second, {"listener": {"processes": 2, "port": node.port}})
    assert other.command("init").returncode == 0
    refused = other.command("listen")
    assert refused.returncode != 0
    assert "set listener.port to another one" in refused.stderr
