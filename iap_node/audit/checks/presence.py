"""Elements that must be there, or must have a value, by their attribute type (PS3.5 7.4)."""

from __future__ import annotations

from collections.abc import Iterator

from iap_node.audit.checks import tags, vendors
from iap_node.audit.checks.check import Check, Doubt, Scope, is_original, title, written
from iap_node.audit.checks.units import GYROMAGNETIC_RATIOS, frequency_mhz, nominal_field
from iap_node.dicom.sop_classes import (
    ENHANCED_MR_COLOR_IMAGE_STORAGE,
    ENHANCED_MR_IMAGE_STORAGE,
    MR_IMAGE_STORAGE,
)
from iap_node.dicom.statements import Image, InstanceStatements
from iap_node.records import FindingKind, Severity

_TYPE_1 = (  # of MR Image Storage, whatever the image shows
    tags.IMAGE_TYPE, tags.MODALITY, tags.SCANNING_SEQUENCE, tags.SEQUENCE_VARIANT, tags.IMAGE_POSITION_PATIENT,
    tags.IMAGE_ORIENTATION_PATIENT, tags.FRAME_OF_REFERENCE_UID, tags.SAMPLES_PER_PIXEL,
    tags.PHOTOMETRIC_INTERPRETATION, tags.ROWS, tags.COLUMNS, tags.PIXEL_SPACING, tags.BITS_ALLOCATED,
    tags.BITS_STORED, tags.HIGH_BIT, tags.PIXEL_REPRESENTATION,
)  # fmt: skip
_TYPE_2 = (
    tags.MANUFACTURER, tags.SCAN_OPTIONS, tags.MR_ACQUISITION_TYPE, tags.SLICE_THICKNESS, tags.REPETITION_TIME,
    tags.ECHO_TIME, tags.ECHO_TRAIN_LENGTH, tags.PATIENT_POSITION, tags.SERIES_NUMBER, tags.INSTANCE_NUMBER,
)  # fmt: skip
_KNOWN_TO_THE_SCANNER = (tags.MANUFACTURER, tags.SLICE_THICKNESS, tags.REPETITION_TIME, tags.ECHO_TIME)
_ENHANCED_TYPE_1 = (
    tags.MANUFACTURER, tags.MANUFACTURER_MODEL_NAME, tags.SOFTWARE_VERSIONS, tags.IMAGE_TYPE, tags.MODALITY,
    tags.SAMPLES_PER_PIXEL, tags.PHOTOMETRIC_INTERPRETATION, tags.ROWS, tags.COLUMNS,
    tags.NUMBER_OF_FRAMES, tags.BITS_ALLOCATED, tags.BITS_STORED, tags.HIGH_BIT, tags.PIXEL_REPRESENTATION,
)  # fmt: skip
_ENHANCED_TYPE_1C = (tags.MAGNETIC_FIELD_STRENGTH, tags.MR_ACQUISITION_TYPE, tags.RESONANT_NUCLEUS)


def _without_value(image: Image, tag: int) -> str:
    """How the value is lacking; "" where there is one."""
    found = image.get(tag)
    if found is None:
        return "is absent"
    return "" if found.raw.strip("\\ ") else "is empty"  # delimiters alone are no value: PS3.5 7.4.1


def type_1(instance: InstanceStatements) -> Iterator[Doubt]:
    """Type 1 elements of a classic MR image have a value."""
    if instance.sop_class_uid != MR_IMAGE_STORAGE:
        return
    is_sheet = "VFRAME" in instance.top.terms(tags.IMAGE_TYPE)
    for tag in _TYPE_1:
        lacks = _without_value(instance.top, tag)
        if lacks and not (is_sheet and tag == tags.IMAGE_POSITION_PATIENT):
            yield Doubt(tag, f"{title(tag)} {lacks}; the standard requires a value (type 1)")


def type_2(instance: InstanceStatements) -> Iterator[Doubt]:
    """Type 2 elements of a classic MR image are there, if only empty."""
    if instance.sop_class_uid != MR_IMAGE_STORAGE:
        return
    top = instance.top
    vendor = vendors.by_name(top.text(tags.MANUFACTURER))
    for tag in _TYPE_2:
        if top.get(tag) is not None or (tag == tags.SCAN_OPTIONS and vendor == vendors.SIEMENS):
            continue
        if tag == tags.PATIENT_POSITION and instance.has_patient_orientation:
            continue
        if tag == tags.REPETITION_TIME and _has_no_repetition(top):
            continue
        yield Doubt(tag, f"{title(tag)} is absent; the standard requires it, if only empty (type 2)")


def known_value(instance: InstanceStatements) -> Iterator[Doubt]:
    """What a scanner cannot but know has a value in the images that it acquired."""
    top = instance.top
    if instance.sop_class_uid != MR_IMAGE_STORAGE or not is_original(top):
        return
    for tag in _KNOWN_TO_THE_SCANNER:
        found = top.get(tag)
        if found is not None and not found.raw and not (tag == tags.REPETITION_TIME and _has_no_repetition(top)):
            yield Doubt(tag, f"{title(tag)} is empty; the image is an original one, so the scanner knew it")


