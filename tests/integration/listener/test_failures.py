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

from iap_node.database.tables import InstanceRow, QuarantineRow
from tests.integration.listener.conftest import Node, Sender, encode, make_instance


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


@pytest.mark.parametrize("failing_sync", [0, 1])
def test_full_disk_is_out_of_resources_and_leaves_nothing_behind(
    node: Node, connect: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch, failing_sync: int
) -> None:
    sender = connect(node.port)
    first, second = make_instance(), make_instance()
    assert sender.store_instance(first).Status == 0x0000  # the directories stand
    files = node.files()
    fsync, calls = os.fsync, iter(range(1000))

    def full(handle: int) -> None:
        if next(calls) == failing_sync:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert_says_send_again(sender.store_instance(second))
    assert node.files() == files
    assert len(node.rows(InstanceRow)) == 1
    assert sender.store_instance(second).Status == 0x0000  # the association goes on, and there is room again
    assert len(node.rows(InstanceRow)) == 2


def test_full_disk_while_quarantining_is_out_of_resources(
    node: Node, connect: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = connect(node.port)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert_says_send_again(sender.store(b"\x08\x00", "1.2.3"))
    monkeypatch.undo()
    assert node.nothing_is_left()


def test_unreachable_database_is_out_of_resources_and_leaves_nothing_behind(
    node: Node, connect: Callable[..., Sender]
) -> None:
    sender = connect(node.port)
    ds = make_instance()
    with unreachable(node):
        assert_says_send_again(sender.store_instance(ds))
    assert node.nothing_is_left()
    assert sender.store_instance(ds).Status == 0x0000
    assert node.stored_dataset(ds.SOPInstanceUID) == (ExplicitVRLittleEndian, encode(ds))


def test_unreachable_database_while_quarantining_leaves_nothing_behind(
    node: Node, connect: Callable[..., Sender]
) -> None:
    sender = connect(node.port)
    with unreachable(node):
        assert_says_send_again(sender.store(b"\x08\x00", "1.2.3"))
    assert node.nothing_is_left()
    assert sender.store(b"\x08\x00", "1.2.3").Status == 0xC000
    assert len(node.rows(QuarantineRow)) == 1


def test_commit_that_fails_leaves_nothing_behind(node: Node, connect: Callable[..., Sender]) -> None:
    sender = connect(node.port)
    ds = make_instance()
    lost = node.database.engine.dialect.loaded_dbapi.OperationalError
    outcome = iter([lost("disk I/O error")])

    def fail_once() -> None:
        for error in outcome:
            raise error

    with commits(node, before=fail_once, after=nothing):
        assert_says_send_again(sender.store_instance(ds))
    assert node.nothing_is_left()
    assert sender.store_instance(ds).Status == 0x0000


def test_connection_lost_after_the_commit_took_place_is_success(
    node: Node, connect: Callable[..., Sender]
) -> None:
    sender = connect(node.port)
    ds = make_instance()
    lost = node.database.engine.dialect.loaded_dbapi.OperationalError
    outcome = iter([lost("server closed the connection unexpectedly")])

    def fail_once() -> None:
        for error in outcome:
            raise error

    with commits(node, before=nothing, after=fail_once):
        assert sender.store_instance(ds).Status == 0x0000
    assert node.stored_dataset(ds.SOPInstanceUID) == (ExplicitVRLittleEndian, encode(ds))


def test_file_is_kept_while_nobody_can_say_whether_its_row_was_committed(
    node: Node, connect: Callable[..., Sender]
) -> None:
    """Removing it would make the second try a duplicate of nothing."""
    sender = connect(node.port)
    ds = make_instance()
    lost = node.database.engine.dialect.loaded_dbapi.OperationalError

    def fail_always() -> None:
        raise lost("server closed the connection unexpectedly")

    with commits(node, before=nothing, after=fail_always):
        assert_says_send_again(sender.store_instance(ds))
    assert len(node.files()) == 1
    assert sender.store_instance(ds).Status == 0x0000
    assert len(node.files()) == 1
    assert node.stored_dataset(ds.SOPInstanceUID) == (ExplicitVRLittleEndian, encode(ds))


def test_unexpected_error_is_a_processing_failure_and_the_association_goes_on(
    node: Node, connect: Callable[..., Sender], capsys: pytest.CaptureFixture[str]
) -> None:
    sender = connect(node.port)
    ds = make_instance()

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("Secret^Person")

    event.listen(node.database.engine, "begin", fail)
    status = sender.store_instance(ds)
    event.remove(node.database.engine, "begin", fail)
    assert status.Status == 0x0110
    assert "send again" in status.ErrorComment
    shown = "".join(capsys.readouterr())
    assert "ZeroDivisionError at" in shown
    assert str(ds.SOPInstanceUID) in shown
    assert "Secret" not in shown
    assert node.nothing_is_left()
    assert sender.store_instance(ds).Status == 0x0000
