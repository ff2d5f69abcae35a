"""`make bench-ingest`: measure, print the tables, write `ingest.json`.

`python -m tests.benchmarks.ingest --help` has more. Peers that are not installed are left out, and said to be.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from tests.benchmarks.ingest import prefilled, report
from tests.benchmarks.ingest.goals import Goal, Medians, goals
from tests.benchmarks.ingest.receivers import (
    KINDS,
    NODE_RELAXED,
    NODE_STRICT,
    NODE_STRICT_2,
    ORTHANC,
    PYNETDICOM,
    STORESCP,
    STORESCP_BIT_PRESERVING,
    Kind,
)
from tests.benchmarks.ingest.rounds import SUSTAINED_REPEATS, Bench, Measurement, cells
from tests.benchmarks.ingest.workloads import WORKLOADS

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = REPOSITORY / "docs" / "benchmarks-ingest.md"
QUICK_SCALE = 20
QUICK_FILL = prefilled.Fill(rows=2000, files=200)
PARTS = ("rates", "floor", "nagle", "memory", "sustained", "prefilled")
DEFAULT_PARTS = PARTS[:-1]


def main(words: list[str] | None = None) -> list[Measurement]:
    """Run what the command line asks for."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # the receiver that runs is stopped, then
    arguments = _arguments(words)
    console = Console(width=200 if arguments.width is None else arguments.width, highlight=False)
    scale = QUICK_SCALE if arguments.quick else 1
    bench = Bench(arguments.folder, lambda text: console.print(f"[dim]{time.strftime('%H:%M:%S')} {text}"), scale=scale)
    wanted = [kind for kind in KINDS if arguments.receivers is None or kind.key in arguments.receivers]
    problems = [f"{kind.title}: {kind.missing}" for kind in wanted if kind.missing]
    kinds = [kind.in_little_room() if arguments.quick else kind for kind in wanted if not kind.missing]
    for problem in problems:
        console.print(f"[red]left out: {problem}")

    so_far = arguments.folder / "measurements.jsonl"  # and what there is of a bench that did not end
    measurements: list[Measurement] = []
    if arguments.keep and so_far.is_file():
        measurements = [json.loads(line) for line in so_far.read_text().splitlines()]
    with so_far.open("a" if arguments.keep else "w") as stream:
        for one in _measure(bench, kinds, arguments):
            measurements.append(one)
            stream.write(json.dumps(one) + "\n")
            stream.flush()
    kinds = [kind for kind in KINDS if any(one.get("receiver") == kind.key for one in measurements)]
    problems += report.errors(measurements)
    found_goals = goals(Medians(measurements))
    tables = report.tables(measurements, found_goals, kinds)
    facts = report.machine_facts(arguments.folder)
    for table in tables:
        table.print(console)
    console.print(report.disturbance(measurements))
    for problem in problems:
        console.print(f"[red]left out: {problem}")
    _write(arguments.folder / "ingest.json", facts, measurements, found_goals, problems)
    if arguments.write_doc:
        command = "make bench-ingest" + (
            " PREFILLED=1" if any(one["part"] == "prefilled" for one in measurements) else ""
        )
        PAGE.write_text(report.page(tables, problems, facts, measurements, command))
    return measurements


def _measure(bench: Bench, kinds: list[Kind], arguments: argparse.Namespace) -> Iterator[Measurement]:
    def those(*among: Kind) -> list[Kind]:
        return [kind for kind in kinds if kind in among]

    for part in arguments.parts:
        if part == "rates":
            sizes = [size for size in WORKLOADS if arguments.workloads is None or size.key in arguments.workloads]
            yield from bench.interleaved(kinds, cells(sizes), arguments.rounds)
        elif part == "floor":
            yield from bench.floors(arguments.rounds)
        elif part == "nagle":
            yield from bench.with_nagle(those(NODE_STRICT, STORESCP, ORTHANC))
        elif part == "memory":
            yield from bench.memory(those(NODE_STRICT, NODE_STRICT_2, NODE_RELAXED, STORESCP, PYNETDICOM), 8)
            yield from bench.memory(those(ORTHANC), 4)
        elif part == "sustained":
            repeats = 2 if arguments.quick else SUSTAINED_REPEATS
            yield from bench.sustained(those(NODE_STRICT, NODE_RELAXED, STORESCP, STORESCP_BIT_PRESERVING), repeats)
        elif part == "prefilled":
            folder = arguments.folder / ("prefilled-quick" if arguments.quick else "prefilled")
            for kind in those(NODE_STRICT):
                prefilled.build(kind, folder, QUICK_FILL if arguments.quick else prefilled.Fill(), bench.say)
                yield from bench.prefilled(kind, folder, arguments.rounds)


def _write(
    path: Path,
    facts: dict[str, str],
    measurements: list[Measurement],
    found_goals: list[Goal],
    problems: list[str],
) -> None:
    content = {
        "images": "simulated",
        "machine": facts,
        "rounds": report.rounds(measurements),
        "goals": [{**asdict(goal), "passed": goal.passed} for goal in found_goals],
        "left_out": problems,
        "measurements": measurements,
    }
    path.write_text(json.dumps(content, indent=1))


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ingest", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--receivers", type=_names([kind.key for kind in KINDS]), help="comma-separated; all")
    parser.add_argument("--workloads", type=_names([size.key for size in WORKLOADS]), help="comma-separated; all")
    parser.add_argument("--parts", type=_names(PARTS), default=list(DEFAULT_PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--prefilled", action="store_true", help="with the archive of ten million rows; 12 GB of disk")
    parser.add_argument("--quick", action="store_true", help="a twentieth of everything: shows that it works")
    parser.add_argument("--keep", action="store_true", help="add to what the last bench in this folder measured")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "bench")
    parser.add_argument("--write-doc", action="store_true", help=f"write {PAGE.relative_to(REPOSITORY)}")
    parser.add_argument("--width", type=int, help="of the tables, in characters")
    arguments = parser.parse_args(words)
    if arguments.prefilled:
        arguments.parts = [*arguments.parts, "prefilled"]
    return arguments


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    main()
