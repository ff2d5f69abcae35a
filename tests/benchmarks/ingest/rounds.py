"""The rounds: every receiver started afresh in each, in turn, and measured with the same runs.

Nothing is timed while the disk or the receiver is still busy with what came before; a run counts once everything that
was acknowledged is stored and the receiver does nothing any more, so that work put off until later is counted as well.
"""

from __future__ import annotations

import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.ingest import floor, workloads
from tests.benchmarks.ingest.prefilled import new_tag
from tests.benchmarks.ingest.processes import NotIdle, busy_s, stolen_s
from tests.benchmarks.ingest.receivers import NODE_STRICT, STORESCP, WITH_NAGLE, WITHOUT_NAGLE, Kind, Running, running
from tests.benchmarks.ingest.senders import MinimalSender, SenderName, SendFailed, Sent, send_with_dcmtk
from tests.benchmarks.ingest.workloads import BULK, MR320, MR512, PreparedInstance, Workload

SETTLE_S = 180.0
TOUCHED_BYTES = 3 * 1024**3
FLOOR_WRITES = 300
SUSTAINED_REPEATS = 13  # of 1,000 instances of 320 x 320: 3 GB
WINDOW_BYTES = 250_000_000  # of a sustained run
NAGLE_INSTANCES = 50  # 45 ms each are enough
_MADV_POPULATE_WRITE = 23

FAILURES = (SendFailed, NotIdle, RuntimeError)  # of one receiver; the others are measured all the same

