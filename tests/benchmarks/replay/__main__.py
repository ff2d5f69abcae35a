"""`make bench-replay`: time and memory of `iap-node replay` over a hundred thousand judged series.

One simulated series is judged by the shipped model, trained on simulated images, with all its witnesses; its rows are
then filed again and again, under other UIDs and with other numbers in the prediction. What is measured is the command
itself, in a process of its own. Prints a table, writes build/bench/replay.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog
import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sqlalchemy import insert, select

from iap_node.config import load_config
from iap_node.database import archive
from iap_node.database.engine import Database, migrate
from iap_node.database.tables import (
    FindingRow,
    InstanceRow,
    JudgementRow,
    PatientRow,
    PredictionRow,
    RouteDecisionRow,
    SeriesRow,
    StatedProtocolRow,
    StudyRow,
)
from iap_node.inference import novelty
from iap_node.inference.package import load_package, package_folder
from iap_node.inference.predictor import Predictor
from iap_node.listener.intake import Intake
from iap_node.listener.reception import Request
from iap_node.records import JobKind
from iap_node.spool import Spool
from iap_node.worker.infer import InferHandler
from iap_node.worker.loop import run_once
from tests.acceptance.drill.driver import Instances

GOAL_S = 60.0
INSTANCES_PER_SERIES = 10
BATCH = 500  # series in one transaction
VARIANTS = 50  # of the prediction
MR, EXPLICIT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1"
MANUFACTURERS = ("SIEMENS", "GE MEDICAL SYSTEMS", "Philips Medical Systems")
SERIES_UID = "2.25.1000000001.2.0"

# Conditions over pixels, headers, findings and facts, as a hospital writes them.
RULES = {
    "domains": {
        "siemens_3t": {
            "least_probability": 0.6,
            "all": [
                {"parameter": "Manufacturer", "equals": "SIEMENS"},
                {"parameter": "MagneticFieldStrength", "near": 3.0, "within": 0.2},
                {"not": {"header": "ContrastBolusAgent", "equals": "absent"}},
            ],
        },
        "spin_echo": {
            "any": [
                {"parameter": "ScanOptions", "one_of": ["FS", "PFP\\FS"]},
                {"all": [{"header": "ScanningSequence", "equals": "SE"},
                         {"parameter": "EchoTime", "between": [5, 200]}]},
            ],
        },
        "fast": {"all": [{"parameter": "RepetitionTime", "between": [1, 900]}, {"series": "Modality", "equals": "MR"}]},
    },
    "downstream_models": {
        "lesions": {"domain": "siemens_3t", "destinations": ["a"]},
        "sequences": {"domain": "spin_echo", "destinations": ["b"]},
        "motion": {"domain": "fast", "destinations": ["c"], "shadow": True},
    },
    "rules": {
        "look at it": {
            "priority": 10, "when": {"finding": "pixels-contradict", "severity": ["error"]}, "hold": "contradiction",
        },
        "research": {
            "when": {"any": [{"series": "CallingAETitle", "one_of": ["RESEARCH"]},
                             {"series": "SeriesDescription", "matches": "^res_"}]},
            "destinations": ["c"],
        },
    },
    "default": {"destinations": ["d"]},
}  # fmt: skip


# Runs a command and says what it took. By a small process: a child's peak begins with that of who started it.
WEIGHED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def main() -> int:
    """Fill, replay, print; exit status 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("build/bench/replay.json"))
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        there = {one: {"ae_title": one.upper(), "host": "127.0.0.1", "port": 1} for one in "abcd"}
        config_path, rules_path = folder / "config.yaml", folder / "rules.yaml"
        config_path.write_text(
            yaml.safe_dump({"data_dir": "data", "destinations": there, "spool": {"disk_reserve_mb": 0}})
        )
        rules_path.write_text(yaml.safe_dump({"routing": RULES}))
        database = judge_one(config_path)
        fill(database, asked.series)
        database.dispose()
        size_mb = sum(path.stat().st_size for path in (folder / "data").glob("node.sqlite*")) / 1e6
        figures = measure(config_path, rules_path)
    if figures["series"] != asked.series:
        raise SystemExit(f"{figures['series']:.0f} series were decided again, not {asked.series}")
    figures |= {"database_mb": round(size_mb), "goal_s": GOAL_S}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    table = Table(title="iap-node replay, SQLite, simulated series")
    columns = ("series", "database", "seconds", "CPU seconds", "series/s", "peak memory", "would go elsewhere")
    for column in columns:
        table.add_column(column, justify="right")
    missed = figures["seconds"] > GOAL_S
    table.add_row(
        f"{figures['series']:,}", f"{size_mb:.0f} MB", f"{figures['seconds']:.1f}{' MISSED' if missed else ''}",
        f"{figures['cpu_s']:.1f}", f"{figures['series'] / figures['seconds']:.0f}", f"{figures['peak_mb']:.0f} MB",
        f"{figures['elsewhere']:,}",
    )  # fmt: skip
    Console(width=110).print(table)
    return int(missed)


