"""De-identified copies: nothing of what identifies is anywhere in their bytes, and what stays fits together.

All images are simulated, save those of `mr_real`. Not covered here: deliveries (tests/integration/worker).
"""

from __future__ import annotations

import struct
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
)

from iap_node.deidentification.copies import DeidentifiedInstance
from iap_node.deidentification.profile import OPTION_CODES, Retained, table
from iap_node.errors import UnreadableInstance, UnsendableInstance
from tests.unit.deidentification.conftest import LIMIT, PSEUDONYMS

OWN = {0x00080018, 0x0020000D, 0x0020000E, 0x00200052, 0x00100020, 0x00100010, 0x00080016}
IN_FILE_META_OR_MESSAGE = 0x0008


def rows() -> Iterator[tuple[int, str]]:
    """Elements of the table that pydicom knows, each with its VR; one of each repeating group."""
    for row in table():
        tag = int(row.tag.replace("x", "0"), 16) if not row.tag.startswith("50xxxx") else 0x50003000
        if dictionary_has_tag(tag) and tag >> 16 >= IN_FILE_META_OR_MESSAGE and row.tag != "FFFAFFFA":
            yield tag, str(dictionary_VR(tag))


def sentinel(tag: int, vr: str) -> Any:
    """A value that stands nowhere else, fit for the VR."""
    number = int.from_bytes(zlib.crc32(tag.to_bytes(4, "big")).to_bytes(4, "big"), "big")
    short = f"Q{number:08X}"
    if vr in ("DA", "DT", "TM"):
        day = f"{1801 + number % 97:04d}{1 + number % 11:02d}{1 + number // 7 % 27:02d}"
        clock = f"{number % 24:02d}{number // 3 % 60:02d}{number // 5 % 60:02d}.{number % 999983:06d}"
        return {"DA": day, "TM": clock, "DT": day + clock}[vr]
    if vr in ("OB", "OW", "UN"):
        return short.encode() + b"X"
    if vr in ("DS", "IS"):
        return str(number % 2**31)
    if vr in ("US", "SS", "AT", "UL", "SL", "FL"):
        return number % 2**15
    if vr == "FD":
        return float(number) + 0.123
    if vr == "AS":
        return f"{number % 1000:03d}Y"
    if vr == "UI":
        return f"1.3.6.1.{number}.{number}"
    if vr == "UR":
        return f"http://{short}.example"
    return short


