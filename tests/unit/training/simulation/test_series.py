"""A simulated series: reproducible, honestly labelled, and carrying the traces of its protocol."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from numpy.typing import NDArray

from iap_node.dicom.parameters import PARAMETERS
from training.simulation.phantom import Phantom, sample_phantom
from training.simulation.protocols import Protocol, sample_protocol
from training.simulation.series import SimulatedSeries, acquire_series, simulate_series


def protocol_of(cluster: str, **changes: object) -> Protocol:
    """A protocol of one cluster, with some parameters set."""
    rng = np.random.default_rng(3)
    while (protocol := sample_protocol(rng)).cluster != cluster:
        pass
    return dataclasses.replace(protocol, **changes)  # type: ignore[arg-type]


def patient_of(series: SimulatedSeries) -> Phantom:
    assert isinstance(series.phantom, Phantom)
    return series.phantom


def log_spectrum(image: NDArray[np.generic]) -> NDArray[np.floating]:
    return np.log(np.abs(np.fft.fft2(image.astype(np.float64))) ** 2 + 1e-9)


def test_the_same_seed_makes_the_same_series_to_the_bit() -> None:
    first, second = (simulate_series(np.random.default_rng(8), 2) for _ in range(2))
    assert np.array_equal(first.pixels, second.pixels)
    assert first.history == second.history


def test_another_seed_makes_another_series() -> None:
    first, second = (simulate_series(np.random.default_rng(seed), 1) for seed in (1, 2))
    assert first.history != second.history


def test_labels_are_canonical_values_of_every_parameter() -> None:
    series = simulate_series(np.random.default_rng(4), 1)
    assert list(series.labels) == [parameter.keyword for parameter in PARAMETERS]
    assert all(type(value) in (str, float) and value != "" for value in series.labels.values())


def test_pixels_hold_slices_of_a_square_image_no_smaller_than_the_matrix() -> None:
    rng = np.random.default_rng(21)
    for _ in range(6):
        series = simulate_series(rng, 2)
        slices, rows, columns = series.pixels.shape
        assert (slices, rows) == (2, columns)
        assert rows >= max(series.protocol.matrix_frequency, series.protocol.matrix_phase)
        assert series.pixels.dtype == np.uint16
        assert 0 < np.quantile(series.pixels, 0.9) < series.pixels.max()


def test_history_is_json_and_names_everything_sampled() -> None:
    series = simulate_series(np.random.default_rng(4), 1)
    history = json.loads(json.dumps(series.history))
    assert history["simulated"] is True
    assert history["protocol"]["echo_time_ms"] == series.labels["EchoTime"]
    assert set(history["acquisition"]) == {field.name for field in dataclasses.fields(series.acquisition)}


def test_what_was_sampled_is_enough_to_acquire_the_series_again() -> None:
    series = simulate_series(np.random.default_rng(12), 2)
    again = acquire_series(
        patient_of(series), series.protocol, series.acquisition, series.slice_index, series.volume_slices
    )
    assert np.array_equal(series.pixels, again.pixels)


@pytest.mark.parametrize("positions", ["random", "even", "contiguous"])
def test_slices_lie_inside_the_volume_in_ascending_order(positions: str) -> None:
    series = simulate_series(np.random.default_rng(2), 5, slice_positions=positions)  # type: ignore[arg-type]
    assert list(series.slice_index) == sorted(set(series.slice_index))
    assert series.slice_index[0] >= 0
    assert series.slice_index[-1] < series.volume_slices
    if positions == "contiguous":
        assert np.allclose(np.abs(np.diff(series.z_mm)), series.protocol.slice_thickness_mm)


def test_equal_phantom_seeds_are_the_same_patient_under_another_protocol() -> None:
    rng = np.random.default_rng(6)
    first = simulate_series(rng, 1, phantom_seed=77, protocol=protocol_of("skyra-pfp"))
    second = simulate_series(rng, 1, phantom_seed=77, protocol=protocol_of("excite-sat"))
    assert first.phantom == second.phantom
    assert first.phantom != simulate_series(rng, 1, phantom_seed=78).phantom


def test_neighbouring_slices_resemble_each_other_more_than_distant_ones() -> None:
    phantom = sample_phantom(np.random.default_rng(5))
    texture = phantom.texture(phantom.grid(340.0), 1.0)
    near = np.corrcoef(texture.at(0.0).ravel(), texture.at(1.0).ravel())[0, 1]
    far = np.corrcoef(texture.at(0.0).ravel(), texture.at(14.0).ravel())[0, 1]
    assert near > 0.8
    assert near > far + 0.2


def test_thicker_slices_average_fine_texture_away() -> None:
    phantom = sample_phantom(np.random.default_rng(5))
    grid = phantom.grid(340.0)
    thin, thick = (phantom.texture(grid, thickness).at(0.0) for thickness in (0.9, 2.5))
    high = (slice(100, 200), slice(100, 200))
    assert log_spectrum(thick)[high].mean() < log_spectrum(thin)[high].mean() - 0.5


@pytest.mark.parametrize(("cluster", "matrix"), [("avanto-fs", (448, 381)), ("trio-fs", (448, 251))])
def test_k_space_ends_at_the_acquired_matrix(cluster: str, matrix: tuple[int, int]) -> None:
    protocol = protocol_of(
        cluster,
        matrix_frequency=matrix[0],
        matrix_phase=matrix[1],
        phase_direction="ROW",
        filter_strength=0.0,
        partial_fourier=1.0,
        smoothing=0.0,
    )
    series = simulate_series(np.random.default_rng(9), 3, protocol=protocol, slice_positions=[0.4, 0.5, 0.6])
    unmasked = dataclasses.replace(series.acquisition, border_kind="none", background_cut=0.0, rows=560)
    again = acquire_series(
        patient_of(series), protocol, unmasked, series.slice_index, series.volume_slices
    )
    power = np.mean([log_spectrum(image) for image in again.pixels], axis=0)
    edge = matrix[1] // 2
    profile = power[:120].mean(axis=0)  # over low readout frequencies, as a function of the phase line
    assert profile[edge - 12 : edge - 2].mean() > profile[edge + 2 : edge + 12].mean() + 0.5


def test_feet_first_turns_left_and_right_of_an_image_stored_by_gradients() -> None:
    head_first = protocol_of("skyra-pfp", patient_position="HFP")
    feet_first = dataclasses.replace(head_first, patient_position="FFP")
    series = simulate_series(np.random.default_rng(14), 1, protocol=head_first, slice_positions=[0.5])
    acquisition = dataclasses.replace(series.acquisition, by_gradients=True, b1=(1.0, 0.0, 0.0, 0.0))
    phantom, count = patient_of(series), series.volume_slices
    head = acquire_series(phantom, head_first, acquisition, [count // 2], count)
    feet = acquire_series(phantom, feet_first, acquisition, [count // 2 - 1], count)
    assert head.z_mm == feet.z_mm
    assert head.image_orientation[0] == -feet.image_orientation[0]
    assert np.array_equal(head.pixels[0], feet.pixels[0][:, ::-1])


def test_images_turned_to_the_patient_have_the_standard_orientation() -> None:
    series = simulate_series(np.random.default_rng(14), 1)
    acquisition = dataclasses.replace(series.acquisition, by_gradients=False)
    turned = acquire_series(patient_of(series), series.protocol, acquisition, [3], series.volume_slices)
    assert turned.image_orientation == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def test_noise_grows_as_voxels_shrink() -> None:
    protocol = protocol_of("avanto-fs", slice_thickness_mm=2.0)
    thin = dataclasses.replace(protocol, slice_thickness_mm=1.0)
    series = simulate_series(np.random.default_rng(31), 1, protocol=protocol, slice_positions=[0.5])
    acquisition = dataclasses.replace(
        series.acquisition, border_kind="none", background_cut=0.0, by_gradients=False, brightest=8000.0
    )
    levels = []
    for setting in (protocol, thin):
        made = acquire_series(patient_of(series), setting, acquisition, [50], 100)
        levels.append(float(made.pixels[0, :12].mean()))  # in front of the breasts there is only air
    assert levels[1] > 1.5 * levels[0]
