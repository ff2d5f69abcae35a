"""Which SOP Classes and transfer syntaxes the node stores, and which instances the model can read.

Called by the listener (presentation contexts) and by the intake (`why_not_analysed`). Source: PS3.6 Annex A
as pydicom's UID dictionary holds it, PS3.4 Annex B.
"""

from __future__ import annotations

from typing import Final

from pydicom.uid import UID_dictionary  # type: ignore[attr-defined]

from iap_node.records import InstanceHeader

MR_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.4.1"
MR_SPECTROSCOPY_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.4.2"
ENHANCED_MR_COLOR_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.4.3"
LEGACY_CONVERTED_ENHANCED_MR_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.4.4"
RAW_DATA_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.66"

# Objects without patient, study and series (PS3.4 Annex GG) have no place in an archive of series: better
# refused at negotiation, where the sender is told so, than quarantined one by one.
_NON_PATIENT_OBJECTS = (
    "Hanging Protocol",
    "Color Palette",
    "Implant",
    "Defined Procedure Protocol",
    "Protocol Approval",
    "Inventory",
)
# These move no instance over an association: a directory of media, and services.
_NO_INSTANCES = ("Media Storage Directory", "Storage Commitment")

STORAGE_SOP_CLASSES: Final[tuple[str, ...]] = tuple(
    uid
    for uid, (name, kind, *_) in UID_dictionary.items()
    if kind == "SOP Class"
    and "Storage" in name
    and not name.startswith(_NO_INSTANCES)
    and not any(words in name for words in _NON_PATIENT_OBJECTS)
)

# Not for C-STORE: JPIP Referenced instances hold an address in place of their pixels, so that Success could
# not mean durable; SMPTE ST 2110 is real-time video (PS3.22); MIME and XML encapsulations were for media and
# never data sets. Video (MPEG-2, MPEG-4, HEVC) stays: a study is kept whole, and nothing decodes it here.
_NOT_FOR_STORAGE = ("JPIP", "SMPTE", "RFC 2557", "XML")

# Of later editions of PS3.6 than pydicom's dictionary, which pynetdicom completes once it is imported: what we accept
# must not depend on which of the two came first.
_LATER = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}
_TRANSFER_SYNTAX_NAMES = {
    uid: name for uid, (name, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"
} | _LATER

TRANSFER_SYNTAXES: Final[tuple[str, ...]] = tuple(
    uid for uid, name in _TRANSFER_SYNTAX_NAMES.items() if not name.startswith(_NOT_FOR_STORAGE)
)

MR_IMAGE_SOP_CLASSES: Final = frozenset(
    {MR_IMAGE_STORAGE, ENHANCED_MR_IMAGE_STORAGE, LEGACY_CONVERTED_ENHANCED_MR_IMAGE_STORAGE}
)


def sop_class_name(uid: str) -> str:
    """The name PS3.6 gives a SOP Class; the UID itself where it gives none."""
    entry = UID_dictionary.get(uid)
    return entry[0] if entry else uid


def transfer_syntax_name(uid: str) -> str:
    """The name PS3.6 gives a transfer syntax; the UID itself where it gives none."""
    return _TRANSFER_SYNTAX_NAMES.get(uid, uid)


def why_not_analysed(header: InstanceHeader) -> str | None:
    """Why the pixels of an instance do not go to the model, as a sentence; None for an MR image.

    Localisers and derived images are MR images: what the model cannot know, it says itself.
    """
    name = sop_class_name(header.sop_class_uid)
    if header.sop_class_uid == ENHANCED_MR_COLOR_IMAGE_STORAGE:
        return f"{name}: a colour map, not the signal of an acquisition."
    if header.sop_class_uid == MR_SPECTROSCOPY_STORAGE:
        return f"{name}: spectra, not an image."
    if header.sop_class_uid == RAW_DATA_STORAGE:
        return f"{name}: raw data, not an image, whatever its Modality, Rows and Columns say."
    if header.sop_class_uid not in MR_IMAGE_SOP_CLASSES:
        modality = f" with Modality {header.modality}" if header.modality else ""
        return f"{name}{modality}: not an MR image."
    if header.modality and header.modality.upper() != "MR":
        return f"{name} with Modality {header.modality}: the two contradict each other; not an MR image."
    if not header.rows or not header.columns:
        return f"{name} without Rows (0028,0010) and Columns (0028,0011): no image in it."
    return None
