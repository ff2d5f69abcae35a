"""Who audits: this node and mrQA, each as its users start it, in processes of their own on two processors.

A run starts cold (interpreter, imports) and ends when the reports are written.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.ingest.processes import busy_s, stolen_s

REPOSITORY = Path(__file__).resolve().parents[3]
PEER = REPOSITORY / "build" / "peers-audit" / "bin"
PROCESSORS = 2


@dataclass(frozen=True)
class Run:
    """One audit of a folder."""

    seconds: float
    cpu_seconds: float
    peak_mb: float  # of its largest process
    others: float  # share of the machine's processors that other processes, or the hypervisor's other guests, had
    error: str = ""  # why there are no findings
    found: tuple[tuple[str, str], ...] = ()  # folder of a series as seen from the audited one, DICOM keyword
    left_out: tuple[tuple[str, str], ...] = ()  # folder and why


def node(folder: Path, output: Path) -> Run:
    """`iap-node audit FOLDER --processes 2 --out OUTPUT`."""
    words = [str(Path(sys.executable).with_name("iap-node")), "audit", str(folder), "--out", str(output)]
    timed, error = _timed([*words, "--processes", str(PROCESSORS)], output)
    if error:
        return Run(*timed, error=error)
    content = json.loads((output / "audit.json").read_text())
    found = [
        (place, finding["element"])
        for series in content["series"]
        for place in series["folders"]
        for finding in series["findings"]
    ]
    return Run(*timed, found=tuple(found), left_out=tuple((one["path"], one["reason"]) for one in content["unread"]))


def mrqa(folder: Path, output: Path) -> Run:
    """`mrqa -d FOLDER -o OUTPUT`, with the findings as JSON."""
    return _mrqa(folder, output)


def mrqa_leaving_out(folder: Path, output: Path) -> Run:
    """The same, but a series in which mrQA breaks down is left out instead of ending the audit."""
    return _mrqa(folder, output, "--leave-out")


def _mrqa(folder: Path, output: Path, *words: str) -> Run:
    program = Path(__file__).with_name("mrqa_peer.py")
    timed, error = _timed([str(PEER / "python"), str(program), str(folder), str(output), *words], output)
    if error:
        return Run(*timed, error=error)
    content = json.loads((output / "found.json").read_text())
    return Run(
        *timed,
        error=content["error"],
        found=tuple((_below(folder, one["folder"]), one["element"]) for one in content["found"]),
        left_out=tuple((_below(folder, one["folder"]), one["error"]) for one in content["left_out"]),
    )


@dataclass(frozen=True)
class Auditor:
    """One of those that are measured."""

    key: str
    title: str
    run: Callable[[Path, Path], Run]
    missing: str = ""

    def __call__(self, folder: Path, output: Path) -> Run:
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        return self.run(folder, output)


def mrqa_version() -> str:
    """Of the installed one; "" where there is none."""
    if not (PEER / "mrqa").is_file():
        return ""
    words = [str(PEER / "python"), "-c", "from importlib.metadata import version; print(version('mrQA'))"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def auditors() -> tuple[Auditor, ...]:
    """All, in the order of the tables."""
    version = mrqa_version()
    absent = "" if version else "not installed: tests/benchmarks/audit/install-peers"
    return (
        Auditor("node", "this node", node),
        Auditor("mrqa", f"mrQA {version}".strip(), mrqa, absent),
        Auditor("mrqa-leaving-out", f"mrQA {version}, without what ends it".strip(), mrqa_leaving_out, absent),
    )


def _timed(command: Sequence[str], output: Path) -> tuple[tuple[float, float, float, float], str]:
    """Seconds, CPU seconds, peak MB and others' share of a command and its processes, and why it failed."""
    busy = busy_s() + stolen_s()
    with (output / "output.txt").open("w") as text:
        begin = time.perf_counter()
        child = subprocess.Popen(command, stdout=text, stderr=subprocess.STDOUT, cwd=output, preexec_fn=_two_processors)
        try:
            _, status, used = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        seconds = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
    cpu = used.ru_utime + used.ru_stime
    others = max(0.0, busy_s() + stolen_s() - busy - cpu) / (seconds * (os.cpu_count() or 1))
    timed = (seconds, cpu, used.ru_maxrss / 1024, others)
    return timed, "" if child.returncode == 0 else _reason(output / "output.txt", child.returncode)


def _two_processors() -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:PROCESSORS])


def _reason(output: Path, code: int) -> str:
    """The last line that a program said, without paths of this machine."""
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1] if lines else "said nothing"
    return f"exit {code}: {re.sub(r'/[^ ]+/', '', last)[:300]}"


def _below(folder: Path, path: str) -> str:
    found, root = Path(path).resolve(), folder.resolve()
    return str(found.relative_to(root)) if found.is_relative_to(root) else found.name
