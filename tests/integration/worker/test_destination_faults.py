"""Destinations at fault, over real sockets and a clock of the tests' own: everything arrives once, or says why not.

What one attempt makes of an answer: tests/integration/routing. What is sent again after refusals and aborts:
test_deliver.py. Workers that are killed meanwhile: tests/acceptance/drill.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import evt

from iap_node.database import archive
from iap_node.database.destination_health import pauses
from iap_node.database.engine import Database
from iap_node.database.tables import DeliveryState
from iap_node.records import JobKind, JobState
from iap_node.routing.destinations import folder as folder_module
from iap_node.worker.deliver import DeliverHandler
from iap_node.worker.loop import run_once, run_worker
from tests.integration.partners.conftest import free_port

AS_SHIPPED: dict[str, Any] = {}  # of the queue: waits and numbers of attempts are those of the defaults


class Clock:
    """Goes on when told to."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    """SQLite alone: the queue is tested on both databases in tests/integration/database."""
    path = tmp_path / "node.sqlite"
    shutil.copyfile(migrated_sqlite, path)
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def arrive(scripted: Any, write_instance: Any) -> Callable[..., list[str]]:
    """Lets a series of two images come in and be judged; the SOP Instance UIDs."""

    def make(node: Any, number: int) -> list[str]:
        uid = f"1.2.3.4.{number}"
        instances = [write_instance(size=4, SeriesInstanceUID=uid) for _ in range(2)]
        node.file(instances)
        with node.database.transaction() as session:
            archive.complete_series(session, [uid], datetime.now(UTC))
        assert node.infer(scripted())
        return [one.sop_instance_uid for one in instances]

    return make


def work(node: Any, clock: Clock, how_long: timedelta) -> None:
    """What a delivery worker does meanwhile, going from one moment at which there is work to the next."""
    handler = DeliverHandler(node.database, node.spool, node.config, clock)
    clock.now = max(clock.now, datetime.now(UTC))  # series come in by the real one
    end = clock.now + how_long
    while clock.now < end:
        while run_once(JobKind.DELIVER, handler, node.database, node.config.jobs, "test:deliver", None, clock):
            pass
        with node.database.reading() as session:
            paused = {one.destination: one.paused_until for one in pauses(session)}
        ready = [job for job in node.jobs(JobKind.DELIVER) if job.state is JobState.READY]
        due = [max(job.due_at, paused.get(job.destination, job.due_at)) for job in ready]
        clock.now = min([end, *(moment + timedelta(seconds=1) for moment in due)])


def states(node: Any, destination: str) -> Counter[JobState]:
    return Counter(job.state for job in node.jobs(JobKind.DELIVER) if job.destination == destination)


def routes_to(**destinations: Any) -> dict[str, Any]:
    """The configuration of a node that sends every series to all of them."""
    return {"destinations": destinations, "routing": {"default": {"destinations": list(destinations)}}}


def test_a_destination_that_is_down_for_an_hour_gets_everything_once_afterwards(
    make_node: Callable[..., Any], arrive: Any, start_peer: Any, tmp_path: Path, clock: Clock
) -> None:
    port = free_port()
    (tmp_path / "out").mkdir()
    pacs = {"ae_title": "PEER", "host": "127.0.0.1", "port": port, "timeout_s": 5}
    other = {"kind": "folder", "path": tmp_path / "out", "template": "{SOPInstanceUID}.dcm"}
    node = make_node(jobs=AS_SHIPPED, **routes_to(pacs=pacs, other=other))
    sent: list[str] = []
    for number in range(4):
        sent += arrive(node, number)
        work(node, clock, timedelta(minutes=15))
        assert {path.stem for path in (tmp_path / "out").iterdir()} == set(sent)  # the other one has them at once
    with node.database.reading() as session:
        (pause,) = pauses(session)
    assert (pause.destination, pause.failures < 20) == ("pacs", True)  # it was left alone most of the time
    assert states(node, "pacs") == {JobState.READY: 4}
    peer = start_peer(port=port)
    work(node, clock, timedelta(hours=1))
    assert sorted(peer.uids()) == sorted(sent)
    assert states(node, "pacs") == states(node, "other") == {JobState.DONE: 4}


def test_what_a_destination_is_away_for_too_long_becomes_a_dead_letter_that_says_so(
    make_node: Callable[..., Any], arrive: Any, start_peer: Any, clock: Clock
) -> None:
    port = free_port()
    pacs = {"ae_title": "PEER", "host": "127.0.0.1", "port": port, "timeout_s": 5}
    jobs = {"patience_h": 2.0, "max_attempts": 2, "breaker_failures": 2, "backoff_max_s": 600.0}
    node = make_node(jobs=jobs, **routes_to(pacs=pacs))
    arrive(node, 1)
    work(node, clock, timedelta(hours=2))
    assert states(node, "pacs") == {JobState.READY: 1}
    work(node, clock, timedelta(hours=1))
    (job,) = node.jobs(JobKind.DELIVER)
    assert job.state is JobState.DEAD and f"127.0.0.1:{port}" in job.error and "cannot be reached" in job.error


def test_a_destination_whose_disk_is_full_for_an_hour_gets_everything_once_there_is_room(
    make_node: Callable[..., Any], arrive: Any, start_peer: Any, clock: Clock
) -> None:
    stored: list[str] = []
    full_until = clock.now + timedelta(hours=1)

    def answer(event: evt.Event) -> int:
        if len(stored) == 1 and clock.now < full_until:  # one instance of the first series finds room
            return 0xA702
        stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    peer = start_peer(answer=answer)
    pacs = {"ae_title": "PEER", "host": "127.0.0.1", "port": peer.port, "timeout_s": 5}
    node = make_node(jobs=AS_SHIPPED, **routes_to(pacs=pacs))
    sent = arrive(node, 1) + arrive(node, 2)
    work(node, clock, timedelta(hours=2))
    assert sorted(stored) == sorted(sent)
    assert states(node, "pacs") == {JobState.DONE: 2}


def test_a_folder_on_a_full_disk_gets_every_file_whole_once_there_is_room(
    make_node: Callable[..., Any], arrive: Any, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    node = make_node(
        jobs=AS_SHIPPED, **routes_to(archive={"kind": "folder", "path": target, "template": "{SOPInstanceUID}.dcm"})
    )
    sent = arrive(node, 1) + arrive(node, 2)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(folder_module.os, "fsync", full)
        work(node, clock, timedelta(hours=1))
    assert list(target.iterdir()) == []
    assert {job.state for job in node.jobs(JobKind.DELIVER)} == {JobState.READY}
    assert all("disk is full" in (job.error or "") for job in node.jobs(JobKind.DELIVER))
    work(node, clock, timedelta(hours=1))
    assert {path.name for path in target.iterdir()} == {f"{uid}.dcm" for uid in sent}
    assert states(node, "archive") == {JobState.DONE: 2}


def test_warnings_count_as_stored_and_are_told(
    make_node: Callable[..., Any], arrive: Any, start_peer: Any, clock: Clock
) -> None:
    peer = start_peer(answer=lambda _: 0xB000)
    pacs = {"ae_title": "PEER", "host": "127.0.0.1", "port": peer.port, "timeout_s": 5}
    node = make_node(jobs=AS_SHIPPED, **routes_to(pacs=pacs))
    sent = arrive(node, 1)
    work(node, clock, timedelta(minutes=1))
    assert sorted(peer.uids()) == sorted(sent)
    (job,) = node.jobs(JobKind.DELIVER)
    assert job.state is JobState.DONE
    assert job.error == "pacs stored 2 instances with a warning; first status B000H"


def test_a_destination_that_crawls_keeps_nobody_else_waiting(
    make_node: Callable[..., Any], arrive: Any, start_peer: Any, wait_for: Any
) -> None:
    go_on = threading.Event()

    def crawl(_: evt.Event) -> int:
        go_on.wait(60)
        return 0x0000

    slow, quick = start_peer(ae_title="SLOW", answer=crawl), start_peer(ae_title="QUICK")
    there = {
        name: {"ae_title": peer.ae_title, "host": "127.0.0.1", "port": peer.port, "timeout_s": 60, "concurrency": 1}
        for name, peer in (("slow", slow), ("quick", quick))
    }
    node = make_node(jobs={"poll_s": 0.01}, **routes_to(**there))
    sent = [uid for number in range(3) for uid in arrive(node, number)]
    handler, stop = DeliverHandler(node.database, node.spool, node.config), threading.Event()
    limits = dict.fromkeys(there, 1)
    arguments = (JobKind.DELIVER, handler, node.database, node.config.jobs, "test:deliver", stop, limits)
    worker = threading.Thread(target=run_worker, args=arguments, kwargs={"at_once": 2})
    worker.start()
    try:
        wait_for(lambda: states(node, "quick") == {JobState.DONE: 3}, "the series of the quick destination")
        assert JobState.DONE not in states(node, "slow")
        assert len(slow.received) == 1  # one series at a time, as it was asked for
        go_on.set()
        wait_for(lambda: states(node, "slow") == {JobState.DONE: 3}, "the series of the slow one")
    finally:
        go_on.set()
        stop.set()
        worker.join(30)
    assert sorted(quick.uids()) == sorted(slow.uids()) == sorted(sent)
    with node.database.reading() as session:
        series = archive.list_series(session, None, 10)
    assert {one.state for item in series for one in item.deliveries} == {DeliveryState.DELIVERED}
