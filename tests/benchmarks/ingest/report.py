"""The bench's tables, on the terminal and as Markdown, and the facts of the machine that they hold for."""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import rich.table
from rich.console import Console

from tests.benchmarks.ingest.goals import Goal, Medians, peak_mb
from tests.benchmarks.ingest.receivers import KINDS, Kind, orthanc_program
from tests.benchmarks.ingest.rounds import WINDOW_BYTES, Measurement
from tests.benchmarks.ingest.workloads import WORKLOADS

ABSENT = "-"
TITLES = {kind.key: kind.title for kind in KINDS}


@dataclass(frozen=True)
class Table:
    """Columns of text under a title; the first one is a name, the others are numbers."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""

    def print(self, console: Console) -> None:
        table = rich.table.Table(title=self.title, title_justify="left", caption=self.note or None)
        for position, name in enumerate(self.header):
            table.add_column(name, justify="right" if position else "left")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", *([self.note, ""] if self.note else [])]
        lines.append("| " + " | ".join(self.header) + " |")
        lines.append("|---|" + "---:|" * (len(self.header) - 1))
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"


def machine_facts(folder: Path) -> dict[str, str]:
    """What the figures hold for; no names of hosts, people or places."""
    cpu_info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", cpu_info, re.MULTILINE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": f"{os.cpu_count()} x {model.group(1).strip() if model else platform.machine()}",
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release().split('-')[0]}, {_file_system(folder)}",
        "python": platform.python_version(),
        "pynetdicom": version("pynetdicom"),
        "dcmtk": _first_match(r"v(\d+\.\d+\.\d+)", "storescp", "--version"),
        "orthanc": _first_match(r"Orthanc(?: version:?)? (\d+\.\d+\.\d+)", orthanc_program(), "--version"),
    }


def _file_system(folder: Path) -> str:
    done = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "file system unknown"


def _first_match(pattern: str, *command: str) -> str:
    if shutil.which(command[0]) is None:
        return "not there"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(pattern, done.stdout + done.stderr)
    return found.group(1) if found else "unknown"


def tables(measurements: Sequence[Measurement], goals: Sequence[Goal], kinds: Sequence[Kind]) -> list[Table]:
    """All tables for which something was measured."""
    medians = Medians(measurements)
    found = [*_rates(medians, kinds), *_ratios(medians, kinds), *_costs(medians, kinds), *_senders(medians, kinds)]
    found += [*_sustained(medians), *_memory(medians), *_floors(medians), *_prefilled(medians), _goals(goals)]
    return [table for table in found if table.rows]


def errors(measurements: Sequence[Measurement]) -> list[str]:
    """What did not work, once each."""
    return sorted({f"{TITLES[one['receiver']]}: {one['error']}" for one in measurements if one.get("error")})


def disturbance(measurements: Sequence[Measurement]) -> str:
    """How much of the processors' time went elsewhere while the rates were measured; Linux tells."""
    medians = Medians(measurements)
    stolen, others = medians.of("stolen_share", part="rates"), medians.of("others_share", part="rates")
    if stolen is None or others is None:
        return ""
    return (
        f"While the rates were measured, the hypervisor gave {100 * stolen:.0f} % of the processors' time to others, "
        f"and {100 * others:.0f} % went to other processes of this machine (medians)."
    )


def _cells(medians: Medians) -> list[tuple[str, int, str]]:
    return [
        (size.key, n, f"{size.title}, {n} assoc.")
        for size in WORKLOADS
        for n in (1, 4)
        if any(True for _ in medians.matching(part="rates", sender="minimal", workload=size.key, associations=n))
    ]


def _by_cell(medians: Medians, kinds: Sequence[Kind], number: str, digits: str) -> list[tuple[str, ...]]:
    rows = []
    for kind in kinds:
        values = [
            medians.of(number, part="rates", sender="minimal", receiver=kind.key, workload=key, associations=n)
            for key, n, _ in _cells(medians)
        ]
        if any(value is not None for value in values):
            rows.append((kind.title, kind.promise, *(_text(value, digits) for value in values)))
    return rows


def _rates(medians: Medians, kinds: Sequence[Kind]) -> list[Table]:
    titles = tuple(title for *_, title in _cells(medians))
    return [
        Table(
            "Instances per second, minimal sender",
            ("receiver", "Success means", *titles),
            _by_cell(medians, kinds, "instances_per_s", ",.0f"),
        ),
        Table(
            "MB/s, minimal sender",
            ("receiver", "Success means", *titles),
            _by_cell(medians, kinds, "mb_per_s", ",.0f"),
        ),
    ]


