"""Worker processes by the hundred: `python -m tests.acceptance.drill.workers CONFIG`, for the delivery drill.

Everything is imported once. Each line on standard input, `infer` or `deliver`, makes one process by fork, whose number
is the answer on standard output; when the input ends, all end. `deliver` is what the command of that name runs. `infer`
has a model that answers at once in the place of the network, which others drill (`process_drill.kill_node`).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iap_node.cli import roles
from iap_node.records import JobKind, ParameterKind, ParameterPrediction, SeriesHeader, SeriesPrediction
from iap_node.routing.destinations import dicom, dicomweb, folder, webhook  # noqa: F401 - so that no child loads them
from iap_node.routing.rules_file import RulesFile
from iap_node.spool import Spool
from iap_node.worker.deliver import DeliverHandler  # noqa: F401 - as above
from iap_node.worker.infer import InferHandler
from iap_node.worker.loop import run_worker

PREDICTION = SeriesPrediction(
    "scripted-1", "none: scripted for the drill", False, 1.0, 4.5, 3,
    (ParameterPrediction("Manufacturer", ParameterKind.CATEGORICAL, probabilities=(("SIEMENS", 1.0),)),),
)  # fmt: skip


class ScriptedPredictor:
    """Shares the real predictor's interface."""

    model_id, training_data = "scripted-1", "none: scripted for the drill"

    def predict(self, slices: Sequence[Any], alpha: float, header: SeriesHeader | None = None) -> SeriesPrediction:
        """The same for all."""
        return PREDICTION


def infer(config_path: Path) -> None:
    """The role `infer`, without the network."""
    config, database, stop = roles.start_role("infer", config_path, supervised=False)
    rules = RulesFile(config_path, config, database)
    handler = InferHandler(database, Spool(config.spool_dir), ScriptedPredictor(), config, rules)
    run_worker(JobKind.INFER, handler, database, config.jobs, f"drill:{os.getpid()}:infer", stop)


def deliver(config_path: Path) -> None:
    """The role `deliver` as it is."""
    roles.deliver(config_path, supervised=False)


def main() -> None:
    """Fork one process for each line."""
    config_path = Path(sys.argv[1])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                sys.stdin.close()
                (infer if line.strip() == "infer" else deliver)(config_path)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


if __name__ == "__main__":
    main()
