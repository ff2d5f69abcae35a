"""A worker and its models: a promotion changes the model between two series, and a shadow harms nobody."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iap_node.config.retraining import RetrainingConfig
from iap_node.database import archive, models, shadow
from iap_node.errors import ModelPackageError
from iap_node.inference import registry, store
from iap_node.inference.package import WEIGHTS_FILE, package_folder
from iap_node.records import (
    JobKind,
    JobState,
    ParameterKind,
    ParameterPrediction,
    SeriesHeader,
    SeriesPrediction,
    SeriesState,
)
from iap_node.worker.infer import InferHandler
from iap_node.worker.loop import run_once
from iap_node.worker.models_at_work import MOST_SHADOW_FAILURES, TRY_AGAIN_S, ModelsAtWork
from tests.integration.worker.conftest import Node, ScriptedPredictor, prediction

ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # the queries are tried on PostgreSQL too
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CONFIG = RetrainingConfig.model_validate(
    {"gates": {"parameters": ["Manufacturer"]}, "agreement": {"min_series": 1}, "promote": "by_gate"}
)


def says(model_id: str, manufacturer: str = "SIEMENS", novel: bool = False) -> ScriptedPredictor:
    """A model that sees this manufacturer in every image."""
    answer = ParameterPrediction(
        "Manufacturer", ParameterKind.CATEGORICAL, ((manufacturer, 0.98), ("OTHER", 0.02)), (manufacturer,), alpha=0.01
    )
    said = prediction(novel=True) if novel else prediction(answer)
    return ScriptedPredictor(
        SeriesPrediction(model_id, *(getattr(said, name) for name in said.__slots__[1:])), model_id
    )


class Broken(ScriptedPredictor):
    """Loads, and fails at every series."""

    def predict(
        self, slices: Sequence[np.ndarray[Any, Any]], alpha: float, header: SeriesHeader | None = None
    ) -> SeriesPrediction:
        super().predict(slices, alpha, header)
        raise RuntimeError("PATIENT^NAME")


class Worker:
    """One infer worker whose packages are scripted models, and the series that it is given."""

    def __init__(self, node: Node, *known: ScriptedPredictor) -> None:
        self.node, self.now = node, 0.0
        self.known = {one.model_id: one for one in known}
        self.loaded: list[str] = []
        with node.database.transaction() as session:
            for model_id in self.known:
                models.register_candidate(
                    session, {}, model_id, f"models/{model_id}", None, {}, NOON, manifest_sha256="0" * 64, who="eve"
                )
        self.promote(next(iter(self.known)))

    def promote(self, model_id: str) -> None:
        with self.node.database.transaction() as session:
            models.promote(session, model_id, "eve", "", NOON)

    def shadow(self, model_id: str, n_series: int) -> None:
        with self.node.database.transaction() as session:
            models.begin_shadow(session, model_id, n_series, "eve", "", NOON)

    def load(self, folder: str | None, model_id: str) -> ScriptedPredictor:
        if model_id not in self.known:
            raise ModelPackageError(f"{folder} is damaged")
        self.loaded.append(model_id)
        return self.known[model_id]

    def start(self) -> Worker:
        self.at_work = ModelsAtWork(self.node.database, self.load, "host:infer", CONFIG, lambda: self.now)
        self.handler = InferHandler(
            self.node.database, self.node.spool, self.at_work, self.node.config, None, self.at_work.after
        )
        return self

    def judge(self) -> str | None:
        """Judge the one series of the node, once more; the model whose prediction counted."""
        if self.node.series().state is not SeriesState.COMPLETE:
            with self.node.database.transaction() as session:
                archive.judge_again(session, self.node.series().id, NOON)
        assert run_once(JobKind.INFER, self.handler, self.node.database, self.node.config.jobs, "test:infer")
        assert {one.state for one in self.node.jobs(JobKind.INFER)} == {JobState.DONE}
        found = self.node.judgement().prediction
        return None if found is None else found.model_id

    def events(self) -> list[str]:
        with self.node.database.reading() as session:
            return [f"{one.model_id} {one.event}" for one in reversed(models.list_events(session))]

    def states(self) -> dict[str, str]:
        with self.node.database.reading() as session:
            return {one.model_id: one.state.value for one in models.list_models(session)}


@pytest.fixture
def one_series(node: Node, write_instance: Callable[..., Any]) -> Node:
    node.complete([write_instance(Manufacturer="SIEMENS") for _ in range(2)])
    return node


def test_a_promotion_and_a_roll_back_change_the_model_without_a_restart(one_series: Node) -> None:
    worker = Worker(one_series, says("a"), says("b", "GE MEDICAL SYSTEMS")).start()
    assert worker.judge() == "a"
    worker.promote("b")
    assert worker.judge() == "b"
    with one_series.database.transaction() as session:
        models.roll_back(session, "eve", "", NOON)
    assert worker.judge() == "a"
    assert worker.judge() == "a"
    assert worker.loaded == ["a", "b", "a"]


@ON_SQLITE
def test_a_package_that_does_not_load_leaves_the_model_at_work_and_is_told_once(one_series: Node) -> None:
    worker = Worker(one_series, says("a"), says("b")).start()
    lost = worker.known.pop("b")
    worker.promote("b")
    assert [worker.judge(), worker.judge()] == ["a", "a"]
    with one_series.database.reading() as session:
        (problem,) = models.load_problems(session)
        assert (problem.model_id, problem.who, problem.reason) == ("b", "host:infer", "models/b is damaged")
    restarted = worker.start()  # the champion is damaged: the one before it works in its place
    assert restarted.judge() == "a"
    assert worker.events().count("b not_loaded") == 1
    worker.known["b"] = lost
    assert worker.judge() == "a"  # not tried with every series
    worker.now += TRY_AGAIN_S
    assert worker.judge() == "b"
    assert worker.events()[-1] == "b loaded_again"
    with one_series.database.reading() as session:
        assert models.load_problems(session) == []


@ON_SQLITE
def test_a_worker_without_any_model_says_what_to_do(one_series: Node) -> None:
    worker = Worker(one_series, says("a"))
    worker.known.clear()
    with pytest.raises(ModelPackageError, match="models add"):
        worker.start()


def test_a_shadow_sees_the_same_slices_and_is_promoted_by_gate_when_its_series_are_over(one_series: Node) -> None:
    a, b = says("a"), says("b")
    worker = Worker(one_series, a, b).start()
    worker.shadow("b", 2)
    assert worker.judge() == "a"
    assert worker.states() == {"a": "champion", "b": "shadow"}
    assert a.asked == b.asked
    assert worker.judge() == "a"
    assert worker.states() == {"b": "champion", "a": "retired"}
    assert worker.judge() == "b"
    with one_series.database.reading() as session:
        found = shadow.agreement(session, "b")
    assert (found.champions, found.n_series, found.n_same_novelty, found.n_wanted) == (("a",), 2, 2, 2)
    (manufacturer,) = found.parameters
    assert (manufacturer.n, manufacturer.n_same) == (2, 2)
    assert (manufacturer.n_stated, manufacturer.n_champion_right, manufacturer.n_candidate_right) == (2, 2, 2)
    assert "b gates_passed" in worker.events()


@ON_SQLITE
def test_a_shadow_that_disagrees_with_champion_and_header_stays_a_candidate(one_series: Node) -> None:
    worker = Worker(one_series, says("a"), says("b", "GE MEDICAL SYSTEMS")).start()
    worker.shadow("b", 1)
    assert worker.judge() == "a"
    assert worker.states() == {"a": "champion", "b": "candidate"}
    with one_series.database.reading() as session:
        failed = models.list_events(session, "b")[0]
    assert (failed.event, failed.reason) == (
        "gates_failed",
        "Manufacturer: the same answer in 0.000 of 1 series, 0.9 asked; right by the header in 0.000, the champion in "
        "1.000",
    )


@ON_SQLITE
def test_a_shadow_that_abstains_is_not_promoted(one_series: Node) -> None:
    worker = Worker(one_series, says("a"), says("b", novel=True)).start()
    worker.shadow("b", 1)
    assert worker.judge() == "a"
    assert worker.states() == {"a": "champion", "b": "candidate"}


@ON_SQLITE
def test_a_shadow_that_fails_harms_no_verdict_and_leaves_the_shadow_in_the_end(one_series: Node) -> None:
    worker = Worker(one_series, says("a"), Broken(says("b").answer, "b")).start()
    worker.shadow("b", 100)
    for _ in range(MOST_SHADOW_FAILURES):
        assert worker.judge() == "a"
    assert worker.states() == {"a": "champion", "b": "candidate"}
    assert worker.events()[-2:] == ["b shadow_failed", "b shadow_ended"]
    with one_series.database.reading() as session:
        assert not any("PATIENT" in one.reason for one in models.list_events(session))


def test_the_first_start_takes_the_configured_model_and_a_later_one_only_offers_it(
    one_series: Node, tmp_path: Path
) -> None:
    database, data = one_series.database, tmp_path / "data"
    first = registry.begin_with("reference", data, database, NOON)
    assert (first.state, first.folder) == ("champion", f"models/{first.model_id}")
    other = Path(shutil.copytree(package_folder("reference"), tmp_path / "other"))
    manifest = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps(manifest | {"version": "2"}))
    assert registry.begin_with(str(other), data, database, NOON).model_id == first.model_id
    with database.reading() as session:
        offered = models.list_models(session)[1]
    assert (offered.state, offered.manifest["version"]) == ("candidate", "2")
    assert registry.begin_with(str(tmp_path / "gone"), data, database, NOON).model_id == first.model_id
    (data / f"models/{offered.model_id}" / WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(ModelPackageError, match="SHA-256"):
        registry.promote(offered.model_id, data, database, "eve", "", NOON)
    assert registry.begin_with(str(other), data, database, NOON).model_id == first.model_id


@ON_SQLITE
def test_a_shadow_that_ends_meanwhile_is_forgotten_and_harms_nobody(
    one_series: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(one_series, says("a"), says("b")).start()
    worker.shadow("b", 100)

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(shadow, "finish_shadow", fail)
        assert worker.judge() == "a"
    with one_series.database.transaction() as session:
        models.end_shadow(session, "b", "eve", "", NOON)
    assert worker.judge() == "a"
    assert worker.states() == {"a": "champion", "b": "candidate"}


@ON_SQLITE
def test_a_kill_between_copy_and_registration_leaves_a_package_that_can_be_added(
    one_series: Node, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    if not (child := os.fork()):
        store.install_package(package_folder("reference"), data)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (left,) = registry.unregistered(data, one_series.database)
    added = registry.add_package(left.folder, data, one_series.database, "eve", "", NOON)
    assert added.state == "candidate"
    assert registry.unregistered(data, one_series.database) == []
    assert store.remove_leftovers(data, 2e9) == []