def judge_one(config_path: Path) -> Database:
    """A node's database with one simulated series, judged as the infer role does it."""
    config = load_config(config_path)
    config.spool_dir.mkdir(parents=True)
    database = Database(config.database_url)
    migrate(database)
    spool = Spool(config.spool_dir, durable=False)
    instances = Instances(1, n_series=1)
    with closing(Intake(spool, database, b"k" * 32)) as intake:
        uids = set()
        while len(uids) < INSTANCES_PER_SERIES:
            one = instances.next()
            if one.sop_instance_uid not in uids:
                uids.add(one.sop_instance_uid)
                intake.file(one.dataset, Request(MR, one.sop_instance_uid, EXPLICIT, "SCANNER", "127.0.0.1"))
    with database.transaction() as session:
        assert archive.complete_series(session, [SERIES_UID], datetime.now(UTC))
    predictor = Predictor(load_package(package_folder(config.inference.model)), device="cpu")
    handler = InferHandler(database, spool, predictor, config)
    with patch.object(novelty, "SCORE_THRESHOLD", 1e6):  # believed, however unlike its training data the series is
        assert run_once(JobKind.INFER, handler, database, config.jobs, "bench")
    return database


def fill(database: Database, n_series: int) -> None:
    """The rows of the one series for all the others, over a year."""
    tables: tuple[Any, ...] = (
        PatientRow, StudyRow, SeriesRow, InstanceRow, PredictionRow, JudgementRow, RouteDecisionRow, FindingRow,
        StatedProtocolRow,
    )  # fmt: skip
    with database.reading() as session:
        judged = {table: [dict(row._mapping) for row in session.execute(select(table.__table__))] for table in tables}
    rng, now = random.Random(1), datetime.now(UTC)
    predictions = [_other(judged[PredictionRow][0]["payload"], rng) for _ in range(VARIANTS)]
    with Progress(transient=True) as progress:
        task = progress.add_task("filling", total=n_series)
        for first in range(2, n_series + 1, BATCH):
            numbers = range(first, min(first + BATCH, n_series + 1))
            with database.transaction() as session:
                for table in tables:
                    rows = [row for n in numbers for row in _copies(judged[table], n, n_series, now, rng, predictions)]
                    if rows:
                        session.execute(insert(table.__table__), rows)
            progress.advance(task, len(numbers))


def _copies(
    judged: list[dict[str, Any]], n: int, n_series: int, now: datetime, rng: random.Random, predictions: list[Any]
) -> list[dict[str, Any]]:
    """One table's rows of the one series, as those of series number `n`."""
    at = now - timedelta(days=365.0 * (n_series - n) / n_series)
    changed: dict[str, Any] = {
        "patient_id": n, "study_id": n, "series_id": n, "prediction_id": n, "judgement_id": n, "judged_at": at,
        "patient_hash": f"{n:064x}", "study_instance_uid": f"1.2.3.{n}", "series_instance_uid": f"1.2.4.{n}",
    }  # fmt: skip
    rows = []
    for number, row in enumerate(judged):
        own = {**row, **{key: value for key, value in changed.items() if key in row}}
        own["id"] = n if len(judged) == 1 else n * 1000 + number
        if "id" not in row:
            del own["id"]
        if "sop_instance_uid" in row:
            own |= {"sop_instance_uid": f"1.2.5.{n}.{number}", "spool_path": f"{n}/{number}"}
        if "manufacturer" in row:
            own["manufacturer"] = rng.choice(MANUFACTURERS)
            own["series_description"] = rng.choice(("t1 fs", "t2 tse", "dwi", "res_dyn"))
        if "novelty_score" in row:
            own["payload"] = rng.choice(predictions)
        rows.append(own)
    return rows


def _other(prediction: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A prediction of the same shape that says something else."""
    other = copy.deepcopy(prediction)
    for parameter in other["parameters"]:
        labels, shares = [label for label, _ in parameter["probabilities"]], [p for _, p in parameter["probabilities"]]
        rng.shuffle(shares)
        parameter["probabilities"] = [list(pair) for pair in zip(labels, shares, strict=True)]
    return other


def measure(config_path: Path, rules_path: Path) -> dict[str, float]:
    """The command, in a process of its own: seconds, seconds of CPU, peak memory in MB (1e6 bytes), what it says."""
    command = [sys.executable, "-m", "iap_node", "replay", "--rules", str(rules_path), "--since", "600d", "--json"]
    began = time.monotonic()
    weighed = [sys.executable, "-c", WEIGHED, *command, "--config", str(config_path)]
    done = subprocess.run(weighed, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    cpu_s, peak_kib = map(float, done.stderr.split()[-2:])
    said = json.loads(done.stdout)
    figures = {"series": said["series"], "elsewhere": said["elsewhere"]}
    return figures | {"seconds": round(seconds, 1), "cpu_s": round(cpu_s, 1), "peak_mb": round(peak_kib * 1024 / 1e6)}



if __name__ == "__main__":
    sys.exit(main())
