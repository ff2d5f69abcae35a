"""The bench's tables: how fast each audits, and what each finds; on the terminal and as Markdown."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.audit.archive import KINDS, Series
from tests.benchmarks.audit.auditors import PROCESSORS, Auditor, Run
from tests.benchmarks.ingest.report import ABSENT, Table

GOAL_HEADERS_PER_SECOND = 400


@dataclass(frozen=True)
class Measured:
    """What one auditor made of one folder in all rounds."""

    auditor: str
    folder: str
    headers: int
    runs: tuple[Run, ...]

    @property
    def seconds(self) -> float:
        return statistics.median(run.seconds for run in self.runs)

    @property
    def headers_per_second(self) -> float:
        return self.headers / self.seconds

    @property
    def last(self) -> Run:
        return self.runs[-1]


@dataclass(frozen=True)
class Goal:
    """What the issue asks for."""

    text: str
    value: float
    least: float
    others: float  # share of the processors' time that went elsewhere meanwhile

    @property
    def passed(self) -> bool:
        return self.value >= self.least

    def __str__(self) -> str:
        verdict = "pass" if self.passed else "MISSED"
        disturbed = f"; others had {100 * self.others:.0f} % of the processors" if self.others >= 0.1 else ""
        return f"{verdict}: {self.text}: {self.value:,.0f} (goal: at least {self.least:,.0f}{disturbed})"


def goals(measured: Sequence[Measured]) -> list[Goal]:
    """Of the simulated folder, which is the large one."""
    text = f"headers per second on {PROCESSORS} processors"
    return [
        Goal(text, one.headers_per_second, GOAL_HEADERS_PER_SECOND, statistics.median(run.others for run in one.runs))
        for one in measured
        if one.auditor == "node" and one.folder == "simulated"
    ]


def tables(measured: Sequence[Measured], auditors: Sequence[Auditor], series: Sequence[Series]) -> list[Table]:
    """All that was measured."""
    simulated = {one.auditor: one.last for one in measured if one.folder == "simulated"}
    real = {one.auditor: one.last for one in measured if one.folder == "real"}
    found = [_speed(measured, auditors), _planted(simulated, auditors, series)]
    return [*found, _real(real, auditors)] if real else found


def _speed(measured: Sequence[Measured], auditors: Sequence[Auditor]) -> Table:
    rows = []
    titles = {one.key: one.title for one in auditors}
    for one in measured:
        ended, cpu = one.last.error, statistics.median(run.cpu_seconds for run in one.runs)
        rows.append(
            (
                f"{titles[one.auditor]}, {one.folder} headers",
                f"{one.headers:,}",
                ABSENT if ended else f"{one.seconds:.1f}",
                ABSENT if ended else f"{one.headers_per_second:,.0f}",
                ABSENT if ended else f"{1000 * cpu / one.headers:.2f}",
                f"{max(run.peak_mb for run in one.runs):,.0f}",
                f"{100 * statistics.median(run.others for run in one.runs):.0f} %",
                ended or (f"{len(one.last.left_out)} left out" if one.last.left_out else ""),
            )
        )
    header = ("", "headers", "seconds", "headers / s", "CPU ms / header", "peak MB", "others had", "remark")
    note = (
        "Medians; the start of the program and the writing of its reports are in them. 'Others had' is the share of "
        "the processors' time that went elsewhere meanwhile: with much of it, compare CPU time."
    )
    return Table("Time", header, rows, note)


def _planted(runs: dict[str, Run], auditors: Sequence[Auditor], series: Sequence[Series]) -> Table:
    """Series with a planted error that were named with one of its elements, and sound series that were named."""
    shown = [one for one in auditors if one.key in runs]
    planted = Counter(one.kind for one in series)
    rows = []
    for kind in KINDS:
        if not planted[kind.name]:
            continue
        cells = []
        for auditor in shown:
            named = _named(runs[auditor.key])
            places = [one.folder for one in series if one.kind == kind.name]
            hits = sum(bool(named.get(place, set()) & set(kind.elements)) for place in places)
            cells.append(ABSENT if runs[auditor.key].error else f"{hits} of {planted[kind.name]}")
        rows.append((kind.title, *cells))
    sound = {one.folder for one in series if not one.kind}
    named_for_nothing = [
        ABSENT if runs[one.key].error else f"{len(sound & set(_named(runs[one.key])))} of {len(sound)}" for one in shown
    ]
    rows.append(("nothing: sound series that were named", *named_for_nothing))
    note = f"{len(series)} simulated series. An error is found where the series is named with an element that shows it."
    return Table("What each finds of planted errors", ("planted", *(one.title for one in shown)), rows, note)


def _real(runs: dict[str, Run], auditors: Sequence[Auditor]) -> Table:
    shown = [one for one in auditors if one.key in runs]
    folders = sorted({place for run in runs.values() for place, _ in run.found})
    named = [_named(runs[one.key]) for one in shown]
    rows = [(place, *(", ".join(sorted(of.get(place, ()))) or ABSENT for of in named)) for place in folders]
    note = "Elements of findings in real series (no patient of this project); series with none are not listed."
    return Table("What each finds in the real series", ("series", *(one.title for one in shown)), rows, note)


def _named(run: Run) -> dict[str, set[str]]:
    named: dict[str, set[str]] = {}
    for place, element in run.found:
        named.setdefault(place, set()).add(element)
    return named


def machine_facts() -> dict[str, str]:
    """What the figures hold for; no names of hosts, people or places."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": f"{os.cpu_count()} x {model.group(1).strip() if model else platform.machine()}",
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "pydicom": version("pydicom"),
    }


def page(
    found: Sequence[Table],
    met: Sequence[Goal],
    left_out: Sequence[str],
    facts: dict[str, str],
    rounds: int,
    measured: Sequence[Measured],
) -> str:
    """The page in docs."""
    machine = "; ".join(f"{name} {value}" for name, value in facts.items())
    reasons = sorted(
        {(one.folder, place, why) for one in measured if one.auditor != "node" for place, why in one.last.left_out}
    )
    return "\n".join(
        [
            "# Auditing a folder: this node beside mrQA",
            "",
            "Printed by `make bench-audit`. The large folder is **simulated**: patients on two scanners, three",
            "protocols each, images thinned to 64 x 64, errors planted in known series",
            "(`tests/benchmarks/audit/archive.py`). The real headers are those of the 39 series that the tests use.",
            f"Each program runs as its users start it, one after the other, on {PROCESSORS} processors, with its",
            f"defaults; mrQA uses one process. Rounds: {rounds}, of which medians are shown. Rates are those of this",
            f"machine: {machine}.",
            "",
            *(f"- {goal}" for goal in met),
            *(f"- left out: {text}" for text in left_out),
            "",
            *(table.markdown() for table in found),
            "The planted errors were chosen by those who wrote the checks, and patients differ in position and field",
            "of view only: this shows what kind of error each program looks for, not how often it is right.",
            "mrQA compares each series with the majority of its sequence over at least three subjects, in the elements",
            "that its configuration names; what a header says against itself it does not ask. Where a header makes it",
            "raise, its audit ends without a report; the last column runs it with such series left out instead",
            "(`tests/benchmarks/audit/mrqa_peer.py`).",
            "",
            *(["Left out so:", ""] if reasons else []),
            *(f"- {folder} headers, `{place}`: {why}" for folder, place, why in reasons),
            *([""] if reasons else []),
        ]
    )
