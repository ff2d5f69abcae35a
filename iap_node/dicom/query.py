"""C-FIND of the Study Root: which keys the node holds, and what an identifier asks for.

THE table of keys: the listener matches and returns by it, `iap_node.database.query` has a column for each, and the
conformance statement prints it. Source: PS3.4 C.2.2.2 (matching), C.6.2.1 (Study Root, Tables C.6-1 to C.6-4).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
MAX_VALUES = 500  # of one key; each is a bound parameter of the database


class Level(StrEnum):
    """Query/Retrieve Level (0008,0052) of the Study Root."""

    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


LEVELS: Final = tuple(Level)  # from the root down


class Matching(StrEnum):
    """How a key is matched (PS3.4 C.2.2.2); every key matches universally when it is empty."""

    UID = "single value, list of UID"
    TEXT = "single value, wild card"
    DATE = "single value, range"
    NUMBER = "single value"
    NONE = "returned only"


class KeyKind(StrEnum):
    """What PS3.4 makes of a key at its level."""

    UNIQUE = "U"
    REQUIRED = "R"
    OPTIONAL = "O"


@dataclass(frozen=True, slots=True)
class Key:
    """A key that the node holds."""

    keyword: str
    level: Level
    kind: KeyKind
    matching: Matching


KEYS: Final = (
    Key("StudyInstanceUID", Level.STUDY, KeyKind.UNIQUE, Matching.UID),
    Key("StudyDate", Level.STUDY, KeyKind.REQUIRED, Matching.DATE),
    Key("ModalitiesInStudy", Level.STUDY, KeyKind.OPTIONAL, Matching.TEXT),
    Key("NumberOfStudyRelatedSeries", Level.STUDY, KeyKind.OPTIONAL, Matching.NONE),
    Key("NumberOfStudyRelatedInstances", Level.STUDY, KeyKind.OPTIONAL, Matching.NONE),
    Key("SeriesInstanceUID", Level.SERIES, KeyKind.UNIQUE, Matching.UID),
    Key("Modality", Level.SERIES, KeyKind.REQUIRED, Matching.TEXT),
    Key("SeriesNumber", Level.SERIES, KeyKind.REQUIRED, Matching.NUMBER),
    Key("SeriesDescription", Level.SERIES, KeyKind.OPTIONAL, Matching.TEXT),
    Key("ProtocolName", Level.SERIES, KeyKind.OPTIONAL, Matching.TEXT),
    Key("BodyPartExamined", Level.SERIES, KeyKind.OPTIONAL, Matching.TEXT),
    Key("Manufacturer", Level.SERIES, KeyKind.OPTIONAL, Matching.TEXT),
    Key("ManufacturerModelName", Level.SERIES, KeyKind.OPTIONAL, Matching.TEXT),
    Key("DeviceSerialNumber", Level.SERIES, KeyKind.OPTIONAL, Matching.TEXT),
    Key("SoftwareVersions", Level.SERIES, KeyKind.OPTIONAL, Matching.NONE),
    Key("NumberOfSeriesRelatedInstances", Level.SERIES, KeyKind.OPTIONAL, Matching.NONE),
    Key("SOPInstanceUID", Level.IMAGE, KeyKind.UNIQUE, Matching.UID),
    Key("InstanceNumber", Level.IMAGE, KeyKind.REQUIRED, Matching.NUMBER),
    Key("SOPClassUID", Level.IMAGE, KeyKind.OPTIONAL, Matching.UID),
    Key("AvailableTransferSyntaxUID", Level.IMAGE, KeyKind.OPTIONAL, Matching.UID),
    Key("Rows", Level.IMAGE, KeyKind.OPTIONAL, Matching.NUMBER),
    Key("Columns", Level.IMAGE, KeyKind.OPTIONAL, Matching.NUMBER),
    Key("NumberOfFrames", Level.IMAGE, KeyKind.OPTIONAL, Matching.NUMBER),
)
BY_KEYWORD: Final = {key.keyword: key for key in KEYS}

# Required keys (PS3.4 Tables C.6-1 and C.6-2) that the node does not keep: patients are keyed hashes here. A value for
# one of them is refused: to match it universally would answer a question about one patient with all of them.
NOT_KEPT: Final = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "OtherPatientIDs",
    "AccessionNumber", "StudyID", "StudyTime", "StudyDescription", "ReferringPhysicianName",
)  # fmt: skip

_NOT_KEYS = frozenset({"SpecificCharacterSet", "QueryRetrieveLevel", "TimezoneOffsetFromUTC"})
_DATE = re.compile(r"\d{8}|\d{8}-(\d{8})?|-\d{8}", re.ASCII)


class FindStatus(IntEnum):
    """Status of a C-FIND-RSP: PS3.4 Table C.4-1."""

    SUCCESS = 0x0000
    PENDING = 0xFF00
    PENDING_KEYS_NOT_SUPPORTED = 0xFF01
    CANCEL = 0xFE00
    OUT_OF_RESOURCES = 0xA700
    IDENTIFIER_MISMATCH = 0xA900
    UNABLE_TO_PROCESS = 0xC000


class UnanswerableQuery(ValueError):
    """The identifier cannot be answered; the text is an Error Comment (0000,0902) without values of it."""

    def __init__(self, comment: str, keyword: str = "") -> None:
        super().__init__(comment)
        self.offending = tag_for_keyword(keyword) if keyword else None


@dataclass(frozen=True, slots=True)
class Condition:
    """A key with values of which one must match."""

    key: Key
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """What an identifier asks for."""

    level: Level
    conditions: tuple[Condition, ...]
    wanted: tuple[str, ...]  # keywords to be returned, in the order of the identifier; the unknown ones empty
    ignored: tuple[str, ...]  # optional keys with a value that is not matched here


def is_at_or_above(key: Key, level: Level) -> bool:
    """Whether a key belongs to a query at this level."""
    return LEVELS.index(key.level) <= LEVELS.index(level)


def read_query(ds: Dataset) -> Query:
    """What an identifier asks for.

    Unique keys of the levels above may be missing or be lists: queries are relational (PS3.4 C.4.1.2.2.1) whether
    that was negotiated or not.

    Raises
    ------
    UnanswerableQuery
        It names no level of the Study Root, a value is none of its key, or it asks about a patient.
    """
    try:
        level = Level(str(ds.get("QueryRetrieveLevel", "") or "").strip())
    except ValueError:
        raise UnanswerableQuery("Level must be STUDY, SERIES or IMAGE", "QueryRetrieveLevel") from None
    conditions, wanted, ignored = [], [], []
    for tag in sorted(ds.keys()):
        keyword = _keyword(ds, tag)
        if not keyword or keyword in _NOT_KEYS:
            continue
        wanted.append(keyword)
        values = _values(ds, keyword)
        if not values:
            continue
        key = BY_KEYWORD.get(keyword)
        if keyword in NOT_KEPT:
            raise UnanswerableQuery(f"{keyword} is not kept here and cannot be matched", keyword)
        if key is None or key.matching is Matching.NONE or not is_at_or_above(key, level):
            ignored.append(keyword)
            continue
        if len(values) > MAX_VALUES:
            raise UnanswerableQuery(f"{keyword} has more than {MAX_VALUES} values", keyword)
        for value in values:
            _check(key, value)
        conditions.append(Condition(key, values))
    return Query(level, tuple(conditions), tuple(wanted), tuple(ignored))


def date_range(value: str) -> tuple[str, str]:
    """First and last date, YYYYMMDD, of a DA key that `read_query` accepted."""
    first, dash, last = value.partition("-")
    if not dash:
        return first, first
    return first or "00000000", last or "99999999"


def _check(key: Key, value: str) -> None:
    ok = True
    if key.matching is Matching.DATE:
        ok = _DATE.fullmatch(value) is not None
    elif key.matching is Matching.NUMBER:
        ok = re.fullmatch(r"[+-]?\d{1,12}", value, re.ASCII) is not None
    if not ok:
        raise UnanswerableQuery(f"{key.keyword} has a value that is none", key.keyword)


def _keyword(ds: Dataset, tag: int) -> str:
    from pydicom.datadict import keyword_for_tag

    return "" if (tag >> 16) % 2 or not tag & 0xFFFF else keyword_for_tag(tag)


def _values(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of a key as text, without those that match everything; a sequence with items counts as a value."""
    try:
        value = ds[keyword].value
    except (ValueError, TypeError, OverflowError) as error:
        raise UnanswerableQuery(f"{keyword} has a value that is none", keyword) from error
    if value is None or ds[keyword].VR == "SQ":
        return ("sequence",) if value and any(item for item in value) else ()
    several: Sequence[object] = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
    texts = tuple(str(one).strip(" \0") for one in several)
    return () if not any(texts) or any(text and not text.strip("*") for text in texts) else tuple(filter(None, texts))
