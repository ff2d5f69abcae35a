"""Simulated series as DICOM: valid, geometrically right, reproducible, never mistaken for a patient."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from iap_node.dicom.header import read_header_dataset, read_series_header
from iap_node.dicom.parameters import BY_KEYWORD, PARAMETERS
from training.simulation.dicom_series import make_datasets, make_study, write_series
from training.simulation.other_anatomy import simulate_head_series
from training.simulation.protocols import load_prior, sample_protocol
from training.simulation.series import SimulatedSeries, simulate_series


def one_per_vendor() -> list[SimulatedSeries]:
    rng = np.random.default_rng(17)
    found: dict[tuple[str, str], SimulatedSeries] = {}
    wanted = {(vendor, position) for vendor in load_prior()["vendors"] for position in ("HFP", "FFP")}
    while set(found) != wanted:
        protocol = sample_protocol(rng)
        key = (protocol.manufacturer, protocol.patient_position)
        if key not in found:
            found[key] = simulate_series(rng, 1, protocol=protocol)
    return list(found.values())


def test_dciodvfy_finds_no_error(tmp_path: Path, program: Callable[[str, str], str]) -> None:
    dciodvfy = program("dciodvfy", "dicom3tools")
    rng = np.random.default_rng(1)
    for count, series in enumerate([*one_per_vendor(), simulate_head_series(rng, 1)]):
        for path in write_series(series, tmp_path / str(count), rng=rng):
            result = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True, check=False)
            lines = (result.stdout + result.stderr).splitlines()
            assert "MRImage" in lines, lines
            assert [line for line in lines if line.startswith("Error")] == []


def test_the_node_reads_the_labels_back_from_the_header(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for count, series in enumerate(one_per_vendor()):
        paths = write_series(series, tmp_path / str(count), rng=rng)
        header = read_series_header([read_header_dataset(path) for path in paths])
        for keyword, expected in series.labels.items():
            read = header.value(keyword)
            assert read.problem == ""
            assert read.canonical is not None, keyword
            assert BY_KEYWORD[keyword].same(read.canonical, expected), keyword


@pytest.mark.parametrize("agent", ["absent", "present but not named", "GADAVIST"])
def test_contrast_agent_is_absent_empty_or_named(agent: str) -> None:
    rng = np.random.default_rng(2)
    while (protocol := sample_protocol(rng)).contrast_agent != agent:
        pass
    ds = make_datasets(simulate_series(rng, 1, protocol=protocol), rng=rng)[0]
    written = ds.get("ContrastBolusAgent")
    assert written == {"absent": None, "present but not named": ""}.get(agent, agent)


def test_pixels_survive_writing_and_reading(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    series = simulate_series(rng, 3)
    paths = write_series(series, tmp_path, rng=rng)
    read = np.stack([pydicom.dcmread(path).pixel_array for path in paths])
    assert np.array_equal(read, series.pixels)


def test_positions_step_along_the_normal_by_whole_spacings() -> None:
    rng = np.random.default_rng(4)
    for series in (*one_per_vendor(), simulate_series(rng, 4), simulate_head_series(rng, 4)):
        datasets = make_datasets(series, rng=rng)
        for ds in datasets:
            row, column = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
            normal = np.cross(row, column)
            along = float(normal @ np.array(ds.ImagePositionPatient, float))
            steps = along / float(ds.SpacingBetweenSlices) + (series.volume_slices - 1) / 2.0
            assert steps == pytest.approx(int(ds.InstanceNumber) - 1, abs=1e-3)


def test_the_image_is_centred_in_patient_space_whichever_way_it_is_stored() -> None:
    rng = np.random.default_rng(5)
    for series in one_per_vendor():
        ds = make_datasets(series, rng=rng)[0]
        row, column = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        spacing = float(ds.PixelSpacing[0])
        centre = np.array(ds.ImagePositionPatient, float) + (row + column) * spacing * (ds.Rows - 1) / 2.0
        assert centre[0] == pytest.approx(0.0, abs=spacing)
        assert centre[1] == pytest.approx(series.centre_y_mm, abs=spacing)


def test_phase_direction_decides_where_the_matrix_stands() -> None:
    rng = np.random.default_rng(6)
    for series in one_per_vendor():
        ds = make_datasets(series, rng=rng)[0]
        places = [index for index, value in enumerate(ds.AcquisitionMatrix) if value]
        assert places == ([0, 3] if ds.InPlanePhaseEncodingDirection == "COL" else [1, 2])
        if "PFP" in list(ds.ScanOptions):
            assert ds.NumberOfPhaseEncodingSteps < series.protocol.matrix_phase


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for folder in ("a", "b"):
        rng = np.random.default_rng(7)
        paths = write_series(simulate_series(rng, 2), tmp_path / folder, rng=rng)
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]


def test_every_uid_of_a_study_is_valid_and_its_own() -> None:
    rng = np.random.default_rng(8)
    study = make_study(rng, 5)
    series = simulate_series(rng, 3)
    datasets = [
        ds for number in (1, 2) for ds in make_datasets(series, rng=rng, study=study, series_number=number)
    ]
    assert len({ds.SOPInstanceUID for ds in datasets}) == 6
    assert len({ds.SeriesInstanceUID for ds in datasets}) == 2
    assert {ds.StudyInstanceUID for ds in datasets} == {study.study_instance_uid}
    for ds in datasets:
        assert ds.SOPInstanceUID.is_valid
        assert ds.SOPInstanceUID.startswith("2.25.")


def test_identity_is_obviously_simulated() -> None:
    rng = np.random.default_rng(9)
    ds = make_datasets(simulate_series(rng, 1), rng=rng, study=make_study(rng, 1))[0]
    assert str(ds.PatientName) == "SIMULATED^0001"
    assert "SIMULATED" in ds.SeriesDescription
    assert "SIMULATED" in ds.ImageComments


def test_overrides_set_and_delete_elements() -> None:
    rng = np.random.default_rng(10)
    overrides = {"Manufacturer": "ACME", "EchoTime": None, "ScanOptions": ["FS", "XX"]}
    ds = make_datasets(simulate_series(rng, 1), rng=rng, overrides=overrides)[0]
    assert ds.Manufacturer == "ACME"
    assert "EchoTime" not in ds
    assert list(ds.ScanOptions) == ["FS", "XX"]


def test_a_head_says_that_it_is_no_breast() -> None:
    rng = np.random.default_rng(11)
    series = simulate_head_series(rng, 2)
    ds = make_datasets(series, rng=rng)[0]
    assert ds.BodyPartExamined == "HEAD"
    assert ds.PatientPosition == "HFS"
    assert ds.ScanningSequence == "SE"
    assert set(series.labels) == {parameter.keyword for parameter in PARAMETERS} - {"ScanOptions"}
