"""Whose a series is: the Patient and General Study modules as an instance states them, read when a document is made.

The archive keeps no identity; these values go from the instance into the document and nowhere else. Called by
`report`. Source: PS3.3 C.7.1.1 (Patient), C.7.2.1 (General Study).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from iap_node.dicom import elements as el
from iap_node.dicom.file_slice import InstanceFile
from iap_node.dicom.part10 import open_data_set
from iap_node.dicom.values import raw_text

# Tag, VR, and whether it is there even when empty (type 2).
_ELEMENTS: Final[tuple[tuple[int, str, bool], ...]] = (
    (0x00080020, "DA", True),  # Study Date
    (0x00080030, "TM", True),  # Study Time
    (0x00080050, "SH", True),  # Accession Number
    (0x00080090, "PN", True),  # Referring Physician's Name
    (0x00081030, "LO", False),  # Study Description
    (0x00100010, "PN", True),  # Patient's Name
    (0x00100020, "LO", True),  # Patient ID
    (0x00100021, "LO", False),  # Issuer of Patient ID
    (0x00100030, "DA", True),  # Patient's Birth Date
    (0x00100040, "CS", True),  # Patient's Sex
    (0x00101010, "AS", False),  # Patient's Age
    (0x00200010, "SH", True),  # Study ID
)
_IDENTITY_REMOVED = 0x00120062
_DEIDENTIFICATION_METHOD = 0x00120063
_TIMEZONE = 0x00080201
_SHAPES: Final = {
    "DA": re.compile(r"\d{8}", re.ASCII),
    "TM": re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?", re.ASCII),
    "AS": re.compile(r"\d{3}[DWMY]", re.ASCII),
    "CS": re.compile(r"[MFO]"),
}
_OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d", re.ASCII)
_WANTED: Final = frozenset(
    {0x00080005, _TIMEZONE, _IDENTITY_REMOVED, _DEIDENTIFICATION_METHOD, *(tag for tag, _, _ in _ELEMENTS)}
)
_STOP = 0x00200010
_MOST_VALUE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Identity:
    """Patient and study of one instance; never logged, never stored."""

    elements: Dataset = field(repr=False)  # top level elements of both modules, as text
    timezone: str  # Timezone Offset From UTC (0008,0201); "" where the instance does not say it


def read_identity(file: InstanceFile, max_inflated_bytes: int) -> Identity:
    """Patient and study as an instance states them; a date, time, age or sex that cannot be one becomes empty.

    Raises
    ------
    UnreadableInstance
        Its header is damaged.
    OSError
        The file cannot be read; trying again may help.
    """
    with open_data_set(file, max_inflated_bytes) as (stream, transfer_syntax_uid):
        encoding = el.encoding_of(transfer_syntax_uid)
        found, _ = el.walk(stream, encoding, _WANTED, _STOP, _MOST_VALUE_BYTES)
        stated = el.excerpt(found, encoding)
    ds = Dataset()
    for tag, vr, always in _ELEMENTS:
        text = raw_text(stated, tag) or ""
        shape = _SHAPES.get(vr)
        if shape is not None and not shape.fullmatch(text):
            text = ""
        if text or always:
            _add(ds, tag, vr, text)
    if (raw_text(stated, _IDENTITY_REMOVED) or "").upper() == "YES":
        _add(ds, _IDENTITY_REMOVED, "CS", "YES")
        _add(ds, _DEIDENTIFICATION_METHOD, "LO", raw_text(stated, _DEIDENTIFICATION_METHOD) or "see the images")
    timezone = raw_text(stated, _TIMEZONE) or ""
    return Identity(ds, timezone if _OFFSET.fullmatch(timezone) else "")


def _add(ds: Dataset, tag: int, vr: str, text: str) -> None:
    ds.add(DataElement(tag, vr, text, validation_mode=0))  # as the instance has it, whatever its length
