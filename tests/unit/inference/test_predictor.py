"""The predictor: what it answers with, and the shipped model on series it should and should not know.

How good the shipped model is over many series stands in docs/reference-model.md; here are a few, end to end.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from iap_node.dicom.pixels import read_series_slices
from iap_node.errors import ConfigError, UnreadablePixels
from iap_node.inference.package import load_package, package_folder
from iap_node.inference.predictor import Predictor
from iap_node.inference.store import evaluation_of
from iap_node.records import HeaderValue, ParameterKind, SeriesHeader
from training.dataset import canonical_labels
from training.joint import stated
from training.simulation.series import simulate_series


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    return Predictor(load_package(package_folder("reference")), device="cpu")


@pytest.fixture
def slices() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 900, (64, 80)).astype(np.float32) for _ in range(5)]


def test_categorical_answers_are_probabilities_in_falling_order_with_their_set(tmp_path, write_tiny_package, slices):
    predictor = Predictor(load_package(write_tiny_package(tmp_path)), device="cpu")
    answer = predictor.predict(slices, alpha=0.5).parameters[0]
    shares = [share for _, share in answer.probabilities]
    assert answer.kind is ParameterKind.CATEGORICAL
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    assert set(answer.prediction_set) <= {"GE MEDICAL SYSTEMS", "SIEMENS"}
    assert answer.prediction_set[0] == answer.probabilities[0][0]


def test_continuous_answers_have_nested_intervals_around_the_value(tmp_path, write_tiny_package, slices):
    predictor = Predictor(load_package(write_tiny_package(tmp_path)), device="cpu")
    answer = predictor.predict(slices, alpha=0.1).parameters[2]
    assert [alpha for alpha, _, _ in answer.intervals] == [0.5, 0.05]
    (_, inner_low, inner_high), (_, outer_low, outer_high) = answer.intervals
    assert outer_low < inner_low < answer.value < inner_high < outer_high
    assert answer.interval == (outer_low, outer_high)


def test_an_alpha_beyond_the_calibration_contradicts_nothing(tmp_path, write_tiny_package, slices):
    predictor = Predictor(load_package(write_tiny_package(tmp_path)), device="cpu")
    manufacturer, _, echo_time = predictor.predict(slices, alpha=0.001).parameters
    assert set(manufacturer.prediction_set) == {"GE MEDICAL SYSTEMS", "SIEMENS"}
    assert echo_time.interval is None


def test_what_the_package_says_travels_with_the_answer(tmp_path, write_tiny_package, slices):
    predictor = Predictor(load_package(write_tiny_package(tmp_path)), device="cpu")
    prediction = predictor.predict(slices, alpha=0.05)
    assert prediction.training_data == predictor.training_data == "not trained at all"
    assert prediction.model_id == predictor.model_id
    assert prediction.n_slices == 5
    assert [answer.by_association for answer in prediction.parameters] == [False, True, False]


def test_a_novel_series_gets_no_answer(tmp_path, write_tiny_package, slices):
    predictor = Predictor(load_package(write_tiny_package(tmp_path, novelty_limit=1e-3)), device="cpu")
    prediction = predictor.predict(slices, alpha=0.05)
    assert prediction.novel
    assert prediction.novelty_score > prediction.novelty_threshold
    assert prediction.parameters == ()


def test_header_that_is_shown_is_judged_as_a_whole_and_changes_nothing_else(tmp_path, write_tiny_package, slices):
    predictor = Predictor(load_package(write_tiny_package(tmp_path)), device="cpu")
    header = SeriesHeader((HeaderValue("Manufacturer", "SIEMENS", "SIEMENS"), HeaderValue("EchoTime", "2", 2.0)))
    judged = predictor.predict(slices, 0.05, header)
    assert sorted(term.keyword for term in judged.header_fit.terms) == ["EchoTime", "Manufacturer"]
    assert 1 / 200 <= judged.header_fit.p_value <= 1
    assert replace(judged, header_fit=None) == predictor.predict(slices, 0.05)
    assert predictor.predict(slices, 0.05, SeriesHeader(())).header_fit is None


def test_header_of_a_novel_series_is_not_judged(tmp_path, write_tiny_package, slices):
    predictor = Predictor(load_package(write_tiny_package(tmp_path, novelty_limit=1e-3)), device="cpu")
    header = SeriesHeader((HeaderValue("Manufacturer", "SIEMENS", "SIEMENS"), HeaderValue("EchoTime", "2", 2.0)))
    assert predictor.predict(slices, 0.05, header).header_fit is None


def test_shipped_model_doubts_the_header_of_another_scanner_and_not_the_right_one(shipped):
    first, second = (simulate_series(np.random.default_rng([78, n]), 8, slice_positions="even") for n in (0, 2))
    assert first.labels["Manufacturer"] != second.labels["Manufacturer"]
    own, other = (stated(canonical_labels(series.labels)) for series in (first, second))
    slices = list(first.pixels)
    assert shipped.predict(slices, 0.01, own).header_fit.p_value > 0.01
    assert shipped.predict(slices, 0.01, other).header_fit.p_value <= 0.01


def test_batches_do_not_change_the_answer(tmp_path, write_tiny_package, slices):
    package = load_package(write_tiny_package(tmp_path))
    one, all_at_once = (Predictor(package, device="cpu", batch_size=n).predict(slices, 0.05) for n in (1, 16))
    for left, right in zip(one.parameters, all_at_once.parameters, strict=True):
        assert dict(left.probabilities) == pytest.approx(dict(right.probabilities), abs=1e-5)
    assert one.parameters[2].value == pytest.approx(all_at_once.parameters[2].value, rel=1e-5)


def test_a_series_without_slices_is_an_error_with_its_reason(tmp_path, write_tiny_package):
    predictor = Predictor(load_package(write_tiny_package(tmp_path)), device="cpu")
    with pytest.raises(UnreadablePixels, match="no slice"):
        predictor.predict([], 0.05)


def test_cuda_that_is_not_there_is_a_configuration_error(tmp_path, write_tiny_package, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    package = load_package(write_tiny_package(tmp_path))
    with pytest.raises(ConfigError, match="auto or cpu"):
        Predictor(package, device="cuda")
    assert Predictor(package, device="auto").engine == "torch on cpu, float32"


def test_shipped_model_says_that_it_was_trained_on_simulated_images(shipped):
    assert shipped.training_data == "trained on simulated images"


def test_shipped_model_fits_the_size_it_may_have_in_the_repository():
    files = list(package_folder("reference").iterdir())
    assert sorted(path.name for path in files) == [
        "evaluation.json",
        "header.safetensors",
        "model.json",
        "novelty.safetensors",
        "weights.safetensors",
    ]
    assert sum(path.stat().st_size for path in files) <= 8 * 1024**2


def test_figures_that_come_with_the_shipped_model_are_its_own():
    package = load_package(package_folder("reference"))
    figures = evaluation_of(package)
    assert figures is not None
    assert figures["images"] == "simulated"
    assert [head["keyword"] for head in figures["heads"]] == [head.keyword for head in package.manifest.parameters]
    documented = Path(__file__).parents[3] / "docs" / "reference-model.json"
    assert json.loads(documented.read_text()) == figures


def test_shipped_model_knows_simulated_breast_series(shipped):
    right, known, echo_errors = 0, 0, []
    for number in range(8):
        series = simulate_series(np.random.default_rng([77, number]), 8, slice_positions="even")
        prediction = shipped.predict(list(series.pixels), alpha=0.01)
        if prediction.novel:
            continue
        known += 1
        answers = {answer.keyword: answer for answer in prediction.parameters}
        right += answers["Manufacturer"].probabilities[0][0] == series.labels["Manufacturer"]
        echo_errors.append(abs(math.log(answers["EchoTime"].value / float(series.labels["EchoTime"]))))
    assert known >= 7
    assert right == known
    assert np.median(echo_errors) < 0.1


def test_shipped_model_abstains_from_noise(shipped):
    rng = np.random.default_rng(3)
    noise = [np.hypot(*rng.normal(0, 100, (2, 320, 320))) for _ in range(8)]
    assert shipped.predict(noise, 0.05).novel


def test_shipped_model_abstains_from_constant_images(shipped):
    assert shipped.predict([np.full((256, 256), 7.0)] * 4, 0.05).novel
    assert shipped.predict([np.zeros((256, 256))] * 4, 0.05).novel


@pytest.mark.parametrize(
    "folder",
    [
        "siemens_prismafit_e11_t1_fl2d_prone_HFP",
        "ge_signa_pioneer_mr29_3d_mprage",
        "uih_umr770_t1_gre_3d_sag_study2",
        "canon_galan3t_v61_dti_axial",
    ],
)
def test_shipped_model_abstains_from_real_series_of_other_anatomy(shipped, mr_real, folder):
    files = sorted(path for path in (mr_real / folder).rglob("*") if path.is_file())
    pixels = read_series_slices(
        files, max_slices=12, max_pixels_per_slice=4096**2, max_bytes_per_instance=256 * 1024**2
    )
    assert pixels.slices, pixels.problems
    assert shipped.predict(pixels.slices, 0.05).novel
