"""One run of retraining, from a simulated archive to what becomes of its candidate.

Not here: how good models become; processes and signals (test_trainer); the gates one by one (unit/training/test_gates).
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from iap_node.database import retraining
from iap_node.database.engine import Database
from iap_node.database.retraining import RetrainingUnderWay
from iap_node.database.tables import ModelState, RetrainingState
from iap_node.inference.package import load_package
from iap_node.inference.registry import begin_with
from training.manifest import read_manifest
from training.retrain import run_one

from .conftest import MAKERS, ArchivedNode, Series, Template, split_of_patient

pytestmark = pytest.mark.xdist_group("retraining")  # the archive is made once
MakeNode = Callable[..., ArchivedNode]


def train(node: ArchivedNode) -> retraining.RetrainingRun:
    run = node.ask()
    run_one(node.config_path, run.id, node.database, threading.Event())
    return node.run(run.id)


def relabelled(n: int) -> list[Series]:
    """A burst of patients, none of them held out, whose headers name the other manufacturer and field strength."""
    numbers = [number for number in range(1000, 2000) if split_of_patient(number) == "training"][:n]
    return [
        Series(
            number, number % 2, number % 4 > 1,
            {"Manufacturer": MAKERS[1 - number % 2], "MagneticFieldStrength": "1.5" if number % 4 > 1 else "3"},
        )
        for number in numbers
    ]  # fmt: skip


def test_a_better_candidate_goes_into_shadow_with_where_it_comes_from(make_node: MakeNode) -> None:
    node = make_node("poor", shadow_series=7)
    before = node.champion()
    run = train(node)
    assert run.state is RetrainingState.SUCCEEDED, run.message
    candidate = node.model(run.candidate_model_id or "")
    assert candidate.state is ModelState.SHADOW and candidate.shadow_series == 7 and candidate.parent_id == before
    assert node.champion() == before, "promotion is by hand"
    assert {gate.name for gate in candidate.gates or ()} >= {"better on what matters", "calibrated: Manufacturer"}
    provenance = candidate.provenance
    assert len(provenance["data_manifest_sha256"]) == 64 and provenance["seed"] == 2026 and provenance["code"]
    assert provenance["metrics"]["candidate"]["scores"]["Manufacturer"] > 0.9
    package = load_package(node.folder / (candidate.folder or ""))
    assert "real MR series of a node's archive" in package.training_data and before in package.training_data
    assert package.manifest.provenance["retraining"] == {"run": run.id, "start": "champion", "champion": before}
    assert [head.classes for head in package.manifest.parameters[:2]] == [MAKERS, ("1.5", "3")]
    assert not (node.config.retraining_dir / (run.work or "")).exists(), "what it worked with is gone"
    assert run.report is not None and run.report["data"]["series"]["test"] >= 8


def test_a_candidate_that_is_no_better_is_refused_with_the_reason(make_node: MakeNode) -> None:
    node = make_node("good", epochs=1, keep_candidates=1)
    before = node.champion()
    first, run = train(node), train(node)
    assert run.state is RetrainingState.REFUSED and "must lie above zero" in run.message
    assert node.model(run.candidate_model_id or "").state is ModelState.REFUSED
    assert node.champion() == before
    assert node.packages() == sorted([before, run.candidate_model_id or ""]), "the older candidate's is removed"
    assert node.model(first.candidate_model_id or "").folder is None


def test_labels_that_the_champion_is_sure_are_wrong_are_not_trained_on(make_node: MakeNode) -> None:
    node = make_node("good")
    node.file(relabelled(25))
    run = train(node)
    assert run.state is RetrainingState.REFUSED and run.candidate_model_id is None
    assert "Manufacturer: the model at work is sure that" in run.message and "Nothing was trained" in run.message
    assert node.packages() == [node.champion()]


def test_gates_refuse_a_model_that_wrong_labels_have_made_worse(make_node: MakeNode) -> None:
    node = make_node("good", guards={"max_contradicted": 1.0}, epochs=8)
    node.file(relabelled(120))
    run = train(node)
    assert run.state is RetrainingState.REFUSED
    refused = {gate.name for gate in node.model(run.candidate_model_id or "").gates or () if not gate.passed}
    assert "not worse: Manufacturer" in refused or "not worse: MagneticFieldStrength" in refused


def test_a_class_that_two_patients_show_is_not_learned(make_node: MakeNode) -> None:
    node = make_node("poor")
    numbers = [number for number in range(1000, 1100) if split_of_patient(number) == "training"]
    two = [Series(number, 1, True, {"Manufacturer": "BURST"}) for number in numbers[:2]]
    four = [Series(number, 1, True, {"MagneticFieldStrength": "7"}) for number in numbers[2:6]]
    node.file(two + four)
    run = train(node)
    assert run.report is not None
    assert run.report["too_few_patients"]["Manufacturer"] == {"BURST": 2}
    assert run.report["new_classes"] == {"MagneticFieldStrength": ["7"]}
    package = load_package(node.folder / "models" / (run.candidate_model_id or ""))
    assert package.manifest.parameters[0].classes == MAKERS
    assert package.manifest.parameters[1].classes == ("1.5", "3", "7"), "new ones behind the known ones"


def test_an_archive_of_novel_series_alone_says_how_a_first_model_learns(
    template: Template, tmp_path: Path, migrated_sqlite: Path
) -> None:
    shutil.copyfile(migrated_sqlite, tmp_path / "node.sqlite")
    node = ArchivedNode(tmp_path, Database(f"sqlite:///{tmp_path / 'node.sqlite'}"))
    node.configure()
    begin_with(str(template.poor), node.config.data_dir, node.database, datetime.now(UTC))
    node.file([Series(number, 0, True) for number in range(4)], novel=True)
    run = train(node)
    assert run.state is RetrainingState.REFUSED and "set retraining.learn_novel" in run.message
    node.configure(learn_novel=True)
    assert "it holds too few patients to learn from" in train(node).message
    node.database.dispose()


def test_a_promotion_by_gate_makes_the_candidate_champion(make_node: MakeNode) -> None:
    node = make_node("poor", promote="by_gate")
    before = node.champion()
    run = train(node)
    assert node.champion() == run.candidate_model_id != before
    assert node.model(before).state is ModelState.RETIRED


def test_held_out_patients_stay_held_out_when_novel_series_are_learned_from_too(make_node: MakeNode) -> None:
    node = make_node("poor", epochs=1)
    node.file([Series(number, 1, True) for number in range(1000, 1030)], novel=True)
    first = train(node)
    assert first.report is not None and sum(first.report["data"]["series"].values()) == 160
    data = node.config.retraining_dir / "data"
    before = {row.patient for row in read_manifest(data) if row.split == "test" and row.dropped_reason is None}
    node.configure(epochs=1, learn_novel=True)
    second = train(node)
    assert second.report is not None and sum(second.report["data"]["series"].values()) == 190
    rows = list(read_manifest(data))
    assert before <= {row.patient for row in rows if row.split == "test"}
    assert not before & {row.patient for row in rows if row.split != "test"}


def test_a_second_run_is_refused_while_one_is_under_way(make_node: MakeNode) -> None:
    node = make_node("poor")
    first = node.ask()
    with pytest.raises(RetrainingUnderWay, match=f"retraining {first.id}"):
        node.ask()
    with node.database.transaction() as session:
        retraining.begin_run(session, first.id, None, "another host", 1, datetime.now(UTC))
    run_one(node.config_path, first.id, node.database, threading.Event())
    assert node.run(first.id).state is RetrainingState.RUNNING, "the other process has it"
