"""A node without its processes: spool, database, configuration; series that came in; a scripted model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iap_node.config import NodeConfig
from iap_node.database import archive, jobs, results
from iap_node.database.engine import Database
from iap_node.database.jobs import JobSummary
from iap_node.database.results import Judgement
from iap_node.listener.intake import Intake
from iap_node.listener.reception import Request
from iap_node.records import (
    JobKind,
    ParameterKind,
    ParameterPrediction,
    SeriesHeader,
    SeriesPrediction,
)
from iap_node.routing.destinations.outgoing import OutgoingInstance
from iap_node.spool import Spool
from iap_node.worker.infer import InferHandler
from iap_node.worker.loop import run_once

WAIT_S = 30.0  # a condition that has not come true by then never will


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`; fails the test by name when it does not come."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited in vain for {what}")


@dataclass
class ScriptedPredictor:
    """Shares the real predictor's interface and answers what it was given."""

    answer: SeriesPrediction
    model_id: str = "scripted-1"
    training_data: str = "none: scripted for a test"
    asked: list[tuple[int, float]] = field(default_factory=list)  # number of slices, alpha

    def predict(
        self, slices: Sequence[np.ndarray], alpha: float, header: SeriesHeader | None = None
    ) -> SeriesPrediction:
        self.asked.append((len(slices), alpha))
        return self.answer


def prediction(*parameters: ParameterPrediction, novel: bool = False) -> SeriesPrediction:
    return SeriesPrediction(
        "scripted-1", "none: scripted for a test", novel, 9.0 if novel else 1.0, 4.5, 3, parameters
    )


SIEMENS = ParameterPrediction(
    "Manufacturer",
    ParameterKind.CATEGORICAL,
    probabilities=(("SIEMENS", 0.98), ("GE MEDICAL SYSTEMS", 0.02)),
    prediction_set=("SIEMENS",),
    alpha=0.01,
)
CONTENT: dict[str, Any] = {
    "jobs": {"lease_s": 60.0, "poll_s": 0.01, "max_attempts": 3, "backoff_s": 0.001, "backoff_max_s": 0.001},
    "destinations": {
        "lesions": {"ae_title": "LESIONS", "host": "127.0.0.1", "port": 1},
        "people": {"ae_title": "PEOPLE", "host": "127.0.0.1", "port": 1},
    },
    "routing": {
        "domains": {
            "siemens": {"least_probability": 0.8, "all": [{"parameter": "Manufacturer", "equals": "SIEMENS"}]}
        },
        "downstream_models": {"lesion_finder": {"domain": "siemens", "destinations": ["lesions"]}},
        "default": {"destinations": ["people"]},
    },
}


@dataclass
class Node:
    """Spool, database and configuration of one node."""

    database: Database
    spool: Spool
    config: NodeConfig

    def file(self, instances: Sequence[OutgoingInstance]) -> None:
        """Take instances in, as the listener does."""
        intake = Intake(self.spool, self.database, b"k" * 32)
        for instance in instances:
            with instance.file.open("rb") as stream:
                content = stream.read()
            uids = (instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid)
            dataset = content[144 + int.from_bytes(content[140:144], "little") :]
            intake.file(dataset, Request(*uids, "SCANNER", "127.0.0.1"))

    def complete(self, instances: Sequence[OutgoingInstance]) -> int:
        """Take a series in and complete it; its row's number."""
        self.file(instances)
        with self.database.transaction() as session:
            completed = archive.complete_series(session, ["1.2.3.4"], datetime.now(UTC))
        assert completed == ["1.2.3.4"]
        return self.series().id

    def series(self) -> archive.SeriesSummary:
        with self.database.reading() as session:
            return archive.find_series(session, "1.2.3.4")

    def jobs(self, kind: JobKind) -> list[JobSummary]:
        """Oldest first."""
        with self.database.reading() as session:
            return [job for job in reversed(jobs.list_jobs(session)) if job.kind is kind]

    def job(self, kind: JobKind) -> JobSummary:
        (job,) = self.jobs(kind)
        return job

    def judgement(self) -> Judgement:
        with self.database.reading() as session:
            found = results.judgement(session, self.series().id)
        assert found is not None
        return found

    def instance_ids(self) -> dict[str, int]:
        with self.database.reading() as session:
            instances = archive.current_instances(session, self.series().id)
        return {instance.sop_instance_uid: instance.id for instance in instances}

    def spool_file(self, sop_instance_uid: str) -> Path:
        """The file that holds the bytes of an instance, and perhaps those of others."""
        with self.database.reading() as session:
            instances = archive.current_instances(session, self.series().id)
        (found,) = (item.spool_path for item in instances if item.sop_instance_uid == sop_instance_uid)
        where = self.spool.locate(found)
        return where if isinstance(where, Path) else where.path

    def infer(self, predictor: ScriptedPredictor) -> bool:
        """One turn of an infer worker."""
        handler = InferHandler(self.database, self.spool, predictor, self.config)
        return run_once(JobKind.INFER, handler, self.database, self.config.jobs, "test:infer")


@pytest.fixture
def make_node(tmp_path: Path, database: Database) -> Callable[..., Node]:
    """Factory: `make_node(jobs={...})` replaces sections of the configuration."""

    def make(**changes: Any) -> Node:
        spool = Spool(tmp_path / "spool")
        return Node(database, spool, NodeConfig.model_validate(CONTENT | changes))

    return make


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node()


@pytest.fixture
def scripted() -> Callable[..., ScriptedPredictor]:
    """Factory of models: `scripted()` sees a Siemens image, `scripted(novel=True)` abstains."""

    def make(novel: bool = False) -> ScriptedPredictor:
        return ScriptedPredictor(prediction(novel=True) if novel else prediction(SIEMENS))

    return make


@pytest.fixture(name="wait_for")
def wait_for_fixture() -> Callable[[Callable[[], Any], str], Any]:
    return wait_for
