"""From a fitted network to package and tables: with an untrained network, whose figures are known in advance.

Not here: the figures of the shipped model (docs/reference-model.md).
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from iap_node.inference.package import ModelPackage, load_package, package_folder
from training import dataset, evaluate, joint, report, unlike
from training.fit import fit
from training.recipes import REFERENCE, heads_for
from training.reference import Naming, package_from, recalibrated

RECIPE = replace(REFERENCE, preprocessing=replace(REFERENCE.preprocessing, size=32), width=0.125, bfloat16=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data set of random inputs in the real layout: labels say nothing about pixels, save the brightness."""
    folder = tmp_path_factory.mktemp("data")
    plan = dataset.plan(RECIPE.preprocessing, seed=0, n_training=120, n_held_out=150, slices=4, held_out_slices=4)
    (folder / "dataset.json").write_text(json.dumps(plan.as_json()))
    rng = np.random.default_rng(0)
    for split, part in plan.splits.items():
        (folder / split).mkdir()
        for first in range(0, part.n_series, dataset.SHARD_SERIES):
            n = min(dataset.SHARD_SERIES, part.n_series - first)
            bright = rng.integers(0, 2, n)
            inputs = rng.integers(0, 128, (n, part.n_slices, 2, 32, 32)) + 100 * bright[:, None, None, None, None]
            np.save(folder / split / f"{first:06d}.npy", inputs.astype(np.uint8))
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
def package(data, tmp_path_factory) -> ModelPackage:
    training = dataset.load(data, "training")
    heads = heads_for(RECIPE, training.labels)
    folder = tmp_path_factory.mktemp("run")
    fitted = fit(RECIPE, heads, training, folder, epochs=12)
    return package_from(folder / "package", Naming("test", "1"), RECIPE, heads, fitted, data, seed=0)


@pytest.fixture(scope="module")
def figures(package, data) -> evaluate.Evaluation:
    return evaluate.evaluate(package, dataset.load(data, "test"), unlike.made_up(2))


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
    assert len(headings) == 5
    assert all("(simulated)" in line for line in headings[:4])
    assert "trained and evaluated on simulated images" in text
    assert "should not be novel" in text
    json.dumps(asdict(figures))
