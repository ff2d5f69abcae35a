"""Headers of real series made wrong, one thing at a time: every parameter, its unit, its neighbour, one of many.

A corruption changes what instances state, after they were read; that what is read is what is written is the subject of
tests/unit/dicom/test_statements.py. Each says which elements it touches and whether a witness who sees nothing but the
header can tell: by the standard, by physics, or by another element that says the same. A plausible value that nothing
else in the header repeats is for the pixels and the scanner's habit to find.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pydicom.datadict import dictionary_VR

from iap_node.audit.checks import tags
from iap_node.audit.checks.geometry import stacks
from iap_node.audit.checks.relations import extents_mm, matrix_steps
from iap_node.dicom.parameters import canonical_number
from iap_node.dicom.sop_classes import MR_IMAGE_STORAGE
from iap_node.dicom.statements import Image, InstanceStatements, PixelsThere, Stated

Change = Callable[[str], str | None]  # of a raw value; None: the element goes

NUMBERS = (
    tags.REPETITION_TIME, tags.ECHO_TIME, tags.INVERSION_TIME, tags.MAGNETIC_FIELD_STRENGTH, tags.IMAGING_FREQUENCY,
    tags.FLIP_ANGLE, tags.SLICE_THICKNESS, tags.SPACING_BETWEEN_SLICES, tags.PIXEL_BANDWIDTH, tags.PERCENT_SAMPLING,
    tags.PERCENT_PHASE_FIELD_OF_VIEW, tags.RECONSTRUCTION_DIAMETER, tags.NUMBER_OF_AVERAGES, tags.PIXEL_SPACING,
    tags.ECHO_TRAIN_LENGTH,
)  # fmt: skip
# Of MR Image Storage: type 1, and type 2.
NEEDED = (
    tags.IMAGE_TYPE, tags.MODALITY, tags.SCANNING_SEQUENCE, tags.SEQUENCE_VARIANT, tags.IMAGE_POSITION_PATIENT,
    tags.IMAGE_ORIENTATION_PATIENT, tags.FRAME_OF_REFERENCE_UID, tags.ROWS, tags.COLUMNS, tags.PIXEL_SPACING,
    tags.BITS_ALLOCATED, tags.BITS_STORED, tags.HIGH_BIT, tags.PIXEL_REPRESENTATION, tags.SAMPLES_PER_PIXEL,
    tags.PHOTOMETRIC_INTERPRETATION,
)  # fmt: skip
KNOWN = (
    tags.MANUFACTURER, tags.SLICE_THICKNESS, tags.REPETITION_TIME, tags.ECHO_TIME, tags.ECHO_TRAIN_LENGTH,
    tags.PATIENT_POSITION, tags.MR_ACQUISITION_TYPE, tags.SERIES_NUMBER, tags.INSTANCE_NUMBER,
)  # fmt: skip
ALIKE = (
    tags.MANUFACTURER, tags.MANUFACTURER_MODEL_NAME, tags.DEVICE_SERIAL_NUMBER, tags.SOFTWARE_VERSIONS,
    tags.PATIENT_POSITION, tags.SCANNING_SEQUENCE, tags.SEQUENCE_VARIANT, tags.SCAN_OPTIONS, tags.MR_ACQUISITION_TYPE,
    tags.MAGNETIC_FIELD_STRENGTH, tags.SLICE_THICKNESS, tags.REPETITION_TIME, tags.ECHO_TIME, tags.FLIP_ANGLE,
    tags.NUMBER_OF_AVERAGES, tags.IMAGING_FREQUENCY, tags.SPACING_BETWEEN_SLICES, tags.ECHO_TRAIN_LENGTH,
    tags.PERCENT_SAMPLING, tags.PERCENT_PHASE_FIELD_OF_VIEW, tags.PIXEL_BANDWIDTH, tags.RECONSTRUCTION_DIAMETER,
    tags.ACQUISITION_MATRIX, tags.IN_PLANE_PHASE_ENCODING_DIRECTION, tags.PIXEL_SPACING, tags.PROTOCOL_NAME,
    tags.STUDY_INSTANCE_UID, tags.FRAME_OF_REFERENCE_UID, tags.IMAGED_NUCLEUS,
)  # fmt: skip
OTHER_MAKERS = {
    "GE MEDICAL SYSTEMS": ("SIEMENS", "Skyra"),
    "SIEMENS": ("GE MEDICAL SYSTEMS", "SIGNA Pioneer"),
    "Siemens Healthineers": ("Philips", "Achieva"),
    "Philips": ("SIEMENS", "TrioTim"),
    "Philips Medical Systems": ("GE MEDICAL SYSTEMS", "SIGNA Architect"),
    "CANON_MEC": ("SIEMENS", "Prisma_fit"),
    "UIH": ("Philips", "Ingenia Elition X"),
}


@dataclass(frozen=True)
class Corruption:
    """One thing made wrong in a series."""

    name: str
    touched: tuple[int, ...]
    visible: bool  # to who sees the header alone
    instances: tuple[InstanceStatements, ...]


# ---------------------------------------------------------------- tools


def stated_with(image: Image, tag: int, change: Change) -> Image:
    """The image with one element changed, at its place or in its functional group."""
    found = image.get(tag)
    stated = dict(image.stated)
    if found is not None:
        raw = change(found.raw)
        if raw is None:
            del stated[tag]
        else:
            stated[tag] = found._replace(raw=raw)
    places = []
    for place in image.places:
        other = dict(place)
        if tag in other:
            raw = change(other[tag].raw)
            if raw is None:
                del other[tag]
            else:
                other[tag] = other[tag]._replace(raw=raw)
        places.append(other)
    return Image(stated, image.is_frame, tuple(places), image.groups)


def changed(instance: InstanceStatements, tag: int, change: Change) -> InstanceStatements:
    """The instance with one element changed where it is stated: in all frames, or at the top level."""
    images = tuple(stated_with(image, tag, change) for image in instance.images)
    is_classic = len(instance.images) == 1 and instance.images[0] is instance.top
    in_frames = any(image.is_frame and tag in image.stated for image in instance.images)
    top = images[0] if is_classic else instance.top
    if not is_classic and not (in_frames and tag not in instance.top.stated):
        top = stated_with(instance.top, tag, change)
    return dataclasses.replace(instance, top=top, images=images)


def all_changed(instances: Sequence[InstanceStatements], changes: dict[int, Change]) -> tuple[InstanceStatements, ...]:
    result = []
    for instance in instances:
        for tag, change in changes.items():
            instance = changed(instance, tag, change)
        result.append(instance)
    return tuple(result)


def with_top(instance: InstanceStatements, elements: dict[int, str]) -> InstanceStatements:
    """The instance with these elements at its top level, whether it had them or not."""
    added = {tag: Stated(tag, dictionary_VR(tag)[:2], raw) for tag, raw in elements.items()}
    top = Image({**instance.top.stated, **added}, places=instance.top.places)
    is_classic = len(instance.images) == 1 and instance.images[0] is instance.top
    return dataclasses.replace(instance, top=top, images=(top,) if is_classic else instance.images)


def times(factor: float) -> Change:
    def change(raw: str) -> str:
        numbers = [canonical_number(part) for part in raw.split("\\")]
        return "\\".join(f"{number * factor:.10g}" for number in numbers if number is not None)

    return change


def to(text: str | None) -> Change:
    return lambda _: text


def with_value(instances: Sequence[InstanceStatements], tag: int) -> bool:
    """Whether all instances state a value, in all frames."""
    return all(image.text(tag) for instance in instances for image in instance.images)


def are_classic(instances: Sequence[InstanceStatements]) -> bool:
    return all(instance.sop_class_uid == MR_IMAGE_STORAGE for instance in instances)


def number(instances: Sequence[InstanceStatements], tag: int) -> float | None:
    values = {image.number(tag) for instance in instances for image in instance.images}
    return values.pop() if len(values) == 1 else None


# ---------------------------------------------------------------- corruptions


def written_wrong(instances: Sequence[InstanceStatements]) -> Iterator[Corruption]:
    """Numbers that are none."""
    ways: dict[str, Change] = {
        "comma": lambda raw: raw.replace(".", ",") if "." in raw else f"{raw},5",
        "nan": to("NaN"),
        "infinity": to("inf"),
        "unit": lambda raw: f"{raw} units",
    }
    for tag in NUMBERS:
        if with_value(instances, tag) and all(
            image.stated[tag].vr in ("DS", "IS", "FD") for one in instances for image in one.images
        ):
            for way, change in ways.items():
                yield Corruption(f"{way} in {tag:08X}", (tag,), True, all_changed(instances, {tag: change}))
    for tag in (tags.ECHO_TIME, tags.REPETITION_TIME, tags.PIXEL_SPACING, tags.IMAGE_ORIENTATION_PATIENT):
        if with_value(instances, tag):
            yield Corruption(
                f"one value too many in {tag:08X}", (tag,), True,
                all_changed(instances, {tag: lambda raw: f"{raw}\\1"}),
            )  # fmt: skip


def missing(instances: Sequence[InstanceStatements]) -> Iterator[Corruption]:
    """Elements of classic images that are absent or empty."""
    for tag in NEEDED:
        if with_value(instances, tag):
            yield Corruption(f"{tag:08X} absent", (tag,), True, all_changed(instances, {tag: to(None)}))
            yield Corruption(f"{tag:08X} empty", (tag,), True, all_changed(instances, {tag: to("")}))
    for tag in KNOWN:
        if with_value(instances, tag):
            single_shot = tag == tags.REPETITION_TIME and any(
                "EP" in one.top.terms(tags.SCANNING_SEQUENCE) and "SK" not in one.top.terms(tags.SEQUENCE_VARIANT)
                for one in instances
            )
            yield Corruption(f"{tag:08X} absent", (tag,), not single_shot, all_changed(instances, {tag: to(None)}))
    field = tags.MAGNETIC_FIELD_STRENGTH
    if with_value(instances, field) and with_value(instances, tags.IMAGING_FREQUENCY):
        yield Corruption("field strength absent", (field,), True, all_changed(instances, {field: to(None)}))


def in_other_units(instances: Sequence[InstanceStatements]) -> Iterator[Corruption]:
    first = instances[0].images[0]
    terms = first.terms(tags.SCANNING_SEQUENCE)
    late_echo = "EP" in terms or ("SE" in terms and "GR" not in terms)
    echo, angle = number(instances, tags.ECHO_TIME), number(instances, tags.FLIP_ANGLE)
    rows = first.numbers(tags.PIXEL_SPACING, 2)
    original = first.terms(tags.IMAGE_TYPE)[:1] == ("ORIGINAL",)
    kinds, spacing = first.terms(tags.MR_ACQUISITION_TYPE), number(instances, tags.SPACING_BETWEEN_SLICES)
    ways: list[tuple[str, int, float, bool]] = [
        ("frequency in Hz", tags.IMAGING_FREQUENCY, 1e6, True),
        ("frequency in kHz", tags.IMAGING_FREQUENCY, 1e3, True),
        ("field in gauss", tags.MAGNETIC_FIELD_STRENGTH, 1e4, True),
        ("field in mT", tags.MAGNETIC_FIELD_STRENGTH, 1e3, True),
        ("TE in s", tags.ECHO_TIME, 1e-3, late_echo or (echo is not None and echo < 8)),
        ("TE in us", tags.ECHO_TIME, 1e3, True),
        ("TR in s", tags.REPETITION_TIME, 1e-3, True),
        ("TI in s", tags.INVERSION_TIME, 1e-3, True),
        ("thickness in m", tags.SLICE_THICKNESS, 1e-3, True),
        ("thickness in um", tags.SLICE_THICKNESS, 1e3, True),
        ("thickness in cm", tags.SLICE_THICKNESS, 0.1, original and kinds == ("3D",) and bool(spacing)),
        ("pixel spacing in m", tags.PIXEL_SPACING, 1e-3, rows is not None and rows[0] < 5),
        ("pixel spacing in um", tags.PIXEL_SPACING, 1e3, True),
        ("pixel spacing in cm", tags.PIXEL_SPACING, 0.1, original and bool(first.text(tags.RECONSTRUCTION_DIAMETER))),
        ("bandwidth in kHz", tags.PIXEL_BANDWIDTH, 1e-3, True),
        ("phase field of view as a fraction", tags.PERCENT_PHASE_FIELD_OF_VIEW, 0.01, True),
        ("sampling as a fraction", tags.PERCENT_SAMPLING, 0.01, True),
        ("flip angle in radians", tags.FLIP_ANGLE, 3.14159265 / 180, angle is not None and angle < 11),
    ]
    for name, tag, factor, visible in ways:
        value = number(instances, tag)
        in_hertz = tag == tags.IMAGING_FREQUENCY and value is not None and value > 1e6
        if with_value(instances, tag) and value != 0 and not in_hertz:
            yield Corruption(name, (tag,), visible, all_changed(instances, {tag: times(factor)}))


def contradicting(instances: Sequence[InstanceStatements]) -> Iterator[Corruption]:
    first = instances[0].images[0]
    original = first.terms(tags.IMAGE_TYPE)[:1] == ("ORIGINAL",)
    kinds, frames = first.terms(tags.MR_ACQUISITION_TYPE), any(i.is_frame for one in instances for i in one.images)
    echo, repetition = first.text(tags.ECHO_TIME), first.text(tags.REPETITION_TIME)
    both = with_value(instances, tags.ECHO_TIME) and with_value(instances, tags.REPETITION_TIME)
    if both:
        yield Corruption(
            "TE and TR swapped", (tags.ECHO_TIME, tags.REPETITION_TIME), True,
            all_changed(instances, {tags.ECHO_TIME: to(repetition), tags.REPETITION_TIME: to(echo)}),
        )  # fmt: skip
    thickness, spacing = first.number(tags.SLICE_THICKNESS), first.number(tags.SPACING_BETWEEN_SLICES)
    in_order = thickness is not None and spacing is not None and 1.01 * thickness < spacing
    if thickness and spacing and with_value(instances, tags.SPACING_BETWEEN_SLICES):
        if in_order:
            yield Corruption(
                "thickness and spacing swapped", (tags.SLICE_THICKNESS, tags.SPACING_BETWEEN_SLICES),
                original and kinds == ("2D",),
                all_changed(
                    instances,
                    {tags.SLICE_THICKNESS: to(f"{spacing:g}"), tags.SPACING_BETWEEN_SLICES: to(f"{thickness:g}")},
                ),
            )  # fmt: skip
        visible = original and (kinds == ("3D",) or 10 * thickness > 1.01 * spacing)
        yield Corruption(
            "thickness ten times", (tags.SLICE_THICKNESS,), visible,
            all_changed(instances, {tags.SLICE_THICKNESS: times(10)}),
        )  # fmt: skip
        gaps = sum(len({raw for _, raw in stack.positions}) - 1 for stack in stacks(instances))
        yield Corruption(
            "spacing a tenth more", (tags.SPACING_BETWEEN_SLICES,),
            original and gaps >= 3 and not _is_coarse(instances),
            all_changed(instances, {tags.SPACING_BETWEEN_SLICES: times(1.1)}),
        )  # fmt: skip
    if with_value(instances, tags.MAGNETIC_FIELD_STRENGTH) and with_value(instances, tags.IMAGING_FREQUENCY):
        for factor in (0.5, 2.0):
            yield Corruption(
                f"field times {factor:g}", (tags.MAGNETIC_FIELD_STRENGTH,), True,
                all_changed(instances, {tags.MAGNETIC_FIELD_STRENGTH: times(factor)}),
            )  # fmt: skip
        yield Corruption(
            "frequency a tenth less", (tags.IMAGING_FREQUENCY,), True,
            all_changed(instances, {tags.IMAGING_FREQUENCY: times(0.9)}),
        )  # fmt: skip
    if with_value(instances, tags.RECONSTRUCTION_DIAMETER) and extents_mm(first, instances[0]):
        for tag, name in ((tags.RECONSTRUCTION_DIAMETER, "diameter"), (tags.PIXEL_SPACING, "pixel spacing")):
            yield Corruption(f"{name} a tenth more", (tag,), original, all_changed(instances, {tag: times(1.1)}))
    steps, sampling = matrix_steps(first), first.text(tags.PERCENT_SAMPLING)
    if steps is not None and not frames:
        percent = original and kinds == ("2D",) and bool(sampling and first.text(tags.PERCENT_PHASE_FIELD_OF_VIEW))
        matrix = tags.ACQUISITION_MATRIX
        uih = "UIH" in first.text(tags.MANUFACTURER)
        one, two = (f"{steps[0]}\\0\\0\\{steps[1]}", f"0\\{steps[0]}\\{steps[1]}\\0")
        is_column = first.text(matrix) == one
        ways: list[tuple[str, str, bool]] = [
            ("matrix of the other direction", two if is_column else one, not uih or is_column),
            ("matrix without phase", f"{steps[0]}\\0\\0\\0", True),
            ("matrix four times", f"{4 * steps[0]}\\0\\0\\{4 * steps[1]}",
             original and _outgrows(instances, 4 * max(steps))),
            ("matrix of half the phase steps", f"{steps[0]}\\0\\0\\{steps[1] // 2}" if is_column else
             f"0\\{steps[0]}\\{steps[1] // 2}\\0", percent),
        ]  # fmt: skip
        for name, raw, visible in ways:
            yield Corruption(name, (matrix,), visible, all_changed(instances, {matrix: to(raw)}))
        direction = tags.IN_PLANE_PHASE_ENCODING_DIRECTION
        if with_value(instances, direction) and not (uih and not is_column):
            turned = all_changed(instances, {direction: to("ROW" if is_column else "COL")})
            yield Corruption("other phase direction", (direction,), True, turned)
        if percent:
            fov = tags.PERCENT_PHASE_FIELD_OF_VIEW
            yield Corruption("phase field of view four fifths", (fov,), True, all_changed(instances, {fov: times(0.8)}))
    maker = first.text(tags.MANUFACTURER)
    if maker in OTHER_MAKERS and original:
        other, model = OTHER_MAKERS[maker]
        yield Corruption(
            "another manufacturer", (tags.MANUFACTURER,), True, all_changed(instances, {tags.MANUFACTURER: to(other)})
        )  # fmt: skip
        yield Corruption(
            "another maker's model", (tags.MANUFACTURER_MODEL_NAME,), True,
            all_changed(instances, {tags.MANUFACTURER_MODEL_NAME: to(model)}),
        )  # fmt: skip
        if maker != "GE MEDICAL SYSTEMS" and with_value(instances, tags.SCAN_OPTIONS):
            yield Corruption(
                "GE's options", (tags.SCAN_OPTIONS,), True,
                all_changed(instances, {tags.SCAN_OPTIONS: to("FAST_GEMS\\PFP")}),
            )  # fmt: skip
        if maker not in ("GE MEDICAL SYSTEMS", "UIH"):
            from_scanner = all(first.text(tags.DEVICE_SERIAL_NUMBER) in one.sop_instance_uid for one in instances)
            yield Corruption(
                "another serial number", (tags.DEVICE_SERIAL_NUMBER,), from_scanner,
                all_changed(instances, {tags.DEVICE_SERIAL_NUMBER: to("54321")}),
            )  # fmt: skip
    with_volume = tuple(with_top(one, {tags.CONTRAST_BOLUS_VOLUME: "15"}) for one in instances)
    yield Corruption("a bolus without agent", (tags.CONTRAST_BOLUS_AGENT,), True, with_volume)
    yield Corruption(
        "orientation of length 1.1", (tags.IMAGE_ORIENTATION_PATIENT,), True,
        all_changed(instances, {tags.IMAGE_ORIENTATION_PATIENT: times(1.1)}),
    )  # fmt: skip


def _is_coarse(instances: Sequence[InstanceStatements]) -> bool:
    """Whether the slices left of the series happen to lie on places that the wrong spacing has too."""
    for stack in stacks(instances):
        spacing = (stack.spacing or 1.0) * 1.1
        places = sorted(
            sum(a * b for a, b in zip(stack.normal, position, strict=True)) for position, _ in stack.positions
        )
        gaps = [after - before for before, after in pairwise(places) if after - before > 0.1]
        off = [gap for gap in gaps if abs(gap - round(gap / spacing) * spacing) > 0.05 * spacing]
        if 2 * len(off) <= len(gaps):
            return True
    return False


def _outgrows(instances: Sequence[InstanceStatements], steps: int) -> bool:
    for one in instances:
        sides = (one.grid.tile_rows, one.grid.tile_columns) if one.grid else (
            one.top.number(tags.ROWS) or 0, one.top.number(tags.COLUMNS) or 0
        )  # fmt: skip
        if steps <= max(sides):
            return False
    return True


def wrong_terms(instances: Sequence[InstanceStatements]) -> Iterator[Corruption]:
    for tag, text in (
        (tags.PATIENT_POSITION, "PRONE"),
        (tags.SCANNING_SEQUENCE, "FLASH"),
        (tags.MR_ACQUISITION_TYPE, "4D"),
        (tags.MODALITY, "CT"),
        (tags.IMAGE_TYPE, "RECON\\PRIMARY"),
        (tags.FLIP_ANGLE, "0"),
        (tags.FLIP_ANGLE, "-10"),
        (tags.FLIP_ANGLE, "900"),
        (tags.IN_PLANE_PHASE_ENCODING_DIRECTION, "AP"),
    ):
        if with_value(instances, tag):
            derived = instances[0].images[0].terms(tags.IMAGE_TYPE)[:1] != ("ORIGINAL",)
            framed = any(image.is_frame for one in instances for image in one.images)
            defined = framed and tag == tags.MR_ACQUISITION_TYPE  # a defined term there: vendors may have others
            visible = not (derived and text == "0") and not defined
            yield Corruption(f"{text} in {tag:08X}", (tag,), visible, all_changed(instances, {tag: to(text)}))


def wrong_pixels(instances: Sequence[InstanceStatements]) -> Iterator[Corruption]:
    for tag, change in (
        (tags.BITS_STORED, to("24")),
        (tags.HIGH_BIT, to("3")),
        (tags.ROWS, times(2)),
        (tags.COLUMNS, times(2)),
        (tags.SAMPLES_PER_PIXEL, times(3)),
        (tags.NUMBER_OF_FRAMES, times(2)),
    ):
        if with_value(instances, tag):
            told = all(
                one.pixels is not None and (one.pixels.stated_bytes is not None or one.pixels.codestream is not None)
                for one in instances
            )
            visible = told or tag not in (tags.ROWS, tags.COLUMNS)
            yield Corruption(f"{tag:08X} wrong", (tag,), visible, all_changed(instances, {tag: change}))
    cut = tuple(
        dataclasses.replace(
            one,
            pixels=PixelsThere(one.pixels.tag, one.pixels.stated_bytes, one.pixels.bytes_there // 2, 1, False)
            if one.pixels
            else None,
        )
        for one in instances
    )
    yield Corruption("pixels cut off", (tags.PIXEL_DATA,), True, cut)
    gone = tuple(dataclasses.replace(one, pixels=None) for one in instances)
    yield Corruption("no pixels", (tags.PIXEL_DATA,), True, gone)


def of_few(instances: Sequence[InstanceStatements]) -> Iterator[Corruption]:
    """What only some series can have wrong, or what they must first be given."""
    first, everyone = instances[0], tuple(instances)
    image = first.images[0]
    original = image.terms(tags.IMAGE_TYPE)[:1] == ("ORIGINAL",)
    classic, framed = are_classic(instances), all(one.n_frames for one in instances)
    for tag in (tags.MANUFACTURER, tags.SLICE_THICKNESS, tags.ECHO_TIME):
        if classic and original and with_value(instances, tag):
            yield Corruption(f"{tag:08X} empty", (tag,), True, all_changed(instances, {tag: to("")}))
    inversion, sequence = tags.INVERSION_TIME, tags.SCANNING_SEQUENCE
    if classic and original and with_value(instances, inversion) and "IR" in image.terms(sequence):
        yield Corruption("TI absent", (inversion,), True, all_changed(instances, {inversion: to(None)}))
    repetition = image.number(tags.REPETITION_TIME)
    if classic and image.terms(sequence) == ("SE",) and repetition:
        late = tuple(with_top(one, {inversion: f"{1.5 * repetition:g}"}) for one in instances)
        yield Corruption("TI above TR of a spin echo", (inversion,), repetition < 20_000, late)
    if framed and original:
        for tag in (tags.MAGNETIC_FIELD_STRENGTH, tags.RESONANT_NUCLEUS, tags.SOFTWARE_VERSIONS, tags.ROWS):
            gone = tuple(
                dataclasses.replace(one, top=stated_with(one.top, tag, to(None)), images=one.images)
                for one in instances
            )
            yield Corruption(f"{tag:08X} absent in enhanced MR", (tag,), True, gone)
        less = tuple(
            dataclasses.replace(
                one, images=tuple(dataclasses.replace(i, groups=i.groups - {_PIXEL_MEASURES}) for i in one.images)
            )
            for one in instances
        )
        yield Corruption("frames without pixel measures", (_PIXEL_MEASURES,), True, less)
        other = tuple(with_top(one, {tags.REPETITION_TIME: "31.25"}) for one in instances)
        yield Corruption("another repetition time at the top level", (tags.REPETITION_TIME,), True, other)
    frames = first.top.number(tags.NUMBER_OF_FRAMES)
    if frames and frames > 1:
        few = tuple(
            dataclasses.replace(one, pixels=PixelsThere(tags.PIXEL_DATA, None, 9000, int(frames) - 1))
            for one in instances
        )
        yield Corruption("a fragment lost", (tags.PIXEL_DATA, tags.NUMBER_OF_FRAMES), True, few)
    if first.grid is not None:
        lost = tuple(dataclasses.replace(one, grid=None, grid_problem="no number of tiles") for one in instances)
        yield Corruption("a mosaic without its number of tiles", (tags.IMAGE_TYPE,), True, lost)
    for tag, raw in ((tags.PATIENT_POSITION, "hfs"), (tags.STUDY_DATE, "20231345"), (tags.STUDY_TIME, "2515")):
        if with_value(instances, tag) and "*" not in image.text(tag):
            yield Corruption(f"{raw} in {tag:08X}", (tag,), True, all_changed(instances, {tag: to(raw)}))
    if image.text(tags.IMAGED_NUCLEUS) == "1H":
        bare = all_changed(instances, {tags.IMAGED_NUCLEUS: to("H")})
        yield Corruption("nucleus without mass number", (tags.IMAGED_NUCLEUS,), True, bare)
    duration = first.top.number(tags.ACQUISITION_DURATION)
    if duration and duration < 86_400:
        in_ms = all_changed(instances, {tags.ACQUISITION_DURATION: times(1000)})
        yield Corruption("duration in ms", (tags.ACQUISITION_DURATION,), duration > 86.4, in_ms)
    agent, volume = tags.CONTRAST_BOLUS_AGENT, tags.CONTRAST_BOLUS_VOLUME
    yield Corruption("agent none", (agent,), True, tuple(with_top(one, {agent: "NONE"}) for one in instances))
    much = tuple(with_top(one, {agent: "GADAVIST", volume: "7500"}) for one in instances)
    yield Corruption("volume in ul", (volume,), True, much)
    if len(instances) > 1:
        renumbered = (*everyone[:-1], changed(everyone[-1], tags.SERIES_NUMBER, to("4711")))
        yield Corruption("another series number in one", (tags.SERIES_NUMBER,), True, renumbered)


_PIXEL_MEASURES = 0x00289110


def one_of_many(instances: Sequence[InstanceStatements]) -> Iterator[Corruption]:
    """The same wrong value in one instance of a series that has five like it."""
    kinds = [(one.top.text(tags.ECHO_NUMBERS), one.top.text(tags.IMAGE_TYPE)) for one in instances]
    kind, count = Counter(kinds).most_common(1)[0]
    victim = kinds.index(kind)
    if count < 6 or any(image.is_frame for image in instances[victim].images):
        return
    others: dict[int, Change] = {tag: (lambda raw: f"{raw}X"[-16:]) for tag in ALIKE}
    others |= {tag: times(1.25) for tag in ALIKE if with_value(instances, tag) and _are_numbers(instances, tag)}
    for tag, change in others.items():
        if with_value(instances, tag):
            odd = tuple(changed(one, tag, change) if number == victim else one for number, one in enumerate(instances))
            yield Corruption(f"{tag:08X} other in one of {len(instances)}", (tag,), True, odd)
            gone = tuple(
                changed(one, tag, to(None)) if number == victim else one for number, one in enumerate(instances)
            )
            yield Corruption(f"{tag:08X} absent in one of {len(instances)}", (tag,), True, gone)
    position = tags.IMAGE_POSITION_PATIENT
    if (
        stacks(instances)
        and all(len(stack.positions) >= 6 for stack in stacks(instances))
        and with_value(instances, position)
    ):
        aside = lambda raw: "\\".join(f"{float(part) + 7:.6f}" for part in raw.split("\\"))  # noqa: E731
        odd = tuple(changed(one, position, aside) if number == victim else one for number, one in enumerate(instances))
        yield Corruption("one slice aside", (position,), True, odd)
        turned = tuple(
            changed(one, tags.IMAGE_ORIENTATION_PATIENT, to("0.6\\0.8\\0\\0\\0\\-1")) if number == victim else one
            for number, one in enumerate(instances)
        )
        yield Corruption("one slice turned", (tags.IMAGE_ORIENTATION_PATIENT,), len(instances) >= 7, turned)


def _are_numbers(instances: Sequence[InstanceStatements], tag: int) -> bool:
    return all(
        canonical_number(part) is not None
        for one in instances
        for image in one.images
        for part in image.text(tag).split("\\")
    )
