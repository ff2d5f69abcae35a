"""Table E.1-1 as data: whole, and read as the standard means it."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from pydicom.datadict import dictionary_description, dictionary_has_tag, dictionary_VR

from iap_node.deidentification.profile import Action, Retained, actions, table
from iap_node.deidentification.pseudonyms import Pseudonyms, identity_of, shifted

MR, ENHANCED_MR, PET = (f"1.2.840.10008.5.1.4.1.1.{last}" for last in ("4", "4.1", "128"))


def test_the_table_is_whole() -> None:
    # PS3.15 2026d: 657 rows, one of them all private elements
    assert len({row.tag for row in table()}) == len(table()) == 656
    assert Counter(row.basic for row in table()) == {
        "X": 416, "D": 93, "U": 55, "Z": 42, "X/D": 23, "X/Z": 11, "X/Z/D": 8, "Z/D": 6, "X/Z/U*": 2,
    }  # fmt: skip
    used = Counter(option for row in table() for option in row.options)
    assert used == {
        "uids": 60, "device": 59, "institution": 10, "patient": 19, "full_dates": 169, "modified_dates": 169,
        "descriptors": 141, "structured": 4, "graphics": 4,
    }  # fmt: skip


def test_names_and_uids_are_those_of_the_dictionary() -> None:
    for row in table():
        if "x" in row.tag or not dictionary_has_tag(int(row.tag, 16)):
            continue
        name = dictionary_description(int(row.tag, 16))
        words = [re.sub(r"\(see Note \d+\)|[^A-Za-z0-9]", "", text).lower() for text in (row.name, name)]
        assert words[0] == words[1]
        if row.basic == "U":
            assert dictionary_VR(int(row.tag, 16)) == "UI"


@pytest.mark.parametrize(
    ("tag", "sop_class_uid", "action"),
    [
        (0x00100010, MR, Action.EMPTY),  # Patient's Name
        (0x00080050, MR, Action.EMPTY),  # Accession Number
        (0x0008103E, MR, Action.REMOVE),  # Series Description
        (0x00080018, MR, Action.UID),
        (0x00080023, MR, Action.EMPTY),  # Content Date: type 2C in classic images
        (0x00080023, ENHANCED_MR, Action.DUMMY),
        (0x00181000, MR, Action.REMOVE),  # Device Serial Number
        (0x00181000, ENHANCED_MR, Action.DUMMY),
        (0x00080021, MR, Action.REMOVE),  # Series Date
        (0x00080021, PET, Action.DUMMY),
        (0x00080022, PET, Action.EMPTY),  # Acquisition Date
        (0x00081140, MR, Action.KEEP),  # Referenced Image Sequence: its UIDs are replaced
    ],
)
def test_of_several_actions_the_one_that_keeps_the_image_valid_is_taken(
    tag: int, sop_class_uid: str, action: Action
) -> None:
    assert actions(frozenset(), sop_class_uid)[tag] is action


def test_an_option_that_wants_cleaning_keeps_nothing_save_dates_that_are_shifted() -> None:
    found = actions(frozenset(Retained) - {Retained.FULL_DATES, Retained.DESCRIPTORS}, MR)
    assert found[0x00102110] is Action.REMOVE  # Allergies
    assert found[0x00080020] is Action.SHIFT  # Study Date
    assert found[0x0018700C] is Action.SHIFT  # Date of Last Detector Calibration, which the device option would keep
    assert found[0x00100040] is Action.KEEP  # Patient's Sex
    assert actions(frozenset(Retained), MR)[0x00102110] is Action.CLEAN
    assert all(action is not Action.KEEP for action in actions(frozenset(), MR).values() if action is Action.UID)


def test_pseudonyms_depend_on_the_key_and_on_nothing_else() -> None:
    one, other = Pseudonyms.of_node(b"a" * 32), Pseudonyms.of_node(b"b" * 32)
    assert one.uid("1.2.3") == Pseudonyms.of_node(b"a" * 32).uid("1.2.3") != other.uid("1.2.3")
    assert one.patient("x") != other.patient("x")
    assert one.key != b"a" * 32
    assert 1 <= one.days("x") <= 3652
    assert (one.uid(""), one.uid("1.2.840.10008.1.40.1")) == ("", "1.2.840.10008.1.40.1")
    assert identity_of("1", "a", "9") != identity_of("1", "b", "9")
    assert identity_of(" ", "", "9") == identity_of("", "", "9") != identity_of("", "", "8")


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("20240301", "20240229"),
        ("2024.03.01", "20240229"),
        ("20240301\\20240302", "20240229\\20240301"),
        ("20240301101112.5+0100", "20240229101112.5+0100"),
        ("20240301John", ""),
        ("***", ""),
        ("2024", ""),
        ("00010101", ""),
    ],
)
def test_dates_move_and_what_is_none_goes(text: str, moved: str) -> None:
    assert shifted(text, 1) == moved
