"""The delivery drill: series by rules to ten destinations, most of them at fault, while workers are killed at random.

At the end the books must balance. Every series has been sent to the destinations that the rules choose, and to no
other; each of its instances is there, or its delivery is a dead letter that says why; and what a destination took twice
it took because an answer got lost: the destination ended the association before it spoke, or the worker that had the
job was killed. Then the destinations are mended, the dead letters are tried again, and everything is there.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, RawDataStorage
from sqlalchemy import func, select, text

from iap_node.config import load_config
from iap_node.database import archive, jobs
from iap_node.database.engine import Database, migrate
from iap_node.database.tables import DeliveryRow, DeliveryState, InstanceRow, JobRow, SeriesRow
from iap_node.listener.intake import Intake
from iap_node.listener.reception import Request
from iap_node.records import JobKind, JobState
from iap_node.spool import Spool
from tests.acceptance.conftest import wait_for
from tests.acceptance.drill.driver import content_digest
from tests.acceptance.drill.receivers import DicomReceiver, Receiver, ten_receivers
from tests.conftest import REPOSITORY
from tests.integration.listener.conftest import encode, make_instance

WAIT_S = 600.0
ROLES = ("deliver", "deliver", "infer")
PICKY_EVERY = 3  # of the series that go to `picky`, so manieth is refused for good
RAW_EVERY = 4  # so manieth series has an object that is no image, which `images` does not take
QUEUE = {
    "lease_s": 4.0, "poll_s": 0.05, "max_attempts": 50, "backoff_s": 0.05, "backoff_max_s": 0.5, "breaker_s": 0.2,
}  # fmt: skip


@dataclass(frozen=True)
class SentSeries:
    """A simulated series, and where the rules must send it."""

    number: int
    uid: str
    digests: dict[str, str]  # by SOP Instance UID
    raw: frozenset[str]  # of those: no images
    destinations: frozenset[str]


@dataclass
class Balance:
    """What a drill did and found; without `faults` the books balance."""

    seed: int
    n_series: int = 0
    n_deliveries: int = 0  # series times destinations
    n_delivered: int = 0
    n_dead: int = 0
    n_instances: int = 0  # instances times destinations, at the end: all are there
    n_repeated: int = 0  # of those that a destination took more than once
    n_repeats: int = 0  # how often it did, in all
    n_unheard: int = 0  # taken, and the destination ended the association or connection instead of saying so
    n_lost: int = 0  # attempts whose outcome was not written down: the worker was killed, or had lost its lease
    n_in_hand: int = 0  # jobs that workers had in hand when they were killed
    n_requeued: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def table(self) -> list[str]:
        """What it did and found, as lines of a table in Markdown."""
        rows = {
            "seed": self.seed,
            "simulated series": self.n_series,
            "destinations": 10,
            "series x destinations that the rules chose": self.n_deliveries,
            "workers killed (SIGKILL)": ", ".join(f"{n} {role}" for role, n in sorted(self.kills.items())),
            "answers of destinations": ", ".join(f"{n} {name}" for name, n in sorted(self.answers.items())),
            "delivered": self.n_delivered,
            "dead letters, each with its reason": self.n_dead,
            "of those delivered once the destinations were mended": self.n_requeued,
            "instances x destinations that are there in the end": self.n_instances,
            "of those taken more than once by their destination": self.n_repeated,
            "taken again, in all": self.n_repeats,
            "answers that destinations did not send, or may not have sent": self.n_unheard,
            "jobs in the hands of workers when they were killed": self.n_in_hand,
            "attempts whose outcome was not written down": self.n_lost,
            "lost, taken by the wrong destination, or taken again without a lost answer": len(self.faults),
            "seconds": round(self.seconds),
        }
        return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]

    def __str__(self) -> str:
        return "\n".join(self.table())


def deliver_to_ten(folder: Path, seed: int, n_series: int, n_kills: int) -> Balance:
    """One drill.

    Parameters
    ----------
    n_kills
        SIGKILLs of workers, spread over the whole of it.
    """
    began = time.monotonic()
    balance = Balance(seed, n_series=n_series)
    rng = random.Random(f"delivery {seed}")
    refused: set[str] = set()
    with ExitStack() as life:
        receivers = life.enter_context(ten_receivers(seed, folder, refused.__contains__))
        config_path = _configure(folder, receivers)
        config = load_config(config_path)
        config.spool_dir.mkdir(parents=True)
        database = Database(config.database_url)
        life.callback(database.dispose)
        migrate(database)
        _watch_leases(database)
        sent = [_series(rng, seed, number, sorted(receivers)) for number in range(n_series)]
        refused |= {uid for one, _ in sent if one.number % PICKY_EVERY == 0 for uid in one.digests}
        feeding = threading.Thread(target=_feed, args=(database, Spool(config.spool_dir, durable=False), sent))
        crew = life.enter_context(_crew(config_path, folder / "workers.log", database))
        feeding.start()
        n_jobs = sum(len(one.destinations) for one, _ in sent) + n_series
        while crew.n_killed < n_kills or not _is_over(database, n_jobs, feeding):
            over = _count_over(database)
            if crew.n_killed < n_kills and over >= crew.n_killed * n_jobs / n_kills:
                if rng.random() < 0.4:
                    crew.pause(rng.uniform(0.0, 0.05))  # anywhere within a job
                crew.kill_one(rng)
                for receiver in receivers.values():
                    if isinstance(receiver, DicomReceiver) and receiver.comes_and_goes and rng.random() < 0.3:
                        receiver.toggle()
            else:
                crew.pause(0.1)
            if not feeding.is_alive() and crew.n_killed >= n_kills:
                _let_all_come(receivers)
            if time.monotonic() - began > WAIT_S * max(1.0, n_series / 100):
                balance.faults.append(f"after {time.monotonic() - began:.0f} s it is not over")
                break
        feeding.join()
        series = [one for one, _ in sent]
        _balance(balance, series, receivers, database)
        for receiver in receivers.values():
            receiver.mend()
        with database.transaction() as session:
            balance.n_requeued = jobs.retry(session, None, datetime.now(UTC))
        if not balance.faults:
            wait_for(lambda: _is_over(database, n_jobs, feeding), "the dead letters that were tried again", WAIT_S)
        _everything_is_there(balance, series, receivers, database, crew)
        balance.kills = crew.kills
    balance.seconds = time.monotonic() - began
    return balance


# ---------------------------------------------------------------- what is sent


def _configure(folder: Path, receivers: dict[str, Receiver]) -> Path:
    """A node with a route to each destination, by a word in the description of a series."""
    rules = {
        f"to {name}": {"when": {"series": "SeriesDescription", "matches": rf"\b{name}\b"}, "destinations": [name]}
        for name in receivers
    }
    content = {
        "data_dir": "data",
        "destinations": {name: receiver.settings() for name, receiver in receivers.items()},
        "routing": {"rules": rules},
        "jobs": QUEUE,
        "spool": {"prepared_mb": 0, "disk_reserve_mb": 0, "durability": "relaxed"},
        "log": {"format": "json"},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _series(rng: random.Random, seed: int, number: int, names: list[str]) -> tuple[SentSeries, list[tuple[str, bytes]]]:
    """A series of one to three instances, and its data sets with their SOP Classes."""
    root = f"2.25.{10**9 + seed % 10**9}.{number}"
    destinations = frozenset(rng.sample(names, rng.randint(1, 3)))
    datasets: list[tuple[str, bytes]] = []
    digests: dict[str, str] = {}
    raw = set()
    for index in range(rng.randint(1, 3)):
        sop_class = RawDataStorage if number % RAW_EVERY == 0 and index == 0 else MRImageStorage
        uid = f"{root}.1.{index + 1}"
        content = encode(
            make_instance(
                SOPClassUID=sop_class, SOPInstanceUID=uid, StudyInstanceUID=root, SeriesInstanceUID=f"{root}.1",
                StudyDescription="SIMULATED DELIVERY DRILL", PatientName="SIMULATED^DRILL", PatientID="SIMDRILL",
                SeriesDescription=" ".join(["simulated", *sorted(destinations)]), InstanceNumber=index + 1,
                PixelData=rng.randbytes(32),
            )
        )  # fmt: skip
        datasets.append((sop_class, content))
        digests[uid] = content_digest(content)
        if sop_class == RawDataStorage:
            raw.add(uid)
    return SentSeries(number, f"{root}.1", digests, frozenset(raw), destinations), datasets


def _feed(database: Database, spool: Spool, sent: list[tuple[SentSeries, list[tuple[str, bytes]]]]) -> None:
    """Take all series in and complete them, while the workers are at it."""
    with closing(Intake(spool, database, b"k" * 32)) as intake:
        for start in range(0, len(sent), 20):
            batch = sent[start : start + 20]
            for one, datasets in batch:
                for uid, (sop_class, content) in zip(one.digests, datasets, strict=True):
                    intake.file(content, Request(sop_class, uid, ExplicitVRLittleEndian, "SIMULATED", "127.0.0.1"))
            intake.flush(WAIT_S)
            with database.transaction() as session:
                archive.complete_series(session, [one.uid for one, _ in batch], datetime.now(UTC))


# ---------------------------------------------------------------- who works, and is killed


class Crew:
    """Workers that are killed and replaced, and what each had in hand then."""

    def __init__(self, source: subprocess.Popen[str], database: Database) -> None:
        self._source, self._database = source, database
        self._workers: list[tuple[str, int]] = []
        self.kills: Counter[str] = Counter()
        self.n_in_hand = 0  # jobs that workers had when they were killed
        for role in ROLES:
            self._hire(role)

    @property
    def n_killed(self) -> int:
        """So far."""
        return sum(self.kills.values())

    def pause(self, seconds: float) -> None:
        """Let them work."""
        threading.Event().wait(seconds)

    def kill_one(self, rng: random.Random) -> None:
        """SIGKILL, when what it has in hand is written down; then another takes its place."""
        role, process = self._workers.pop(rng.randrange(len(self._workers)))
        os.kill(process, signal.SIGSTOP)
        with self._database.reading() as session:
            held = select(func.count()).where(
                JobRow.state == JobState.LEASED, JobRow.kind == JobKind.DELIVER, JobRow.worker.contains(f":{process}:")
            )
            self.n_in_hand += session.scalar(held) or 0
        os.kill(process, signal.SIGKILL)
        self.kills[role] += 1
        self._hire(role)

    def _hire(self, role: str) -> None:
        assert self._source.stdin is not None and self._source.stdout is not None
        print(role, file=self._source.stdin, flush=True)
        self._workers.append((role, int(self._source.stdout.readline())))

    def dismiss(self) -> None:
        """Leave none behind."""
        for _, process in self._workers:
            os.kill(process, signal.SIGKILL)


@contextmanager
def _crew(config_path: Path, log_path: Path, database: Database) -> Iterator[Crew]:
    with log_path.open("w") as log:
        source = subprocess.Popen(
            [sys.executable, "-m", "tests.acceptance.drill.workers", str(config_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=REPOSITORY,
        )  # fmt: skip
    crew = Crew(source, database)
    try:
        yield crew
    finally:
        crew.dismiss()
        assert source.stdin is not None
        source.stdin.close()
        source.wait(60)


def _let_all_come(receivers: dict[str, Receiver]) -> None:
    """Nobody stays away for ever."""
    for receiver in receivers.values():
        if isinstance(receiver, DicomReceiver) and not receiver.is_up:
            receiver.toggle()


def _count_over(database: Database) -> int:
    over = select(func.count()).where(JobRow.state.in_((JobState.DONE, JobState.DEAD)))
    with database.reading() as session:
        return session.scalar(over) or 0


def _is_over(database: Database, n_jobs: int, feeding: threading.Thread) -> bool:
    with database.reading() as session:
        waiting = select(func.count()).where(JobRow.state.in_((JobState.READY, JobState.LEASED)))
        return not feeding.is_alive() and not session.scalar(waiting) and _count_over(database) >= n_jobs


# ---------------------------------------------------------------- the books


def _balance(
    balance: Balance, sent: list[SentSeries], receivers: dict[str, Receiver], database: Database
) -> None:
    """Deliveries against what the rules had to choose; dead letters against what is refused for good."""
    found = _deliveries(database)
    wanted = {(one.uid, name) for one in sent for name in one.destinations}
    balance.n_deliveries = len(wanted)
    balance.faults += [f"{uid}: no delivery to {name}" for uid, name in sorted(wanted - found.keys())]
    balance.faults += [f"{uid}: sent to {name}, where no rule sends it" for uid, name in sorted(found.keys() - wanted)]
    books = {name: receiver.books for name, receiver in receivers.items()}
    for one in sent:
        for name in one.destinations:
            row = found.get((one.uid, name))
            if row is None:
                continue
            refused = _refused(one, name)
            there = {uid for uid in one.digests if books[name].taken[uid if name != "webhook" else one.uid]}
            expected = DeliveryState.FAILED if refused else DeliveryState.DELIVERED
            if row["state"] is not expected:
                balance.faults.append(f"{one.uid} to {name}: {row['state']}, not {expected}: {row['error']}")
            elif refused and not row["error"]:
                balance.faults.append(f"{one.uid} to {name}: a dead letter without a reason")
            if there != set(one.digests) - refused:
                balance.faults.append(f"{one.uid} to {name}: {len(there)} of {len(one.digests)} instances are there")
            balance.n_delivered += row["state"] is DeliveryState.DELIVERED
            balance.n_dead += row["state"] is DeliveryState.FAILED
    for receiver in receivers.values():
        balance.answers.update(receiver.books.answers)


def _everything_is_there(
    balance: Balance, sent: list[SentSeries], receivers: dict[str, Receiver], database: Database, crew: Crew
) -> None:
    """Each instance at each of its destinations, with its own bytes, and no oftener than answers were lost."""
    found, lost = _deliveries(database), _lost_attempts(database)
    balance.n_in_hand, balance.n_lost = crew.n_in_hand, sum(lost.values())
    books = {name: receiver.books for name, receiver in receivers.items()}
    expected: dict[str, set[str]] = {name: set() for name in receivers}
    for one in sent:
        for name in one.destinations:
            row = found.get((one.uid, name))
            if row is None or row["state"] is not DeliveryState.DELIVERED:
                balance.faults.append(f"{one.uid} to {name}: not delivered when all was mended")
                continue
            for uid, digest in one.digests.items() if name != "webhook" else ((one.uid, content_digest(b"")),):
                expected[name].add(uid)
                taken, unheard = books[name].taken[uid], books[name].unheard[uid]
                balance.n_instances += bool(taken)
                balance.n_repeated += taken > 1
                balance.n_repeats += max(0, taken - 1)
                if not 1 <= taken <= 1 + unheard + lost[row["job"]]:
                    balance.faults.append(
                        f"{uid} at {name}: taken {taken} times, {unheard} + {lost[row['job']]} answers lost"
                    )
                if books[name].digests.get(uid) != {digest}:
                    balance.faults.append(f"{uid} at {name}: other bytes than were sent")
    for name, one_book in books.items():
        balance.n_unheard += sum(one_book.unheard.values())
        balance.faults += [f"{uid} at {name}: nobody sent it there" for uid in one_book.taken.keys() - expected[name]]


def _watch_leases(database: Database) -> None:
    """Write down whenever a job goes to another worker without having been ended by the one that had it."""
    statements = (
        "CREATE TABLE drill_lost (job_id INTEGER NOT NULL)",
        """CREATE TRIGGER drill_lost AFTER UPDATE OF lease_token ON job
           WHEN OLD.state = 'leased' AND NEW.state = 'leased' AND OLD.lease_token <> NEW.lease_token
           AND NEW.kind = 'deliver' BEGIN INSERT INTO drill_lost VALUES (NEW.id); END""",
    )
    with database.transaction() as session:
        for statement in statements:
            session.execute(text(statement))


def _lost_attempts(database: Database) -> Counter[int]:
    """By job: how many attempts ended without an outcome."""
    with database.reading() as session:
        return Counter(session.scalars(text("SELECT job_id FROM drill_lost")).all())


def _refused(series: SentSeries, name: str) -> set[str]:
    """The instances of a series that a destination refuses for good."""
    if name == "picky" and series.number % PICKY_EVERY == 0:
        return set(series.digests)
    return set(series.raw) if name == "images" else set()


def _deliveries(database: Database) -> dict[tuple[str, str], dict[str, Any]]:
    query = (
        select(SeriesRow.series_instance_uid, DeliveryRow.destination, DeliveryRow.state, JobRow.id, JobRow.error)
        .join(SeriesRow, SeriesRow.id == DeliveryRow.series_id)
        .join(
            JobRow,
            (JobRow.series_id == DeliveryRow.series_id)
            & (JobRow.destination == DeliveryRow.destination)
            & (JobRow.revision == DeliveryRow.revision)
            & (JobRow.kind == JobKind.DELIVER),
        )
    )
    with database.reading() as session:
        assert not session.scalars(select(InstanceRow.id).where(InstanceRow.revision > 1).limit(1)).first()
        return {
            (uid, destination): {"state": state, "job": job, "error": error}
            for uid, destination, state, job, error in session.execute(query)
        }
