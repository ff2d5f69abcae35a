"""A short run of every fuzz target, the same one each time; `make fuzz` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import MEMORY_MIB, TARGETS, TIMEOUT_S, run

N_EXECUTIONS = {
    "commands": 5000, "headers": 500, "part10_files": 1500, "associations": 300, "segments": 1000, "judged_series": 300,
    "checked_series": 200,
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_target_stands_a_thousand_inputs(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has no wheel for this platform or Python")
    n = N_EXECUTIONS[target]
    result = run(target, tmp_path, [f"-runs={n}", "-seed=1", f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MIB}"])
    assert not result.findings, result.output
    assert result.n_executions >= n
    assert result.n_edges > 0, "nothing is instrumented"