def field_strength(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Magnetic Field Strength has a value where the frequency says it."""
    found = image.get(tags.MAGNETIC_FIELD_STRENGTH)
    if found is not None and found.raw:
        return
    frequency, nucleus = frequency_mhz(image), _nucleus(image)
    if frequency is None or nucleus not in GYROMAGNETIC_RATIOS:
        return
    field = frequency / GYROMAGNETIC_RATIOS[nucleus]
    nominal = nominal_field(field)
    how = "absent" if found is None else "empty"
    yield Doubt(
        tags.MAGNETIC_FIELD_STRENGTH,
        f"{title(tags.MAGNETIC_FIELD_STRENGTH)} is {how}; {written(frequency)} MHz of {nucleus} mean {field:.3g} T",
        "",
        written(nominal) if nominal is not None else f"{field:.3g}",
    )


def inversion_time(instance: InstanceStatements) -> Iterator[Doubt]:
    """An inversion recovery has its Inversion Time."""
    top = instance.top
    if instance.sop_class_uid != MR_IMAGE_STORAGE or not is_original(top):
        return
    if "IR" in top.terms(tags.SCANNING_SEQUENCE) and not top.text(tags.INVERSION_TIME):
        lacks = _without_value(top, tags.INVERSION_TIME)
        yield Doubt(tags.INVERSION_TIME, f"{title(tags.INVERSION_TIME)} {lacks}, and Scanning Sequence holds IR")


def enhanced_type_1(instance: InstanceStatements) -> Iterator[Doubt]:
    """Type 1 and 1C elements of an enhanced MR image have a value at the top level."""
    if instance.sop_class_uid not in (ENHANCED_MR_IMAGE_STORAGE, ENHANCED_MR_COLOR_IMAGE_STORAGE):
        return
    acquired = instance.top.terms(tags.IMAGE_TYPE)[:1] in (("ORIGINAL",), ("MIXED",))
    for tag in (*_ENHANCED_TYPE_1, *(_ENHANCED_TYPE_1C if acquired else ())):
        lacks = _without_value(instance.top, tag)
        if lacks:
            yield Doubt(tag, f"{title(tag)} {lacks}; the standard requires a value in enhanced MR (type 1)")


def _has_no_repetition(image: Image) -> bool:
    """Echo planar without segments: Repetition Time is not required (PS3.3 C.8.3.1)."""
    return "EP" in image.terms(tags.SCANNING_SEQUENCE) and "SK" not in image.terms(tags.SEQUENCE_VARIANT)


def _nucleus(image: Image) -> str:
    terms = image.terms(tags.IMAGED_NUCLEUS) or image.terms(tags.RESONANT_NUCLEUS) or ("1H",)
    return "1H" if terms[0] == "H" else terms[0]


CHECKS = (
    Check(
        "type-1-value", _TYPE_1, FindingKind.MISSING, Severity.ERROR,
        "a type 1 element of MR Image Storage is there and has a value",
        "PS3.5 7.4.1; PS3.3 C.8.3.1, C.7.6.2, C.7.6.3, C.7.4.1",
        "UIH tile sheets (VFRAME) keep the positions of their tiles in a private sequence",
        Scope.INSTANCE, type_1,
    ),
    Check(
        "type-2-element", _TYPE_2, FindingKind.MISSING, Severity.NOTE,
        "a type 2 element of MR Image Storage is there; empty is allowed",
        "PS3.5 7.4.3, 7.4.4 (2C); PS3.3 C.8.3.1, C.7.6.2, C.7.5.1, C.7.3.1, C.7.6.1",
        "Siemens leaves Scan Options out; Repetition Time is not required of echo planar without segments, nor Patient "
        "Position beside Patient Orientation Code Sequence (0054,0410)",
        Scope.INSTANCE, type_2,
    ),
    Check(
        "known-value-empty", _KNOWN_TO_THE_SCANNER, FindingKind.MISSING, Severity.WARNING,
        "Manufacturer, Slice Thickness, Repetition Time and Echo Time of an ORIGINAL image are not empty",
        "PS3.5 7.4.3: empty means unknown, and a scanner knows these",
        "derived images; Repetition Time of echo planar without segments",
        Scope.INSTANCE, known_value,
    ),
    Check(
        "field-strength-missing", (tags.MAGNETIC_FIELD_STRENGTH, tags.IMAGING_FREQUENCY, tags.IMAGED_NUCLEUS),
        FindingKind.MISSING, Severity.NOTE,
        "Magnetic Field Strength has a value where Imaging Frequency / (gamma / 2 pi) says it",
        "PS3.3 C.8.3.1 (type 3), C.8.13.2 (type 1C); Larmor relation",
        "headers that state neither",
        Scope.IMAGE, field_strength,
    ),
    Check(
        "inversion-time-missing", (tags.INVERSION_TIME, tags.SCANNING_SEQUENCE), FindingKind.MISSING, Severity.NOTE,
        "Inversion Time has a value where Scanning Sequence holds IR",
        "PS3.3 C.8.3.1, type 2C",
        "derived images",
        Scope.INSTANCE, inversion_time,
    ),
    Check(
        "enhanced-type-1-value", (*_ENHANCED_TYPE_1, *_ENHANCED_TYPE_1C), FindingKind.MISSING, Severity.WARNING,
        "type 1 elements of enhanced MR have a value, type 1C ones where Image Type value 1 is ORIGINAL or MIXED",
        "PS3.3 C.7.5.2 (Enhanced General Equipment), C.8.13.1, C.8.13.2",
        "timing and geometry, which live in functional groups; derived maps without field "
        "strength; Device Serial Number, which de-identification takes out",
        Scope.INSTANCE, enhanced_type_1,
    ),
)  # fmt: skip
