"""Values as they would be written: which elements may be, checked by value representation and multiplicity, encoded.

Called by `changes`, `writes` and `trace`. Source: PS3.5 sections 6.1 (character repertoires), 6.2 (value
representations), 6.4 (multiplicity), 7.1 (data elements).
"""

from __future__ import annotations

import contextlib
import re
import struct
from dataclasses import dataclass
from functools import lru_cache

import pydicom.config
from pydicom import charset
from pydicom.datadict import dictionary_description, dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.valuerep import validate_value

from iap_node.dicom.elements import DAMAGE, LONG_VRS, Encoding
from iap_node.dicom.parameters import canonical_number
from iap_node.dicom.values import BINARY, decode_text
from iap_node.errors import PermanentError

_TEXT_VRS = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "SH", "ST", "TM", "UC", "UR", "UT"))
_ONE_TEXT_VRS = frozenset(("LT", "ST", "UR", "UT"))  # a backslash is a character there
_MANY_LINES_VRS = frozenset(("LT", "ST", "UT"))
_ANY_SCRIPT_VRS = frozenset(("LO", "LT", "SH", "ST", "UC", "UT"))  # Specific Character Set holds for them
_IDENTITY_GROUP = 0x0010
_OF_NO_IDENTITY = frozenset({"PatientAge", "PatientSex", "PatientSize", "PatientWeight"})
_PIXEL_DESCRIPTION = frozenset(
    (
        "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
        "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelAspectRatio",
    )
)  # fmt: skip
_NEVER = {
    "SpecificCharacterSet": "it says how the text of the whole instance is to be read",
    "ImageType": "its first value speaks of the pixels, which a corrected copy shares with its original",
}
_MOST_SHORT_BYTES = 0xFFFE  # of an element whose length has 16 bits, PS3.5 7.1.2
_NUMBER_RANGE = {"IS": (-(2**31), 2**31 - 1)}
_MULTIPLICITY = re.compile(r"(\d+)(?:-(?:(\d+)|(\d*)n))?")


Value = tuple[str | float, ...] | None


class UnusableValue(PermanentError):
    """A value cannot be written as it was accepted; the text names the element and what would be right."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One element of the standard, by the data dictionary of PS3.6."""

    keyword: str
    tag: int
    vr: str
    multiplicity: str

    @property
    def title(self) -> str:
        """As people write it: Echo Time (0018,0081)."""
        return f"{dictionary_description(self.tag)} ({self.tag >> 16:04X},{self.tag & 0xFFFF:04X})"


@lru_cache(maxsize=512)
def attribute(keyword: str) -> Attribute:
    """The element that a keyword names.

    Raises
    ------
    UnusableValue
        The standard has none of that name.
    """
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise UnusableValue(f"{keyword[:64]!r} is not a keyword of a DICOM element; EchoTime, for example, is one")
    return Attribute(keyword, int(tag), dictionary_VR(tag), dictionary_VM(tag))


def why_never_written(one: Attribute) -> str | None:
    """Why a corrected copy never gets another value of this element; None where it may."""
    if one.keyword in _NEVER:
        return _NEVER[one.keyword]
    if one.keyword in _PIXEL_DESCRIPTION:
        return "it describes the pixel data, which a corrected copy shares with its original to the byte"
    if one.vr == "PN" or (one.tag >> 16 == _IDENTITY_GROUP and one.keyword not in _OF_NO_IDENTITY):
        return "it says who somebody is; that is set right where patients are registered"
    if one.vr == "UI":
        return "it identifies; a copy gets its own identifiers"
    if one.tag >> 16 in (0x0002, 0x0004) or one.tag & 0xFFFF == 0:
        return "it belongs to the file, not to the image"
    if one.vr not in _TEXT_VRS and one.vr not in BINARY:
        return f"values of representation {one.vr} cannot be given as text"
    return None


def check_value(one: Attribute, text: str) -> None:
    """Whether `text`, values joined by a backslash, may stand in an element; "" always may.

    Raises
    ------
    UnusableValue
        It is against the value representation or multiplicity.
    """
    if why := _why_nonconforming(one, text):
        raise UnusableValue(f"{text[:80]!r} cannot be written into {one.title}: {why}")


def conforms(one: Attribute, text: str) -> bool:
    """Whether the standard allows `text` in an element."""
    return _why_nonconforming(one, text) is None