def encoded(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def planted(ds: Dataset) -> dict[int, bytes]:
    """Something in every element of the table, on this level; what of it can be looked for as bytes."""
    looked_for = {}
    for tag, vr in rows():
        if tag in OWN:
            continue
        if vr == "SQ":
            item = Dataset()
            item.add_new(0x0008103E, "LO", sentinel(tag, "LO"))  # Series Description
            item.add_new(0x00080050, "SH", sentinel(tag + 1, "SH"))
            ds.add_new(tag, "SQ", Sequence([item]))
            looked_for[tag] = encoded(sentinel(tag, "LO"))
            continue
        if " or " in vr:
            vr = "OW" if "OW" in vr else "US"
        value = sentinel(tag, vr)
        ds.add_new(tag, vr, value)
        if vr not in ("US", "SS", "AT", "UL", "SL", "FL", "FD", "AS"):  # too short to be looked for in a file
            looked_for[tag] = encoded(value)
    return looked_for


def plain(content: bytes) -> bytes:
    """A file as it is, and inflated where it is deflated."""
    meta = 144 + int.from_bytes(content[140:144], "little")
    if str(dcmread(BytesIO(content)).file_meta.TransferSyntaxUID) == DeflatedExplicitVRLittleEndian:
        return content[:meta] + zlib.decompress(content[meta:], -zlib.MAX_WBITS)
    return content


@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_no_value_of_any_element_of_the_table_is_in_the_bytes_that_are_sent(
    make_image: Any, write: Any, copy_of: Any, syntax: str
) -> None:
    ds = make_image()
    values = planted(ds)
    ds.BurnedInAnnotation = "NO"
    groups, frame, purpose = Dataset(), Dataset(), Dataset()
    for item, kept in ((groups, 0x52009229), (frame, 0x52009230), (purpose, 0x00081140)):
        planted(item)
        ds.add_new(kept, "SQ", Sequence([item]))
    inner = Dataset()
    planted(inner)
    frame.FrameContentSequence = Sequence([inner])
    for block in (ds, groups):
        block.add_new(0x00090010, "LO", "MAKER QPRIVATECREATOR")
        block.add_new(0x00091001, "LO", "QPRIVATEVALUE")
        secret = Dataset()
        secret.PatientName = "QPRIVATENAME"
        block.add_new(0x00091002, "SQ", Sequence([secret]))
    ds.add_new(0x0008FFF1, "LO", "QUNKNOWNELEMENT")
    ds.add_new(0x60000022, "LO", "QOVERLAYDESCRIPTION")
    path = write(ds, syntax)
    content = copy_of(path)
    original, copy = plain(path.read_bytes()), plain(content)
    words = [b"QPRIVATE", b"QUNKNOWN", b"QOVERLAY", b"P4711", b"Doe", b"SENDER_4711"]
    assert [f"{tag:08X}" for tag, value in values.items() if value not in original] == []
    assert all(word in original for word in words)
    assert [f"{tag:08X}" for tag, value in values.items() if value in copy] == []
    assert [word for word in words if word in copy] == []
    described = plain(copy_of(path, Retained.DESCRIPTORS))  # none of the values is a word of the list
    assert [f"{tag:08X}" for tag, value in values.items() if value in described] == []
    new = dcmread(BytesIO(content))
    (kept,) = new.PerFrameFunctionalGroupsSequence
    assert [one.tag for one in kept.iterall() if one.tag.is_private] == []
    assert (new.EchoTime, new.RepetitionTime, new.Manufacturer) == (2.5, 5.25, "SIEMENS")
    np.testing.assert_array_equal(new.PixelData, ds.PixelData)


def test_a_copy_says_by_what_it_was_de_identified(make_image: Any, copied: Any) -> None:
    before = [Dataset(), Dataset()]
    for item, (code, scheme) in zip(before, (("113101", "DCM"), ("JANE DOE", "99X")), strict=True):
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, scheme, "Jane Doe"
    ds = make_image(DeidentificationMethodCodeSequence=Sequence(before))
    new = copied(ds, Retained.DEVICE_IDENTITY)
    assert new.PatientIdentityRemoved == "YES"
    assert "Basic Application Level Confidentiality Profile 2026d" in new.DeidentificationMethod[0]
    codes = [(one.CodeValue, one.CodingSchemeDesignator) for one in new.DeidentificationMethodCodeSequence]
    assert codes == [("113101", "DCM"), ("113100", "DCM"), ("113109", "DCM")]
    assert "Doe" not in str(new)
    assert new.LongitudinalTemporalInformationModified == "REMOVED"
    (equipment,) = new.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109104"
    assert len(OPTION_CODES) == len(Retained)


def test_head_of_the_file_tells_nothing_of_the_original(make_image: Any, write: Any, copy_of: Any) -> None:
    copy = copy_of(write(make_image()))
    new = dcmread(BytesIO(copy))
    assert copy[:128] == bytes(128)
    assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID != "1.2.3.4.5"
    assert "SourceApplicationEntityTitle" not in new.file_meta


def test_series_and_studies_of_a_patient_fit_together_and_references_follow(make_image: Any, copied: Any) -> None:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", "1.2.3.4.5"
    first = copied(make_image())
    second = copied(
        make_image(SOPInstanceUID="1.2.3.4.6", ReferencedImageSequence=Sequence([reference])),
        syntax=ImplicitVRLittleEndian,
    )
    other = copied(make_image(SOPInstanceUID="1.9.1", SeriesInstanceUID="1.9", StudyInstanceUID="1"))
    stranger = copied(make_image(PatientID="P4712"))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert first[keyword].value == second[keyword].value
    assert second.ReferencedImageSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert second.ReferencedImageSequence[0].ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.4"
    assert other.PatientID == first.PatientID != stranger.PatientID
    assert len({first.SOPInstanceUID, second.SOPInstanceUID, other.SOPInstanceUID}) == 3
    assert all(one.SOPInstanceUID.startswith("2.25.") and len(one.SOPInstanceUID) <= 64 for one in (first, second))


def test_frames_of_reference_of_the_standard_stay(make_image: Any, copied: Any) -> None:
    assert copied(make_image(FrameOfReferenceUID="1.2.840.10008.1.4.1.1")).FrameOfReferenceUID == (
        "1.2.840.10008.1.4.1.1"
    )


def dated(make_image: Any, **elements: Any) -> Dataset:
    dates = {"StudyDate": "20240310", "SeriesDate": "20240311", "AcquisitionDateTime": "20240312101112.5+0100"}
    return make_image(**dates, StudyTime="101112", PatientBirthDate="19700101", **elements)


def test_dates_go_stay_or_move_together_as_the_options_say(make_image: Any, copied: Any) -> None:
    gone = copied(dated(make_image))
    assert (gone.StudyDate, gone.StudyTime) == ("", "")
    assert "SeriesDate" not in gone
    kept = copied(dated(make_image), Retained.FULL_DATES)
    assert (kept.StudyDate, kept.SeriesDate, kept.StudyTime) == ("20240310", "20240311", "101112")
    assert kept.LongitudinalTemporalInformationModified == "UNMODIFIED"
    moved = copied(dated(make_image), Retained.MODIFIED_DATES)
    later = copied(dated(make_image, SOPInstanceUID="1.2", StudyInstanceUID="1.5"), Retained.MODIFIED_DATES)
    days = [np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:8]}") for text in
            (moved.StudyDate, moved.SeriesDate, moved.AcquisitionDateTime)]  # fmt: skip
    assert np.diff(days).astype(int).tolist() == [1, 1]
    assert days[0] < np.datetime64("2024-03-10")
    assert later.StudyDate == moved.StudyDate
    assert moved.AcquisitionDateTime[8:] == "101112.5+0100"
    assert moved.LongitudinalTemporalInformationModified == "MODIFIED"
    assert [one.PatientBirthDate for one in (gone, kept, moved)] == ["", "", ""]
    assert copied(make_image(StudyDate="***"), Retained.MODIFIED_DATES).StudyDate == ""


