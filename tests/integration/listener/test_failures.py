"""When disk or database fail: a status that says so, nothing left behind, nothing acknowledged lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import event

from iap_node.database.tables import ConflictRow, InstanceRow, QuarantineRow
from iap_node.listener import intake, registrar
from iap_node.listener.recovery import recover
from tests.integration.listener.conftest import (
    WAIT_S,
    Node,
    Sender,
    crash,
    encode,
    make_instance,
    split_part10,
    wait_for,
)


@contextmanager
def unreachable(node: Node) -> Iterator[None]:
    """No transaction begins."""
    engine = node.database.engine
    lost = engine.dialect.loaded_dbapi.OperationalError

    def refuse(*_: Any) -> None:
        raise lost("server closed the connection unexpectedly")

    original = engine.dialect.do_execute
    engine.dialect.do_execute = refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        engine.dialect.do_execute = original  # type: ignore[method-assign]


@contextmanager
def commits(node: Node, before: Callable[[], None], after: Callable[[], None]) -> Iterator[None]:
    """Something happens around each COMMIT."""
    dialect = node.database.engine.dialect
    original = dialect.do_commit

    def commit(connection: Any) -> None:
        before()
        original(connection)
        after()

    dialect.do_commit = commit  # type: ignore[method-assign]
    try:
        yield
    finally:
        dialect.do_commit = original  # type: ignore[method-assign]


def nothing() -> None:
    return


def assert_says_send_again(status: Any) -> None:
    assert status.Status == 0xA700
    assert "send again" in status.ErrorComment
    assert len(status.ErrorComment) <= 64


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_disk_that_is_full_or_fails_is_out_of_resources_and_leaves_nothing_behind(
    node: Node, connect: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    sender = connect(node.port)
    first, second = make_instance(), make_instance()
    assert sender.store_instance(first).Status == 0x0000
    files = node.files()

    def failing(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", failing)
        assert_says_send_again(sender.store_instance(second))
    assert node.files() == files
    assert len(node.rows(InstanceRow)) == 1
    assert sender.store_instance(second).Status == 0x0000  # the association goes on, and there is room again
    assert len(node.rows(InstanceRow)) == 2


@pytest.mark.parametrize("failing_sync", range(5))
def test_disk_that_fails_for_a_large_instance_leaves_nothing_behind(
    node: Node, connect: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch, failing_sync: int
) -> None:
    sender = connect(node.port)
    assert sender.store_instance(make_instance()).Status == 0x0000
    files = node.files()
    ds = make_instance(Rows=2048, Columns=2048, PixelData=bytes(2 * 2048 * 2048))
    fsync, calls = os.fsync, iter(range(1000))

    def failing_fsync(handle: int) -> None:
        if next(calls) == failing_sync:
            raise OSError(errno.EIO, "Input/output error")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_fsync)
        assert_says_send_again(sender.store_instance(ds))
    assert node.files() == files
    assert sender.store_instance(ds).Status == 0x0000
    assert node.stored_dataset(ds.SOPInstanceUID) == (ExplicitVRLittleEndian, encode(ds))


def test_note_of_a_large_instance_that_cannot_be_written_leaves_nothing_behind(
    node: Node, connect: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = connect(node.port)
    ds = make_instance(Rows=2048, Columns=2048, PixelData=bytes(2 * 2048 * 2048))

    def failing(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", failing)
        assert_says_send_again(sender.store_instance(ds))
    assert node.nothing_is_left()
    assert sender.store_instance(ds).Status == 0x0000


def test_full_disk_while_quarantining_is_out_of_resources(
    node: Node, connect: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = connect(node.port)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert_says_send_again(sender.store(b"\x08\x00", "1.2.3"))
    assert node.nothing_is_left()


def test_database_that_is_away_is_out_of_resources_and_what_was_acknowledged_gets_its_row(
    node: Node, connect: Callable[..., Sender]
) -> None:
    """Nobody knows that a database is away before it is asked: until then stores are acknowledged, and kept."""
    sender = connect(node.port)
    acknowledged, refused = [], None
    with unreachable(node):
        while refused is None:
            ds = make_instance()
            status = sender.store_instance(ds)
            if status.Status == 0x0000:
                acknowledged.append(ds)
                assert len(acknowledged) < 1000
            else:
                assert_says_send_again(status)
                refused = ds
    wait_for(lambda: sender.store_instance(refused).Status == 0x0000, "the database to be noticed again")
    for ds in [*acknowledged, refused]:
        assert node.stored_dataset(ds.SOPInstanceUID) == (ExplicitVRLittleEndian, encode(ds))
    assert len(node.rows(InstanceRow)) == len(node.files()) == len(acknowledged) + 1


def test_database_that_is_away_until_the_listener_stops_loses_nothing(
    node: Node, connect: Callable[..., Sender], make_node: Callable[..., Node]
) -> None:
    sender = connect(node.port)
    ds = make_instance()
    with unreachable(node):
        assert sender.store_instance(ds).Status == 0x0000
        node.scp.stop()
        node.intake.close(0.1)
        crash(node)
    again = make_node(start=False)
    assert recover(again.spool, again.database, again.intake).filed == 1
    assert node.stored_dataset(ds.SOPInstanceUID) == (ExplicitVRLittleEndian, encode(ds))


def test_closed_intake_says_at_once_whether_rows_are_left(node: Node, connect: Callable[..., Sender]) -> None:
    assert connect(node.port).store_instance(make_instance()).Status == 0x0000
    node.intake.close(WAIT_S)
    assert node.intake.flush() is True
    node.intake.close(WAIT_S)


def test_unreachable_database_while_quarantining_leaves_nothing_behind(
    node: Node, connect: Callable[..., Sender]
) -> None:
    sender = connect(node.port)
    with unreachable(node):
        assert_says_send_again(sender.store(b"\x08\x00", "1.2.3"))
    assert node.nothing_is_left()
    assert sender.store(b"\x08\x00", "1.2.3").Status == 0xC000
    assert len(node.rows(QuarantineRow)) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_commit_that_fails_or_is_not_heard_of_is_tried_again_and_files_once(
    node: Node, connect: Callable[..., Sender], when: str
) -> None:
    sender = connect(node.port)
    ds = make_instance()
    lost = node.database.engine.dialect.loaded_dbapi.OperationalError
    outcome = iter([lost("server closed the connection unexpectedly")])

    def fail_once() -> None:
        for error in outcome:
            raise error

    with commits(node, **({"before": nothing, "after": nothing} | {when: fail_once})):
        assert sender.store_instance(ds).Status == 0x0000
        node.intake.flush(WAIT_S)
    assert len(node.rows(InstanceRow)) == len(node.files()) == 1
    assert node.rows(ConflictRow) == []
    assert node.stored_dataset(ds.SOPInstanceUID) == (ExplicitVRLittleEndian, encode(ds))


def test_instance_that_the_archive_cannot_take_is_quarantined_and_the_others_get_their_rows(
    node: Node, connect: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = connect(node.port)
    instances = [make_instance() for _ in range(5)]
    odd = instances[2].SOPInstanceUID
    record = registrar.record_instances

    def record_but_one(session: Any, arrivals: Any, compare: Any) -> Any:
        if any(arrival.received.header.sop_instance_uid == odd for arrival in arrivals):
            raise ZeroDivisionError("Secret^Person")
        return record(session, arrivals, compare)

    monkeypatch.setattr(registrar, "record_instances", record_but_one)
    for ds in instances:
        assert sender.store_instance(ds).Status == 0x0000
    assert {row.sop_instance_uid for row in node.rows(InstanceRow)} == {ds.SOPInstanceUID for ds in instances} - {odd}
    (quarantined,) = node.rows(QuarantineRow)
    assert quarantined.sop_instance_uid == odd
    assert "ZeroDivisionError" in quarantined.reason and "Secret" not in quarantined.reason
    assert split_part10(node.content(quarantined.spool_path)) == (ExplicitVRLittleEndian, encode(instances[2]))


def test_unexpected_error_of_the_database_makes_rows_wait_and_tells_nothing_of_patients(
    node: Node, connect: Callable[..., Sender], capsys: pytest.CaptureFixture[str]
) -> None:
    sender = connect(node.port)
    ds = make_instance()

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("Secret^Person")

    event.listen(node.database.engine, "begin", fail)
    assert sender.store_instance(ds).Status == 0x0000
    wait_for(lambda: sender.store_instance(make_instance()).Status == 0xA700, "the fault to be noticed")
    event.remove(node.database.engine, "begin", fail)
    assert ds.SOPInstanceUID in {row.sop_instance_uid for row in node.rows(InstanceRow)}
    shown = "".join(capsys.readouterr())
    assert "ZeroDivisionError at" in shown
    assert "Secret" not in shown


def test_unexpected_error_of_our_own_is_a_processing_failure_and_the_association_goes_on(
    node: Node, connect: Callable[..., Sender], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = connect(node.port)
    ds = make_instance()

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("Secret^Person")

    with monkeypatch.context() as patch:
        patch.setattr(intake, "why_not_analysed", fail)
        status = sender.store_instance(ds)
    assert status.Status == 0x0110
    assert "send again" in status.ErrorComment
    shown = "".join(capsys.readouterr())
    assert "ZeroDivisionError at" in shown
    assert str(ds.SOPInstanceUID) in shown
    assert "Secret" not in shown
    assert sender.store_instance(ds).Status == 0x0000
    assert len(node.rows(InstanceRow)) == len(node.files()) == 1