Measurement = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run within a round; `tag` makes its instances new to the receiver."""

    workload: Workload
    associations: int
    sender: SenderName = "minimal"
    tag: int

    def is_for(self, kind: Kind) -> bool:
        """Whether it says something about this receiver that is worth its time: DCMTK's senders with four associations
        measure themselves more than a slow receiver."""
        if kind.at_associations is not None:
            return self.sender == "minimal" and self.associations in kind.at_associations
        return self.sender == "minimal" or self.associations == 1 or kind in (NODE_STRICT, STORESCP)


def cells(sizes: Sequence[Workload]) -> list[Cell]:
    """The runs of one round."""
    found = [Cell(workload=size, associations=n, tag=n) for size in sizes for n in (1, 4)]
    if MR320 in sizes:
        found += [
            Cell(workload=MR320, associations=1, sender="dcmsend", tag=11),
            Cell(workload=MR320, associations=4, sender="dcmsend", tag=12),
            Cell(workload=MR320, associations=1, sender="storescu", tag=13),
            Cell(workload=MR320, associations=4, sender="storescu", tag=14),
        ]
    return found


class Bench:
    """Everything that is measured, in one folder, which is left empty but for the instances to send.

    Parameters
    ----------
    say
        Told what is going on.
    scale
        See `Workload.scaled`: 1, or more for a run that only shows that all of it works.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], *, scale: int = 1) -> None:
        self._folder = folder
        self.say = say
        self._scale = scale
        self._sender = MinimalSender(folder)
        self._prepared: dict[str, list[PreparedInstance]] = {}

    def instances(self, workload: Workload) -> list[PreparedInstance]:
        """The instances of a workload, or some of them when scaled."""
        if workload.key not in self._prepared:
            self.say(f"writing simulated instances of {workload.title}")
            folder = self._folder / ("sent" if self._scale == 1 else "sent-quick")
            self._prepared[workload.key] = workloads.prepare(folder / workload.key, workload.scaled(self._scale))
        return self._prepared[workload.key]

    # ------------------------------------------------------------ what is measured

    def interleaved(self, kinds: Sequence[Kind], to_run: Sequence[Cell], rounds: int) -> Iterator[Measurement]:
        """Rate, CPU and memory of every receiver in every cell."""
        for number in range(rounds):
            for kind in _rotated(kinds, number):
                self.say(f"round {number + 1} of {rounds}: {kind.title}")
                for one in self.session(kind, self._folder / "receiver", to_run):
                    yield {"part": "rates", "round": number, **one}

    def session(self, kind: Kind, folder: Path, to_run: Sequence[Cell], *, keep: bool = False) -> Iterator[Measurement]:
        """One receiver, started on `folder`, in every cell that is meant for it."""
        wanted = [cell for cell in to_run if cell.is_for(kind)]
        if not wanted:
            return
        for cell in wanted:  # not while the receiver is up
            self._files(cell)
        try:
            with self._started(kind, folder, keep=keep) as receiver:
                stored = 0
                for cell in wanted:
                    one = self._run(receiver, cell, stored)
                    stored += one["instances"]
                    yield {"receiver": kind.key, "start_s": receiver.start_s, **one}
        except FAILURES as error:
            yield {"receiver": kind.key, "error": str(error)}

    def floors(self, rounds: int) -> Iterator[Measurement]:
        """What the disk does by itself with instances of 320 x 320 and 512 x 512."""
        for number in range(rounds):
            for workload in (MR320, MR512)[: 2 if self._scale == 1 else 1]:
                size, count = self.instances(workload)[0].dataset_length, FLOOR_WRITES // self._scale
                folder = self._folder / "floor"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                os.sync()
                one = {"part": "floor", "round": number, "workload": workload.key}
                yield {
                    **one,
                    "synced_files_per_s": floor.synced_files_per_s(folder / "files", size, count),
                    "synced_blocks_per_s": floor.synced_blocks_per_s(folder / "blocks", size, count),
                }
                shutil.rmtree(folder)

    def sustained(self, kinds: Sequence[Kind], repeats: int = SUSTAINED_REPEATS) -> Iterator[Measurement]:
        """3 GB without a pause: what the rate is when prepared space is used up."""
        for kind in kinds:
            for associations in (1, 4):
                self.say(f"sustained: {kind.title}, {associations} associations")
                one = {"part": "sustained", "receiver": kind.key, "associations": associations}
                with self._started(kind, self._folder / "receiver") as receiver:
                    try:
                        yield {**one, **self._sustained(receiver, associations, repeats)}
                    except FAILURES as error:
                        yield {**one, "error": str(error)}

    def _sustained(self, receiver: Running, associations: int, repeats: int) -> Measurement:
        instances = self.instances(MR320)
        receiver.group.wait_idle(lambda: True, SETTLE_S)

        def send() -> Sent:
            return self._sender.send(
                instances, port=receiver.port, called=receiver.kind.called, associations=associations, tag=1,
                repeats=repeats, watch=receiver.group.note_memory,
            )  # fmt: skip

        sent, used = self._measured(receiver, len(instances) * repeats, send)
        return {**used, "windows_mb_per_s": _windows(sent)}

    def memory(self, kinds: Sequence[Kind], associations: int) -> Iterator[Measurement]:
        """Peak memory of a fresh receiver while that many associations send 60 MB instances at once."""
        for kind in kinds:
            self.say(f"memory: {kind.title}, {associations} senders of 60 MB")
            cell = Cell(workload=BULK, associations=associations, tag=1)
            for one in self.session(kind, self._folder / "receiver", [cell]):
                yield {"part": "memory", **one}

    def with_nagle(self, kinds: Sequence[Kind]) -> Iterator[Measurement]:
        """dcmsend as it comes, and receivers as they come: with Nagle's algorithm on where they leave it on."""
        cell = Cell(workload=MR320, associations=1, sender="dcmsend", tag=15)
        files = self._files(cell)[:NAGLE_INSTANCES]
        for kind in kinds:
            self.say(f"dcmsend's and its receiver's defaults: {kind.title}")
            with self._started(kind, self._folder / "receiver", WITH_NAGLE) as receiver:
                sent = send_with_dcmtk(
                    "dcmsend", files, port=receiver.port, called=kind.called, associations=1, environment=WITH_NAGLE
                )
                receiver.group.wait_idle(partial(_has_stored, receiver, len(files)), SETTLE_S)
                yield {"part": "nagle", "receiver": kind.key, "instances_per_s": sent.instances / sent.seconds}

    def prefilled(self, kind: Kind, folder: Path, rounds: int) -> Iterator[Measurement]:
        """A node on an archive that is full, beside itself on an empty one, in turn."""
        for number in range(rounds):
            to_run = [Cell(workload=MR320, associations=n, tag=new_tag(folder)) for n in (1, 4)]
            for where in _rotated(("empty", "prefilled"), number):
                self.say(f"round {number + 1} of {rounds}: this node, {where}")
                is_full = where == "prefilled"
                place = folder if is_full else self._folder / "receiver"
                for one in self.session(kind, place, to_run, keep=is_full):
                    yield {"part": "prefilled", "round": number, "archive": where, **one}

    # ------------------------------------------------------------ one run

    def _calm(self) -> None:
        """Nothing that was done before is to be paid for by what is measured next."""
        if self._scale == 1:
            touch_memory()
            os.sync()

    @contextmanager
    def _started(
        self, kind: Kind, folder: Path, environment: dict[str, str] = WITHOUT_NAGLE, *, keep: bool = False
    ) -> Iterator[Running]:
        """A receiver on a folder that is empty before and gone after, unless it is to be kept."""
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        self._calm()
        with running(kind, folder, environment) as receiver:
            yield receiver
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, receiver: Running, cell: Cell, stored: int) -> Measurement:
        receiver.group.wait_idle(partial(_has_stored, receiver, stored), SETTLE_S)
        if self._scale == 1:
            os.sync()
        instances = self.instances(cell.workload)
        watch = receiver.group.note_memory

        def send() -> Sent:
            if cell.sender == "minimal":
                return self._sender.send(
                    instances, port=receiver.port, called=receiver.kind.called, associations=cell.associations,
                    tag=cell.tag, watch=watch,
                )  # fmt: skip
            return send_with_dcmtk(
                cell.sender, self._files(cell), port=receiver.port, called=receiver.kind.called,
                associations=cell.associations, environment=WITHOUT_NAGLE, watch=watch,
            )  # fmt: skip

        _, used = self._measured(receiver, stored + len(instances), send)
        found = receiver.stored()
        if found != stored + len(instances):
            raise NotIdle(f"{found} instances are stored, {stored + len(instances)} were acknowledged")
        return {
            "workload": cell.workload.key, "associations": cell.associations, "sender": cell.sender, **used
        }  # fmt: skip

    def _measured(self, receiver: Running, stored: int, send: Callable[[], Sent]) -> tuple[Sent, Measurement]:
        cpu_s, stolen, busy, began = receiver.group.cpu_s(), stolen_s(), busy_s(), time.monotonic()
        sent = send()
        finished_at = receiver.group.wait_idle(partial(_has_stored, receiver, stored), SETTLE_S)
        cpu_s = receiver.group.cpu_s() - cpu_s
        core_s = (os.cpu_count() or 1) * (time.monotonic() - began)
        used: Measurement = {
            "instances": sent.instances,
            "bytes": sent.n_bytes,
            "seconds": sent.seconds,
            "instances_per_s": sent.instances / sent.seconds,
            "mb_per_s": sent.n_bytes / sent.seconds / 1e6,
            "cpu_s_per_gb": cpu_s / sent.n_bytes * 1e9,
            "stored_after_s": max(0.0, finished_at - sent.ended_at),
            "peak_mb": [peak / 1e6 for peak in receiver.group.peak_bytes.values()],
        }
        if sent.begun_s is not None and sent.answered_s is not None and sent.sender_cpu_s is not None:
            waited_ms = 1e3 * (sent.answered_s - sent.begun_s)
            used["stolen_share"] = (stolen_s() - stolen) / core_s
            used["others_share"] = max(0.0, busy_s() - busy - cpu_s - sent.sender_cpu_s) / core_s
            used["sender_cpu_s_per_gb"] = sent.sender_cpu_s / sent.n_bytes * 1e9
            used["announced_pdu_bytes"] = sent.announced_pdu_bytes
            used |= {
                f"{name}_ms": float(value)
                for name, value in zip(("p50", "p99", "slowest"), np.percentile(waited_ms, (50, 99, 100)), strict=True)
            }
        return sent, used

    def _files(self, cell: Cell) -> list[Path]:
        """The files of a cell whose sender reads files."""
        if cell.sender == "minimal":
            return []
        folder = Path(self.instances(cell.workload)[0].path).parent / f"{cell.tag:04d}"
        return workloads.tagged_copies(self.instances(cell.workload), folder, cell.tag)


def _has_stored(receiver: Running, instances: int) -> bool:
    return receiver.stored() >= instances


def touch_memory() -> None:
    """Have the machine back its free memory with pages: a virtual machine's fresh ones slow the page cache down
    several times, and whoever comes first would pay for them."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with mmap.mmap(-1, min(TOUCHED_BYTES, available // 2)) as memory:
        memory.madvise(_MADV_POPULATE_WRITE)


def _rotated(items: Sequence[Any], by: int) -> list[Any]:
    by %= len(items)
    return [*items[by:], *items[:by]]


def _windows(sent: Sent) -> list[float]:
    """MB/s of one `WINDOW_BYTES` after the other, by the order of the answers."""
    assert sent.answered_s is not None
    answered_s = np.sort(sent.answered_s)
    per_window = max(1, WINDOW_BYTES * sent.instances // sent.n_bytes)
    ends = answered_s[per_window - 1 :: per_window]
    mb = per_window * sent.n_bytes / sent.instances / 1e6
    return [float(mb / seconds) for seconds in np.diff(ends, prepend=0.0)]
