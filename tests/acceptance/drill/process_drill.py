"""The process drill: senders at work while processes of the node are killed, again and again.

Each function is one campaign: it sends, kills at moments that its seed chooses, starts again what does not start by
itself, and returns what it counted once the archive agrees with the ledger. Called by the tests and by `make soak`.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select

from iap_node.database.engine import Database
from iap_node.database.tables import InstanceRow, JobRow, SeriesRow
from iap_node.listener.address import read_port
from iap_node.records import JobState, SeriesState
from iap_node.spool import Spool
from tests.acceptance.conftest import RunningNode, wait_for
from tests.acceptance.drill.comparison import read_whole, recover_and_compare
from tests.acceptance.drill.count import Count
from tests.acceptance.drill.driver import Instances, Ledger, Senders, content_digest
from tests.acceptance.drill.listener_process import ListenerProcess
from tests.conftest import PostgresqlServer, descendants, is_running
from tests.integration.conftest import Peer
from tests.integration.listener.conftest import split_part10

WAIT_S = 120.0
PAUSE_S = 0.02  # between two instances that a whole node judges and delivers: its restarts take longest
START_S = 2.0  # about what a listener takes to start: kills fall into all of it


def kill_listener(folder: Path, seed: int, n_kills: int, n_senders: int = 4) -> Count:
    """SIGKILL of `iap-node listen` on SQLite, at work and while it starts."""
    rng, count, ledger = random.Random(f"listener {seed}"), Count(seed), Ledger()
    listener = ListenerProcess(folder, {})
    with _sending(listener, Senders(seed, n_senders, Instances(seed, large_every=400), ledger, listener.port_or_none)):
        for _ in range(n_kills):
            if rng.random() < 0.3:
                listener.wait_for_end(rng.uniform(0.2, 1.0) * START_S)
                count.kills["listener at its start"] += 1
            else:
                ledger.wait_for(ledger.n_acknowledged + rng.randint(5, 250), WAIT_S)
                count.kills["listener at work"] += 1
            listener.kill()
            listener.start()
        listener.wait_until_it_listens()
        ledger.wait_for(ledger.n_acknowledged + 50, WAIT_S)
    return _compared(count, listener, ledger)


def kill_listener_processes(folder: Path, seed: int, n_kills: int, n_processes: int = 2, n_senders: int = 4) -> Count:
    """SIGKILL of one of the processes that serve a port together, or of the one that keeps them running."""
    rng, count, ledger = random.Random(f"processes {seed}"), Count(seed), Ledger()
    listener = ListenerProcess(folder, {"listener": {"processes": n_processes}})
    orphans: list[int] = []
    with _sending(listener, Senders(seed, n_senders, Instances(seed), ledger, listener.port_or_none)):
        for _ in range(n_kills):
            ledger.wait_for(ledger.n_acknowledged + rng.randint(5, 250), WAIT_S)
            _, *serving = descendants(listener.pid)
            if serving and rng.random() < 0.8:
                os.kill(rng.choice(serving), signal.SIGKILL)
                count.kills["one process of a listener"] += 1
            else:
                listener.kill()
                listener.start()
                count.kills["first process of a listener"] += 1
                orphans += serving
        listener.wait_until_it_listens()
        ledger.wait_for(ledger.n_acknowledged + 50, WAIT_S)
    wait_for(lambda: not any(map(is_running, orphans)), "the processes of killed listeners to end", WAIT_S)
    ledger.cannot_stand.clear()  # each writes its rows by itself: of two that come to two processes, either may stand
    return _compared(count, listener, ledger)


def kill_database(folder: Path, seed: int, n_kills: int, server: PostgresqlServer, n_senders: int = 4) -> Count:
    """SIGKILL or immediate stop of PostgreSQL, some with the listener at the same moment."""
    rng, count, ledger = random.Random(f"database {seed}"), Count(seed), Ledger()
    listener = ListenerProcess(folder, {"database": {"url": server.create_database()}})
    with _sending(listener, Senders(seed, n_senders, Instances(seed), ledger, listener.port_or_none)):
        for _ in range(n_kills):
            ledger.wait_for(ledger.n_acknowledged + rng.randint(20, 250), WAIT_S)
            if rng.random() < 0.5:
                server.kill()
                count.kills["database (SIGKILL)"] += 1
            else:
                server.stop()
                count.kills["database (immediate stop)"] += 1
            with_listener = rng.random() < 0.4
            if with_listener:
                listener.kill()
                count.kills["listener while the database is away"] += 1
            server.start_again()
            if with_listener:
                listener.start()
        listener.wait_until_it_listens()
        ledger.wait_for(ledger.n_acknowledged + 50, WAIT_S)
    return _compared(count, listener, ledger)


@contextmanager
def _sending(listener: ListenerProcess, senders: Senders) -> Iterator[None]:
    """A new node whose listener runs while the block does, and gets instances; then it stops as it should."""
    listener.prepare()
    listener.start()
    senders.start()
    try:
        yield
        senders.stop()
        listener.stop()
    finally:
        listener.close()


def _compared(count: Count, listener: ListenerProcess, ledger: Ledger) -> Count:
    config = listener.config
    count.add(ledger)
    count.faults += recover_and_compare(config.data_dir, config.database_url, ledger)
    return count


def kill_node(folder: Path, seed: int, targets: list[str], n_senders: int = 2) -> Count:
    """SIGKILL of `serve` with all its roles at once ("node"), or of one role, which the supervisor starts again.

    At the end every series must have been judged and delivered, to the bit.
    """
    rng, count, ledger = random.Random(f"node {seed}"), Count(seed), Ledger()
    sink = Peer(ae_title="SINK")
    sink.start()
    node = RunningNode(
        folder,
        {
            "destinations": {"sink": {"ae_title": "SINK", "host": "127.0.0.1", "port": sink.port}},
            "routing": {"default": {"destinations": ["sink"]}},
            "inference": {"max_slices": 4},
        },
    )
    config = node.config
    instances = Instances(seed, n_series=2)
    senders = Senders(seed, n_senders, instances, ledger, lambda: read_port(config.data_dir), pause_s=PAUSE_S)
    try:
        node.start()
        senders.start()
        for target in rng.sample(targets, len(targets)):
            ledger.wait_for(ledger.n_acknowledged + rng.randint(5, 60), WAIT_S)
            count.kills[target] += 1
            if target == "node":
                _kill_all(node)
                node.start()
            else:
                node.kill_role(target)
        ledger.wait_for(ledger.n_acknowledged + 50, WAIT_S)
        senders.stop()
        count.add(ledger)
        database = node.database()
        wait_for(lambda: _all_is_done(database), "all series to be judged and delivered", WAIT_S)
        node.stop()
        count.faults += _faults_of_delivery(Spool(config.spool_dir), database, sink)
        database.dispose()
        count.faults += recover_and_compare(config.data_dir, config.database_url, ledger)
    finally:
        node.close()
        sink.stop()
    return count


def _kill_all(node: RunningNode) -> None:
    """SIGKILL to the supervisor and everything that it started, as near to one moment as it can be."""
    processes = descendants(node.pid)
    for process in processes:
        os.kill(process, signal.SIGSTOP)  # so that none sees the others go
    for process in processes:
        os.kill(process, signal.SIGKILL)
    node.kill()
    wait_for(lambda: not any(is_running(process) for process in processes), "the killed processes to end")


def _all_is_done(database: Database) -> bool:
    with database.reading() as session:
        states = set(session.scalars(select(SeriesRow.state)))
        judged = session.execute(select(SeriesRow.revision, SeriesRow.judged_revision)).all()
        jobs = session.scalars(select(JobRow.state)).all()
    assert JobState.DEAD not in jobs
    return (
        not {SeriesState.RECEIVING, SeriesState.COMPLETE} & states
        and all(revision == judged_revision for revision, judged_revision in judged)
        and not {JobState.READY, JobState.LEASED} & set(jobs)
    )


def _faults_of_delivery(spool: Spool, database: Database, sink: Peer) -> list[str]:
    delivered: dict[str, set[str]] = {}
    for uid, _, dataset in sink.received:
        delivered.setdefault(uid, set()).add(content_digest(dataset))
    with database.reading() as session:
        rows = session.execute(select(InstanceRow.sop_instance_uid, InstanceRow.spool_path)).all()
    faults = []
    for uid, spool_path in rows:
        _, dataset = split_part10(read_whole(spool, spool_path))
        if delivered.get(uid) != {content_digest(dataset)}:
            faults.append(f"{uid}: delivered {len(delivered.get(uid, ()))} contents, not just the one that stands")
    return faults