def test_options_keep_what_they_are_for_and_nothing_else(make_image: Any, copied: Any) -> None:
    ds = make_image(
        DeviceSerialNumber="45", StationName="MR1", InstitutionName="GENERAL", PatientSex="F", PatientWeight="60",
        Allergies="nuts", OperatorsName="Op^One", StationAETitle="SCANNER",
    )  # fmt: skip
    device = copied(ds, Retained.DEVICE_IDENTITY)
    assert (device.DeviceSerialNumber, device.StationName) == ("45", "MR1")
    assert "InstitutionName" not in device
    assert "StationAETitle" not in device  # the option wants it cleaned, which nothing here can
    patient = copied(ds, Retained.PATIENT_CHARACTERISTICS)
    assert (patient.PatientSex, patient.PatientWeight) == ("F", 60)
    assert "Allergies" not in patient
    assert copied(ds, Retained.INSTITUTION_IDENTITY).InstitutionName == "GENERAL"
    assert all("OperatorsName" not in copied(ds, option) for option in Retained)


@pytest.mark.parametrize(
    ("elements", "why"),
    [
        ({"BurnedInAnnotation": "YES"}, "Burned In Annotation"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "Secondary Capture Image Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}, "Ultrasound Image Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}, "Comprehensive SR"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1"}, "does not say NO"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "SCREEN SAVE"),
        ({"ConversionType": "WSD"}, "Conversion Type"),
        ({"PixelData": None}, "no pixels"),
    ],
)
def test_what_may_say_who_somebody_is_is_refused_with_the_reason(
    make_image: Any, write: Any, copy_of: Any, elements: dict[str, Any], why: str
) -> None:
    with pytest.raises(UnsendableInstance, match=why):
        copy_of(write(make_image(**elements)))


