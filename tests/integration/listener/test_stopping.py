"""A listener stops while associations stand: they end, and no thread of ours breaks down."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from tests.integration.listener.conftest import Node
from tests.integration.listener.wire import RawSender


def test_no_thread_breaks_down_when_standing_associations_are_aborted(
    make_node: Callable[..., Node], caplog: pytest.LogCaptureFixture
) -> None:
    node = make_node(stop_timeout_s=0.2)
    senders = [RawSender(node.port) for _ in range(8)]
    with caplog.at_level(logging.ERROR, logger="pynetdicom"):
        node.scp.stop()
    assert node.scp.open_associations == 0
    assert [record.getMessage() for record in caplog.records] == []
    for sender in senders:
        sender.socket.close()