def encode_value(one: Attribute, text: str, little: bool, specific_character_set: bytes) -> bytes:
    """The bytes of a value, of even length.

    Raises
    ------
    UnusableValue
        See `check_value`; or the instance's character set lacks a character.
    """
    check_value(one, text)
    if not text:
        return b""
    if one.vr in BINARY:
        code = BINARY[one.vr]
        whole = code.isupper() or code in "hi"
        numbers = [int(float(part)) if whole else float(part) for part in text.split("\\")]
        return struct.pack(f"{'<' if little else '>'}{len(numbers)}{code}", *numbers)
    encoded = _encode_text(one, text, specific_character_set)
    if len(encoded) > _MOST_SHORT_BYTES and one.vr.encode("ascii") not in LONG_VRS:
        raise UnusableValue(f"{len(encoded)} bytes cannot be written into {one.title}: it holds {_MOST_SHORT_BYTES}")
    return encoded + b" " * (len(encoded) % 2)


def encode_element(tag: int, vr: str, value: bytes, encoding: Encoding) -> bytes:
    """A whole element: tag, value representation where it is explicit, length, value."""
    order = "<" if encoding.little else ">"
    group, number = tag >> 16, tag & 0xFFFF
    if encoding.implicit:
        return struct.pack(f"{order}HHI", group, number, len(value)) + value
    code = vr.encode("ascii")
    if code in LONG_VRS:
        return struct.pack(f"{order}HH2sHI", group, number, code, 0, len(value)) + value
    return struct.pack(f"{order}HH2sH", group, number, code, len(value)) + value


def meaning(text: str | None) -> Value:
    """What a value as written means: numbers as such, text without the spaces around it; None for an absent one."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split("\\")]
    return tuple(part if (number := canonical_number(part)) is None else number for part in parts)


def same_text(one: str | None, other: str | None) -> bool:
    """Whether two values as written mean the same."""
    return meaning(one) == meaning(other)


def _why_nonconforming(one: Attribute, text: str) -> str | None:
    if not text:
        return None
    parts = [text] if one.vr in _ONE_TEXT_VRS else text.split("\\")
    least, step = _bounds(one.multiplicity)
    if len(parts) < least or (step is None and len(parts) > _most(one.multiplicity)) or (step and len(parts) % step):
        return f"the standard wants {one.multiplicity} values, not {len(parts)}"
    for part in parts:
        if one.vr in ("DS", "IS", *BINARY) and canonical_number(part) is None:
            return f"{part[:40]!r} is not a decimal number"
        if one.vr in BINARY:
            if why := _why_not_packed(BINARY[one.vr], part):
                return why
            continue
        if one.vr not in _MANY_LINES_VRS and not part.isprintable():
            return "it holds control characters"
        if one.vr not in _ANY_SCRIPT_VRS and not part.isascii():
            return f"representation {one.vr} has no characters beyond ASCII"
        try:
            validate_value(one.vr, part, pydicom.config.RAISE)
        except DAMAGE:
            return f"it is against value representation {one.vr}"
        low, high = _NUMBER_RANGE.get(one.vr, (None, None))
        if low is not None and high is not None and not low <= float(part) <= high:
            return f"representation {one.vr} goes from {low} to {high}"
    return None


def _why_not_packed(code: str, part: str) -> str | None:
    number = float(part)
    if code in "fd":
        return None
    if number != int(number):
        return f"{part[:40]!r} is not a whole number"
    try:
        struct.pack(f"<{code}", int(number))
    except struct.error:
        return f"{part[:40]!r} does not fit into {struct.calcsize(code)} bytes"
    return None


def _bounds(multiplicity: str) -> tuple[int, int | None]:
    """The least number of values, and of what it must be a multiple where there is no most."""
    found = _MULTIPLICITY.fullmatch(multiplicity.split(" or ")[0])
    if found is None:
        return 1, 1
    return int(found[1]), int(found[3] or 1) if found[3] is not None else None


def _most(multiplicity: str) -> int:
    found = _MULTIPLICITY.fullmatch(multiplicity.split(" or ")[0])
    return 1 if found is None else int(found[2] or found[1])


def _encode_text(one: Attribute, text: str, specific_character_set: bytes) -> bytes:
    if text.isascii():
        return text.encode("ascii")
    terms = [term.strip() for term in specific_character_set.decode("ascii", "replace").strip(" \0").split("\\")]
    encoded = b""
    if terms not in ([""], ["ISO_IR 6"]):  # the default repertoire, PS3.5 6.1.2.1, for which Python's is too rich
        with contextlib.suppress(*DAMAGE):
            encoded = charset.encode_string(text, list(charset.convert_encodings(terms)))
    if decode_text(encoded, specific_character_set) != text.strip():
        named = "\\".join(terms) or "ISO_IR 6"
        raise UnusableValue(
            f"{text[:80]!r} cannot be written into {one.title}: the instances' character set {named} lacks a "
            "character; accept a value without it"
        )
    return encoded
