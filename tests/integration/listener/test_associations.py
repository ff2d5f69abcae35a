"""Who may associate, how many at once, how long, and how a listener starts and stops."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iap_node.config import ListenerConfig
from iap_node.database.engine import Database
from iap_node.database.tables import InstanceRow
from iap_node.errors import ConfigError
from iap_node.listener.intake import Intake
from iap_node.listener.reception import Reception
from iap_node.listener.scp import StoreScp
from iap_node.records import ReceivedInstance
from iap_node.spool import Spool
from tests.integration.listener.conftest import KEY, Node, Sender, make_instance, wait_for

TRANSIENT, PERMANENT = 2, 1
SERVICE_USER, PRESENTATION = 1, 3


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    """Nothing here depends on which database it is."""
    path = tmp_path / "node.sqlite"
    shutil.copyfile(migrated_sqlite, path)
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.dispose()


class WaitingIntake(Intake):
    """Files when told to, so that a store can be caught in flight."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def accept(self, reception: Reception) -> ReceivedInstance:
        self.entered.set()
        assert self.go_on.wait(60)
        return super().accept(reception)


@pytest.fixture
def waiting_intake(tmp_path: Path, database: Database) -> Iterator[WaitingIntake]:
    intake = WaitingIntake(Spool(tmp_path / "spool"), database, KEY)
    yield intake
    intake.go_on.set()


def rejection(sender: Sender) -> tuple[int, int, int]:
    """Result, source and reason of the A-ASSOCIATE-RJ."""
    assert sender.assoc.is_rejected
    answer = sender.assoc.acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


# ---------------------------------------------------------------- who


def test_c_echo_is_answered(node: Node, connect: Callable[..., Sender]) -> None:
    sender = connect(node.port, [("1.2.840.10008.1.1", "1.2.840.10008.1.2")])
    assert sender.assoc.send_c_echo().Status == 0x0000


def test_calling_ae_title_that_is_not_on_the_list_is_rejected_as_such(
    make_node: Callable[..., Node], connect: Callable[..., Sender]
) -> None:
    node = make_node(calling_ae_titles=["SCANNER"])
    assert rejection(connect(node.port, calling_ae_title="STRANGER")) == (PERMANENT, SERVICE_USER, 3)
    assert connect(node.port, calling_ae_title="SCANNER").assoc.is_established


def test_called_ae_title_is_checked_when_asked_for(
    make_node: Callable[..., Node], connect: Callable[..., Sender]
) -> None:
    node = make_node(require_called_ae_title=True)
    assert rejection(connect(node.port, called_ae_title="OTHER")) == (PERMANENT, SERVICE_USER, 7)
    assert connect(node.port, called_ae_title="IAP_NODE").assoc.is_established


def test_address_that_is_not_on_the_list_is_rejected(
    make_node: Callable[..., Node], connect: Callable[..., Sender], capsys: pytest.CaptureFixture[str]
) -> None:
    node = make_node(addresses=["192.0.2.0/24"], calling_ae_titles=["SCANNER"])
    assert rejection(connect(node.port)) == (PERMANENT, SERVICE_USER, 1)
    assert "listener.addresses" in "".join(capsys.readouterr())


# ---------------------------------------------------------------- how many, how long


def test_association_beyond_the_limit_is_rejected_and_may_come_again(
    make_node: Callable[..., Node], connect: Callable[..., Sender]
) -> None:
    node = make_node(max_associations=2)
    first, _ = connect(node.port), connect(node.port)
    assert rejection(connect(node.port)) == (TRANSIENT, PRESENTATION, 2)
    first.assoc.release()
    wait_for(lambda: connect(node.port).assoc.is_established, "room for another association")


def test_idle_association_is_aborted(make_node: Callable[..., Node], connect: Callable[..., Sender]) -> None:
    node = make_node(idle_timeout_s=0.3)
    sender = connect(node.port)
    wait_for(lambda: sender.assoc.is_aborted, "the abort")
    wait_for(lambda: node.scp.open_associations == 0, "the end of the association")


def test_slow_store_is_no_idleness(
    make_node: Callable[..., Node], connect: Callable[..., Sender], waiting_intake: WaitingIntake
) -> None:
    node = make_node(idle_timeout_s=0.5, intake=waiting_intake)
    sender = connect(node.port)
    timer = threading.Timer(1.0, waiting_intake.go_on.set)  # longer than the idle timeout
    timer.start()
    assert sender.store_instance(make_instance()).Status == 0x0000
    assert sender.store_instance(make_instance()).Status == 0x0000


@pytest.mark.parametrize("first_bytes", [b"", b"\x01", b"\x01\x00\x00\x00\x04\x00half a request"])
def test_connection_that_never_says_what_it_wants_is_closed(
    make_node: Callable[..., Node], connect: Callable[..., Sender], first_bytes: bytes
) -> None:
    node = make_node(association_timeout_s=0.3, idle_timeout_s=0.3)
    with socket.create_connection(("127.0.0.1", node.port), timeout=30) as peer:
        peer.sendall(first_bytes)
        assert peer.recv(1) in (b"", b"\x07")  # closed, or A-ABORT first
    assert connect(node.port).assoc.is_established


