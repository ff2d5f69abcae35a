"""Where the slices of a series lie: orientation, positions, spacing (PS3.3 C.7.6.2)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from statistics import median

from iap_node.audit.checks import tags
from iap_node.audit.checks.check import Check, Doubt, Scope, is_original, shown, title
from iap_node.dicom.parameters import canonical_number
from iap_node.dicom.statements import Image, InstanceStatements, Stated, numbers_of
from iap_node.records import FindingKind, Severity

Vector = tuple[float, float, float]

_ORTHONORMAL_TOLERANCE = 1e-3  # measured: all real headers hold it, GE with rounding jitter
_SAME_NORMAL = 0.9995  # cosine; GE writes one orientation with rounding jitter
_GAP_TOLERANCE = 0.02  # of the spacing
_FEWEST_GAPS = 3
_FEWEST_SLICES = 6  # before one of them can be called the odd one
_IN_LINE_MM, _OFF_LINE_MM = 0.1, 1.0
_ON_GRID, _OFF_GRID = 0.03, 0.1  # of the spacing
_MOST_STACKS = 64
_SMALLEST_SPACING_MM, _FARTHEST_MM = 1e-3, 1e5


@dataclass(slots=True)
class Stack:
    """The slices of one orientation: their places along the normal and beside it."""

    normal: Vector
    orientation: str
    spacing: float | None
    spacing_raw: str
    is_original: bool
    positions: list[tuple[Vector, str]] = field(default_factory=list)  # and as written


@lru_cache(maxsize=4096)
def normal_of(orientation: str) -> Vector | None:
    """Unit normal of Image Orientation (Patient); None where it is no orientation."""
    numbers = [canonical_number(part) for part in orientation.split("\\")]
    if len(numbers) != 6:
        return None
    rx, ry, rz, cx, cy, cz = (0.0 if number is None or abs(number) > 2 else number for number in numbers)
    normal = (ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx)
    length = math.hypot(*normal)
    return (normal[0] / length, normal[1] / length, normal[2] / length) if length > 0.5 else None


@lru_cache(maxsize=4096)
def _orthonormal_error(orientation: str) -> float | None:
    numbers = numbers_of(Stated(tags.IMAGE_ORIENTATION_PATIENT, "DS", orientation), 6)
    if numbers is None:
        return None
    row, column = numbers[:3], numbers[3:]
    lengths = (abs(math.hypot(*row) - 1), abs(math.hypot(*column) - 1))
    return max(*lengths, abs(sum(a * b for a, b in zip(row, column, strict=True))))


def orientation(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Row and column directions are unit vectors at right angles."""
    raw, tag = image.text(tags.IMAGE_ORIENTATION_PATIENT), tags.IMAGE_ORIENTATION_PATIENT
    error = _orthonormal_error(raw) if raw else None
    if error is not None and error > _ORTHONORMAL_TOLERANCE:
        evidence = f"{title(tag)} {shown(raw)}: its directions are no unit vectors at right angles (off by {error:.3g})"
        yield Doubt(tag, evidence, raw)


def stacks(instances: Sequence[InstanceStatements]) -> list[Stack]:
    """The slices of a series by orientation and stated spacing; sheets of tiles have no place here."""
    found: list[Stack] = []
    by_text: dict[tuple[str, str, bool], Stack | None] = {}
    for instance in instances:
        if instance.grid is not None or instance.grid_problem:
            continue
        for image in instance.images:
            key = (
                image.text(tags.IMAGE_ORIENTATION_PATIENT), image.text(tags.SPACING_BETWEEN_SLICES), is_original(image)
            )  # fmt: skip
            if key not in by_text:
                by_text[key] = _stack(found, key)
            stack = by_text[key]
            for place in image.places if stack is not None else ():
                stated = place.get(tags.IMAGE_POSITION_PATIENT)
                position = numbers_of(stated, 3)
                if stack is None or stated is None or position is None:
                    continue
                if max(map(abs, position)) < _FARTHEST_MM:
                    stack.positions.append(((position[0], position[1], position[2]), stated.raw))
    return found


def _stack(found: list[Stack], key: tuple[str, str, bool]) -> Stack | None:
    text, spacing_raw, original = key
    normal = normal_of(text)
    if normal is None:
        return None
    for stack in found:
        same = abs(sum(a * b for a, b in zip(stack.normal, normal, strict=True))) > _SAME_NORMAL
        if same and stack.spacing_raw == spacing_raw and stack.is_original == original:
            return stack
    if len(found) >= _MOST_STACKS:
        return None
    spacing = abs(canonical_number(spacing_raw) or 0.0)
    known = spacing if _SMALLEST_SPACING_MM < spacing < _FARTHEST_MM else None
    found.append(Stack(normal, text, known, spacing_raw, original))
    return found[-1]


def _along(normal: Vector, position: Vector) -> float:
    return normal[0] * position[0] + normal[1] * position[1] + normal[2] * position[2]


def positions_and_spacing(instances: Sequence[InstanceStatements]) -> Iterator[Doubt]:
    """Steps from slice to slice are whole multiples of Spacing Between Slices."""
    for stack in stacks(instances):
        if stack.spacing is None or not stack.is_original:
            continue
        gaps = _gaps(stack, stack.spacing)
        wrong = [gap for gap in gaps if not _is_multiple(gap, stack.spacing)]
        if len(gaps) < _FEWEST_GAPS or 2 * len(wrong) <= len(gaps):
            continue
        step = median(gaps)
        is_even = all(abs(gap - step) <= _GAP_TOLERANCE * step for gap in gaps)
        suggested = f"{step:.6g}" if is_even and 0.5 < step / stack.spacing < 1.9 else None
        tag = tags.SPACING_BETWEEN_SLICES
        evidence = (
            f"{title(tag)} is {stack.spacing:g} mm; {len(wrong)} of {len(gaps)} steps between positions are no "
            f"multiple of it, the middle one is {step:.5g} mm (tolerance 2 %)"
        )
        yield Doubt(tag, evidence, stack.spacing_raw, suggested)


