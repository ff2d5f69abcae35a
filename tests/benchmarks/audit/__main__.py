"""`make bench-audit`: audit the same folders, print the tables, write `audit.json` and the page in docs.

`python -m tests.benchmarks.audit --help` has more. mrQA is left out where it is not installed, and said to be.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from tests.benchmarks.audit import archive, report
from tests.benchmarks.audit.auditors import REPOSITORY, Run, auditors

PAGE = REPOSITORY / "docs" / "benchmarks-audit.md"
MR_REAL = REPOSITORY.parent / "shared" / "data" / "mr-real"


def main(words: list[str] | None = None) -> list[report.Measured]:
    """Run what the command line asks for."""
    arguments = _arguments(words)
    console = Console(width=200, highlight=False)
    size = archive.QUICK if arguments.quick else archive.FULL
    arguments.folder = arguments.folder.resolve()
    simulated = arguments.folder / ("audit-quick" if arguments.quick else "audit-simulated")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    console.print(f"{size.headers:,} simulated headers in {simulated.name}")
    series = archive.prepare(simulated, size)
    folders = {"simulated": simulated}
    if MR_REAL.is_dir() and not arguments.quick:
        folders["real"] = MR_REAL
    everyone = auditors()
    left_out = [f"{one.title}: {one.missing}" for one in everyone if one.missing]
    there = [one for one in everyone if not one.missing]

    measured = []
    for name, folder in folders.items():
        headers = _headers(folder)  # and its files are in memory, for everyone
        runs: dict[str, list[Run]] = {one.key: [] for one in there}
        for number in range(arguments.rounds):
            for one in there[number % len(there) :] + there[: number % len(there)]:
                if runs[one.key] and runs[one.key][-1].error:
                    continue  # it would end so again
                console.print(f"[dim]{time.strftime('%H:%M:%S')} {one.title}, {name} headers")
                runs[one.key].append(one(folder, arguments.folder / "audit-output" / f"{one.key}-{name}"))
        measured += [report.Measured(one.key, name, headers, tuple(runs[one.key])) for one in there]
    found, met = report.tables(measured, there, series), report.goals(measured)
    for table in found:
        table.print(console)
    for text in (*map(str, met), *(f"left out: {text}" for text in left_out)):
        console.print(text)
    facts = report.machine_facts()
    content = {
        "images": "simulated; and the real headers of the tests",
        "machine": facts,
        "rounds": arguments.rounds,
        "goals": [{**asdict(goal), "passed": goal.passed} for goal in met],
        "left_out": left_out,
        "measurements": [asdict(one) for one in measured],
    }
    (arguments.folder / "audit.json").write_text(json.dumps(content, indent=1))
    if arguments.write_doc:
        PAGE.write_text(report.page(found, met, left_out, facts, arguments.rounds, measured))
    return measured


def _headers(folder: Path) -> int:
    """DICOM files in a folder."""
    n = 0
    for path in folder.rglob("*"):
        if path.is_file():
            n += path.read_bytes()[128:132] == b"DICM"
    return n


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.audit", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a handful of series: shows that it works")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "bench")
    parser.add_argument("--write-doc", action="store_true", help=f"write {PAGE.relative_to(REPOSITORY)}")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
