r"""Where in one instance a change is written: at the top level, or in the functional groups of an enhanced image.

Called by `copies`. Sources: PS3.3 C.7.6.2, C.8.3.1 (classic MR); C.7.6.16 (functional groups), C.8.13.5 (those of MR),
C.7.6.16.2.25 and 26 (what a legacy converted image keeps in its classic form).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from iap_node.correction.changes import MATRIX, Change, matrix_steps
from iap_node.correction.values import Attribute, UnusableValue, attribute, encode_value, same_text
from iap_node.dicom.encoded import EncodedInstance
from iap_node.dicom.header import PER_FRAME_GROUPS, SHARED_GROUPS
from iap_node.dicom.values import items, raw_text

GROUPS = (SHARED_GROUPS, PER_FRAME_GROUPS)
_PHASE_ENCODING_DIRECTION = 0x00181312
_UNASSIGNED_SHARED, _UNASSIGNED_PER_FRAME = 0x00209170, 0x00209171

# Keyword -> functional group macro, and what the element is called there. Others are looked for in all macros.
_MACROS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("RepetitionTime", "FlipAngle", "EchoTrainLength", "RFEchoTrainLength", "GradientEchoTrainLength"),
        ("MRTimingAndRelatedParametersSequence", ""),
    ),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "EffectiveEchoTime": ("MREchoSequence", ""),
    "InversionTime": ("MRModifierSequence", "InversionTimes"),
    "InversionTimes": ("MRModifierSequence", ""),
    "NumberOfAverages": ("MRAveragesSequence", ""),
    "ImagingFrequency": ("MRImagingModifierSequence", "TransmitterFrequency"),
    "TransmitterFrequency": ("MRImagingModifierSequence", ""),
    "PixelBandwidth": ("MRImagingModifierSequence", ""),
    **dict.fromkeys(
        ("SliceThickness", "SpacingBetweenSlices", "PixelSpacing"), ("PixelMeasuresSequence", "")
    ),
    "ImageOrientationPatient": ("PlaneOrientationSequence", ""),
    "ImagePositionPatient": ("PlanePositionSequence", ""),
    **dict.fromkeys(
        (
            "InPlanePhaseEncodingDirection",
            "PercentSampling",
            "PercentPhaseFieldOfView",
            "MRAcquisitionFrequencyEncodingSteps",
            "MRAcquisitionPhaseEncodingStepsInPlane",
        ),
        ("MRFOVGeometrySequence", ""),
    ),
    "ReceiveCoilName": ("MRReceiveCoilSequence", ""),
    "TransmitCoilName": ("MRTransmitCoilSequence", ""),
}
_MATRIX_STEPS = ("MRAcquisitionFrequencyEncodingSteps", "MRAcquisitionPhaseEncodingStepsInPlane")


@dataclass(frozen=True, slots=True)
class Write:
    """One element in one place of one instance."""

    change: Change
    attribute: Attribute  # where the standard has it: Effective Echo Time for Echo Time
    path: tuple[tuple[int, int], ...]  # (sequence, item from 0), outermost first; () at the top level
    old: str | None  # as written; None: absent
    new: str | None  # as it is to be written; None: the element goes

    @property
    def place(self) -> str:
        """Where, for people."""
        if not self.path:
            return ""
        where = {SHARED_GROUPS: "all frames", PER_FRAME_GROUPS: "per frame"}[self.path[0][0]]
        return f"functional groups, {where}"

    @property
    def does_something(self) -> bool:
        """Whether the value is another one."""
        return not same_text(self.old, self.new)


def tags_of_interest(changes: Iterable[Change]) -> set[int]:
    """The top-level elements that `writes` looks at."""
    tags = {*GROUPS, 0x00080005, _PHASE_ENCODING_DIRECTION, attribute(MATRIX).tag}
    return tags | {attribute(change.keyword).tag for change in changes}


def writes(instance: EncodedInstance, ds: Dataset, changes: Sequence[Change]) -> list[Write]:
    """Every place of an instance that the changes are about, whether its value is another one or not.

    Parameters
    ----------
    ds
        `tags_of_interest` of the instance.

    Raises
    ------
    UnusableValue
        There is no place for a value: a functional group is missing, or nothing says which way a matrix goes.
    """
    found: list[Write] = []
    for change in changes:
        for one in _parts(change, ds):
            found += _in_instance(one, ds, has_pixels=instance.has_pixels)
    return found


def apply(ds: Dataset, one: Write, instance: EncodedInstance) -> None:
    """Write one value into its place within the functional groups in `ds`."""
    item = ds
    for sequence, number in one.path:
        item = item[sequence].value[number]
    tag = Tag(one.attribute.tag)
    if one.new is None:
        del item[tag]
        return
    value = encode_value(one.attribute, one.new, instance.encoding.little, instance.specific_character_set)
    vr = None if instance.encoding.implicit else one.attribute.vr
    item[tag] = RawDataElement(tag, vr, len(value), value, 0, instance.encoding.implicit, instance.encoding.little)


def applicable(one: Write, old_values: Sequence[str | None]) -> bool:
    """Whether a change holds for the value that stands in one place, given all that stand in the series.

    Raises
    ------
    UnusableValue
        The series has several values, and nothing says which of them is wrong.
    """
    change = one.change
    if change.replaces is not None:
        return is_replaced(one)
    if change.only_missing:
        return not one.old
    if change.everywhere or len(old_values) <= 1:
        return True
    if change.found and any(_is_found(value, change) for value in old_values):
        return _is_found(one.old, change)
    shown = ", ".join("absent" if value is None else repr(value[:24]) for value in old_values[:5])
    raise UnusableValue(
        f"{one.attribute.title} has {len(old_values)} values in the series ({shown}) and {change.reason} does not say "
        f"which is wrong; --set '{change.keyword}[OLD]={change.value or ''}' replaces one, "
        f"--set '{change.keyword}[*]={change.value or ''}' all"
    )


def is_replaced(one: Write) -> bool:
    """Whether the old value is the one that a change replaces; "" stands for an absent one too."""
    return same_text(one.old, one.change.replaces) or (not one.old and one.change.replaces == "")


def _is_found(value: str | None, change: Change) -> bool:
    if value is None:
        return False
    if change.keyword == MATRIX and (steps := matrix_steps(value)) is not None:
        return steps == matrix_steps(change.found)
    return same_text(value, change.found)


# ---------------------------------------------------------------- what is written


def _parts(change: Change, ds: Dataset) -> Iterator[Change]:
    """A change as changes of elements: a matrix is two elements in functional groups, and four values outside."""
    steps = None if change.keyword != MATRIX or change.value is None else matrix_steps(change.value)
    if steps is None:
        yield change
    elif _has_groups(ds) and (_in_macros(ds, _MATRIX_STEPS[0]) or not _in_unassigned(ds, attribute(MATRIX).tag)):
        found = matrix_steps(change.found) if change.found else None
        old = matrix_steps(change.replaces) if change.replaces else None
        for index, keyword in enumerate(_MATRIX_STEPS):
            yield replace(
                change,
                keyword=keyword,
                value=str(steps[index]),
                found="" if found is None else str(found[index]),
                replaces=change.replaces if old is None else str(old[index]),
            )
    else:
        yield change if "\\" in (change.value or "") else replace(change, value=_matrix_values(steps, ds))


def _matrix_values(steps: tuple[int, int], ds: Dataset) -> str:
    """Frequency rows, frequency columns, phase rows, phase columns: two of them are 0."""
    frequency, phase = steps
    old = (raw_text(ds, attribute(MATRIX).tag) or "").split("\\")
    along_rows = [part.strip() != "0" for part in old]
    direction = (raw_text(ds, _PHASE_ENCODING_DIRECTION) or "").upper()
    if along_rows in ([True, False, False, True], [False, True, True, False]):
        direction = "COL" if along_rows[0] else "ROW"
    if direction.startswith("COL"):
        return f"{frequency}\\0\\0\\{phase}"
    if direction == "ROW":
        return f"0\\{frequency}\\{phase}\\0"
    raise UnusableValue(
        f"{attribute(MATRIX).title} of {frequency}x{phase} cannot be written: neither the old value nor In-plane "
        r"Phase Encoding Direction (0018,1312) says which way the phase goes; set all four values, as in "
        rf"--set 'AcquisitionMatrix={frequency}\0\0\{phase}'"
    )


# ---------------------------------------------------------------- where


def _in_instance(change: Change, ds: Dataset, *, has_pixels: bool) -> list[Write]:
    own = attribute(change.keyword)
    macro, inner = _macro(change.keyword)
    at_top = [Write(change, own, (), raw_text(ds, own.tag), change.value)]
    if not _has_groups(ds):
        if at_top[0].old is None and (not has_pixels or change.value is None):
            return []  # a raw data object beside the images of a series states no echo time
        return at_top
    found = [
        Write(change, inner, path, raw_text(item, inner.tag), change.value)
        for path, item in _macro_items(ds, None if macro is None else attribute(macro).tag)
        if inner.tag in item
    ]
    found += [
        Write(change, own, path, raw_text(item, own.tag), change.value)
        for path, item in _in_unassigned(ds, own.tag)
    ]
    if found:
        return found + (at_top if at_top[0].old is not None else [])  # which would contradict them otherwise
    if at_top[0].old is not None or macro is None:
        return at_top if at_top[0].old is not None or change.value is not None else []
    if change.value is None:
        return []
    return [
        Write(change, inner, path, None, change.value) for path, _ in _macro_items(ds, attribute(macro).tag)
    ] or _new_unassigned(change, own, ds, macro)


def _macro(keyword: str) -> tuple[str | None, Attribute]:
    macro, inner = _MACROS.get(keyword, (None, ""))
    return macro, attribute(inner or keyword)


def _has_groups(ds: Dataset) -> bool:
    return any(tag in ds for tag in GROUPS)


def _in_macros(ds: Dataset, keyword: str) -> bool:
    macro, inner = _macro(keyword)
    assert macro is not None
    return any(inner.tag in item for _, item in _macro_items(ds, attribute(macro).tag))


def _macro_items(ds: Dataset, macro: int | None) -> Iterator[tuple[tuple[tuple[int, int], ...], Dataset]]:
    """The items of one macro, or of all, with the way to them; the standard allows one item in each."""
    for group in GROUPS:
        for number, frame in enumerate(items(ds, group)):
            for sequence in [macro] if macro is not None else _standard_sequences(frame):
                for inner, item in enumerate(items(frame, sequence)):
                    yield ((group, number), (sequence, inner)), item


@lru_cache(maxsize=1)
def _not_macros() -> frozenset[int]:
    """Sequences of functional groups whose items tell of something else than the frame."""
    names = ("ReferencedImageSequence", "DerivationImageSequence", "FrameAnatomySequence")
    return frozenset({*(attribute(name).tag for name in names), _UNASSIGNED_SHARED, _UNASSIGNED_PER_FRAME})


def _standard_sequences(frame: Dataset) -> list[int]:
    return [int(tag) for tag in frame.keys() if not tag.is_private and tag not in _not_macros()]  # noqa: SIM118


def _in_unassigned(ds: Dataset, tag: int) -> list[tuple[tuple[tuple[int, int], ...], Dataset]]:
    return [
        found
        for sequence in (_UNASSIGNED_SHARED, _UNASSIGNED_PER_FRAME)
        for found in _macro_items(ds, sequence)
        if tag in found[1]
    ]


def _new_unassigned(change: Change, own: Attribute, ds: Dataset, macro: str) -> list[Write]:
    """A legacy converted image keeps what no functional group took; others lack the group that it belongs to."""
    for sequence in (_UNASSIGNED_SHARED, _UNASSIGNED_PER_FRAME):
        if there := list(_macro_items(ds, sequence)):
            return [Write(change, own, path, None, change.value) for path, _ in there]
    raise UnusableValue(
        f"{own.title} belongs into {attribute(macro).title}, which the functional groups of the series do not have; "
        "have it sent again with that group"
    )

