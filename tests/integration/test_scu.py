"""Associations that the node requests, with a pynetdicom peer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pynetdicom import build_context

from iap_node.scu import association
from tests.integration.conftest import Peer

VERIFICATION = "1.2.840.10008.1.1"


@pytest.fixture
def peer() -> Iterator[Peer]:
    one = Peer(sop_classes=())
    one.start()
    yield one
    one.stop()


class Straggler(threading.Event):
    """A checkpoint behind which the thread that passes it loses the processor until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.set()
        self.passed, self.go_on, self.came_back = threading.Event(), threading.Event(), threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        if self.passed.is_set():
            self.came_back.set()
        answer = super().wait(timeout)
        if not self.passed.is_set():
            self.passed.set()
            self.go_on.wait(30)
        return answer


def test_answer_is_heard_by_who_asked_however_the_threads_of_pynetdicom_run(peer: Peer) -> None:
    """pynetdicom's thread says that it is paused before it is: the answer may come while it still believes to go on."""
    with association([build_context(VERIFICATION)], peer.config(timeout_s=5)) as assoc:
        checkpoint = Straggler()
        assoc._reactor_checkpoint = checkpoint
        assert checkpoint.passed.wait(30)
        take = assoc.dimse.get_msg

        def get_msg(block: bool = False) -> Any:
            if block:
                while not assoc.dimse.msg_queue.qsize():
                    assert assoc.is_established
                checkpoint.go_on.set()
                assert checkpoint.came_back.wait(30)
            return take(block)

        assoc.dimse.get_msg = get_msg  # type: ignore[method-assign]
        assert assoc.send_c_echo().get("Status") == 0x0000
