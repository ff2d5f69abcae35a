"""What is not de-identified here, and why: an instance whose pixels or content may say who somebody is.

Header elements can be gone through one by one; words burned into an image cannot. So only images whose pixels come from
a detector or a reconstruction are taken, by a closed list of SOP Classes, and of these none that says or shows that
something was written into it. Called by `copies`.

References
----------
PS3.15 E.1 and E.3.1 (pixel data), PS3.3 C.7.6.1 (Burned In Annotation, Image Type), C.8.6.1
(Conversion Type), C.9.2 (overlays, those in the bits of Pixel Data are retired).
"""

from __future__ import annotations

from typing import Final

from iap_node.dicom.encoded import EncodedInstance
from iap_node.dicom.sop_classes import sop_class_name, transfer_syntax_name
from iap_node.dicom.transcoding import can_transcode
from iap_node.dicom.values import raw_text
from iap_node.errors import UnsendableInstance

_STORAGE = "1.2.840.10008.5.1.4.1.1."
# CT, MR, NM, PET: classic, enhanced, legacy converted
ACQUIRED: Final = frozenset(
    _STORAGE + last for last in ("2", "2.1", "2.2", "4", "4.1", "4.4", "20", "128", "128.1", "130")
)
# CR, DX, MG, XA, RF: some of their makers write into pixels, so that Burned In Annotation must say NO
ACQUIRED_IF_NOT_BURNED_IN: Final = frozenset(_STORAGE + last for last in ("1", "1.1", "1.2", "12.1", "12.2"))
_SCREENS = ("SCREEN", "SAVE", "CAPTURE", "REPORT", "SECONDARY CAPTURE")  # values of Image Type that makers use

_SOP_CLASS_UID, _IMAGE_TYPE, _CONVERSION_TYPE, _BURNED_IN = 0x00080016, 0x00080008, 0x00080064, 0x00280301
_OVERLAY_BIT_POSITION = 0x0102
_PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)


def refuse(instance: EncodedInstance, transfer_syntax_uid: str) -> None:
    """Let through what can be de-identified.

    Raises
    ------
    UnsendableInstance
        It cannot; the text says why, and what to do.
    """
    why = _why_not(instance, transfer_syntax_uid)
    if why:
        raise UnsendableInstance(f"not de-identified: {why}")


def _why_not(instance: EncodedInstance, transfer_syntax_uid: str) -> str:
    ds = instance.dataset((_SOP_CLASS_UID, _IMAGE_TYPE, _CONVERSION_TYPE, _BURNED_IN))
    sop_class_uid = raw_text(ds, _SOP_CLASS_UID) or ""
    name = sop_class_name(sop_class_uid)
    burned_in = (raw_text(ds, _BURNED_IN) or "").upper()
    if burned_in == "YES":
        return "Burned In Annotation (0028,0301) is YES; clean its pixels, or send the original to whom it may go"
    if sop_class_uid in ACQUIRED_IF_NOT_BURNED_IN and burned_in != "NO":
        return f"{name} whose Burned In Annotation (0028,0301) does not say NO; nobody knows what its pixels say"
    if sop_class_uid not in ACQUIRED | ACQUIRED_IF_NOT_BURNED_IN:
        return f"{name} may say in its pixels or its content who it is of; route it elsewhere"
    image_type = [one.strip().upper() for one in (raw_text(ds, _IMAGE_TYPE) or "").split("\\")]
    shown = next((one for one in image_type if any(word in one for word in _SCREENS)), None)
    if shown is not None:
        return f"Image Type (0008,0008) says {shown[:16]!r}: a picture of a screen, with what stood on it"
    if raw_text(ds, _CONVERSION_TYPE):
        return "Conversion Type (0008,0064) is set: it was scanned or captured"
    if not any(instance.span(tag) is not None for tag in _PIXELS):
        return "it has no pixels, so that it is no image of its SOP Class"
    if _has_overlay_in_pixels(instance):
        return "an overlay stands in the unused bits of its pixels (retired); have it sent without"
    if not can_transcode(transfer_syntax_uid):
        return f"{transfer_syntax_name(transfer_syntax_uid)} may hold text beside its pixels; have it sent uncompressed"
    return ""


def _has_overlay_in_pixels(instance: EncodedInstance) -> bool:
    groups = {span.tag >> 16 for span in instance.spans if 0x6000 <= span.tag >> 16 <= 0x601E}
    return any(
        instance.span(group << 16 | _OVERLAY_BIT_POSITION) is not None
        and instance.value(group << 16 | _OVERLAY_BIT_POSITION).strip(b"\0") != b""
        for group in groups
    )
