"""DELIVER jobs against real C-STORE SCPs: what is sent again, what is given up, what becomes of the job."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from pynetdicom import evt
from pynetdicom.sop_class import MRImageStorage, RawDataStorage

from iap_node.database.tables import DeliveryState
from iap_node.records import JobKind, JobState
from iap_node.worker.deliver import DeliverHandler
from iap_node.worker.loop import run_once


@pytest.fixture
def routed(make_node, scripted, write_instance) -> Callable[..., Any]:
    """Factory: a node whose series of `n` images and a raw data object waits for its destination."""

    def make(port: int, ae_title: str = "PEER", n: int = 4) -> Any:
        peer = {"ae_title": ae_title, "host": "127.0.0.1", "port": port, "timeout_s": 5}
        node = make_node(destinations={"lesions": peer, "people": peer})
        node.complete([*[write_instance() for _ in range(n)], write_instance(RawDataStorage)])
        node.infer(scripted())
        return node

    return make


def deliver(node: Any) -> bool:
    handler = DeliverHandler(node.database, node.spool, node.config)
    return run_once(JobKind.DELIVER, handler, node.database, node.config.jobs, "test:deliver")


def deliver_until_over(node: Any, wait_for: Callable[..., Any]) -> None:
    """Turns of a worker until the job is neither ready nor leased; back-off is a millisecond here."""

    def over() -> bool:
        deliver(node)
        return node.job(JobKind.DELIVER).state in (JobState.DONE, JobState.DEAD)

    wait_for(over, "the end of the job")


def test_whole_series_is_delivered_with_what_was_not_analysed(start_peer, routed) -> None:
    peer = start_peer()
    node = routed(peer.port)
    assert deliver(node)
    assert set(peer.uids()) == set(node.instance_ids())
    assert len(peer.uids()) == 5
    assert node.job(JobKind.DELIVER).state is JobState.DONE
    assert [item.state for item in node.series().deliveries] == [DeliveryState.DELIVERED]
    assert not deliver(node)


def test_only_instances_that_failed_are_sent_again(start_peer, routed, wait_for) -> None:
    refused: list[str] = []

    def answer(event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if len(peer.received) in (2, 4):
            refused.append(uid)
            return 0xA700
        return 0x0000

    peer = start_peer(answer=answer)
    node = routed(peer.port)
    deliver_until_over(node, wait_for)
    job = node.job(JobKind.DELIVER)
    assert (job.state, job.attempts) == (JobState.DONE, 2)
    assert peer.uids()[5:] == refused
    assert len(refused) == 2


def test_warning_counts_as_stored(start_peer, routed) -> None:
    peer = start_peer(answer=lambda _: 0xB000)
    node = routed(peer.port)
    deliver(node)
    assert node.job(JobKind.DELIVER).state is JobState.DONE
    assert len(peer.received) == 5


def test_association_that_breaks_over_one_instance_costs_that_instance_only(
    start_peer, routed, wait_for
) -> None:
    def answer(event: evt.Event) -> int:
        if len(peer.received) == 2:
            event.assoc.abort()
        return 0x0000

    peer = start_peer(answer=answer)
    node = routed(peer.port)
    deliver_until_over(node, wait_for)
    assert node.job(JobKind.DELIVER).state is JobState.DONE
    assert len(peer.received) == 6
    assert peer.uids()[5] == peer.uids()[1]


def test_refused_sop_class_becomes_a_dead_letter_without_sending_the_rest_again(start_peer, routed) -> None:
    peer = start_peer(sop_classes=[MRImageStorage])
    node = routed(peer.port)
    deliver(node)
    job = node.job(JobKind.DELIVER)
    assert (job.state, job.attempts) == (JobState.DEAD, 1)
    assert RawDataStorage in job.error
    assert len(peer.received) == 4
    assert [item.state for item in node.series().deliveries] == [DeliveryState.FAILED]


def test_peer_that_is_never_there_becomes_a_dead_letter_after_all_attempts(routed, wait_for) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    node = routed(port)
    deliver_until_over(node, wait_for)
    job = node.job(JobKind.DELIVER)
    assert (job.state, job.attempts) == (JobState.DEAD, 3)
    assert f"PEER at 127.0.0.1:{port}" in job.error
    assert "cannot be reached" in job.error


def test_destination_that_left_the_configuration_is_a_dead_letter_with_the_remedy(
    start_peer, routed, make_node
) -> None:
    node = routed(start_peer().port)
    node.config = make_node(destinations={}, routing={}).config
    deliver(node)
    job = node.job(JobKind.DELIVER)
    assert (job.state, job.attempts) == (JobState.DEAD, 1)
    assert f"name it under destinations again and retry job {job.id}" in job.error
