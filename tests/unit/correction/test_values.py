"""Which values may be written, and how they are encoded."""

from __future__ import annotations

import pytest

from iap_node.correction.values import (
    UnusableValue,
    attribute,
    check_value,
    encode_element,
    encode_value,
    same_text,
    why_never_written,
)
from iap_node.dicom.elements import Encoding


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("EchoTime", "2.5"),
        ("EchoTime", ""),
        ("AcquisitionMatrix", "256\\0\\0\\230"),
        ("ScanOptions", "PFP\\FS"),
        ("PixelSpacing", "0.5\\0.5"),
        ("EffectiveEchoTime", "2.5"),
        ("EchoTrainLength", "2"),
        ("Manufacturer", "Müller"),
        ("ImageComments", "one\r\ntwo \\ three"),
        ("SoftwareVersions", "a\\b\\c"),
    ],
)
def test_values_that_the_standard_allows_pass(keyword: str, text: str) -> None:
    check_value(attribute(keyword), text)


@pytest.mark.parametrize(
    ("keyword", "text", "why"),
    [
        ("EchoTime", "2,5", "not a decimal number"),
        ("EchoTime", "nan", "not a decimal number"),
        ("EchoTime", "2.5 ms", "not a decimal number"),
        ("EchoTime", "1\\2", "wants 1 values, not 2"),
        ("EchoTime", "0.12345678901234567", "against value representation DS"),
        ("EchoTrainLength", "2.5", "against value representation IS"),
        ("EchoTrainLength", "3000000000", "goes from"),
        ("AcquisitionMatrix", "256\\0", "wants 4 values, not 2"),
        ("AcquisitionMatrix", "256\\0\\0\\70000", "does not fit into 2 bytes"),
        ("AcquisitionMatrix", "256\\0\\0\\1.5", "not a whole number"),
        ("PatientPosition", "hfs", "against value representation CS"),
        ("PatientPosition", "HFÜ", "no characters beyond ASCII"),
        ("Manufacturer", "x" * 65, "against value representation LO"),
        ("Manufacturer", "a\nb", "control characters"),
        ("StudyDate", "***", "against value representation DA"),
    ],
)
def test_values_against_the_standard_are_named_with_the_element(keyword: str, text: str, why: str) -> None:
    with pytest.raises(UnusableValue) as caught:
        check_value(attribute(keyword), text)
    assert why in str(caught.value)
    assert attribute(keyword).title in str(caught.value)


@pytest.mark.parametrize(
    "keyword",
    [
        "PatientName", "PatientID", "PatientBirthDate", "ReferringPhysicianName", "SOPInstanceUID", "StudyInstanceUID",
        "FrameOfReferenceUID", "Rows", "BitsStored", "PixelData", "SpecificCharacterSet", "ImageType",
        "TransferSyntaxUID", "MREchoSequence", "SmallestImagePixelValue", "FileMetaInformationGroupLength",
    ],
)  # fmt: skip
def test_identities_pixels_and_the_file_are_never_corrected(keyword: str) -> None:
    assert why_never_written(attribute(keyword))


@pytest.mark.parametrize("keyword", ["EchoTime", "PatientPosition", "PatientSex", "Manufacturer", "PixelSpacing"])
def test_what_says_how_an_image_was_made_may_be_corrected(keyword: str) -> None:
    assert why_never_written(attribute(keyword)) is None


def test_a_keyword_that_the_standard_lacks_is_an_error() -> None:
    with pytest.raises(UnusableValue, match="not a keyword"):
        attribute("EchoTimes")


@pytest.mark.parametrize(
    ("keyword", "text", "little", "expected"),
    [
        ("EchoTime", "2.5", True, b"2.5 "),
        ("AcquisitionMatrix", "256\\0\\0\\230", True, b"\x00\x01\x00\x00\x00\x00\xe6\x00"),
        ("AcquisitionMatrix", "256\\0\\0\\230", False, b"\x01\x00\x00\x00\x00\x00\x00\xe6"),
        ("EffectiveEchoTime", "1", False, b"\x3f\xf0\0\0\0\0\0\0"),
        ("Manufacturer", "", True, b""),
    ],
)
def test_values_are_encoded_in_their_representation(keyword: str, text: str, little: bool, expected: bytes) -> None:
    assert encode_value(attribute(keyword), text, little, b"") == expected


def test_text_is_encoded_in_the_character_set_of_the_instance_or_not_at_all() -> None:
    manufacturer = attribute("Manufacturer")
    assert encode_value(manufacturer, "Müller", True, b"ISO_IR 100") == "Müller".encode("latin-1")
    assert encode_value(manufacturer, "Müller", True, b"ISO_IR 192") == "Müller ".encode()
    for character_set in (b"", b"ISO_IR 101", b"nonsense"):
        with pytest.raises(UnusableValue, match="lacks a character"):
            encode_value(manufacturer, "東", True, character_set)


def test_elements_have_the_header_of_their_encoding() -> None:
    assert encode_element(0x00180081, "DS", b"20", Encoding(False, True)) == b"\x18\0\x81\0DS\x02\x0020"
    assert encode_element(0x00180081, "DS", b"20", Encoding(True, True)) == b"\x18\0\x81\0\x02\0\0\x0020"
    assert encode_element(0x00180081, "DS", b"20", Encoding(False, False)) == b"\0\x18\0\x81DS\0\x0220"
    assert encode_element(0x04000552, "OB", b"20", Encoding(False, True)) == b"\0\x04\x52\x05OB\0\0\x02\0\0\x0020"


def test_values_that_mean_the_same_are_the_same() -> None:
    assert same_text("20", " 20.0 ")
    assert same_text("1\\2", "1.0\\2")
    assert same_text(None, None)
    assert not same_text(None, "")
    assert not same_text("FS", "fs")
    assert not same_text("1\\2", "1")
