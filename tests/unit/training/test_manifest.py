"""Patients keep their split whoever comes later; a manifest reads back as it was written."""

from collections import Counter

import pytest

from training.dataset import SPLITS, DataSetError
from training.manifest import SHARES, ManifestRow, manifest_hash, read_manifest, split_of, write_manifest

PATIENTS = [f"{number:064x}" for number in range(4000)]


def row(number: int, **values) -> ManifestRow:
    return ManifestRow(
        **{
            "study_instance_uid": "1.2",
            "series_instance_uid": f"1.2.{number}",
            "patient": PATIENTS[number],
            "split": split_of(PATIENTS[number]),
            "labels": {"Manufacturer": "SIEMENS", "EchoTime": 2.5, "ScanOptions": None},
            "left_out": {"ScanOptions": "habit"},
            "source": "2 files",
            "n_slices": 12,
            "header_digest": "d",
        }
        | values
    )


def test_shares_of_the_patients_are_those_asked_for():
    counted = Counter(split_of(patient) for patient in PATIENTS)
    for split in SPLITS:
        assert counted[split] / len(PATIENTS) == pytest.approx(SHARES[split], abs=0.02)


def test_a_patient_of_the_test_stays_there_when_other_shares_change():
    other = {"training": 0.5, "temperature": 0.2, "conformal": 0.2, "test": 0.1}
    tested = [patient for patient in PATIENTS if split_of(patient) == "test"]
    assert tested
    assert {split_of(patient, other) for patient in tested} == {"test"}


@pytest.mark.parametrize(
    "shares",
    [
        {"training": 1.0},
        {"training": 0.5, "temperature": 0.1, "conformal": 0.1, "test": 0.1},
        {"training": 1.2, "temperature": -0.2, "conformal": 0.0, "test": 0.0},
    ],
)
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match="sum to 1"):
        split_of(PATIENTS[0], shares)


def test_rows_read_back_and_their_hash_depends_on_nothing_but_them(tmp_path):
    rows = [row(0), row(1, dropped_reason="novel", n_slices=0), row(2, labels={"EchoTime": None})]
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, order in ((one, rows), (other, rows[::-1])):
        folder.mkdir()
        write_manifest(folder, order)
    back = list(read_manifest(one))
    assert [found.series_instance_uid for found in back] == ["1.2.0", "1.2.1", "1.2.2"]
    assert back[0].labels["EchoTime"] == 2.5 and back[0].labels["ScanOptions"] is None
    assert back[0].left_out == {"ScanOptions": "habit"}
    assert [found.dropped_reason for found in back] == [None, "novel", None]
    assert manifest_hash(one) == manifest_hash(other)
    write_manifest(other, [row(0), row(1)])
    assert manifest_hash(one) != manifest_hash(other)


def test_a_folder_without_a_manifest_is_told_what_makes_one(tmp_path):
    with pytest.raises(DataSetError, match=r"manifest\.parquet is missing.*iap-train prepare"):
        list(read_manifest(tmp_path))
