"""Coverage-guided fuzzing of what meets a peer's bytes first: `make fuzz SECONDS=600`, or `python -m tests.fuzz -h`.

Each target runs in a process of its own under atheris (libFuzzer). Corpora and findings stay in `build/fuzz/TARGET`; a
later run goes on from there. A finding is reproduced by `python -m tests.fuzz --reproduce TARGET FILE`, and becomes a
test once it is mended.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TARGETS = ("commands", "headers", "part10_files", "associations", "segments", "judged_series", "checked_series")
TIMEOUT_S = 25  # of one input
MAX_INPUT_BYTES = 40_000
MEMORY_MIB = 1024  # of the process; what is watched more closely, the targets watch themselves
UNCAUGHT = "=== Uncaught Python exception"  # atheris says


@dataclass(frozen=True)
class Result:
    """What came of one target."""

    target: str
    n_executions: int
    n_edges: int  # reached
    findings: tuple[Path, ...]
    output: str  # the end of it


def run(target: str, folder: Path, options: list[str]) -> Result:
    """Fuzz one target; `options` are libFuzzer's."""
    findings = folder / target / "findings"
    before = set(findings.glob("*"))
    # By way of a shell that forks: Linux counts what the process that starts another holds (here that of many tests) as
    # the peak of the one it starts, and libFuzzer would take it for the target's.
    by_shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    target_process = [sys.executable, "-m", "tests.fuzz.one", target, str(folder / target)]
    done = subprocess.run(
        [*by_shell, *target_process, f"-max_len={MAX_INPUT_BYTES}", *options],
        cwd=REPOSITORY, capture_output=True, text=True, errors="replace", check=False,
        env=os.environ | {"PYTHONHASHSEED": "0"},
    )  # fmt: skip
    output = done.stderr + done.stdout
    executions = re.findall(r"stat::number_of_executed_units: (\d+)", output)
    edges = re.findall(r"cov: (\d+)", output)
    found = tuple(sorted(set(findings.glob("*")) - before))
    if not executions and not found:
        raise RuntimeError(f"the target {target} did not run: {output[-2000:]}")
    return Result(
        target, int(executions[-1]) if executions else 0, int(edges[-1]) if edges else 0, found, output[-6000:]
    )


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="all unless named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "fuzz")
    parser.add_argument("--reproduce", nargs=2, metavar=("TARGET", "FILE"), help="run one input, without atheris")
    arguments = parser.parse_args()
    if arguments.reproduce:
        target, file = arguments.reproduce
        import_module(f"tests.fuzz.{target}").execute(Path(file).read_bytes())
        return 0
    n_findings = 0
    for target in arguments.targets or TARGETS:
        options = [f"-max_total_time={arguments.seconds}", f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MIB}"]
        result = run(target, arguments.folder, options)
        print(f"{target}: {result.n_executions} executions, {result.n_edges} edges, {len(result.findings)} findings")
        for finding in result.findings:
            print(f"  {finding}\n{result.output[max(0, result.output.find(UNCAUGHT)) :]}")
        n_findings += len(result.findings)
    return 1 if n_findings else 0


if __name__ == "__main__":
    sys.exit(main())
