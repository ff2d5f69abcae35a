"""Elements of a data set from one encoding into another: VRs explicit or implicit, bytes little or big endian.

Values stay the bytes that they are, save that the bytes of binary numbers change their order: text that is against its
representation, numbers with a comma and whatever a vendor wrote arrive as they were. Sequences become ones of defined
length; group lengths (retired, PS3.5 7.2) go, since they would be wrong. Called by `transcoding`.

References
----------
PS3.5 section 7.1 (explicit and implicit VR), 6.2.2 (UN), 7.3 and Annex A (byte order, VRs of pixel data).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from iap_node.dicom import elements as el
from iap_node.dicom.elements import Encoding
from iap_node.dicom.values import raw_text
from iap_node.errors import UnreadableInstance

_PIXEL_REPRESENTATION = 0x00280103
_LONGEST_SHORT_VALUE = 0xFFFE  # bytes, of a VR with a 16-bit length
_WORD_BYTES = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}


def reencoded(
    ds: Dataset,
    source: Encoding,
    target: Encoding,
    signed: bool = False,
    replaced: Mapping[int, tuple[str, bytes]] | None = None,
) -> bytes:
    """The elements of a data set as `iap_node.dicom.encoded` reads it, undecoded, in another encoding.

    Parameters
    ----------
    replaced
        VR and value, in the target's byte order, of elements that stand in place of those of the data set or beside
        them.
    signed
        Pixel Representation (0028,0103) of the image is 1: what VRs "US or SS" are, where nothing is written.

    Raises
    ------
    UnreadableInstance
        A binary number has not the length of one, or encapsulated pixels stand within a sequence.
    Exception
        What pydicom raises over damaged sequences: `encoded.damage_is_told` tells of it.
    """
    if representation := raw_text(ds, _PIXEL_REPRESENTATION):
        signed = representation == "1"
    parts: list[bytes] = []
    new = replaced or {}
    for tag in sorted({*ds.keys(), *map(Tag, new)}):
        if tag in new:
            parts.append(element(tag, *new[tag], target))
            continue
        if tag.element == 0:
            continue
        vr = written_vr(ds, tag, signed)
        if vr == "SQ":
            value = b"".join(_item(item, source, target, signed) for item in ds[tag].value or ())
        else:
            value = value_bytes(ds, tag, vr, source, target)
        parts.append(element(tag, vr, value, target))
    return b"".join(parts)


def element(tag: int, vr: str, value: bytes, encoding: Encoding) -> bytes:
    """One element, its value already of even length and in the byte order of the encoding."""
    return element_head(tag, vr, len(value), encoding) + value


def element_head(tag: int, vr: str, length: int, encoding: Encoding) -> bytes:
    """What stands before the value. What is too long for a VR with 16-bit lengths becomes UN (PS3.5 6.2.2)."""
    order = "<" if encoding.little else ">"
    group, number = tag >> 16, tag & 0xFFFF
    if encoding.implicit:
        return struct.pack(f"{order}HHI", group, number, length)
    if vr.encode("ascii") in el.SHORT_VRS and length <= _LONGEST_SHORT_VALUE:
        return struct.pack(f"{order}HH2sH", group, number, vr.encode("ascii"), length)
    if vr.encode("ascii") not in el.LONG_VRS:
        vr = "UN"
    return struct.pack(f"{order}HH2s2xI", group, number, vr.encode("ascii"), length)


def in_other_order(value: bytes, vr: str, word_bytes: int | None = None) -> bytes:
    """The bytes of binary numbers the other way round.

    Parameters
    ----------
    word_bytes
        Of one number, where that is not what the VR has.

    Raises
    ------
    UnreadableInstance
        The length is not that of whole numbers.
    """
    size = _WORD_BYTES.get(vr, 1) if word_bytes is None else word_bytes
    if size == 1:
        return value
    if len(value) % size:
        raise UnreadableInstance(f"an element of VR {vr} has {len(value)} bytes, which are no whole numbers")
    swapped = bytearray(len(value))
    for place in range(size):
        swapped[place::size] = value[size - 1 - place :: size]
    return bytes(swapped)


def vr_of(tag: int, signed: bool = False) -> str:
    """The VR of an element that does not say it (PS3.6), UN where nobody knows it; of several the general one."""
    if tag >> 16 & 1 or not dictionary_has_tag(tag):
        return "LO" if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF else "UN"  # private creators: PS3.5 7.8.1
    vr = str(dictionary_VR(tag))
    if " or " not in vr:
        return vr
    if "OW" in vr:
        return "OW"
    return "SS" if signed else "US"


def written_vr(ds: Dataset, tag: BaseTag, signed: bool = False) -> str:
    """The VR of an element: as it is written, else as the dictionary has it."""
    raw = ds.get_item(tag, keep_deferred=True)
    written = None if raw is None else raw.VR
    return vr_of(tag, signed) if written in (None, "UN") else str(written)


def value_bytes(ds: Dataset, tag: BaseTag, vr: str, source: Encoding, target: Encoding) -> bytes:
    """The value of an element that is no sequence, of even length, in the target's byte order.

    Raises
    ------
    UnreadableInstance
        A binary number has not the length of one, or encapsulated pixels stand there.
    """
    raw = ds.get_item(tag, keep_deferred=True)
    if isinstance(raw, DataElement) and raw.is_empty:
        return b""
    if isinstance(raw, DataElement) and tag == _PIXEL_REPRESENTATION:  # which pydicom converts by itself
        return struct.pack("<H" if target.little else ">H", int(raw.value))
    if not isinstance(raw, RawDataElement) or raw.length == el.UNDEFINED:
        raise UnreadableInstance(f"({tag.group:04X},{tag.element:04X}) holds encapsulated pixels within a sequence")
    value = raw.value or b""
    if source.little != target.little and raw.VR != "UN":  # of which nobody knows what it is made of
        value = in_other_order(value, vr)
    return value + b"\0" * (len(value) % 2)


def _item(item: Dataset, source: Encoding, target: Encoding, signed: bool) -> bytes:
    content = reencoded(item, source, target, signed)
    order = "<" if target.little else ">"
    tag = Tag(el.ITEM)
    return struct.pack(f"{order}HHI", tag.group, tag.element, len(content)) + content
