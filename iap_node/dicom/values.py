"""Values of elements as text, as they are written: never an error, never a conversion that loses something.

Called by part10, header, mosaic and pixels. Source: PS3.5 section 6.1 (character repertoires) and 6.2 (VRs).
"""

from __future__ import annotations

import struct
from functools import lru_cache

from pydicom import charset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence

from iap_node.dicom.elements import DAMAGE, DAMAGE_IN_MEMORY

BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}


def raw_text(ds: Dataset, tag: int) -> str | None:
    """An element's value as written, values joined by a backslash; "" when empty, None when absent.

    Never converts text to numbers: "1,5" and "nan" come back as they are. Binary numbers are printed
    shortest.
    """
    element = ds.get_item(tag, keep_deferred=True)  # else pydicom converts an empty one, which a VR of noise forbids
    if element is None:
        return None
    value = element.value
    if isinstance(element, RawDataElement) and isinstance(value, bytes):
        return _raw_bytes_text(ds, element, value)
    if value is None:
        return ""
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    return "\\".join(str(getattr(one, "original_string", one)).strip() for one in values)


def _raw_bytes_text(ds: Dataset, element: RawDataElement, value: bytes) -> str:
    vr = element.VR
    if vr in (None, "UN"):
        try:
            vr = dictionary_VR(element.tag)
        except KeyError:
            vr = "UN"
    code = BINARY.get(str(vr))
    if code is None:
        character_set = b""
        if not value.isascii() and 0x00080005 in ds:
            found = ds.get_item(0x00080005, keep_deferred=True)
            character_set = found.value if found is not None and isinstance(found.value, bytes) else b""
        return "\\".join(part.strip() for part in decode_text(value, character_set).split("\\"))
    size = struct.calcsize(code)
    if len(value) % size:
        return decode_text(value)
    order = "<" if element.is_little_endian else ">"
    numbers = struct.unpack(f"{order}{len(value) // size}{code}", value)
    return "\\".join(f"{number:.12g}" for number in numbers)


def items(ds: Dataset, tag: int) -> list[Dataset]:
    """The items of a sequence; none where it is absent, empty or damaged."""
    try:
        value = ds[tag].value if tag in ds else None
    except DAMAGE_IN_MEMORY:
        return []
    return list(value) if isinstance(value, DicomSequence) else []


_DELIMITERS = {0x5C, 0x5E, 0x3D}  # backslash, caret, equals: they end an escape (PS3.5 6.1.2.5.3)


@lru_cache(maxsize=64)
def _encodings(specific_character_set: bytes) -> list[str]:
    """Python's names for Specific Character Set (0008,0005)."""
    text = specific_character_set.decode("ascii", "replace").strip(" \0")
    terms = [term.strip() for term in text.split("\\")]
    try:
        return list(charset.convert_encodings(terms if len(terms) > 1 else terms[0]))
    except DAMAGE:
        return ["iso8859"]


def decode_text(value: bytes, specific_character_set: bytes = b"") -> str:
    """Text of an element: decoded, NUL and lone surrogates replaced, ends stripped; never an error."""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii").replace("\0", " ").strip()
    try:
        text = charset.decode_bytes(value, _encodings(specific_character_set), _DELIMITERS)
    except DAMAGE:
        text = value.decode("latin-1")
    # Any of Python's codecs may be named, some of which make lone surrogates: nobody can encode or store those.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\0", " ").strip()
