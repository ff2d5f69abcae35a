"""`python -m tests.acceptance.drill soak --minutes 30`: the crash drill with new seeds until the time is over.

`again RECORDING AT SEED` cuts the power once more where a test or a soak found something. `deliver` is the delivery
drill: a thousand series to ten destinations at fault, by workers that are killed.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from tests.acceptance.drill.count import Count
from tests.acceptance.drill.delivery_drill import deliver_to_ten
from tests.acceptance.drill.power_cut import Cut, cut_after_cuts, cut_everywhere, cut_power
from tests.acceptance.drill.process_drill import kill_database, kill_listener, kill_listener_processes, kill_node
from tests.acceptance.drill.recorder import build_recorder
from tests.acceptance.drill.recording import Recording, record_listener
from tests.conftest import running_postgresql

TARGETS_IN_NODE = ["node"] * 6 + ["listen", "infer", "deliver", "deliver", "schedule"]


def soak(minutes: float, seed: int, folder: Path) -> int:
    """Campaign after campaign until the time is over, or until one finds something: exit status 1."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    library = build_recorder(folder)
    kills: Counter[str] = Counter()
    n_acknowledged = 0
    end = time.monotonic() + 60 * minutes
    while True:
        for campaign in _campaigns(folder / str(seed), library, seed):
            count = campaign()
            kills += count.kills
            n_acknowledged += count.n_acknowledged
            print(count, flush=True)
            if count.faults:
                print(*count.faults[:20], f"again: make soak SOAK_SEED={seed}; see {folder}", sep="\n", file=sys.stderr)
                return 1
            if time.monotonic() > end:
                print(f"{kills.total()} kill points, {n_acknowledged} stores acknowledged, nothing lost")
                return 0
        shutil.rmtree(folder / str(seed))
        seed += 1


def _campaigns(folder: Path, library: Path, seed: int) -> Iterator[Callable[[], Count]]:
    spool = {"prepared_mb": 64 * (seed % 3)}

    def record() -> Recording:
        return record_listener(
            folder / "power", library, seed, n_acknowledged=800, n_senders=4, spool=spool, large_every=300,
            n_processes=1 + seed % 2,
        )  # fmt: skip

    def place(name: str) -> Path:
        (folder / name).mkdir(parents=True)
        return folder / name

    def with_database() -> Count:
        with running_postgresql(durable=True) as server:
            return kill_database(place("database"), seed, 20, server)

    yield lambda: cut_everywhere(record(), place("cuts"), seed, 200)
    yield lambda: cut_after_cuts(
        Recording(folder / "power"), library, place("again"), seed, n_runs=6, n_cuts=40, spool=spool
    )
    yield lambda: kill_listener(place("listener"), seed, 40)
    yield lambda: kill_listener_processes(place("processes"), seed, 15, n_processes=3)
    yield with_database
    yield lambda: kill_node(place("node"), seed, TARGETS_IN_NODE)


def again(folder: Path, cut: Cut) -> int:
    """One power cut of a recording."""
    findings = cut_power(Recording(folder), [cut], folder / "again")
    print(*findings, sep="\n")
    print(f"{len(findings)} findings after {cut}")
    return 1 if findings else 0


def deliver(n_series: int, n_kills: int, seed: int, folder: Path) -> int:
    """The delivery drill once; exit status 1 when the books do not balance."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    balance = deliver_to_ten(folder, seed, n_series, n_kills)
    print(*balance.table(), sep="\n")
    print(*balance.faults[:20], sep="\n", file=sys.stderr)
    return int(bool(balance.faults))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.drill", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    soaking = commands.add_parser("soak", help="run until the time is over")
    soaking.add_argument("--minutes", type=float, default=30.0)
    soaking.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    soaking.add_argument("--folder", type=Path, default=Path("build/drill"))
    repeating = commands.add_parser("again", help="one power cut of a recording")
    repeating.add_argument("recording", type=Path)
    repeating.add_argument("at", type=int)
    repeating.add_argument("seed", type=int)
    delivering = commands.add_parser("deliver", help="the delivery drill, once")
    delivering.add_argument("--series", type=int, default=1000)
    delivering.add_argument("--kills", type=int, default=100)
    delivering.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    delivering.add_argument("--folder", type=Path, default=Path("build/delivery-drill"))
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if arguments.command == "soak":
        return soak(arguments.minutes, arguments.seed, arguments.folder.resolve())
    if arguments.command == "deliver":
        return deliver(arguments.series, arguments.kills, arguments.seed, arguments.folder.resolve())
    return again(arguments.recording.resolve(), Cut(arguments.at, arguments.seed))


if __name__ == "__main__":
    sys.exit(main())