def _ratios(medians: Medians, kinds: Sequence[Kind]) -> list[Table]:
    rows = []
    nodes = [kind for kind in kinds if kind.is_node]
    for peer in (kind for kind in kinds if not kind.is_node):
        for node in nodes:
            cells = [
                {"part": "rates", "sender": "minimal", "workload": key, "associations": n}
                for key, n, _ in _cells(medians)
            ]
            values = [
                medians.ratio("instances_per_s", {**cell, "receiver": node.key}, {**cell, "receiver": peer.key})
                for cell in cells
            ]
            if any(value is not None for value in values):
                rows.append((f"{node.title} / {peer.title}", *(_text(value, ".2f") for value in values)))
    titles = tuple(title for *_, title in _cells(medians))
    return [Table("Ratios of the rates (above 1: the node is faster)", ("node / peer", *titles), rows)]


def _costs(medians: Medians, kinds: Sequence[Kind]) -> list[Table]:
    titles = tuple(title for *_, title in _cells(medians))
    waits = []
    for kind in kinds:
        where = {"part": "rates", "sender": "minimal", "receiver": kind.key, "workload": "mr320"}
        values = [medians.of(number, **where, associations=n) for n in (1, 4) for number in ("p50_ms", "p99_ms")]
        peak = medians.of(peak_mb, part="rates", receiver=kind.key)
        if peak is not None:
            waits.append((kind.title, *(_text(value, ".2f") for value in values), _text(peak, ".0f")))
    return [
        Table(
            "CPU seconds per GB of the receiver's processes",
            ("receiver", "Success means", *titles),
            _by_cell(medians, kinds, "cpu_s_per_gb", ".2f"),
            "Counted until the receiver does nothing any more, so that work put off until later is in it.",
        ),
        Table(
            "Until the answer, milliseconds, 320 x 320; peak memory of the largest process, MB",
            ("receiver", "1 assoc. median", "99 %", "4 assoc. median", "99 %", "peak MB"),
            waits,
        ),
    ]


def _senders(medians: Medians, kinds: Sequence[Kind]) -> list[Table]:
    columns = [("dcmsend", 1), ("dcmsend", 4), ("storescu", 1), ("storescu", 4)]
    rows = []
    for kind in kinds:
        values = [
            medians.of(
                "instances_per_s", part="rates", receiver=kind.key, sender=sender, associations=n, workload="mr320"
            )
            for sender, n in columns
        ]
        default = medians.of("instances_per_s", part="nagle", receiver=kind.key)
        if any(value is not None for value in values):
            rows.append((kind.title, *(_text(value, ",.0f") for value in values), _text(default, ",.0f")))
    header = ("receiver", *(f"{sender}, {n} assoc." for sender, n in columns), "dcmsend, everyone's defaults")
    note = "320 x 320; the sender's whole run; TCP_NODELAY set for DCMTK and Orthanc save in the last column."
    return [Table("Instances per second as DCMTK's senders see it", header, rows, note)]


