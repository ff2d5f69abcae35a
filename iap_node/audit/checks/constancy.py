"""What does not change within a series: the scanner, the patient's position, the protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from iap_node.audit.checks import tags
from iap_node.audit.checks.check import Check, Doubt, Scope, shown, title
from iap_node.audit.checks.geometry import normal_of
from iap_node.dicom.parameters import canonical_number
from iap_node.dicom.statements import InstanceStatements
from iap_node.records import FindingKind, Severity

_ONE_PER_SERIES = (
    tags.MANUFACTURER, tags.MANUFACTURER_MODEL_NAME, tags.DEVICE_SERIAL_NUMBER, tags.SOFTWARE_VERSIONS,
    tags.MAGNETIC_FIELD_STRENGTH, tags.MODALITY, tags.PATIENT_POSITION, tags.STUDY_INSTANCE_UID,
    tags.FRAME_OF_REFERENCE_UID, tags.MR_ACQUISITION_TYPE, tags.IMAGED_NUCLEUS, tags.RESONANT_NUCLEUS,
    tags.CONTRAST_BOLUS_AGENT, tags.PROTOCOL_NAME,
)  # fmt: skip
_PROTOCOL = (
    tags.SCANNING_SEQUENCE, tags.SEQUENCE_VARIANT, tags.SCAN_OPTIONS, tags.SLICE_THICKNESS, tags.REPETITION_TIME,
    tags.ECHO_TIME, tags.INVERSION_TIME, tags.NUMBER_OF_AVERAGES, tags.IMAGING_FREQUENCY, tags.SPACING_BETWEEN_SLICES,
    tags.ECHO_TRAIN_LENGTH, tags.PERCENT_SAMPLING, tags.PERCENT_PHASE_FIELD_OF_VIEW, tags.PIXEL_BANDWIDTH,
    tags.RECONSTRUCTION_DIAMETER, tags.ACQUISITION_MATRIX, tags.IN_PLANE_PHASE_ENCODING_DIRECTION, tags.FLIP_ANGLE,
    tags.SAMPLES_PER_PIXEL, tags.PHOTOMETRIC_INTERPRETATION, tags.ROWS, tags.COLUMNS, tags.PIXEL_SPACING,
    tags.BITS_ALLOCATED, tags.BITS_STORED, tags.HIGH_BIT, tags.PIXEL_REPRESENTATION,
    tags.NUMBER_OF_PHASE_ENCODING_STEPS,
)  # fmt: skip
# Perfusion series may begin with one image that is acquired for calibration.
_PREPARED = frozenset({tags.REPETITION_TIME, tags.ECHO_TIME, tags.INVERSION_TIME, tags.FLIP_ANGLE})
_WITH_REFERENCE = ("ASL", "PERFUSION")
_RELATIVE_TOLERANCE = 1e-3  # vendors round one value differently from image to image
_FEWEST_IMAGES = 5  # before one of them can be called the odd one
_LARGEST_MINORITY = 0.1
_SHOWN_VALUES = 3


class _Kind(NamedTuple):
    """What images that share a protocol have in common."""

    plane: str
    echo_numbers: str
    image_type: str


def one_per_series(instances: Sequence[InstanceStatements]) -> Iterator[Doubt]:
    """Scanner, patient position, study and frame of reference are one in a series."""
    for tag in _ONE_PER_SERIES:
        # a scan that was sent in classic and in enhanced form: each names some elements that the other does not have
        naming = {instance.sop_class_uid for instance in instances if _text(instance, tag)}
        yield from _differing(tag, [_text(instance, tag) for instance in instances if instance.sop_class_uid in naming])


def series_number(instances: Sequence[InstanceStatements]) -> Iterator[Doubt]:
    """One Series Instance UID has one Series Number."""
    yield from _differing(tags.SERIES_NUMBER, [_text(instance, tags.SERIES_NUMBER) for instance in instances])


def _differing(tag: int, texts: Sequence[str]) -> Iterator[Doubt]:
    groups = _groups(texts)
    if len(groups) < 2:
        return
    groups.sort(key=lambda group: (-len(group), group[0]))
    raws = [group[0] for group in groups]
    suggested = raws[0] if len(groups[0]) >= 0.8 * len(texts) and len(texts) >= _FEWEST_IMAGES else None
    counted = "; ".join(f"{_quoted(group[0])} in {len(group)}" for group in groups[:_SHOWN_VALUES])
    more = f" and {len(groups) - _SHOWN_VALUES} more values" if len(groups) > _SHOWN_VALUES else ""
    yield Doubt(
        tag, f"{title(tag)} differs within the series: {counted}{more}, of {len(texts)} instances", raws[1], suggested
    )


def _quoted(text: str) -> str:
    return f"'{shown(text)}'" if text else "no value"


def protocol(instances: Sequence[InstanceStatements]) -> Iterator[Doubt]:
    """No single image, or one in ten, departs from a protocol that the others of its kind share."""
    if len(instances) < _FEWEST_IMAGES:
        return
    kinds: dict[_Kind, list[InstanceStatements]] = {}
    for tag in _PROTOCOL:
        if len({_text(instance, tag) for instance in instances}) < 2:
            continue
        if not kinds:
            for instance in instances:
                kinds.setdefault(_kind(instance), []).append(instance)
        for kind, alike in kinds.items():
            if tag in _PREPARED and any(word in kind.image_type.upper() for word in _WITH_REFERENCE):
                continue
            texts = [_text(instance, tag) for instance in alike]
            groups = sorted(_groups(texts), key=lambda group: (-len(group), group[0]))
            odd = len(texts) - len(groups[0])
            if len(texts) < _FEWEST_IMAGES or not 0 < odd <= max(1.0, _LARGEST_MINORITY * len(texts)):
                continue
            others = ", ".join(_quoted(group[0]) for group in groups[1 : 1 + _SHOWN_VALUES])
            most = f"{_quoted(groups[0][0])} in {len(groups[0])} of {len(texts)} like images"
            evidence = f"{title(tag)} is {most}, {others} in {odd}"
            yield Doubt(tag, evidence, groups[1][0], groups[0][0] or None)
            break


def _text(instance: InstanceStatements, tag: int) -> str:
    if len(instance.images) == 1:
        return instance.images[0].text(tag)
    return " | ".join(sorted({image.text(tag) for image in instance.images}))


def _kind(instance: InstanceStatements) -> _Kind:
    normal = normal_of(_text(instance, tags.IMAGE_ORIENTATION_PATIENT))
    plane = " ".join(f"{abs(round(component, 1)):g}" for component in normal) if normal else ""
    return _Kind(plane, _text(instance, tags.ECHO_NUMBERS), _text(instance, tags.IMAGE_TYPE))


def _groups(texts: Sequence[str]) -> list[list[str]]:
    """Texts that mean the same: numbers within tolerance, words whatever their case."""
    by_text: dict[str, list[str]] = {}
    for text in texts:
        by_text.setdefault(text, []).append(text)
    if len(by_text) == 1:
        return list(by_text.values())
    groups: list[tuple[tuple[float, ...] | str, list[str]]] = []
    for text, same in by_text.items():
        meaning = _meaning(text)
        own = next((members for other, members in groups if _same(other, meaning)), None)
        if own is None:
            groups.append((meaning, list(same)))
        else:
            own.extend(same)
    return [members for _, members in groups]


def _meaning(text: str) -> tuple[float, ...] | str:
    numbers = [canonical_number(part) for part in text.split("\\")]
    found = tuple(number for number in numbers if number is not None)
    return found if len(found) == len(numbers) else " ".join(text.split()).casefold()


def _same(one: tuple[float, ...] | str, other: tuple[float, ...] | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return len(one) == len(other) and all(
        abs(a - b) <= _RELATIVE_TOLERANCE * max(abs(a), abs(b)) for a, b in zip(one, other, strict=True)
    )


CHECKS = (
    Check(
        "one-per-series", _ONE_PER_SERIES, FindingKind.INCONSTANT, Severity.WARNING,
        "one value in all instances; words whatever their case, numbers within 0.1 %",
        "PS3.3 A.1.2.3 (one scanner, study and frame of reference per series), C.7.4.1.1.1, C.7.3.1, C.7.5.1; all real "
        "series measured hold it",
        "values that differ between frames of one instance alike in all instances; elements that all instances of one "
        "SOP Class leave out",
        Scope.SERIES, one_per_series,
    ),
    Check(
        "one-series-number", (tags.SERIES_NUMBER,), FindingKind.INCONSTANT, Severity.NOTE,
        "one Series Number in all instances of a Series Instance UID",
        "PS3.3 C.7.3.1 (a number that identifies this series)",
        "repeated and missing Instance Numbers, which the standard allows (Siemens repeats them for echoes)",
        Scope.SERIES, series_number,
    ),
    Check(
        "odd-protocol", _PROTOCOL, FindingKind.INCONSTANT, Severity.WARNING,
        "of at least 5 images of one plane, echo and type not one, and not one in ten, departs from the others; "
        "numbers within 0.1 %",
        "variants as CuBIDS sees them (Covitz et al. 2022, doi 10.1016/j.neuroimage.2022.119609); all real "
        "series measured hold it",
        "echo times, inversion times, flip angles that alternate by design: groups larger than one in ten; the "
        "calibration image of a perfusion series",
        Scope.SERIES, protocol,
    ),
)  # fmt: skip
