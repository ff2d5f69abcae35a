"""Data sets of real series: labels and splits, what is dropped and why, going on after a kill."""

import json

import numpy as np
import pytest

from iap_node.inference.preprocess import Preprocessing
from iap_node.records import Finding, FindingKind, Severity
from training import dataset, prepare
from training.manifest import read_manifest
from training.prepare import PrepareOptions
from training.sources import FolderSource, SourceSeries
from training.sources.series import against_the_whole, left_out_labels

SPEC = Preprocessing(size=32, channels=("image", "spectrum"), rounded=True, offset=(0.0, 0.0), scale=(1.0, 1.0))
OPTIONS = PrepareOptions(
    shares={"training": 0.4, "temperature": 0.2, "conformal": 0.2, "test": 0.2},
    training_slices=3,
    held_out_slices=3,
    processes=1,
)
KEY = b"k" * 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_series):
    """Twelve series of twelve patients, of which three cannot be learned from in whole or in part."""
    root = tmp_path_factory.mktemp("dicom")
    for number in range(9):
        make_series(root, number)
    make_series(root, 20, MagneticFieldStrength="1.5")  # at 123.2 MHz
    make_series(root, 21, Modality="CT")
    make_series(root, 22, PixelData=b"\0\0", ScanOptions="FS")  # cut off
    (root / "notes.txt").write_text("no instance")
    return root


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("data")
    return out, prepare.prepare(FolderSource(folder, KEY), out, SPEC, OPTIONS)


def content(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.np[y]")}


def test_it_is_read_as_simulated_data_sets_are(prepared):
    out, summary = prepared
    described = dataset.describe(out)
    assert dataset.preprocessing_of(out) == SPEC
    assert {split: part["n_series"] for split, part in described["splits"].items()} == summary.series
    assert summary.n_series == 10
    for split in dataset.SPLITS:
        if summary.series[split]:
            part = dataset.load(out, split)
            assert part.inputs.shape == (summary.series[split], 3, 2, 32, 32)
            assert part.inputs.dtype == np.uint8
            assert np.array_equal(part.inputs[:, 2], part.inputs[:, 0])  # two slices, of which one repeats
            assert all(label["Manufacturer"] == "SIEMENS" for label in part.labels)
            assert all(label["ScanOptions"] is None for label in part.labels)  # missing stays missing
    sentence = dataset.training_sentence(out)
    assert sentence.startswith("trained on real MR series from a folder of DICOM files")
    assert f"{summary.series['training']} series of {summary.patients['training']} patients" in sentence


def test_what_is_dropped_has_its_reason_in_manifest_and_summary(prepared):
    out, summary = prepared
    rows = {row.series_instance_uid: row for row in read_manifest(out)}
    assert len(rows) == 12
    assert "not an MR image" in rows["1.2.3.21.1"].dropped_reason or "CT" in rows["1.2.3.21.1"].dropped_reason
    assert rows["1.2.3.22.1"].dropped_reason.startswith("no pixels could be read: cut off")
    assert sum(summary.dropped.values()) == summary.n_dropped == 2
    assert json.loads((out / "summary.json").read_text()) == summary.as_json()
    assert any(warning.startswith("conformal: ") for warning in summary.warnings)


def test_a_value_with_an_open_finding_is_no_label_while_the_others_are(prepared):
    out, summary = prepared
    row = next(row for row in read_manifest(out) if row.series_instance_uid == "1.2.3.20.1")
    assert row.labels["MagneticFieldStrength"] is None
    assert row.left_out == {"MagneticFieldStrength": "field-strength-and-frequency"}
    assert row.labels["EchoTime"] == 2.5
    assert ("MagneticFieldStrength", "field-strength-and-frequency", 1) in summary.left_out


def test_nothing_in_it_names_a_patient_or_a_file(prepared):
    out, _ = prepared
    for path in (one for one in out.rglob("*") if one.suffix in (".json", ".parquet")):
        assert b"P20" not in path.read_bytes()
        assert b".dcm" not in path.read_bytes()


def test_a_killed_run_goes_on_and_ends_the_same(folder, prepared, tmp_path, monkeypatch):
    whole, summary = prepared
    made = prepare._make_shard
    paths = []

    def dies_at_the_third(path, *args):
        paths.append(path)
        if len(paths) == 3:
            raise KeyboardInterrupt
        return made(path, *args)

    monkeypatch.setattr(prepare, "_make_shard", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(FolderSource(folder, KEY), tmp_path, SPEC, OPTIONS)
    with pytest.raises(dataset.DataSetError, match="holds no data set"):
        dataset.load(tmp_path, "training")
    kept = {path: path.stat().st_mtime_ns for path in paths[:2]}
    again = []
    monkeypatch.setattr(prepare, "_make_shard", lambda path, *args: again.append(path) or made(path, *args))
    done = []
    assert prepare.prepare(FolderSource(folder, KEY), tmp_path, SPEC, OPTIONS, done.append) == summary
    assert sum(done) == 12
    assert not set(again) & set(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert content(tmp_path) == content(whole)


def test_held_out_patients_stay_held_out_when_more_come(folder, prepared, tmp_path, make_series):
    out, _ = prepared
    grown = tmp_path / "dicom"
    for number in (*range(9), *range(30, 36)):
        make_series(grown, number)
    prepare.prepare(FolderSource(grown, KEY), tmp_path / "data", SPEC, OPTIONS)
    before = {row.patient: row.split for row in read_manifest(out)}
    after = {row.patient: row.split for row in read_manifest(tmp_path / "data")}
    both = before.keys() & after.keys()
    assert len(both) == 9
    assert all(before[patient] == after[patient] for patient in both)


def test_a_folder_with_another_data_set_is_left_alone(folder, prepared):
    out, _ = prepared
    with pytest.raises(dataset.DataSetError, match="another data set"):
        prepare.prepare(FolderSource(folder, KEY, keep_out_open_findings=False), out, SPEC, OPTIONS)
    assert dataset.describe(out)["images"]


class Nothing:
    """A source whose series are all dropped."""

    images, identity = "nothing", "nothing"

    def count(self):
        return None

    def series(self):
        yield SourceSeries("1.2", "1.2.3", "p", (), "none", dropped_reason="novel")


def test_a_source_without_a_usable_series_says_why(tmp_path):
    with pytest.raises(dataset.DataSetError, match=r"none of 1 series.*novel \(1\)"):
        prepare.prepare(Nothing(), tmp_path, SPEC, OPTIONS)
    with pytest.raises(dataset.DataSetError, match="holds no data set"):
        dataset.describe(tmp_path)


def test_processes_of_their_own_make_the_same(folder, prepared, tmp_path):
    whole, summary = prepared
    two = PrepareOptions(OPTIONS.shares, 3, 3, processes=2)
    assert prepare.prepare(FolderSource(folder, KEY), tmp_path, SPEC, two) == summary
    assert content(tmp_path) == content(whole)


def test_findings_concern_the_parameter_that_their_element_states():
    def finding(element, severity=Severity.WARNING):
        return Finding(element, "check", FindingKind.VALUE, severity, "", "", None)

    note = finding("EchoTime", Severity.NOTE)
    against = [finding("PixelSpacing"), finding("ImagingFrequency"), finding("StudyDate"), note]
    assert left_out_labels(against) == {"FieldOfView": "check", "MagneticFieldStrength": "check"}
    assert against_the_whole(against) is None
    assert against_the_whole([finding("SeriesInstanceUID")]) == "check"
