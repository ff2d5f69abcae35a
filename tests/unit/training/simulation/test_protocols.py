"""The joint prior: every class can come, what belongs together stays together. Not covered: realism."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from training.simulation.protocols import Protocol, load_prior, sample_protocol


@pytest.fixture(scope="module")
def protocols() -> list[Protocol]:
    rng = np.random.default_rng(11)
    return [sample_protocol(rng) for _ in range(6000)]


def test_every_class_of_the_vocabulary_occurs(protocols: list[Protocol]) -> None:
    vocabulary = load_prior()["vocabulary"]
    assert {p.patient_position for p in protocols} == set(vocabulary["patient_position"])
    assert {p.contrast_agent for p in protocols} == set(vocabulary["contrast_agent"])
    assert {p.acquisition_matrix for p in protocols} == set(vocabulary["matrix"])
    assert {p.slice_thickness_mm for p in protocols} == {float(v) for v in vocabulary["slice_thickness_mm"]}
    assert {p.flip_angle_deg for p in protocols} == {float(v) for v in vocabulary["flip_angle_deg"]}
    assert {p.fov_mm for p in protocols} == {float(v) for v in vocabulary["fov_mm"]}
    assert {p.field_strength_t for p in protocols} == {1.494, 1.5, 2.8936, 3.0}
    options = {word for vendor in load_prior()["vendors"].values() for word in vendor["scan_options"]}
    assert {p.scan_options for p in protocols} == options
    assert {p.cluster for p in protocols} == set(load_prior()["clusters"])


def test_vocabulary_has_the_sizes_of_the_table_in_the_paper() -> None:
    vocabulary = load_prior()["vocabulary"]
    sizes = {name: len(values) for name, values in vocabulary.items()}
    assert sizes == {
        "patient_position": 2,
        "contrast_agent": 6,
        "matrix": 11,
        "slice_thickness_mm": 21,
        "flip_angle_deg": 4,
        "fov_mm": 27,
    }
    models = {cluster["model"] for cluster in load_prior()["clusters"].values()}
    assert len(models) == 8
    assert set(load_prior()["vendors"]) == {"GE MEDICAL SYSTEMS", "MPTronic software", "SIEMENS"}


def test_vendor_words_in_scan_options_appear_only_on_their_vendor(protocols: list[Protocol]) -> None:
    for protocol in protocols:
        is_ge = protocol.manufacturer == "GE MEDICAL SYSTEMS"
        assert ("_GEMS" in protocol.scan_options) == is_ge


def test_partial_fourier_and_acceleration_follow_the_scan_options(protocols: list[Protocol]) -> None:
    for protocol in protocols:
        words = protocol.scan_options.split("\\")
        assert (protocol.partial_fourier < 1.0) == ("PFP" in words)
        if protocol.manufacturer == "GE MEDICAL SYSTEMS":
            assert (protocol.acceleration > 1.0) == ("ACC_GEMS" in words)


def test_parameters_leave_the_habit_of_their_cluster_now_and_then(protocols: list[Protocol]) -> None:
    clusters = load_prior()["clusters"]
    strayed: Counter[str] = Counter()
    for protocol in protocols:
        habit = clusters[protocol.cluster]
        strayed["options"] += protocol.scan_options != habit["options"]
        strayed["matrix"] += protocol.acquisition_matrix not in habit["matrix"]
        strayed["thickness"] += protocol.slice_thickness_mm not in {float(v) for v in habit["thickness"]}
        strayed["agent"] += protocol.contrast_agent not in habit["agent"]
        strayed["fov"] += protocol.fov_mm not in habit["fov"]
    for parameter, count in strayed.items():
        assert 0.01 < count / len(protocols) < 0.13, parameter


def test_field_of_view_fits_the_patient() -> None:
    rng = np.random.default_rng(5)
    small = np.mean([sample_protocol(rng, body_width_mm=290.0).fov_mm for _ in range(300)])
    large = np.mean([sample_protocol(rng, body_width_mm=400.0).fov_mm for _ in range(300)])
    assert large > small + 20.0
