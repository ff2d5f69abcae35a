"""Descriptions of which only harmless words stay."""

from __future__ import annotations

from typing import Any

import pytest

from iap_node.deidentification.descriptors import cleaned, words
from iap_node.deidentification.profile import Retained


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("t1_mprage_sag_p2_iso", "t1 mprage sag p2 iso"),
        ("AX T2 FLAIR 3mm", "AX T2 FLAIR 3mm"),
        ("ep2d_diff_4scan_trace_p2_b1000", "ep2d trace p2 b1000"),
        ("T1 post Gadavist 7 ml", "T1 post Gadavist 7 ml"),
        ("T1 post contrast for John Doe 12.03.1970", "T1 post contrast"),
        ("Doe^Jane T2", "T2"),
        ("T2 555-123-4567", "T2"),
        ("T2 12/03/70 sag", "T2 sag"),
        ("MRN 4711 brain", "brain"),
        ("T2 4711", "T2"),
        ("Max Long", ""),
        ("M\xfcller", ""),
        ("42", ""),
        ("", ""),
    ],
)
def test_only_words_of_the_list_and_short_numbers_between_them_stay(text: str, left: str) -> None:
    assert cleaned(text, "LO") == left


def test_values_are_cleaned_one_by_one_and_texts_as_one() -> None:
    assert cleaned("T1\\Doe\\brain", "LO") == "T1\\\\brain"
    assert cleaned("T1\\Doe\\brain", "LT") == "T1 brain"


def test_the_list_is_of_lower_case_words() -> None:
    assert len(words()) > 300
    assert all(word == word.lower() and word.isascii() and word.isalnum() for word in words())


def test_copies_hold_cleaned_descriptions_where_the_option_is_chosen_and_say_so(make_image: Any, copied: Any) -> None:
    ds = make_image(
        SeriesDescription="t1 sag Doe", ProtocolName="Jane Doe", ContrastBolusAgent="Dotarem 15ml", StationName="MR1",
        PatientComments="afraid of narrow rooms",
    )  # fmt: skip
    new = copied(ds, Retained.DESCRIPTORS)
    assert (new.SeriesDescription, new.ContrastBolusAgent) == ("t1 sag", "Dotarem 15ml")
    assert not {"ProtocolName", "PatientComments", "StationName"} & {one.keyword for one in new}
    assert "113105" in [one.CodeValue for one in new.DeidentificationMethodCodeSequence]
    plain = copied(ds)
    assert plain.ContrastBolusAgent == ""
    assert "SeriesDescription" not in plain
