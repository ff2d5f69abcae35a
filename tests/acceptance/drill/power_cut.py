"""The power-cut drill: the power fails at many points of what a listener was recorded to do.

`cut_power` replays the recording, makes the disk that each cut leaves, starts recovery on it and compares with what
had been acknowledged by then. Called by the tests, by `make soak`, and to repeat one cut.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.drill.comparison import recover_and_compare
from tests.acceptance.drill.count import Count
from tests.acceptance.drill.driver import Ledger
from tests.acceptance.drill.recorder import Entry
from tests.acceptance.drill.recording import Recording, acknowledged_in, record_listener


@dataclass(frozen=True, slots=True)
class Cut:
    """One power cut: before which entry of the record, and the seed of what survives."""

    at: int
    seed: int


@dataclass(frozen=True, slots=True)
class Finding:
    """A cut after which something was wrong."""

    recording: Recording
    cut: Cut
    how: str  # what survived
    faults: list[str]

    def __str__(self) -> str:
        """What is wrong, and the command that cuts there again."""
        again = f"python -m tests.acceptance.drill again {self.recording.folder} {self.cut.at} {self.cut.seed}"
        return "\n  ".join([f"{self.cut}, {self.how}; again: {again}", *self.faults[:5]])


def cut_everywhere(recording: Recording, scratch: Path, seed: int, n_cuts: int) -> Count:
    """Cuts all over one recording."""
    count = Count(seed)
    entries = recording.check()
    count.faults = [str(found) for found in cut_power(recording, choose_cuts(entries, n_cuts, seed), scratch)]
    count.kills["power"] = n_cuts
    count.n_acknowledged = sum(len(acknowledged_in(entry)) for entry in entries)
    count.n_sent = sum(map(len, recording.ledger()[0].sent.values()))
    return count


def cut_after_cuts(
    recording: Recording,
    library: Path,
    scratch: Path,
    seed: int,
    *,
    n_runs: int,
    n_cuts: int,
    spool: Mapping[str, Any] | None = None,
) -> Count:
    """Listeners that start on what a cut left, recorded in their turn and cut again: in their recovery, or later."""
    count = Count(seed)
    for first in choose_cuts(recording.entries(), n_runs, seed):
        ((_, data, known, _),) = _after_each(recording, [first], scratch, recording.entries())
        folder = scratch / f"after-{first.at}-{first.seed}"
        again = record_listener(
            folder, library, first.seed + 1, n_acknowledged=60, data=data, known=known, spool=spool
        )
        more = cut_everywhere(again, scratch, first.seed, n_cuts)
        count.kills["power, for the second time"] += n_cuts
        count.faults += more.faults
        count.n_sent, count.n_acknowledged = more.n_sent, count.n_acknowledged + more.n_acknowledged
    return count


def cut_power(
    recording: Recording, cuts: Iterable[Cut], scratch: Path, *, entries: list[Entry] | None = None
) -> list[Finding]:
    """Fail the power at each of `cuts`; the findings, of which a good node leaves none.

    Parameters
    ----------
    scratch
        A folder for the disks; each is removed when it was looked at.
    entries
        In place of those of the recording: for tests of this drill.
    """
    findings = []
    for cut, folder, ledger, how in _after_each(recording, cuts, scratch, entries or recording.entries()):
        faults = recover_and_compare(folder, f"sqlite:///{folder / 'node.sqlite'}", ledger)
        if faults:
            findings.append(Finding(recording, cut, how, faults))
        shutil.rmtree(folder)
    return findings


def choose_cuts(entries: list[Entry], n: int, seed: int) -> list[Cut]:
    """Half of them right after an acknowledgement left, when most is at stake; the others anywhere."""
    rng = random.Random(f"cuts {seed}")
    after_answers = [at + 1 for at, entry in enumerate(entries) if acknowledged_in(entry)]
    places = [rng.choice(after_answers) if number % 2 else rng.randint(0, len(entries)) for number in range(n)]
    return [Cut(at, seed + number) for number, at in enumerate(places)]


def _after_each(
    recording: Recording, cuts: Iterable[Cut], scratch: Path, entries: list[Entry]
) -> Iterator[tuple[Cut, Path, Ledger, str]]:
    """Each cut in the order of the record, the disk after it, what was acknowledged by then, what survived."""
    ledger, items = recording.ledger()
    disk, position = recording.disk(), 0
    for cut in sorted(cuts, key=lambda cut: cut.at):
        for entry in entries[position : cut.at]:
            disk.replay(entry)
            for message_id in acknowledged_in(entry):
                uid, digest = items[message_id]
                ledger.acknowledged.setdefault(uid, set()).add(digest)
        position = cut.at
        folder = scratch / f"cut-{cut.at}-{cut.seed}"
        how = disk.cut_power(random.Random(f"cut {cut.at} {cut.seed}"), folder)
        yield cut, folder, ledger, how
