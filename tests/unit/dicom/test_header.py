"""Acquisition parameters of a series: raw text, canonical form, what varies and what cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from iap_node.dicom.header import read_header_dataset, read_series_header
from iap_node.dicom.parameters import BY_KEYWORD

Make = Callable[..., Dataset]
Encode = Callable[..., bytes]
Write = Callable[..., Path]


def test_every_parameter_of_a_classic_image_in_canonical_form(make_mr: Make) -> None:
    header = read_series_header([make_mr()])
    assert {value.keyword: value.canonical for value in header.values} == {
        "Manufacturer": "SIEMENS",
        "ManufacturerModelName": "Skyra",
        "ScanOptions": "PFP\\FS",
        "PatientPosition": "HFP",
        "MagneticFieldStrength": 3.0,
        "ContrastBolusAgent": "absent",
        "AcquisitionMatrix": "448x381",
        "SliceThickness": 1.5,
        "FlipAngle": 10.0,
        "FieldOfView": 4.0,
        "EchoTime": 2.5,
        "RepetitionTime": 5.25,
        "SequenceFamily": None,
    }
    assert not any(value.problem for value in header.values)
    assert header.value("AcquisitionMatrix").raw == "0\\448\\381\\0"
    assert header.value("FieldOfView").raw == "2 x 2"


@pytest.mark.parametrize(
    "syntax",
    ["1.2.840.10008.1.2.1", ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_a_file_reads_as_its_data_set_in_every_encoding(make_mr: Make, write_mr: Write, syntax: str) -> None:
    ds = make_mr(ContrastBolusAgent="Gadavist")
    read = read_header_dataset(write_mr(ds, syntax))
    assert "PixelData" not in read
    assert read_series_header([read]) == read_series_header([ds])


def test_an_empty_series_has_a_value_for_every_parameter() -> None:
    header = read_series_header([])
    assert [value.keyword for value in header.values] == list(BY_KEYWORD)
    assert all(value.canonical is None and value.raw == "" for value in header.values)


@pytest.mark.parametrize("text", ["1,5 ", "nan ", "inf ", "1.5T", "*** "])
def test_what_is_no_number_keeps_its_text_and_is_never_a_number(make_mr: Make, encode: Encode, text: str) -> None:
    data = encode(make_mr(SliceThickness="1.25")).replace(b"1.25", text.encode())
    value = read_series_header([read_dataset(BytesIO(data), False, True)]).value("SliceThickness")
    assert value.raw == text.strip()
    assert value.canonical is None
    assert value.problem == "not a decimal number"


def test_missing_and_empty_values_have_no_problem(make_mr: Make) -> None:
    header = read_series_header([make_mr(EchoTime=None, ScanOptions="")])
    for keyword in ("EchoTime", "ScanOptions"):
        assert (header.value(keyword).raw, header.value(keyword).canonical) == ("", None)
        assert header.value(keyword).problem == ""


def test_contrast_agent_absent_empty_named(make_mr: Make) -> None:
    assert read_series_header([make_mr()]).value("ContrastBolusAgent").canonical == "absent"
    empty = read_series_header([make_mr(ContrastBolusAgent="")]).value("ContrastBolusAgent")
    assert (empty.raw, empty.canonical) == ("", "present but not named")
    named = read_series_header([make_mr(ContrastBolusAgent="Gadavist")]).value("ContrastBolusAgent")
    assert (named.raw, named.canonical) == ("Gadavist", "GADAVIST")


def test_several_echo_times_vary_in_the_series(make_mr: Make) -> None:
    value = read_series_header([make_mr(EchoTime="5.19"), make_mr(EchoTime="7.65")]).value("EchoTime")
    assert value.canonical is None
    assert value.raw == "5.19 ; 7.65"
    assert value.problem == "varies in the series: 5.19, 7.65 ms"


def test_many_different_values_are_not_all_shown(make_mr: Make) -> None:
    value = read_series_header([make_mr(EchoTime=str(10 * i)) for i in range(1, 50)]).value("EchoTime")
    assert value.problem.endswith("50, ... (49 values) ms")


def test_spelling_and_rounding_do_not_make_a_value_vary(make_mr: Make) -> None:
    header = read_series_header([make_mr(EchoTime="2.50"), make_mr(EchoTime="2.5001", Manufacturer="Siemens")])
    assert header.value("EchoTime").canonical == 2.5
    assert header.value("Manufacturer").canonical == "SIEMENS"


def test_one_unusable_value_leaves_the_series_without_one(make_mr: Make, encode: Encode) -> None:
    data = encode(make_mr(EchoTime="2.51")).replace(b"2.51", b"2,51")
    broken = read_dataset(BytesIO(data), False, True)
    value = read_series_header([make_mr(), broken]).value("EchoTime")
    assert value.canonical is None
    assert value.problem == "not a decimal number"
    assert value.raw == "2.5 ; 2,51"


@pytest.mark.parametrize("spacing", [[2], [0, 0], [-1, 1]])
def test_field_of_view_needs_two_positive_spacings(make_mr: Make, spacing: list[float]) -> None:
    value = read_series_header([make_mr(PixelSpacing=spacing)]).value("FieldOfView")
    assert value.canonical is None
    assert "Pixel Spacing" in value.problem


def test_field_of_view_of_a_mosaic_is_that_of_a_tile(make_mr: Make) -> None:
    ds = make_mr(np.zeros((12, 12), np.uint16), ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 7)
    value = read_series_header([ds]).value("FieldOfView")
    assert (value.raw, value.canonical) == ("4 x 2", 8.0)


def test_mosaic_without_its_number_of_tiles_has_no_field_of_view(make_mr: Make) -> None:
    ds = make_mr(np.zeros((12, 12), np.uint16), ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    value = read_series_header([ds]).value("FieldOfView")
    assert value.canonical is None
    assert "number of tiles" in value.problem


def group(**sequences: Dataset) -> Dataset:
    item = Dataset()
    for keyword, content in sequences.items():
        setattr(item, keyword, Sequence([content]))
    return item


def content(**elements: object) -> Dataset:
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


@pytest.fixture
def enhanced(make_mr: Make) -> Dataset:
    """Two frames; timing, geometry and measures shared, echo per frame."""
    ds = make_mr(
        np.zeros((2, 2, 3), np.uint16),
        SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1",
        RepetitionTime=None, EchoTime=None, FlipAngle=None, AcquisitionMatrix=None, SliceThickness=None,
        PixelSpacing=None, ScanOptions=None,
    )  # fmt: skip
    ds.SharedFunctionalGroupsSequence = Sequence(
        [
            group(
                MRTimingAndRelatedParametersSequence=content(RepetitionTime="600", FlipAngle="90"),
                MRFOVGeometrySequence=content(
                    MRAcquisitionFrequencyEncodingSteps=80, MRAcquisitionPhaseEncodingStepsInPlane=70
                ),
                PixelMeasuresSequence=content(SliceThickness="3.4", PixelSpacing=["2.5", "2.5"]),
            )
        ]
    )
    ds.PerFrameFunctionalGroupsSequence = Sequence(
        [group(MREchoSequence=content(EffectiveEchoTime=echo)) for echo in (10.0, 10.0)]
    )
    return ds


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_enhanced_image_states_its_values_in_functional_groups(enhanced: Dataset, write_mr: Write, syntax: str) -> None:
    header = read_series_header([read_header_dataset(write_mr(enhanced, syntax))])
    expected = {
        "RepetitionTime": 600.0, "FlipAngle": 90.0, "AcquisitionMatrix": "80x70", "SliceThickness": 3.4,
        "FieldOfView": 5.0, "EchoTime": 10.0, "ScanOptions": None, "MagneticFieldStrength": 3.0,
    }  # fmt: skip
    assert {keyword: header.value(keyword).canonical for keyword in expected} == expected


def test_echo_times_of_frames_vary(enhanced: Dataset) -> None:
    enhanced.PerFrameFunctionalGroupsSequence[1].MREchoSequence[0].EffectiveEchoTime = 12.46
    value = read_series_header([enhanced]).value("EchoTime")
    assert (value.canonical, value.problem) == (None, "varies in the series: 10, 12.46 ms")


def test_contrast_agent_of_enhanced_images_is_a_coded_sequence(enhanced: Dataset) -> None:
    enhanced.ContrastBolusAgentSequence = Sequence([content(CodeMeaning="Magnevist")])
    assert read_series_header([enhanced]).value("ContrastBolusAgent").canonical == "MAGNEVIST"
    enhanced.ContrastBolusAgentSequence = Sequence([])
    assert read_series_header([enhanced]).value("ContrastBolusAgent").canonical == "present but not named"


def test_legacy_converted_image_keeps_classic_elements_unassigned(enhanced: Dataset) -> None:
    del enhanced.SharedFunctionalGroupsSequence
    enhanced.PerFrameFunctionalGroupsSequence = Sequence(
        [group(UnassignedPerFrameConvertedAttributesSequence=content(EchoTime="4.2"))] * 2
    )
    assert read_series_header([enhanced]).value("EchoTime").canonical == 4.2


def test_no_parameter_reads_the_patient(make_mr: Make, write_mr: Write) -> None:
    assert "PatientID" not in read_header_dataset(write_mr(make_mr(PatientID="SECRET")))


def test_the_sequence_family_is_read_from_classic_and_enhanced_headers(make_mr: Make) -> None:
    classic = make_mr(ScanningSequence=["EP", "SE"])
    assert read_series_header([classic]).value("SequenceFamily").canonical == "echo planar"
    enhanced = make_mr(EchoPulseSequence="GRADIENT", EchoPlanarPulseSequence="NO")
    assert read_series_header([enhanced]).value("SequenceFamily").canonical == "gradient echo"
    enhanced.EchoPlanarPulseSequence = "YES"
    assert read_series_header([enhanced]).value("SequenceFamily").canonical == "echo planar"
