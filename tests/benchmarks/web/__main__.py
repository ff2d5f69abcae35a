"""`make bench-web`: server time of the console's pages over an archive of a million instances.

Rows are simulated and filed directly; pages are asked for over ASGI, so that what is timed is ours: queries and
templates. Prints the median of some requests per page on SQLite and PostgreSQL, writes build/bench/web.json.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sqlalchemy import insert
from starlette.testclient import TestClient

from iap_node.config import parse_config
from iap_node.database import accounts
from iap_node.database.engine import Database, migrate
from iap_node.database.tables import (
    FindingRow,
    InstanceRow,
    JobRow,
    JudgementRow,
    PatientRow,
    RouteDecisionRow,
    SeriesRow,
    StudyRow,
)
from iap_node.records import (
    FindingKind,
    FindingState,
    JobKind,
    JobState,
    Role,
    SeriesState,
    Severity,
    Witness,
)
from iap_node.spool import Spool
from iap_node.web.app import create_app
from iap_node.web.node import WebNode
from iap_node.web.secrets import hash_token, new_token
from tests.conftest import running_postgresql

GOAL_MS = 100.0
INSTANCES_PER_SERIES = 50
BATCH = 500  # series in one transaction
PAGES = (
    "/", "/series", "/series?state=failed", "/series?scanner=skyra", "/series?text=unheard", "/series?findings=true",
    "/series?before=10000", "/series/100", "/findings", "/findings?severity=error", "/findings?element=EchoTime",
    "/findings?state=accepted", "/scanners", "/queue", "/destinations", "/routes?days=1", "/models",
    "/api/v1/series?limit=100", "/api/v1/findings?limit=100",
)  # fmt: skip
MODELS = (("SIEMENS", "Skyra"), ("SIEMENS", "Avanto"), ("GE MEDICAL SYSTEMS", "SIGNA HDx"), ("PHILIPS", "Ingenia"))


def main() -> None:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("build/bench/web.json"))
    asked = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, running_postgresql() as server:
        for name, url in (
            ("SQLite", f"sqlite:///{Path(folder) / 'node.sqlite'}"),
            ("PostgreSQL", server.create_database()),
        ):
            database = Database(url)
            migrate(database)
            fill(database, asked.instances // INSTANCES_PER_SERIES, name)
            figures[name] = measure(database, Path(folder) / name, asked.rounds)
            database.dispose()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps({"instances": asked.instances, "ms": figures}, indent=1) + "\n", encoding="utf-8")
    table = Table(title=f"Server time per page, ms, median of {asked.rounds}; {asked.instances:,} simulated instances")
    table.add_column("page")
    for name in figures:
        table.add_column(name, justify="right")
    for page in PAGES:
        row = [figures[name][page] for name in figures]
        table.add_row(page, *(f"{ms:.0f}{'' if ms <= GOAL_MS else ' MISSED'}" for ms in row))
    Console(width=100).print(table)


def fill(database: Database, n_series: int, name: str) -> None:
    """Series over a year, most of them judged; one in ten with findings."""
    rng = random.Random(1)
    now = datetime.now(UTC)
    with Progress(transient=True) as progress:
        task = progress.add_task(f"filling {name}", total=n_series)
        for first in range(1, n_series + 1, BATCH):
            numbers = range(first, min(first + BATCH, n_series + 1))
            with database.transaction() as session:
                for table, rows in _rows(numbers, n_series, now, rng):
                    if rows:
                        session.execute(insert(table), rows)
            progress.advance(task, len(numbers))
    if not database.is_sqlite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")


def _rows(numbers: range, n_series: int, now: datetime, rng: random.Random) -> list[tuple[Any, list[dict[str, Any]]]]:
    patients, studies, series, instances, judgements, decisions, findings, jobs = ([] for _ in range(8))
    for n in numbers:
        at = now - timedelta(days=365.0 * (n_series - n) / n_series)
        maker, model = rng.choice(MODELS)
        patients.append({"id": n, "patient_hash": f"{n:064x}", "received_at": at})
        studies.append(
            {"id": n, "patient_id": n, "study_instance_uid": f"1.2.3.{n}", "study_date": "20260101", "received_at": at}
        )
        state = SeriesState.FAILED if n % 997 == 0 else SeriesState.JUDGED
        series.append(
            {
                "id": n, "study_id": n, "series_instance_uid": f"1.2.4.{n}", "modality": "MR", "series_number": 1,
                "series_description": rng.choice(("t1 fs", "t2 tse", "dwi", "dyn pre")), "protocol_name": "breast",
                "body_part_examined": "BREAST", "manufacturer": maker, "manufacturer_model_name": model,
                "device_serial_number": f"{model}-{n % 20}", "software_versions": f"v{n * 4 // n_series}",
                "calling_ae_title": "SCANNER", "revision": 1, "state": state, "judged_revision": 1,
                "first_received_at": at, "last_received_at": at, "completed_at": at,
            }
        )  # fmt: skip
        instances += [
            {
                "series_id": n, "revision": 1, "sop_instance_uid": f"1.2.5.{n}.{m}", "sop_class_uid": "1.2.840",
                "transfer_syntax_uid": "1.2.840", "spool_path": f"{n}/{m}", "checksum": f"{n:032x}",
                "size_bytes": 200_000, "instance_number": m, "rows": 320, "columns": 320, "image_type": "ORIGINAL",
                "calling_ae_title": "SCANNER", "source_address": "127.0.0.1", "received_at": at,
            }
            for m in range(INSTANCES_PER_SERIES)
        ]  # fmt: skip
        judgements.append(
            {"id": n, "series_id": n, "revision": 1, "not_analysed_reason": "simulated", "header": {"values": []},
             "judged_at": at}
        )  # fmt: skip
        lists = ("downstream_models", "destinations", "trace", "by", "shadow_models", "shadow_destinations")
        payload: dict[str, Any] = dict.fromkeys(lists, ())
        payload |= {"domain": None, "reason": "simulated", "rules_version": "1", "held": ""}
        decisions.append(
            {"judgement_id": n, "reason": "simulated", "rules_version": "1", "payload": payload, "held": False}
        )
        state_of_job = JobState.DEAD if n % 997 == 0 else JobState.DONE
        jobs.append(
            {"kind": JobKind.INFER, "state": state_of_job, "series_id": n, "revision": 1, "destination": "",
             "attempts": 1, "created_at": at, "updated_at": at}
        )  # fmt: skip
        if n % 10 == 0:
            findings += [
                {
                    "series_id": n, "element": element, "check_name": check, "kind": FindingKind.VALUE,
                    "severity": rng.choice(list(Severity)), "raised_by": Witness.STANDARD, "evidence": "simulated",
                    "raw": "1", "suggested_value": "2", "testimonies": [], "conclusion": "",
                    "state": rng.choice((FindingState.OPEN, FindingState.DISMISSED, FindingState.ACCEPTED)),
                    "first_revision": 1, "last_revision": 1, "found_at": at, "updated_at": at,
                }
                for element, check in (("EchoTime", "a"), ("FlipAngle", "b"), ("MagneticFieldStrength", "c"))
            ]  # fmt: skip
    return [
        (PatientRow, patients), (StudyRow, studies), (SeriesRow, series), (InstanceRow, instances),
        (JudgementRow, judgements), (RouteDecisionRow, decisions), (JobRow, jobs), (FindingRow, findings),
    ]  # fmt: skip


def measure(database: Database, folder: Path, rounds: int) -> dict[str, float]:
    """Median milliseconds of each page, after a first request that is not counted."""
    folder.mkdir()
    config = parse_config({"data_dir": str(folder), "spool": {"disk_reserve_mb": 0}}, folder)
    config.spool_dir.mkdir()
    token, now = new_token(), datetime.now(UTC)
    with database.transaction() as session:
        owner = accounts.create_account(session, "bench", Role.ADMIN, now)
        accounts.create_token(session, hash_token(token), "bench", owner, Role.ADMIN, now)
    client = TestClient(create_app(WebNode(config, None, database, Spool(config.spool_dir))))
    client.headers["Authorization"] = f"Bearer {token}"
    medians = {}
    for page in PAGES:
        times = []
        for _ in range(rounds + 1):
            began = time.perf_counter()
            answer = client.get(page)
            times.append(1000.0 * (time.perf_counter() - began))
            if answer.status_code != 200:
                raise SystemExit(f"{page}: {answer.status_code} {answer.text[:300]}")
        medians[page] = statistics.median(times[1:])
    return medians


if __name__ == "__main__":
    main()