def test_overlays_in_the_bits_of_pixels_are_refused_and_others_go(make_image: Any, write: Any, copy_of: Any) -> None:
    ds = make_image()
    ds.add_new(0x60003000, "OW", bytes(8))
    ds.add_new(0x60000102, "US", 0)
    assert 0x60000102 not in dcmread(BytesIO(copy_of(write(ds))))
    ds[0x60000102].value = 12
    with pytest.raises(UnsendableInstance, match="overlay"):
        copy_of(write(ds))


def test_projections_that_say_that_nothing_is_burned_in_are_taken(make_image: Any, copied: Any) -> None:
    new = copied(make_image(SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1", BurnedInAnnotation="NO"))
    assert new.PatientIdentityRemoved == "YES"


def test_a_damaged_original_is_told(make_image: Any, write: Any, tmp_path: Path) -> None:
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(write(make_image()).read_bytes()[:-9])
    with pytest.raises(UnreadableInstance, match="cut off"):
        DeidentifiedInstance(cut, frozenset(), PSEUDONYMS, LIMIT).open()


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLosslessSV1])
def test_what_encoders_write_beside_pixels_becomes_zeros_and_the_pixels_stay(
    make_image: Any, write: Any, copy_of: Any, syntax: str
) -> None:
    frames = np.random.default_rng(1).integers(0, 4096, (2, 16, 16)).astype(np.uint16)
    secret = b"QPATIENT OF THE CODESTREAM"
    coded = []
    for frame in frames:
        if syntax == JPEG2000Lossless:
            data = imagecodecs.jpeg2k_encode(frame, level=0, codecformat="j2k", reversible=True)
            size = 4 + int.from_bytes(data[4:6], "big")  # behind SIZ, which must be first
            comment = b"\xff\x64" + struct.pack(">HH", len(secret) + 4, 1) + secret
        else:
            data = imagecodecs.jpeg8_encode(frame, lossless=True, bitspersample=12)
            size = 2
            comment = b"".join(
                marker + struct.pack(">H", len(secret) + 2) + secret for marker in (b"\xff\xfe", b"\xff\xe1")
            )
        coded.append(data[:size] + comment + data[size:])
    ds = make_image(Rows=16, Columns=16, NumberOfFrames=2, BitsStored=12, HighBit=11)
    ds.add_new(0x7FE00010, "OB", encapsulate(coded, fragments_per_frame=2))
    ds["PixelData"].is_undefined_length = True
    path = write(ds, syntax)
    assert secret in path.read_bytes()
    copy = copy_of(path)
    assert secret not in copy
    assert len(dcmread(BytesIO(copy)).PixelData) == len(ds.PixelData)
    decode = imagecodecs.jpeg2k_decode if syntax == JPEG2000Lossless else imagecodecs.jpeg8_decode
    new = [decode(one) for one in generate_frames(dcmread(BytesIO(copy)).PixelData, number_of_frames=2)]
    np.testing.assert_array_equal(new, frames)


def errors(program: str, path: Path) -> Counter[str]:
    told = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    lines = (told.stderr + told.stdout).splitlines()
    return Counter(line for line in lines if line.startswith("Error"))


def test_dciodvfy_finds_no_error_in_copies_of_real_images_that_the_originals_lack(
    mr_real: Path, program: Callable[[str, str], str], copy_of: Any, tmp_path: Path
) -> None:
    dciodvfy = program("dciodvfy", "dicom3tools")
    folders = sorted(one for one in mr_real.iterdir() if one.is_dir())
    firsts = [min(one for one in folder.rglob("*") if one.is_file()) for folder in folders[::4]]
    taken = 0
    for path in firsts:
        copy = tmp_path / "copy.dcm"
        try:
            copy.write_bytes(copy_of(path))
        except UnsendableInstance:
            continue
        taken += 1
        assert not errors(dciodvfy, copy) - errors(dciodvfy, path)
        assert dcmread(copy).PixelData == dcmread(path).PixelData
    assert taken >= 5
