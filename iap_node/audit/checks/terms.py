"""Values of elements for which the standard lists the only ones allowed (enumerated values)."""

from __future__ import annotations

from collections.abc import Iterator

from iap_node.audit.checks import tags
from iap_node.audit.checks.check import Check, Doubt, Scope, shown, title
from iap_node.audit.checks.units import GYROMAGNETIC_RATIOS
from iap_node.dicom.statements import Image, InstanceStatements
from iap_node.records import FindingKind, Severity

# PS3.3 C.7.3.1.1.2, animals included: who lies on a side cannot enter with it, nor with back or belly when prone.
PATIENT_POSITIONS = frozenset(
    {first + second for first in ("HF", "FF") for second in ("P", "S", "DR", "DL")}
    | {first + second for first in ("LF", "RF") for second in ("P", "S")}
    | {first + second for first in ("AF", "PF") for second in ("DR", "DL")}
)
_YES_NO = frozenset({"Y", "N"})
_ENUMERATED: dict[int, frozenset[str]] = {
    tags.MODALITY: frozenset({"MR"}),
    tags.PATIENT_POSITION: PATIENT_POSITIONS,
    tags.SCANNING_SEQUENCE: frozenset({"SE", "IR", "GR", "EP", "RM"}),
    tags.MR_ACQUISITION_TYPE: frozenset({"2D", "3D"}),
    tags.ANGIO_FLAG: _YES_NO,
    tags.VARIABLE_FLIP_ANGLE_FLAG: _YES_NO,
    tags.PIXEL_REPRESENTATION: frozenset({"0", "1"}),
}
_DIRECTIONS = frozenset({"ROW", "COL"})
_ENHANCED_DIRECTIONS = frozenset({"ROW", "COLUMN", "OTHER"})
_OTHER_SPELLINGS = {"COLUMN": "COL", "COL": "COLUMN", "YES": "Y", "NO": "N"}
_FIRST_IMAGE_TYPES = ("ORIGINAL", "DERIVED")
_SECOND_IMAGE_TYPES = ("PRIMARY", "SECONDARY")


def enumerated_value(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Enumerated values are among those that the standard lists."""
    for tag, allowed in _ENUMERATED.items():
        terms = image.terms(tag)
        if not terms or (image.is_frame and tag == tags.MR_ACQUISITION_TYPE):
            continue
        yield from _among(image, tag, terms, allowed)
    direction = tags.IN_PLANE_PHASE_ENCODING_DIRECTION
    terms = image.terms(direction)
    if terms:
        yield from _among(image, direction, terms, _ENHANCED_DIRECTIONS if image.is_frame else _DIRECTIONS)


def _among(image: Image, tag: int, terms: tuple[str, ...], allowed: frozenset[str]) -> Iterator[Doubt]:
    wrong = [term for term in terms if term and term not in allowed]
    if wrong:
        other = _OTHER_SPELLINGS.get(wrong[0])
        suggested = (
            other if other in allowed and len(terms) == 1 else next(iter(allowed)) if len(allowed) == 1 else None
        )
        listed = ", ".join(sorted(allowed))
        yield Doubt(
            tag, f"{title(tag)} holds '{shown(wrong[0])}', the standard knows {listed}", image.text(tag), suggested
        )


def image_type(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Image Type begins with ORIGINAL or DERIVED, and PRIMARY or SECONDARY."""
    terms = image.terms(tags.IMAGE_TYPE)
    if not terms:
        return
    first = (*_FIRST_IMAGE_TYPES, "MIXED") if image.is_frame else _FIRST_IMAGE_TYPES
    second = (*_SECOND_IMAGE_TYPES, "MIXED") if image.is_frame else _SECOND_IMAGE_TYPES
    stated = image.get(tags.IMAGE_TYPE)
    tag = stated.tag if stated is not None else tags.IMAGE_TYPE
    if terms[0] not in first:
        evidence = f"{title(tag)} begins with '{shown(terms[0])}', it must be {' or '.join(first)}"
    elif len(terms) < 2 or terms[1] not in second:
        found = f"'{shown(terms[1])}'" if len(terms) > 1 else "nothing"
        evidence = f"{title(tag)} has {found} as value 2, it must be {' or '.join(second)}"
    else:
        return
    yield Doubt(tag, evidence, image.text(tags.IMAGE_TYPE))


def nucleus(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """The nucleus is named with its mass number."""
    for tag in (tags.IMAGED_NUCLEUS, tags.RESONANT_NUCLEUS):
        terms = image.terms(tag)
        if not terms or not terms[0] or terms[0] in GYROMAGNETIC_RATIOS:
            continue
        meant = [known for known in GYROMAGNETIC_RATIOS if known.lstrip("0123456789") == terms[0]]
        if terms[0] == "H":
            meant = ["1H"]
        if len(meant) == 1:
            evidence = f"{title(tag)} holds '{shown(terms[0])}' without a mass number"
            yield Doubt(tag, evidence, image.text(tag), meant[0])


CHECKS = (
    Check(
        "enumerated-value", (*_ENUMERATED, tags.IN_PLANE_PHASE_ENCODING_DIRECTION), FindingKind.VALUE, Severity.WARNING,
        "an enumerated value is one of those that the standard lists",
        "PS3.3 C.8.3.1, C.8.13.5.3, C.7.6.3, C.7.3.1.1.1 and C.8.13.6 (Modality), C.7.3.1.1.2 (Patient Position: "
        "defined terms, to which nobody adds)",
        "decubitus positions (HFDL, HFDR, FFDL, FFDR) and those of animals; defined terms, to which vendors may add "
        "(Sequence Variant, Scan Options, MR Acquisition Type of enhanced MR); empty values; COLUMN and OTHER in "
        "functional groups",
        Scope.IMAGE, enumerated_value,
    ),
    Check(
        "image-type", (tags.IMAGE_TYPE,), FindingKind.VALUE, Severity.NOTE,
        "Image Type value 1 is ORIGINAL or DERIVED, value 2 PRIMARY or SECONDARY; MIXED in enhanced MR",
        "PS3.3 C.7.6.1.1.2, C.8.3.1.1.1, C.8.13.1.1.1, C.8.16.1",
        "whatever vendors write from value 3 on",
        Scope.IMAGE, image_type,
    ),
    Check(
        "nucleus-without-mass-number", (tags.IMAGED_NUCLEUS, tags.RESONANT_NUCLEUS), FindingKind.VALUE, Severity.NOTE,
        "the nucleus has its mass number, 1H",
        "PS3.3 C.8.3.1 (Imaged Nucleus; examples: 31P, 1H), C.8.13.2 (Resonant Nucleus, defined terms)",
        "names that stand for no nucleus known here",
        Scope.IMAGE, nucleus,
    ),
)  # fmt: skip
