"""The table of acquisition parameters and the canonical forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import keyword_for_tag

from iap_node.dicom.parameters import (
    BY_KEYWORD,
    CONTRAST_ABSENT,
    CONTRAST_NOT_NAMED,
    PARAMETERS,
    Nature,
    canonical,
    canonical_contrast_agent,
    canonical_matrix,
    canonical_number,
)


def test_keywords_and_tags_are_those_of_the_standard() -> None:
    for parameter in PARAMETERS:
        expected = "PixelSpacing" if parameter.keyword == "FieldOfView" else parameter.keyword
        assert keyword_for_tag(parameter.tag) == expected


def test_parameters_stand_in_the_order_of_the_paper() -> None:
    assert [parameter.keyword for parameter in PARAMETERS] == [
        "Manufacturer", "ManufacturerModelName", "ScanOptions", "PatientPosition", "MagneticFieldStrength",
        "ContrastBolusAgent", "AcquisitionMatrix", "SliceThickness", "FlipAngle", "FieldOfView", "EchoTime",
        "RepetitionTime",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "number"),
    [("1.5", 1.5), (" 3 ", 3.0), ("+2", 2.0), ("1.5\0", 1.5), ("-.5", -0.5), ("1e-3", 0.001), ("4.", 4.0)],
)
def test_decimal_strings_are_numbers(raw: str, number: float) -> None:
    assert canonical_number(raw) == number


@pytest.mark.parametrize("raw", ["", "1,5", "nan", "inf", "-inf", "1.5 T", "3\\3", "0x10", "1_0", "٣", "1e999", "--1"])
def test_other_text_is_no_number(raw: str) -> None:
    assert canonical_number(raw) is None


@given(st.text(max_size=20))
def test_no_text_makes_a_number_that_is_not_finite(raw: str) -> None:
    number = canonical_number(raw)
    assert number is None or abs(number) < float("inf")


@pytest.mark.parametrize(
    ("raw", "matrix"),
    [
        ("0\\448\\381\\0", "448x381"),
        ("64\\0\\0\\39", "64x39"),
        ("0\\256\\0\\230", "256x230"),  # UIH
        ("64\\64\\0\\64", None),
        ("0\\0\\0\\0", None),
        ("64\\0\\0", None),
        ("64\\0\\0\\x", None),
        ("64\\0\\0\\-39", None),
        ("64.5\\0\\0\\39", None),
        ("", None),
    ],
)
def test_acquisition_matrix_needs_one_frequency_and_one_phase(raw: str, matrix: str | None) -> None:
    assert canonical_matrix(raw) == matrix


def test_contrast_agent_tells_absent_from_empty_and_named() -> None:
    assert canonical_contrast_agent(None) == CONTRAST_ABSENT
    assert canonical_contrast_agent("") == CONTRAST_NOT_NAMED
    assert canonical_contrast_agent(" \0 ") == CONTRAST_NOT_NAMED
    assert canonical_contrast_agent("Magnevist  10 ml") == "MAGNEVIST 10 ML"


def test_scan_options_lose_padding_but_keep_their_order() -> None:
    assert canonical("ScanOptions", "SAT_GEMS \\ PFP\\\\FS ") == "SAT_GEMS\\PFP\\FS"
    assert canonical("ScanOptions", " ") is None


def test_field_strength_of_2_89_is_3_tesla_and_not_1_5() -> None:
    field_strength = BY_KEYWORD["MagneticFieldStrength"]
    assert field_strength.same(2.8936, 3.0)
    assert field_strength.same(1.494, 1.5)
    assert not field_strength.same(1.5, 3.0)
    assert field_strength.match(2.89, ["1.5", "3"]) == "3"
    assert field_strength.match(7.0, ["1.5", "3"]) is None
    assert field_strength.match(7.0, []) is None


def test_text_is_compared_without_case() -> None:
    manufacturer = BY_KEYWORD["Manufacturer"]
    assert manufacturer.same("Siemens", "SIEMENS")
    assert manufacturer.match("siemens", ["GE MEDICAL SYSTEMS", "SIEMENS"]) == "SIEMENS"


def test_values_are_shown_with_their_unit() -> None:
    assert BY_KEYWORD["EchoTime"].text_with_unit(2.46) == "2.46 ms"
    assert BY_KEYWORD["EchoTime"].text_with_unit(None) == ""
    assert BY_KEYWORD["Manufacturer"].text_with_unit("UIH") == "UIH"
    assert all(parameter.unit for parameter in PARAMETERS if parameter.nature is Nature.NUMBER)


@pytest.mark.parametrize(
    ("raw", "family"),
    [
        ("EP\\SK", "echo planar"), ("se\\EP", "echo planar"), ("GR", "gradient echo"), ("GR\\IR", "gradient echo"),
        ("SE", "spin echo"), ("SE\\GR", "gradient and spin echo"), ("RM", None), ("RM\\IR", None), ("", None),
    ],
)  # fmt: skip
def test_scanning_sequence_names_a_family_or_none(raw: str, family: str | None) -> None:
    assert canonical("SequenceFamily", raw) == family
