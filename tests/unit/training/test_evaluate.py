"""From a fitted network to package and tables: with an untrained network, whose figures are known in advance.

Not here: the figures of the shipped model (docs/reference-model.md).
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from iap_node.inference.package import ModelPackage, load_package, package_folder
from training import dataset, evaluate, joint, plots, recipes, report, report_html, unlike
from training.cli import app
from training.cli import evaluation as evaluation_commands
from training.figures import Evaluation
from training.fit import fit
from training.goals import goals_of
from training.intervals import Bootstrap, area_under_curve, calibration_error, patients_of
from training.recipes import REFERENCE, Recipe, heads_for, paper
from training.reference import Naming, package_from, recalibrated

RECIPE = replace(REFERENCE, preprocessing=replace(REFERENCE.preprocessing, size=32), width=0.125, bfloat16=False)


PAPER = replace(paper(), preprocessing=replace(paper().preprocessing, size=32), width=0.125, batch_size=64)


def write_data(folder: Path, recipe: Recipe) -> Path:
    """A data set of random inputs in the real layout: labels say nothing about pixels, save the brightness."""
    folder.mkdir(exist_ok=True)
    plan = dataset.plan(recipe.preprocessing, seed=0, n_training=120, n_held_out=150, slices=4, held_out_slices=4)
    (folder / "dataset.json").write_text(json.dumps(plan.as_json()))
    rng, n_channels = np.random.default_rng(0), len(recipe.preprocessing.channels)
    for split, part in plan.splits.items():
        (folder / split).mkdir()
        for first in range(0, part.n_series, dataset.SHARD_SERIES):
            n = min(dataset.SHARD_SERIES, part.n_series - first)
            bright = rng.integers(0, 2, n)
            inputs = rng.integers(0, 128, (n, part.n_slices, 2, 32, 32)) + 100 * bright[:, None, None, None, None]
            np.save(folder / split / f"{first:06d}.npy", inputs[:, :, :n_channels].astype(np.uint8))
            labels = [
                {
                    "Manufacturer": "SIEMENS" if one else "GE",
                    "MagneticFieldStrength": float(rng.choice([1.494, 1.5, 3.0])),
                    "EchoTime": 2.0 + float(one) * 0.3 + float(rng.normal(0, 0.02)),
                }
                for one in bright
            ]
            (folder / split / f"{first:06d}.json").write_text(json.dumps(labels))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), RECIPE)


@pytest.fixture(scope="module")
def package(data, tmp_path_factory) -> ModelPackage:
    training = dataset.load(data, "training")
    heads = heads_for(RECIPE, training.labels)
    folder = tmp_path_factory.mktemp("run")
    fitted = fit(RECIPE, heads, training, folder, epochs=12)
    return package_from(folder / "package", Naming("test", "1"), RECIPE, heads, fitted, data, seed=0)


@pytest.fixture(scope="module")
def figures(package, data) -> Evaluation:
    return evaluate.evaluate(package, dataset.load(data, "test"), [*unlike.made_up(1), unlike.ct_images()])


def test_what_pixels_show_is_found_and_what_they_do_not_show_is_not(figures):
    assert figures.head("Manufacturer").series_top1 > 0.95
    assert figures.head("EchoTime").series_r2 > 0.8
    assert figures.head("MagneticFieldStrength").series_top1 < 0.6


def test_conformal_sets_cover_also_what_the_network_cannot_know(figures):
    for head in figures.heads:
        for audit in head.audit:
            assert audit.coverage >= 1 - audit.alpha - 0.05, head.keyword
            assert audit.false_contradictions <= audit.alpha + 0.05
    assert figures.head("MagneticFieldStrength").audit[0].set_size > 2


def test_labels_that_differ_within_tolerance_never_contradict(figures):
    # Wrong headers differ beyond tolerance only: 1.494 T for 1.5 T is no error to find.
    field = figures.head("MagneticFieldStrength")
    assert field.series_top1_within_tolerance >= field.series_top1


def test_swapped_headers_are_found_by_what_pixels_show_and_right_ones_are_doubted_at_alpha(figures):
    # Brightness alone is shown: every second header of another series has the same, and cannot be found.
    for one in figures.swaps:
        right, swapped, same_model = one.whole
        assert right <= one.alpha + 0.05
        assert min(swapped, same_model) > 0.3
    strict, loose = (one.whole for one in figures.swaps)
    assert strict[0] <= loose[0]
    assert strict[1] <= loose[1]


def test_swapped_header_has_other_values_and_the_same_model_where_asked_for():
    made = (("A", 1), ("A", 2), ("B", 3), ("B", 3), ("B", 4), ("C", 5))
    labels = [{"ManufacturerModelName": model, "EchoTime": echo_time} for model, echo_time in made]
    rng = np.random.default_rng(0)
    for _ in range(5):
        for row, other in enumerate(joint.other_headers(labels, rng)):
            assert labels[other] != labels[row]
        for row, other in enumerate(joint.other_headers(labels, rng, same_model=True)[:5]):
            assert labels[other] != labels[row]
            assert labels[other]["ManufacturerModelName"] == labels[row]["ManufacturerModelName"]
    assert joint.other_headers(labels, rng, same_model=True)[5] is None


def test_recalibration_changes_calibration_only_and_says_where_it_came_from(package, data, tmp_path):
    again = recalibrated(package, tmp_path, data, seed=0)
    assert again.manifest.calibration == package.manifest.calibration
    assert again.weights == package.weights
    assert again.manifest.novelty == package.manifest.novelty
    assert again.manifest.header == package.manifest.header
    assert again.manifest.provenance["recalibrated"]["from"] == package.model_id
    assert again.manifest.provenance["recipe"] == package.manifest.provenance["recipe"]
    with pytest.raises(dataset.DataSetError, match="not prepared"):
        recalibrated(load_package(package_folder("reference")), tmp_path, data, seed=0)


def test_package_says_how_it_came_about(package):
    provenance = package.manifest.provenance
    assert provenance["images"] == "simulated"
    assert provenance["data"]["splits"]["conformal"]["n_series"] == 150
    assert package.training_data == "trained on simulated images"
    assert [item.n_slices for item in package.manifest.calibration] == [1, 2, 4]


def test_half_precision_on_disk_is_what_was_calibrated(package):
    sizes = sum(path.stat().st_size for path in package.folder.iterdir())
    assert sizes < 2 * 1024**2
    assert json.loads((package.folder / "model.json").read_text())["weights"]["sha256"]


def test_report_names_command_and_data_and_says_simulated_in_every_table(figures):
    text = report.as_markdown(figures, command="iap-train evaluate X", data="random")
    assert "iap-train evaluate X" in text
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert [line.split(" (")[0] for line in headings] == [
        "## Classes",
        "## Numbers",
        "## Header audit at alpha 0.01",
        "## Header audit at alpha 0.05",
        "## Swapped headers",
        "## Goals",
        "## Abstention",
    ]
    assert all("(simulated)" in line for line in headings[:6])
    assert "Judged on **simulated images**" in text
    assert "| CT (pydicom's test files) | yes | 3 of 3 | " in text
    json.dumps(figures.as_json(), allow_nan=False)


def test_goals_that_are_missed_are_named_and_the_others_counted(figures):
    found = {one.text: one for one in goals_of(figures)}
    assert found["Manufacturer, top-1"].reached
    assert not found["Magnetic Field Strength, top-2"].reached
    assert found["Echo Time, R2"].wanted == "at least 0.97"
    assert {"novelty AUROC, noise", "novelty AUROC, simulated breast, rotated by 90 degrees"} <= set(found)
    text = report.as_markdown(figures, "x", "y").split("## Goals (simulated)")[1].split("## ")[0]
    assert f"{sum(one.reached for one in found.values())} of {len(found)} are reached" in text
    assert "| Magnetic Field Strength, top-2 | at least 0.95 | " in text
    assert "Manufacturer, top-1" not in text


def test_images_from_elsewhere_are_never_called_simulated(figures):
    text = report.as_markdown(replace(figures, images="the archive of a node", trained_on="trained on it"), "x", "y")
    assert "simulated images" not in text
    assert "(simulated)" not in text
    assert "## Goals" not in text
    assert "Judged on images from: the archive of a node." in text


def test_every_figure_has_an_interval_that_holds_it(figures):
    wanted = {
        "Manufacturer": {
            "slice_top1",
            "slice_top2",
            "series_top1",
            "series_top2",
            "series_top1_within_tolerance",
            "ece",
        },
        "EchoTime": {"slice_mae", "slice_r2", "series_mae", "series_r2"},
    }
    for keyword, names in wanted.items():
        head = figures.head(keyword)
        assert set(head.intervals) == names
        for name in names - {"ece"}:  # a sum of absolute gaps: draws are above it more often than below
            low, high = head.intervals[name]
            assert low <= getattr(head, name) <= high, name
        for audit in head.audit:
            for name in ("coverage", "set_size", "false_contradictions", "power"):
                low, high = audit.intervals[name]
                assert low <= getattr(audit, name) <= high, name
    for one in figures.swaps:
        for share, interval in zip(one.whole, one.intervals["whole"], strict=True):
            assert share is None or interval[0] <= share <= interval[1]


def test_confusion_and_reliability_count_every_series(figures):
    head = figures.head("MagneticFieldStrength")
    assert sum(map(sum, head.confusion)) == head.n_series == 150
    assert sum(one.n for one in head.reliability) == 150
    right = sum(head.confusion[k][k] for k in range(len(head.classes))) / 150
    assert right == pytest.approx(head.series_top1)


def test_novelty_is_told_by_kind(figures):
    by_name = {one.name: one for one in figures.novelty}
    assert {name for name, one in by_name.items() if not one.should_be_novel} == {"simulated breast, as it is"}
    assert {"noise", "disc phantom", "simulated breast, blurred", "simulated breast, rotated by 90 degrees"} <= set(
        by_name
    )
    for one in figures.novelty:
        assert one.interval[0] <= one.area <= one.interval[1]


def test_page_is_whole_in_itself_and_holds_every_plot(figures):
    page = report_html.as_html(replace(figures, model_id="<tiny>"), "iap-train evaluate X", "random")
    assert "<tiny>" not in page
    for resource in ("http:", "https:", "src=", "<script", "<link", "url(", "@import"):
        assert resource not in page, resource
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    n_classes = sum(1 for head in figures.heads if head.n_classes)
    assert len(drawings) == 2 * n_classes + 4  # reliability and confusion; accuracy, two alphas, novelty
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert "Judged on simulated images" in page


def test_a_class_name_cannot_leave_its_drawing(figures):
    head = replace(figures.head("Manufacturer"), classes=('<g onload="x">', "B & C"))
    ElementTree.fromstring(plots.confusion(head))


def test_series_of_one_patient_count_as_one_draw():
    rng = np.random.default_rng(0)
    right = np.repeat(rng.integers(0, 2, 40), 25).astype(float)  # 25 series of each patient, all alike
    by_patient = Bootstrap(np.repeat(np.arange(40), 25), rng).mean(right)
    by_series = Bootstrap(np.arange(1000), rng).mean(right)
    assert by_patient[1] - by_patient[0] > 3 * (by_series[1] - by_series[0])


def test_intervals_are_those_of_the_binomial_where_every_series_is_another_patient():
    right = np.repeat([1.0, 0.0], [180, 20])
    low, high = Bootstrap(np.arange(200), np.random.default_rng(0)).mean(right)
    assert low == pytest.approx(0.9 - 1.96 * np.sqrt(0.09 / 200), abs=0.012)
    assert high == pytest.approx(0.9 + 1.96 * np.sqrt(0.09 / 200), abs=0.012)


def test_what_is_missing_counts_for_nothing():
    drawn = Bootstrap(np.arange(50), np.random.default_rng(0))
    assert drawn.mean(np.where(np.arange(50) % 2, 1.0, np.nan)) == (1.0, 1.0)
    assert all(np.isnan(drawn.mean(np.full(50, np.nan))))


def test_calibration_error_and_area_are_those_of_small_examples():
    confidence, right = np.array([0.95, 0.95, 0.55, 0.55]), np.array([1.0, 0.0, 1.0, 0.0])
    assert calibration_error(confidence, right) == pytest.approx((0.9 + 0.1) / 4)
    inside = np.array([0.1, 0.2, 0.3])
    assert area_under_curve(inside, np.array([0.4, 0.5])) == 1.0
    assert area_under_curve(inside, inside) == 0.5
    assert area_under_curve(inside, np.array([0.25])) == pytest.approx(2 / 3)


def test_patients_of_real_series_come_from_what_the_shards_were_made_of(tmp_path):
    (tmp_path / "test").mkdir()
    rows = [{"patient": name, "dropped_reason": why} for name, why in (("a", None), ("b", "no pixels"), ("a", None))]
    (tmp_path / "test" / "000000.rows.json").write_text(json.dumps({"rows": rows}))
    described = {"images": "a folder", "splits": {"test": {"n_series": 2, "n_shards": 1}}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    assert patients_of(tmp_path, "test") == ["a", "a"]


def test_two_recipes_are_trained_on_the_same_series_and_set_beside_each_other(data, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "REFERENCE", RECIPE)
    monkeypatch.setattr(evaluation_commands, "recipe_named", lambda name, layout: PAPER)
    others = write_data(tmp_path / "others", PAPER)
    arguments = ["evaluate", str(data), "--compare", "paper", "--compared-data", str(others), "--epochs", "2"]
    arguments += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "both")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "both.md").read_text()
    assert "## reference beside paper-96 (simulated)" in text
    both = json.loads((tmp_path / "both.json").read_text())
    assert (
        both["reference"]["images_seen"] == both["paper-96"]["images_seen"] == 960 - 960 % 128
    )  # whole batches of both
    assert "| Manufacturer | top-1 | " in text
    echo = next(line for line in text.splitlines() if line.startswith("| Echo Time | MAE"))
    assert echo.count("ms") == 2


def test_other_series_are_not_compared(data, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_commands, "recipe_named", lambda name, layout: PAPER)
    others = write_data(tmp_path / "others", PAPER)
    labels = others / "test" / "000000.json"
    labels.write_text(labels.read_text().replace("SIEMENS", "GE", 1))
    arguments = ["evaluate", str(data), "--compare", "paper", "--compared-data", str(others), "--work", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, dataset.DataSetError)
    assert "different series" in str(done.exception)


def test_simulated_series_are_made_for_the_other_recipe_from_the_same_seeds(data, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(evaluation_commands, "recipe_named", lambda name, layout: PAPER)
    monkeypatch.setattr(
        evaluation_commands, "simulate_into", lambda folder, plan, processes: made.append((folder, plan))
    )
    arguments = ["evaluate", str(data), "--compare", "paper", "--work", str(tmp_path)]
    CliRunner().invoke(app, arguments)
    ((folder, plan),) = made
    assert folder == tmp_path / "data-paper-96"
    assert plan.as_json() == dataset.describe(data) | {"preprocessing": plan.as_json()["preprocessing"]}
    assert plan.preprocessing == PAPER.preprocessing


def test_data_prepared_for_another_recipe_is_refused(tmp_path):
    others = write_data(tmp_path / "others", PAPER)
    done = CliRunner().invoke(app, ["evaluate", str(others)])
    assert isinstance(done.exception, dataset.DataSetError)
    assert "not prepared" in str(done.exception)


def test_a_model_that_is_not_calibrated_has_figures_of_its_answers_and_none_of_its_promises(package, data):
    silent = replace(
        package,
        manifest=replace(package.manifest, calibration=(), header=None),
        novelty={},
        header=None,
    )
    figures = evaluate.evaluate(silent, dataset.load(data, "test"), [unlike.ct_images()])
    assert figures.head("Manufacturer").series_top1 > 0.95
    assert figures.head("Manufacturer").audit == ()
    assert (figures.false_novel, figures.novelty, figures.swaps) == ({}, (), ())
    text = report.as_markdown(figures, "x", "y")
    assert "not calibrated" in text
    assert "## Header audit" not in text
    assert "## Abstention" not in text
    report_html.as_html(figures, "x", "y")


def test_a_parameter_that_no_header_of_the_test_states_is_left_out_of_the_tables(package, data):
    test = dataset.load(data, "test")
    few = replace(
        test, inputs=test.inputs[:40], labels=tuple(dict(one) | {"EchoTime": None} for one in test.labels[:40])
    )
    some = tuple(one | {"Manufacturer": None} if row % 2 else one for row, one in enumerate(few.labels))
    figures = evaluate.evaluate(package, replace(few, labels=some))
    assert figures.head("EchoTime").n_series == 0
    assert figures.head("Manufacturer").n_series == 20
    text = report.as_markdown(figures, "x", "y")
    assert "Echo Time" not in text
    report_html.as_html(figures, "x", "y")
    json.dumps(figures.as_json(), allow_nan=False)
