"""Enhanced multi-frame: the functional groups that must be there, and the top level against them (PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Iterator

from iap_node.audit.checks import tags
from iap_node.audit.checks.check import Check, Doubt, Scope, is_original, shown, title, written
from iap_node.dicom.sop_classes import ENHANCED_MR_COLOR_IMAGE_STORAGE, ENHANCED_MR_IMAGE_STORAGE
from iap_node.dicom.statements import FUNCTIONAL_GROUPS, InstanceStatements
from iap_node.records import FindingKind, Severity

_ENHANCED = (ENHANCED_MR_IMAGE_STORAGE, ENHANCED_MR_COLOR_IMAGE_STORAGE)
_ALWAYS = (0x00289110, 0x00209113, 0x00209116)  # Pixel Measures, Plane Position, Plane Orientation
_OF_ACQUISITIONS = (0x00189112, 0x00189114)  # MR Timing and Related Parameters, MR Echo
_COMPARED = (
    tags.SLICE_THICKNESS, tags.SPACING_BETWEEN_SLICES, tags.PIXEL_SPACING, tags.REPETITION_TIME, tags.ECHO_TIME,
    tags.FLIP_ANGLE, tags.PIXEL_BANDWIDTH, tags.PERCENT_SAMPLING, tags.PERCENT_PHASE_FIELD_OF_VIEW,
)  # fmt: skip
_TOLERANCE = 0.01  # Philips rounds the bandwidth at the top level


def frames(instance: InstanceStatements) -> Iterator[Doubt]:
    """As many items of Per-Frame Functional Groups as frames."""
    if instance.sop_class_uid not in _ENHANCED:
        return
    tag = tags.PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE
    stated = instance.top.number(tags.NUMBER_OF_FRAMES)
    if instance.n_frames is None or instance.n_frames == 0:
        yield Doubt(tag, f"{title(tag)} is absent, empty or damaged: timing and geometry of the frames are not known")
    elif stated is not None and stated != instance.n_frames:
        raw = instance.top.text(tags.NUMBER_OF_FRAMES)
        evidence = f"{title(tags.NUMBER_OF_FRAMES)} is {shown(raw)}, {title(tag)} has {instance.n_frames} items"
        yield Doubt(tags.NUMBER_OF_FRAMES, evidence, raw)


def macros(instance: InstanceStatements) -> Iterator[Doubt]:
    """Frames have their spacing, position and orientation, and those of an acquisition their timing."""
    if instance.sop_class_uid not in _ENHANCED or not instance.n_frames:
        return
    for image in instance.images:
        if not image.is_frame:
            continue
        for sequence in (*_ALWAYS, *(_OF_ACQUISITIONS if is_original(image) else ())):
            if sequence not in image.groups:
                evidence = f"{title(sequence)} is in neither shared nor per-frame groups of {len(image.places)} frames"
                yield Doubt(sequence, evidence)


def top_level(instance: InstanceStatements) -> Iterator[Doubt]:
    """What the top level states too, it states as one of the frames does."""
    if instance.sop_class_uid not in _ENHANCED or not instance.n_frames:
        return
    for tag in _COMPARED:
        stated = instance.top.get(tag)
        if stated is None or not stated.raw:
            continue
        count = 2 if tag == tags.PIXEL_SPACING else 1
        top = instance.top.numbers(tag, count)
        found = {numbers for image in instance.images if image.is_frame and (numbers := image.numbers(tag, count))}
        if top is None or not found or any(_close(top, numbers) for numbers in found):
            continue
        listed = ", ".join("\\".join(written(number) for number in numbers) for numbers in sorted(found)[:3])
        suggested = listed if len(found) == 1 else None
        evidence = f"{title(tag)} is {shown(stated.raw)} at the top level, {listed} in the functional groups"
        yield Doubt(tag, evidence, stated.raw, suggested)


def _close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(abs(a - b) <= _TOLERANCE * max(abs(a), abs(b), 1e-6) for a, b in zip(one, other, strict=True))


CHECKS = (
    Check(
        "frames-and-functional-groups", (tags.NUMBER_OF_FRAMES, tags.PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE),
        FindingKind.CONTRADICTION, Severity.ERROR,
        "Number of Frames = items of Per-Frame Functional Groups Sequence",
        "PS3.3 Table C.7.6.16-1, C.7.6.16.1.2; Table A.36-2: Frame Content, which every frame has, is never shared",
        "Legacy Converted Enhanced MR",
        Scope.INSTANCE, frames,
    ),
    Check(
        "functional-groups-missing", (*_ALWAYS, *_OF_ACQUISITIONS), FindingKind.MISSING, Severity.ERROR,
        "every frame has Pixel Measures, Plane Position and Plane Orientation; an ORIGINAL one MR Timing and MR Echo",
        "PS3.3 A.36.2.4, Table A.36-2",
        "timing in the functional groups only, which is where it belongs; derived frames without it",
        Scope.INSTANCE, macros,
    ),
    Check(
        "top-level-and-functional-groups", (*_COMPARED, *(FUNCTIONAL_GROUPS[tag][1] for tag in (tags.ECHO_TIME,))),
        FindingKind.CONTRADICTION, Severity.NOTE,
        "a parameter at the top level equals that of one frame at least, 1 %",
        "PS3.3 C.7.6.16: functional groups are where it is stated",
        "Philips and Siemens XA copy some to the top level, Philips rounded; parameters that are not copied",
        Scope.INSTANCE, top_level,
    ),
)  # fmt: skip
