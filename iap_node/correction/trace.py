"""What a corrected copy says of itself: which values stood there before, and which equipment changed them.

Called by `copies`. Sources: PS3.3 C.12.1 (SOP Common Module), C.12.1.1.9 (Original Attributes Macro: earlier items
stay, the whole earlier sequence where one of its elements changed, empty where there was none, and where there was a
value against its representation that value as bytes), C.12.1.1.5 (Contributing Equipment), PS3.16 CID 7005.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, keyword_for_tag

from iap_node.correction.values import Attribute, conforms, encode_element
from iap_node.dicom import elements as el
from iap_node.dicom.encoded import EncodedInstance
from iap_node.dicom.values import raw_text
from iap_node.errors import UnreadableInstance

MANUFACTURER = "IAP node"
_CONTRIBUTING_EQUIPMENT, ORIGINAL_ATTRIBUTES = 0x0018A001, 0x04000561
_MODIFIED, _NONCONFORMING = 0x04000550, 0x04000551
_CREATION_DATE, _CREATION_TIME, _CREATOR, _COERCION = 0x00080012, 0x00080013, 0x00080014, 0x00080015
_TIMEZONE = 0x00080201
_OFFSET = re.compile(r"([+-])(\d\d)(\d\d)", re.ASCII)
_MOST_DESCRIPTION = 1024  # VR ST
_MOST_SOURCE = 64  # VR LO


@dataclass(frozen=True, slots=True)
class Origin:
    """Who corrected what, as the copies of one series say it."""

    corrected_at: datetime
    software_version: str
    source: str  # AE title that sent the original
    keywords: tuple[str, ...]


def trace_elements(instance: EncodedInstance, changed: Iterable[int], origin: Origin) -> dict[int, bytes]:
    """Original Attributes Sequence and Contributing Equipment Sequence, each with one item more.

    Parameters
    ----------
    changed
        Top-level elements of the instance that the copy has otherwise, or not any more, or that it alone has.
    """
    return {
        ORIGINAL_ATTRIBUTES: _with_item(instance, ORIGINAL_ATTRIBUTES, _original_attributes(instance, changed, origin)),
        _CONTRIBUTING_EQUIPMENT: _with_item(instance, _CONTRIBUTING_EQUIPMENT, _equipment(instance, origin)),
    }


def creation_elements(instance: EncodedInstance, at: datetime, *, new_instance: bool) -> dict[int, bytes]:
    """When the copy was made: Instance Creation Date and Time of a new instance, which the creator of the original
    did not create; Instance Coercion DateTime of one that keeps its UIDs."""
    if not new_instance:
        return {_COERCION: _text(instance, _COERCION, _moment(at))}
    local = _local(instance, at)
    new = {
        _CREATION_DATE: _text(instance, _CREATION_DATE, f"{local:%Y%m%d}"),
        _CREATION_TIME: _text(instance, _CREATION_TIME, f"{local:%H%M%S}"),
    }
    return new if instance.span(_CREATOR) is None else new | {_CREATOR: b""}


def _original_attributes(instance: EncodedInstance, changed: Iterable[int], origin: Origin) -> bytes:
    modified: list[bytes] = []
    nonconforming: list[bytes] = []
    for tag in sorted(changed):
        before = instance.element(tag)
        vr = _vr(instance, tag)
        if before is None:
            modified.append(encode_element(tag, vr, b"", instance.encoding))
        elif _is_conforming(instance, tag):
            modified.append(before)
        else:
            modified.append(encode_element(tag, vr, b"", instance.encoding))
            nonconforming.append(_item(instance, _selected(instance, tag)))
    content = [_sequence(instance, _MODIFIED, [_item(instance, b"".join(modified))])]
    if nonconforming:
        content.append(_sequence(instance, _NONCONFORMING, nonconforming))
    content += [
        _text(instance, 0x04000562, _moment(origin.corrected_at)),  # Attribute Modification DateTime
        _text(instance, 0x04000563, f"{MANUFACTURER} {origin.software_version}"),  # Modifying System
        _text(instance, 0x04000564, origin.source[:_MOST_SOURCE]),  # Source of Previous Values
        _text(instance, 0x04000565, "CORRECT"),  # Reason for the Attribute Modification
    ]
    return _item(instance, b"".join(content))


def _selected(instance: EncodedInstance, tag: int) -> bytes:
    """Which element it is, and its value as bytes (Selector Attribute Macro, PS3.3 Table 10-20)."""
    value = instance.value(tag)
    order = "<" if instance.encoding.little else ">"
    return encode_element(
        0x00720026, "AT", struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF), instance.encoding
    ) + encode_element(0x04000552, "OB", value + b"\0" * (len(value) % 2), instance.encoding)


def _is_conforming(instance: EncodedInstance, tag: int) -> bool:
    vr = _vr(instance, tag)
    if vr == "SQ" or not dictionary_has_tag(tag):
        return True
    text = raw_text(instance.dataset((0x00080005, tag)), tag)
    return conforms(Attribute(keyword_for_tag(tag), tag, vr, dictionary_VM(tag)), text or "")


def _equipment(instance: EncodedInstance, origin: Origin) -> bytes:
    code = (
        _text(instance, 0x00080100, "109103")
        + _text(instance, 0x00080102, "DCM")
        + _text(instance, 0x00080104, "Modifying Equipment")
    )
    what = f"Corrected copy, pixel data unchanged: {', '.join(origin.keywords)}"
    content = [
        _text(instance, 0x00080070, MANUFACTURER),
        _text(instance, 0x00081090, "iap-node"),
        _text(instance, 0x00181020, origin.software_version),
        _text(instance, 0x0018A002, _moment(origin.corrected_at)),  # Contribution DateTime
        _text(instance, 0x0018A003, what[:_MOST_DESCRIPTION]),  # Contribution Description
        _sequence(instance, 0x0040A170, [_item(instance, code)]),  # Purpose of Reference Code Sequence
    ]
    return _item(instance, b"".join(content))


def _with_item(instance: EncodedInstance, tag: int, item: bytes) -> bytes:
    """A sequence with one item more; those that are there stay as they are."""
    span = instance.span(tag)
    if span is not None and span.vr not in ("", "SQ"):
        raise UnreadableInstance(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is written as {span.vr}, not as a sequence")
    return _sequence(instance, tag, [instance.value(tag), item])


def _sequence(instance: EncodedInstance, tag: int, items: Sequence[bytes]) -> bytes:
    return encode_element(tag, "SQ", b"".join(items), instance.encoding)


def _item(instance: EncodedInstance, content: bytes) -> bytes:
    order = "<" if instance.encoding.little else ">"
    return struct.pack(f"{order}HHI", el.ITEM >> 16, el.ITEM & 0xFFFF, len(content)) + content


def _text(instance: EncodedInstance, tag: int, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    return encode_element(tag, dictionary_VR(tag), value + b" " * (len(value) % 2), instance.encoding)


def _vr(instance: EncodedInstance, tag: int) -> str:
    """As the instance writes it; as the dictionary has it where it does not say."""
    span = instance.span(tag)
    if span is not None and span.vr not in ("", "UN"):
        return span.vr
    return dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"


def _moment(at: datetime) -> str:
    """DT with its offset (PS3.5 6.2)."""
    return f"{at.astimezone(UTC):%Y%m%d%H%M%S}+0000"


def _local(instance: EncodedInstance, at: datetime) -> datetime:
    """In the time zone of the instance where it says one: Timezone Offset From UTC (0008,0201)."""
    offset = _OFFSET.fullmatch(instance.value(_TIMEZONE).decode("latin-1").strip(" \0"))
    if offset is None:
        return at.astimezone()
    minutes = int(offset[2]) * 60 + int(offset[3])
    return at.astimezone(timezone(timedelta(minutes=-minutes if offset[1] == "-" else minutes)))