def test_answers_are_not_delayed_by_nagle(node: Node, connect: Callable[..., Sender]) -> None:
    connect(node.port)
    assert node.scp._server is not None
    (assoc,) = node.scp._server.active_associations
    assert assoc.dul.socket is not None
    assert assoc.dul.socket.socket is not None
    assert assoc.dul.socket.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_announced_maximum_pdu_is_the_configured_one(
    make_node: Callable[..., Node], connect: Callable[..., Sender]
) -> None:
    node = make_node(max_pdu_bytes=65536)
    assert connect(node.port).assoc.acceptor.maximum_length == 65536


# ---------------------------------------------------------------- start and stop


def test_listener_is_bound_to_loopback_by_default(node: Node) -> None:
    assert node.scp._server is not None
    assert node.scp._server.server_address[0] == "127.0.0.1"


def test_port_in_use_is_an_error_that_names_port_and_remedy(make_node: Callable[..., Node]) -> None:
    node = make_node()
    other = make_node(start=False, port=node.port)
    with pytest.raises(ConfigError, match=rf"port {node.port}: something else.*listener\.port"):
        other.scp.start()


def test_address_of_another_machine_is_an_error_that_names_the_key(make_node: Callable[..., Node]) -> None:
    node = make_node(start=False, bind="192.0.2.1")
    with pytest.raises(ConfigError, match=r"listener\.bind"):
        node.scp.start()


def test_running_store_is_finished_before_the_listener_stops(
    make_node: Callable[..., Node], connect: Callable[..., Sender], waiting_intake: WaitingIntake
) -> None:
    node = make_node(intake=waiting_intake)
    port, sender, ds = node.port, connect(node.port), make_instance()
    statuses: list[int] = []
    storing = threading.Thread(target=lambda: statuses.append(sender.store_instance(ds).Status))
    storing.start()
    assert waiting_intake.entered.wait(30)
    stopping = threading.Thread(target=node.scp.stop)
    stopping.start()
    wait_for(lambda: not can_connect(port), "the port to be closed")
    assert stopping.is_alive()
    waiting_intake.go_on.set()
    storing.join(30)
    stopping.join(30)
    assert statuses == [0x0000]
    assert [row.sop_instance_uid for row in node.rows(InstanceRow)] == [ds.SOPInstanceUID]
    wait_for(lambda: sender.assoc.is_aborted, "the end of the association")
    assert node.scp.open_associations == 0


def test_sender_that_goes_on_and_on_does_not_keep_the_listener_from_stopping(
    make_node: Callable[..., Node], connect: Callable[..., Sender]
) -> None:
    node = make_node(stop_timeout_s=1000)
    sender, acknowledged = connect(node.port), []
    sender.assoc.dimse_timeout = 3  # so long pynetdicom's requestor may sit on an A-ABORT that comes while it sends

    def send_on_and_on() -> None:
        while sender.assoc.is_established:
            ds = make_instance()
            try:
                if sender.store_instance(ds).get("Status") == 0x0000:
                    acknowledged.append(str(ds.SOPInstanceUID))
            except (ValueError, AssertionError, RuntimeError):
                return

    sending = threading.Thread(target=send_on_and_on, daemon=True)
    sending.start()
    wait_for(lambda: len(acknowledged) > 3, "some instances")
    stopping = threading.Thread(target=node.scp.stop, daemon=True)
    stopping.start()
    wait_for(lambda: not stopping.is_alive(), "the listener to stop")
    wait_for(lambda: sender.assoc.is_aborted, "the abort")
    filed = {row.sop_instance_uid for row in node.rows(InstanceRow)}
    assert set(acknowledged) <= filed


def test_store_that_does_not_finish_in_time_is_cut_off(
    make_node: Callable[..., Node], connect: Callable[..., Sender], waiting_intake: WaitingIntake
) -> None:
    node = make_node(intake=waiting_intake, stop_timeout_s=0.2)
    sender = connect(node.port)
    statuses: list[Any] = []
    storing = threading.Thread(target=lambda: statuses.append(sender.store_instance(make_instance())))
    storing.start()
    assert waiting_intake.entered.wait(30)
    node.scp.stop()
    storing.join(30)
    assert "Status" not in statuses[0]  # no answer: the sender knows that it has to send again


def test_stopping_twice_or_before_the_start_does_nothing(make_node: Callable[..., Node]) -> None:
    node = make_node(start=False)
    node.scp.stop()
    node.scp.start()
    node.scp.stop()
    node.scp.stop()
    with pytest.raises(RuntimeError):
        _ = node.port


def test_listener_that_stopped_leaves_its_port_to_the_next(
    make_node: Callable[..., Node], connect: Callable[..., Sender]
) -> None:
    node = make_node()
    port = node.port
    connect(port)
    node.scp.stop()
    successor = StoreScp(ListenerConfig(port=port), node.intake)
    successor.start()
    try:
        assert connect(port).store_instance(make_instance()).Status == 0x0000
    finally:
        successor.stop()


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