def _sustained(medians: Medians) -> list[Table]:
    rows = []
    for one in medians.matching(part="sustained", error=None):
        windows = one["windows_mb_per_s"] or [one["mb_per_s"]]
        rows.append(
            (
                f"{TITLES[one['receiver']]}, {one['associations']} assoc.",
                _text(one["bytes"] / 1e9, ".1f"),
                _text(one["instances_per_s"], ",.0f"),
                _text(one["mb_per_s"], ",.0f"),
                _text(windows[0], ",.0f"),
                _text(statistics.median(windows[len(windows) // 2 :]), ",.0f"),
                _text(min(windows), ",.0f"),
                _text(one["p99_ms"], ".1f"),
                _text(one["slowest_ms"], ".0f"),
                _text(one["cpu_s_per_gb"], ".2f"),
                _text(one["stored_after_s"], ".1f"),
            )
        )
    header = (
        "receiver", "GB", "instances/s", "MB/s", "first window", "second half", "slowest window", "99 % ms",
        "slowest ms", "CPU s/GB", "all stored after s",
    )  # fmt: skip
    note = f"320 x 320 without a pause, one run each; MB/s in windows of {WINDOW_BYTES / 1e6:.0f} MB."
    return [Table("A sustained run, longer than prepared space lasts", header, rows, note)]


def _memory(medians: Medians) -> list[Table]:
    rows = [
        (
            f"{TITLES[one['receiver']]}, {one['associations']} senders",
            _text(peak_mb(one), ".0f"),
            _text(sum(one["peak_mb"]), ".0f"),
            _text(one["mb_per_s"], ",.0f"),
        )
        for one in medians.matching(part="memory", error=None)
    ]
    note = "Each receiver started afresh. Orthanc serves four associations at once by default."
    header = ("receiver", "peak of the largest process, MB", "sum of all peaks, MB", "MB/s")
    return [Table("Memory with several senders of 60 MB instances at once", header, rows, note)]


def _floors(medians: Medians) -> list[Table]:
    rows = []
    for size in WORKLOADS:
        where = {"part": "floor", "workload": size.key}
        files = medians.of("synced_files_per_s", **where)
        blocks = medians.of("synced_blocks_per_s", **where)
        node = medians.of(
            "instances_per_s",
            part="rates", sender="minimal", receiver="node-strict", workload=size.key, associations=1,
        )  # fmt: skip
        if files and blocks:
            shares = [_text(node / floor if node else None, ".2f") for floor in (files, blocks)]
            rows.append((size.title, _text(files, ",.0f"), _text(blocks, ",.0f"), *shares))
    header = (
        "instances of", "new file + fsync, per s", "prepared blocks + fdatasync, per s", "strict / files",
        "strict / blocks",
    )  # fmt: skip
    note = "One write after the other, no network: what durability alone costs on this disk in this run."
    return [Table("The disk's floor", header, rows, note)]


def _prefilled(medians: Medians) -> list[Table]:
    rows = []
    for n in (1, 4):
        for archive in ("empty", "prefilled"):
            where = {"part": "prefilled", "associations": n, "archive": archive}
            values = [
                medians.of(number, **where)
                for number in ("instances_per_s", "cpu_s_per_gb", "p99_ms", "stored_after_s", "start_s")
            ]
            if values[0] is not None:
                digits = (",.0f", ".2f", ".2f", ".2f", ".1f")
                texts = (_text(value, form) for value, form in zip(values, digits, strict=True))
                rows.append((f"{archive}, {n} assoc.", *texts))
    header = ("archive", "instances/s", "CPU s/GB", "99 % ms", "all stored after s", "start s")
    return [Table("Ten million rows and a million files, beside an empty node; strict, 320 x 320", header, rows)]


def _goals(goals: Sequence[Goal]) -> Table:
    words = {True: "reached", False: "MISSED", None: "not measured"}
    rows = [
        (goal.text, _text(goal.value, ".2f"), f"{'>=' if goal.at_least else '<='} {goal.limit:g}", words[goal.passed])
        for goal in goals
    ]
    return Table("Goals", ("goal", "value", "limit", ""), rows)


def _text(value: float | None, form: str) -> str:
    return ABSENT if value is None else format(value, form)


PAGE = """# Receiving C-STORE: this node beside others

Printed by `{command}`, which starts the peers beside the node on one machine, over the loopback. Every image is
**simulated**. Ratios are what carries over to other machines; rates are those of this one: {machine}.

Medians of {rounds} rounds. In each, every receiver is started afresh on an empty folder, in changing order.
320 x 320 are 1,000 instances of 227 KB, 512 x 512 are 400 of 546 KB, 60 MB are 20 multi-frame instances. The minimal
sender (`tests/benchmarks/ingest/sender.c`) sends from memory, in PDUs of the size that the receiver announces, at most
128 KiB; associations are negotiated before its clock starts. Every answer must be Success, and every run must end with
as many instances stored as were acknowledged. DCMTK and Orthanc run with `TCP_NODELAY=1`; otherwise everyone's defaults
stand (DCMTK storescp has `--fork`, to serve several associations at once). Memory is touched before each start,
the disk is synced before each run.
"""


def rounds(measurements: Sequence[Measurement]) -> str:
    """How many rounds the rates are medians of: a number, or the least and the most that a receiver had with a size."""
    counts = Counter(
        (one["receiver"], one["workload"])
        for one in measurements
        if one["part"] == "rates" and "error" not in one and one["sender"] == "minimal" and one["associations"] == 4
    )
    least, most = min(counts.values(), default=0), max(counts.values(), default=0)
    return str(least) if least == most else f"{least} to {most}"


def page(
    found: Sequence[Table],
    problems: Sequence[str],
    facts: dict[str, str],
    measurements: Sequence[Measurement],
    command: str,
) -> str:
    """The whole page as Markdown."""
    machine = "; ".join(f"{name} {value}" for name, value in facts.items())
    text = PAGE.format(command=command, machine=machine, rounds=rounds(measurements))
    text += f"\n{disturbance(measurements)}\n"
    if problems:
        text += "\n**Left out:** " + "; ".join(problems) + "\n"
    return text + "\n" + "\n".join(table.markdown() for table in found)
