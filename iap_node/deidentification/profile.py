"""Table E.1-1 of PS3.15, and what becomes of an element by it. Called by `copies`.

`table_e1_1.tsv` holds the whole table, edition 2026d: tag (x: any digit), the action of the basic profile, the actions
of the options, name. The table leaves it to the type of an element in its IOD which of several actions it takes; this
node sends images of a closed list of SOP Classes (`refusals`), and knows which of their elements need a value.

References
----------
PS3.15 E.1 (profiles), Table E.1-1a (action codes), E.2 (basic profile), E.3 (options); PS3.16 CID 7050 (their codes);
PS3.3 A.4, A.21, A.36 and C.8.9.1, C.7.5.2, C.7.6.16 (which elements need a value).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Final

EDITION: Final = "2026d"
PROFILE_CODE: Final = "113100"
# CID 7050: what an instance may have been through before it came here, which its copy goes on saying
METHOD_CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "113100": "Basic Application Confidentiality Profile",
        "113101": "Clean Pixel Data Option",
        "113102": "Clean Recognizable Visual Features Option",
        "113103": "Clean Graphics Option",
        "113104": "Clean Structured Content Option",
        "113105": "Clean Descriptors Option",
        "113106": "Retain Longitudinal Temporal Information Full Dates Option",
        "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
        "113108": "Retain Patient Characteristics Option",
        "113109": "Retain Device Identity Option",
        "113110": "Retain UIDs Option",
        "113111": "Retain Safe Private Option",
        "113112": "Retain Institution Identity Option",
    }
)


class Action(StrEnum):
    """What becomes of an element (PS3.15 Table E.1-1a)."""

    KEEP = "K"  # of a sequence: its items are looked through all the same
    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    UID = "U"
    SHIFT = "shifted"  # C of the option Modified Dates: dates of one patient move by the same number of days
    CLEAN = "cleaned"  # C of the option Clean Descriptors: only words that are known stay


class Retained(StrEnum):
    """Options of the profile that a destination may have; the values are those of the configuration."""

    DEVICE_IDENTITY = "device_identity"
    INSTITUTION_IDENTITY = "institution_identity"
    PATIENT_CHARACTERISTICS = "patient_characteristics"
    FULL_DATES = "full_dates"
    MODIFIED_DATES = "modified_dates"
    DESCRIPTORS = "descriptors"


OPTION_CODES: Final[Mapping[Retained, str]] = MappingProxyType(
    {
        Retained.DESCRIPTORS: "113105",
        Retained.FULL_DATES: "113106",
        Retained.MODIFIED_DATES: "113107",
        Retained.PATIENT_CHARACTERISTICS: "113108",
        Retained.DEVICE_IDENTITY: "113109",
        Retained.INSTITUTION_IDENTITY: "113112",
    }
)
_COLUMNS: Final[Mapping[Retained, str]] = {
    Retained.DEVICE_IDENTITY: "device",
    Retained.INSTITUTION_IDENTITY: "institution",
    Retained.PATIENT_CHARACTERISTICS: "patient",
    Retained.FULL_DATES: "full_dates",
    Retained.MODIFIED_DATES: "modified_dates",
    Retained.DESCRIPTORS: "descriptors",
}

_ACQUISITION_CONTEXT = 0x00400555
_CLASSIC: Final = frozenset(f"1.2.840.10008.5.1.4.1.1.{last}" for last in ("1", "2", "4", "20", "12.1", "12.2"))
_PROJECTIONS: Final = frozenset(f"1.2.840.10008.5.1.4.1.1.{last}" for last in ("1.1", "1.2"))
_PET: Final = "1.2.840.10008.5.1.4.1.1.128"


@dataclass(frozen=True, slots=True)
class Needs:
    """Of the elements that the table leaves several actions for, those that images of a kind must have."""

    value: frozenset[int] = frozenset()  # type 1
    presence: frozenset[int] = frozenset()  # type 2


_ENHANCED_NEEDS: Final = Needs(
    value=frozenset(
        {
            0x00080023, 0x00080033,  # Content Date, Time: multi-frame functional groups (C.7.6.16)
            0x0008002A,  # Acquisition DateTime: MR, CT and PET image and spectroscopy (C.8.13.1 and others)
            0x00081111,  # Referenced Performed Procedure Step Sequence: series modules of enhanced images (C.8.13.6)
            0x00181000,  # Device Serial Number: enhanced general equipment (C.7.5.2)
        }
    ),
    presence=frozenset({_ACQUISITION_CONTEXT}),
)  # fmt: skip


def needs_of(sop_class_uid: str) -> Needs:
    """What images of a SOP Class must have; of one that is not known here, what enhanced ones must."""
    if sop_class_uid in _CLASSIC:
        return Needs()
    if sop_class_uid in _PROJECTIONS:
        return Needs(presence=frozenset({_ACQUISITION_CONTEXT}))
    if sop_class_uid == _PET:  # Series Date, Time (C.8.9.1); Acquisition Date, Time (C.8.9.4)
        return Needs(frozenset({0x00080021, 0x00080031}), frozenset({0x00080022, 0x00080032}))
    return _ENHANCED_NEEDS


@dataclass(frozen=True, slots=True)
class Row:
    """One row of Table E.1-1."""

    tag: str  # eight hexadecimal digits, x for any
    basic: str
    options: Mapping[str, str]  # column -> action
    name: str


@lru_cache(1)
def table() -> tuple[Row, ...]:
    """Table E.1-1, but for its row of private elements, which all go."""
    text = resources.files(__package__).joinpath("table_e1_1.tsv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return tuple(
        Row(
            tag=row["tag"],
            basic=row["basic"],
            options={key: value for key, value in row.items() if value and key not in ("tag", "basic", "name")},
            name=row["name"],
        )
        for row in rows
    )


@lru_cache(64)
def actions(retained: frozenset[Retained], sop_class_uid: str) -> Mapping[int, Action]:
    """What becomes of each element of the table in images of a SOP Class; repeating groups are not in it, they go."""
    needs = needs_of(sop_class_uid)
    return MappingProxyType({int(row.tag, 16): _action(row, retained, needs) for row in table() if "x" not in row.tag})


def _action(row: Row, retained: Iterable[Retained], needs: Needs) -> Action:
    asked = {option: row.options[_COLUMNS[option]] for option in retained if _COLUMNS[option] in row.options}
    if asked.get(Retained.MODIFIED_DATES) == "C":
        return Action.SHIFT
    if asked.get(Retained.DESCRIPTORS) == "C":
        return Action.CLEAN
    if asked and all(action == "K" for action in asked.values()):
        return Action.KEEP
    # what another option wants cleaned is not kept at all
    return _settled(row, needs)


def _settled(row: Row, needs: Needs) -> Action:
    """One action of those that the basic profile leaves open: what goes unless the image would not be valid.

    References to images ("U*") are kept with other UIDs, so that a series still says what it was planned on.
    """
    possible = row.basic.split("/")
    if len(possible) == 1:
        return Action(possible[0])
    if "U*" in possible:
        return Action.KEEP
    tag = int(row.tag, 16)
    if "D" in possible and tag in needs.value:
        return Action.DUMMY
    return Action.EMPTY if "X" not in possible or tag in needs.presence else Action.REMOVE
