"""Parts of retraining by themselves: heads and first weights, labels against the champion, the plan of a folder.

Not here: the gates (test_gates); a whole run (integration/retraining).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from iap_node.config.retraining import GuardsConfig, RetrainingConfig
from iap_node.inference.engines.on_torch import build_network
from iap_node.inference.heads import Head, n_outputs, output_slices
from iap_node.inference.network import ResNet18
from iap_node.inference.package import ModelPackage, load_package, package_folder
from iap_node.records import ParameterKind, ParameterPrediction, SeriesPrediction
from training.recipes import REFERENCE, Labels, encode_targets
from training.retraining.guards import Contradicted, contradicted_labels, judge_labels
from training.retraining.plan import plan_in, recipe_of
from training.retraining.start import first_weights, heads_from, recipe_from

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def champion() -> ModelPackage:
    return load_package(package_folder("reference"))


def labels_of(*makers: str) -> tuple[list[Labels], list[str]]:
    """Series of one patient each."""
    return [{"Manufacturer": maker, "EchoTime": 2.0 + k} for k, maker in enumerate(makers)], [
        f"patient {k}" for k in range(len(makers))
    ]


def test_what_the_champion_knows_is_known_before_anything_is_fitted(champion: ModelPackage) -> None:
    """Known classes get the champion's very outputs, and new ones stand behind them."""
    recipe = recipe_from(REFERENCE, champion)
    labels, patients = labels_of("NEW", "NEW", "NEW", "SIEMENS")
    known = champion.manifest.parameters
    heads = heads_from(recipe, labels, patients, 3, known)
    assert [head.keyword for head in heads] == [head.keyword for head in known]
    assert heads[0].classes == (*known[0].classes, "NEW") and heads[1:] == known[1:]
    weights = first_weights(champion, heads, recipe, seed=1)
    network = ResNet18(len(recipe.preprocessing.channels), n_outputs(heads), recipe.width)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    network.eval()
    images = torch.rand(1, len(recipe.preprocessing.channels), 96, 96)
    with torch.inference_mode():
        new, old = network(images)[0].numpy(), build_network(champion)(images)[0].numpy()
    for where, before in zip(output_slices(heads), output_slices(known), strict=True):
        n_known = before.stop - before.start
        np.testing.assert_allclose(new[:, where][:, :n_known], old[:, before], rtol=1e-4, atol=1e-4)


def test_a_class_needs_patients_and_not_series(champion: ModelPackage) -> None:
    labels, _ = labels_of("NEW", "NEW", "NEW", "NEW", "SIEMENS")
    one_patient = ["a", "a", "a", "a", "b"]
    known = champion.manifest.parameters
    assert heads_from(REFERENCE, labels, one_patient, 3, known)[0].classes == known[0].classes


def test_another_spelling_of_a_known_class_is_no_new_class(champion: ModelPackage) -> None:
    labels, patients = labels_of("Siemens", "Siemens", "Siemens", "Siemens")
    heads = heads_from(REFERENCE, labels, patients, 3, champion.manifest.parameters)
    assert heads == champion.manifest.parameters
    assert encode_targets(heads, labels)[0, 0] == heads[0].classes.index("SIEMENS")


def test_from_scratch_a_rare_class_is_left_out_and_numbers_are_not_counted() -> None:
    labels, patients = labels_of("GE", "GE", "SIEMENS", "SIEMENS", "RARE")
    heads = heads_from(REFERENCE, labels, patients, 2)
    assert [(head.keyword, head.classes) for head in heads] == [("Manufacturer", ("GE", "SIEMENS")), ("EchoTime", ())]


def test_numbers_of_the_champion_keep_their_scale(champion: ModelPackage) -> None:
    labels, patients = labels_of("SIEMENS", "GE MEDICAL SYSTEMS")
    heads = {head.keyword: head for head in heads_from(REFERENCE, labels, patients, 1, champion.manifest.parameters)}
    before = {head.keyword: head for head in champion.manifest.parameters}
    assert heads["EchoTime"] == before["EchoTime"], "its output means what it meant"


def answer(maker: str, probability: float, novel: bool = False, by_association: bool = False):
    parameter = ParameterPrediction(
        "Manufacturer",
        ParameterKind.CATEGORICAL,
        probabilities=((maker, probability), ("OTHER", 1 - probability)),
        prediction_set=(maker,),
        alpha=0.05,
        by_association=by_association,
    )
    return SeriesPrediction("model", "for a test", novel, 1.0, 4.5, 1), (parameter,)


def test_only_labels_that_the_model_is_sure_about_count() -> None:
    answers = [
        answer("GE", 0.99),
        answer("GE", 0.99),
        answer("GE", 0.8),
        answer("GE", 0.99, novel=True),
        answer("GE", 0.99, by_association=True),
    ]
    labels: list[Labels] = [{"Manufacturer": name} for name in ("ge", "SIEMENS", "SIEMENS", "SIEMENS", "SIEMENS")]
    assert contradicted_labels(answers, labels, 0.95) == [Contradicted("Manufacturer", 2, 1)]


@pytest.mark.parametrize(
    ("n_sure", "n_contradicted", "passes"),
    [(100, 5, True), (100, 8, True), (100, 15, False), (4, 4, True), (10, 3, False)],
)
def test_labels_fail_where_more_are_wrong_than_chance_explains(n_sure: int, n_contradicted: int, passes: bool) -> None:
    gates = judge_labels([Contradicted("Manufacturer", n_sure, n_contradicted)], GuardsConfig())
    assert all(gate.passed for gate in gates) is passes


def test_a_folder_is_gone_on_with_only_by_the_same_plan(champion: ModelPackage, tmp_path: Path) -> None:
    work, config = tmp_path / "run-1", RetrainingConfig(epochs=3)
    plan, resumed = plan_in(work, config, champion, NOON)
    assert not resumed
    (work / "checkpoint").touch()
    again, resumed = plan_in(work, config, champion, datetime.now(UTC))
    assert resumed and again == plan and (work / "checkpoint").exists()
    for changed, other in (
        (RetrainingConfig(epochs=4), champion),
        (config, replace(champion, model_id="another")),
    ):
        (work / "checkpoint").touch()
        _, resumed = plan_in(work, changed, other, NOON)
        assert not resumed and not (work / "checkpoint").exists()
        plan_in(work, config, champion, NOON)


def test_a_run_from_the_champion_keeps_its_network_and_preparation(champion: ModelPackage, tmp_path: Path) -> None:
    config = RetrainingConfig(recipe="paper", epochs=1)
    plan, _ = plan_in(tmp_path / "run-1", config, champion, NOON)
    recipe = recipe_of(plan, config, champion)
    assert recipe.preprocessing == champion.manifest.preprocessing
    assert recipe.width == champion.manifest.network.width and recipe.optimiser == "Adam"
    scratch, _ = plan_in(tmp_path / "run-2", config.model_copy(update={"start": "scratch"}), champion, NOON)
    assert recipe_of(scratch, config, champion).preprocessing.size == 224


def test_heads_stand_in_the_order_of_the_table(champion: ModelPackage) -> None:
    known = tuple(head for head in champion.manifest.parameters if head.keyword != "Manufacturer")
    labels, patients = labels_of("GE", "GE", "SIEMENS", "SIEMENS")
    heads = heads_from(REFERENCE, labels, patients, 2, known)
    assert heads[0] == Head("Manufacturer", ParameterKind.CATEGORICAL, ("GE", "SIEMENS"))
