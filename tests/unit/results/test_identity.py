"""Whose a series is, as instances state it: read as written, made usable, on real headers too."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID

from iap_node.results.content import SeriesResult
from iap_node.results.document import build_document, encode
from iap_node.results.identity import Identity, read_identity

MR = "1.2.840.10008.5.1.4.1.1.4"
MOST = 10**8


@pytest.fixture
def identity_of(tmp_path: Path) -> Any:
    """Factory: what is read of an instance with these elements."""

    def make(transfer_syntax_uid: str = "1.2.840.10008.1.2.1", **elements: Any) -> Identity:
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = UID(MR), UID("1.2.3.4.1")
        ds.update(elements)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
        path = tmp_path / "instance.dcm"
        dcmwrite(path, ds, enforce_file_format=True)
        return read_identity(path, MOST)

    return make


@pytest.mark.parametrize(
    "transfer_syntax_uid", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"]
)
def test_names_of_any_character_set_and_encoding_are_read(identity_of: Any, transfer_syntax_uid: str) -> None:
    found = identity_of(
        transfer_syntax_uid, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg", PatientID="7", StudyID="S"
    )
    assert (str(found.elements.PatientName), found.elements.PatientID) == ("Müller^Jörg", "7")
    assert found.elements.StudyID == "S"


def test_what_is_missing_is_there_and_empty_where_the_standard_asks_for_it(identity_of: Any) -> None:
    found = identity_of().elements
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
                    "StudyID", "AccessionNumber", "ReferringPhysicianName"):  # fmt: skip
        assert keyword in found
        assert not found[keyword].value
    assert "IssuerOfPatientID" not in found


def test_what_can_be_no_date_time_or_sex_is_left_empty_and_ids_stay_as_they_are(identity_of: Any) -> None:
    found = identity_of(
        StudyDate="20260301", StudyTime="25 past", PatientBirthDate="1970", PatientSex="weiblich", PatientID="x" * 100,
        PatientAge="forty",
    ).elements  # fmt: skip
    assert (found.StudyDate, found.StudyTime, found.PatientBirthDate, found.PatientSex) == ("20260301", "", "", "")
    assert found.PatientID == "x" * 100
    assert "PatientAge" not in found


def test_that_identity_was_removed_is_told_on(identity_of: Any) -> None:
    plain = identity_of(PatientIdentityRemoved="NO").elements
    removed = identity_of(PatientIdentityRemoved="YES").elements
    assert "PatientIdentityRemoved" not in plain
    assert (removed.PatientIdentityRemoved, removed.DeidentificationMethod) == ("YES", "see the images")


def test_timezone_is_taken_only_where_it_is_one(identity_of: Any) -> None:
    assert identity_of(TimezoneOffsetFromUTC="-0330").timezone == "-0330"
    assert identity_of(TimezoneOffsetFromUTC="CET").timezone == ""


def test_identity_is_in_no_text_that_a_log_could_hold(identity_of: Any) -> None:
    assert "Doe" not in repr(identity_of(PatientName="Doe^Jane"))


def test_documents_about_real_series_are_valid(
    mr_real: Path, program: Any, result: SeriesResult, make_origin: Any, tmp_path: Path
) -> None:
    dciodvfy = program("dciodvfy", "dicom3tools")
    firsts = {path.parent: path for path in sorted(mr_real.rglob("*.dcm"), reverse=True)}
    assert len(firsts) >= 30
    for number, path in enumerate(firsts.values()):
        origin = replace(make_origin(), identity=read_identity(path, MOST))
        (tmp_path / f"{number}.dcm").write_bytes(encode(build_document(result, origin)))
        judged = subprocess.run([dciodvfy, tmp_path / f"{number}.dcm"], capture_output=True, text=True, check=False)
        assert (judged.returncode, "Error" in judged.stderr) == (0, False), f"{path.parent.name}: {judged.stderr}"