def _gaps(stack: Stack, spacing: float) -> list[float]:
    places = sorted(_along(stack.normal, position) for position, _ in stack.positions)
    gaps = (after - before for before, after in pairwise(places))
    return [gap for gap in gaps if gap > 0.02 * spacing]  # volumes and echoes share places


def _is_multiple(gap: float, spacing: float) -> bool:
    whole = round(gap / spacing)
    return whole >= 1 and abs(gap - whole * spacing) <= _GAP_TOLERANCE * spacing + 0.002 * gap


def odd_position(instances: Sequence[InstanceStatements]) -> Iterator[Doubt]:
    """No single slice lies beside the line or between the places of all others."""
    tag = tags.IMAGE_POSITION_PATIENT
    for stack in stacks(instances):
        if not stack.is_original or len(stack.positions) < _FEWEST_SLICES:
            continue
        distances = [_along(stack.normal, position) for position, _ in stack.positions]
        beside = [
            tuple(position[axis] - distance * stack.normal[axis] for axis in range(3))
            for (position, _), distance in zip(stack.positions, distances, strict=True)
        ]
        centre = tuple(median(place[axis] for place in beside) for axis in range(3))
        offsets = [math.dist(place, centre) for place in beside]
        odd = [number for number, offset in enumerate(offsets) if offset > _IN_LINE_MM]
        if len(odd) == 1 and offsets[odd[0]] > _OFF_LINE_MM:
            raw = stack.positions[odd[0]][1]
            evidence = (
                f"{title(tag)} {shown(raw)} lies {offsets[odd[0]]:.4g} mm beside the line of the other "
                f"{len(offsets) - 1} slices"
            )
            yield Doubt(tag, evidence, raw)
        elif stack.spacing is not None and not odd:
            shares = [distance / stack.spacing for distance in distances]
            start = median(share - math.floor(share) for share in shares)
            off = [abs(share - start - round(share - start)) for share in shares]
            between = [number for number, share in enumerate(off) if share > _ON_GRID]
            if len(between) == 1 and off[between[0]] > _OFF_GRID:
                raw = stack.positions[between[0]][1]
                evidence = (
                    f"{title(tag)} {shown(raw)} lies {off[between[0]] * stack.spacing:.4g} mm off the places that "
                    f"Spacing Between Slices {stack.spacing:g} mm gives the other {len(off) - 1} slices"
                )
                yield Doubt(tag, evidence, raw)


def odd_orientation(instances: Sequence[InstanceStatements]) -> Iterator[Doubt]:
    """No single slice of many is turned."""
    tag = tags.IMAGE_ORIENTATION_PATIENT
    groups: list[tuple[Vector, list[str]]] = []
    for instance in instances:
        for image in instance.images:
            text = image.text(tag)
            normal = normal_of(text) if is_original(image) else None
            if normal is None or len(groups) > 2:
                continue
            own = next((g for g in groups if abs(_along(g[0], normal)) > _SAME_NORMAL), None)
            if own is None:
                groups.append((normal, [text]))
            else:
                own[1].append(text)
    groups.sort(key=lambda group: len(group[1]))
    if len(groups) == 2 and len(groups[0][1]) == 1 and len(groups[1][1]) >= _FEWEST_SLICES:
        angle = math.degrees(math.acos(min(1.0, abs(_along(groups[0][0], groups[1][0])))))
        evidence = f"{title(tag)} of one slice is {angle:.3g} degrees off that of the other {len(groups[1][1])}"
        yield Doubt(tag, evidence, groups[0][1][0])


CHECKS = (
    Check(
        "orientation-orthonormal", (tags.IMAGE_ORIENTATION_PATIENT,), FindingKind.VALUE, Severity.ERROR,
        "row and column directions have length 1 and a dot product of 0, each within 1e-3",
        "PS3.3 C.7.6.2.1.1 (orthogonal, normal)",
        "rounding jitter (GE)",
        Scope.IMAGE, orientation,
    ),
    Check(
        "positions-and-spacing",
        (tags.SPACING_BETWEEN_SLICES, tags.IMAGE_POSITION_PATIENT, tags.IMAGE_ORIENTATION_PATIENT),
        FindingKind.CONTRADICTION, Severity.WARNING,
        "more than half of at least 3 steps along the normal are multiples of Spacing Between Slices, 2 %",
        "PS3.3 C.7.6.2.1.1, C.8.3.1; real series that break it state a wrong spacing",
        "missing slices; groups of slices with a gap between them; volumes and echoes at one place; mosaics; derived "
        "images",
        Scope.SERIES, positions_and_spacing,
    ),
    Check(
        "odd-position", (tags.IMAGE_POSITION_PATIENT, tags.SPACING_BETWEEN_SLICES), FindingKind.INCONSTANT,
        Severity.WARNING,
        "of at least 6 slices of one orientation not a single one lies over 1 mm beside the line of the others, or "
        "over a tenth of the spacing off their places",
        "PS3.3 C.7.6.2.1.1",
        "two or more slices apart from the rest: groups of slices, motion correction",
        Scope.SERIES, odd_position,
    ),
    Check(
        "odd-orientation", (tags.IMAGE_ORIENTATION_PATIENT,), FindingKind.INCONSTANT, Severity.NOTE,
        "of at least 7 slices not a single one has another orientation than all others (2 degrees)",
        "PS3.3 C.7.6.2.1.1",
        "localizers and radial series, which have more orientations than two",
        Scope.SERIES, odd_orientation,
    ),
)  # fmt: skip
