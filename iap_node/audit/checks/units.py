"""Values outside what can be, and values that are right in another unit than the standard's.

The bounds are those of physics and hardware, far outside of what protocols use: within them nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from iap_node.audit.checks import tags, vendors
from iap_node.audit.checks.check import Check, Doubt, Scope, is_original, shown, title, written
from iap_node.audit.checks.extent import cells
from iap_node.dicom.statements import Image, InstanceStatements
from iap_node.records import FindingKind, Severity

# gamma / 2 pi, MHz/T: Harris et al., NMR nomenclature (IUPAC 2001), doi 10.1351/pac200173111795; 1H: CODATA 2018.
GYROMAGNETIC_RATIOS = {
    "1H": 42.577, "2H": 6.536, "3HE": 32.434, "7LI": 16.548, "13C": 10.708, "17O": 5.772, "19F": 40.078,
    "23NA": 11.262, "31P": 17.235, "39K": 1.989, "129XE": 11.777,
}  # fmt: skip
NOMINAL_FIELDS = (0.064, 0.2, 0.23, 0.25, 0.3, 0.35, 0.4, 0.5, 0.55, 0.6, 0.7, 1.0, 1.2, 1.5, 3.0, 4.7, 7.0, 9.4, 11.7)
FIELD_TOLERANCE = 0.05  # "3 T" of Siemens, Canon and Toshiba runs at 2.89 T; measured on real headers

_STRONGEST_T = 25.0  # MR microscopes; humans have been imaged at 11.7
_WEAKEST_T = 0.001
_GAUSS_PER_T, _MT_PER_T = 10_000, 1000
_LOWEST_MHZ, _HIGHEST_MHZ = 0.04, 1200.0  # 1H from 1 mT to 28 T
_LOWEST_CONVERTED_MHZ = 1.5  # below it kHz would be taken for Hz; 1H at 0.05 T has 2.1
# Ultrashort echo times are tens of microseconds, the dead time of coils and receivers some: Weiger, Pruessmann 2019.
_SHORTEST_TE_MS = 0.008
_LONGEST_TE_MS = 5000.0  # T2 of water in vivo is below
_SHORTEST_TR_MS = 0.1
_LONGEST_TR_MS = 100_000.0
_SHORTEST_SPIN_ECHO_TR_MS, _SHORTEST_SPIN_ECHO_TE_MS = 20.0, 1.0  # two RF pulses with their gradients take that long
_SHORTEST_TI_MS = 5.0
_LONGEST_TI_MS = 30_000.0
_SMALLEST_FLIP_ANGLE = 0.2
_THINNEST_MM, _THICKEST_MM = 0.01, 500.0
_SMALLEST_EXTENT_MM, _LARGEST_EXTENT_MM = 1.0, 3000.0
_LONGEST_ACQUISITION_S = 86_400.0
_NARROWEST_HZ, _WIDEST_HZ = 2.0, 1_000_000.0  # of a pixel
_LARGEST_FRACTION = 1.5
_LARGEST_PERCENT = 1000.0


def nominal_field(field: float) -> float | None:
    """The field strength, T, by which a scanner of `field` T is called; None where none is within 5 %."""
    nearest = min(NOMINAL_FIELDS, key=lambda nominal: abs(nominal - field))
    return nearest if abs(nearest - field) <= FIELD_TOLERANCE * nearest else None


def frequency_mhz(image: Image) -> float | None:
    """Imaging Frequency (0018,0084) in MHz, also where it was written in Hz or kHz; None where it is no frequency."""
    number = image.number(tags.IMAGING_FREQUENCY)
    if number is None or number <= 0:
        return None
    for factor in (1.0, 1e-6, 1e-3):
        lowest = _LOWEST_MHZ if factor == 1.0 else _LOWEST_CONVERTED_MHZ
        if lowest <= number * factor <= _HIGHEST_MHZ:
            return number * factor
    return None


def imaging_frequency(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Imaging Frequency is in MHz."""
    number, stated = image.number(tags.IMAGING_FREQUENCY), image.get(tags.IMAGING_FREQUENCY)
    if number is None or stated is None or _LOWEST_MHZ <= number <= _HIGHEST_MHZ:
        return
    meant = frequency_mhz(image)
    if meant is not None:
        unit = "Hz" if number > 1e5 * meant else "kHz"
        evidence = (
            f"{title(stated.tag)} is {shown(stated.raw)} MHz, which cannot be; written in {unit} it is {meant:.6g} MHz"
        )
        yield Doubt(stated.tag, evidence, stated.raw, f"{meant:.9g}")
    elif number != 0:
        yield Doubt(stated.tag, f"{title(stated.tag)} is {shown(stated.raw)} MHz, no frequency of MR", stated.raw)


def magnetic_field(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Magnetic Field Strength is in T."""
    number, tag = image.number(tags.MAGNETIC_FIELD_STRENGTH), tags.MAGNETIC_FIELD_STRENGTH
    if number is None or _WEAKEST_T <= number <= _STRONGEST_T:
        return
    raw = image.text(tag)
    frequency = frequency_mhz(image) if image.terms(tags.IMAGED_NUCLEUS) in ((), ("1H",), ("H",)) else None
    meant: list[tuple[str, float]] = []
    for per_tesla, unit in ((_GAUSS_PER_T, "gauss"), (_MT_PER_T, "mT")):
        nominal = nominal_field(number / per_tesla)
        larmor = None if frequency is None else frequency / GYROMAGNETIC_RATIOS["1H"]
        if nominal is not None and (larmor is None or abs(larmor - nominal) <= FIELD_TOLERANCE * nominal):
            meant.append((unit, nominal))
    listed = " or ".join(f"{nominal:g} T in {unit}" for unit, nominal in meant)
    evidence = f" T, which is {listed}" if meant else " T, no field of an MR scanner"
    suggested = written(meant[0][1]) if len(meant) == 1 else None
    yield Doubt(tag, f"{title(tag)} is {shown(raw)}{evidence}", raw, suggested)


def echo_time(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Echo Time is in ms."""
    number, stated = image.number(tags.ECHO_TIME), image.get(tags.ECHO_TIME)
    if number is None or stated is None:
        return
    if number == 0:
        if image.is_frame or not is_original(image) or _is_map(image) or _may_be_zero(image):
            return
        yield Doubt(stated.tag, f"{title(stated.tag)} is 0 ms in an image of an acquisition", stated.raw)
        return
    shortest = _SHORTEST_SPIN_ECHO_TE_MS if _is_echo_train(image) else _SHORTEST_TE_MS
    if shortest <= number <= _LONGEST_TE_MS:
        return
    evidence = f"{title(stated.tag)} is {shown(stated.raw)} ms"
    repetition = image.number(tags.REPETITION_TIME)
    if 0 < number < shortest:
        plausible = repetition is None or number * 1000 < max(repetition, repetition * 1000 if repetition < 20 else 0)
        meant, suggested = _in_seconds(number, shortest)
        evidence += f", shorter than any such sequence can be ({shortest:g} ms){meant}"
        yield Doubt(stated.tag, evidence, stated.raw, suggested if plausible else None)
    else:
        yield Doubt(stated.tag, f"{evidence}, no echo time of an MR image", stated.raw)


def repetition_time(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Repetition Time is in ms."""
    number, stated = image.number(tags.REPETITION_TIME), image.get(tags.REPETITION_TIME)
    if number is None or number == 0 or stated is None:
        return  # single shots are never repeated: 0 or empty
    shortest = _SHORTEST_SPIN_ECHO_TR_MS if _is_spin_echo(image) else _SHORTEST_TR_MS
    if shortest <= number <= _LONGEST_TR_MS:
        return
    evidence = f"{title(stated.tag)} is {shown(stated.raw)} ms"
    if 0 < number < shortest:
        meant, suggested = _in_seconds(number, shortest)
        evidence += f", shorter than any such sequence can be ({shortest:g} ms){meant}"
        yield Doubt(stated.tag, evidence, stated.raw, suggested)
    else:
        yield Doubt(stated.tag, f"{evidence}, no repetition time of an MR image", stated.raw)


def inversion_time(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Inversion Time is in ms."""
    number, raw, tag = image.number(tags.INVERSION_TIME), image.text(tags.INVERSION_TIME), tags.INVERSION_TIME
    if number is None or number == 0 or _SHORTEST_TI_MS <= number <= _LONGEST_TI_MS:
        return
    if 0 < number < _SHORTEST_TI_MS:
        meant, suggested = _in_seconds(number, _SHORTEST_TI_MS)
        yield Doubt(tag, f"{title(tag)} is {shown(raw)} ms, too short to prepare anything{meant}", raw, suggested)
    else:
        yield Doubt(tag, f"{title(tag)} is {shown(raw)} ms, no inversion time of an MR image", raw)


def _in_seconds(number: float, shortest: float) -> tuple[str, str | None]:
    """What a time would be if it was written in s, as a clause and as a value; nothing where that is too short too."""
    meant = number * 1000
    return (f"; if it was written in s, it is {meant:.6g} ms", written(meant)) if meant >= shortest else ("", None)


def _is_echo_train(image: Image) -> bool:
    """Spin echoes and echo planar: sequences whose first echo cannot come at once."""
    terms = image.terms(tags.SCANNING_SEQUENCE)
    return "EP" in terms or _is_spin_echo(image)


def _is_spin_echo(image: Image) -> bool:
    terms = image.terms(tags.SCANNING_SEQUENCE)
    return "SE" in terms and "GR" not in terms and "RM" not in terms


def _is_map(image: Image) -> bool:
    return any("MAP" in term for term in image.terms(tags.IMAGE_TYPE))


def _may_be_zero(image: Image) -> bool:
    """Zero echo time sequences are research modes; Philips writes 0 into quantitative maps."""
    is_philips = vendors.by_name(image.text(tags.MANUFACTURER)) == vendors.PHILIPS
    return is_philips or "RM" in image.terms(tags.SCANNING_SEQUENCE)


def flip_angle(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Flip Angle is in degrees, from above 0 to 180."""
    number, raw, tag = image.number(tags.FLIP_ANGLE), image.text(tags.FLIP_ANGLE), tags.FLIP_ANGLE
    if number is None or _SMALLEST_FLIP_ANGLE <= number <= 180 or (number == 0 and not is_original(image)):
        return
    meant = math.degrees(number)
    if 0 < number < _SMALLEST_FLIP_ANGLE <= meant:
        evidence = f"{title(tag)} is {shown(raw)} degrees; if it was written in radians, it is {meant:.3g} degrees"
        yield Doubt(tag, evidence, raw, f"{meant:.3g}")
    else:
        yield Doubt(tag, f"{title(tag)} is {shown(raw)} degrees; it must be above 0 and at most 180", raw)


def lengths(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Slice Thickness, Spacing Between Slices and the extent of the image are lengths in mm."""
    for tag in (tags.SLICE_THICKNESS, tags.SPACING_BETWEEN_SLICES):
        number, raw = image.number(tag), image.text(tag)
        if number is not None and tag == tags.SPACING_BETWEEN_SLICES:
            number = abs(number)
        if number is None or _THINNEST_MM <= number <= _THICKEST_MM:
            continue
        if number == 0 and (tag == tags.SPACING_BETWEEN_SLICES or not is_original(image)):
            continue  # one slice has no spacing; a map of a whole volume no thickness
        if 0 < number < _THINNEST_MM <= number * 1000:
            evidence = f"{title(tag)} is {shown(raw)} mm; if it was written in m, it is {number * 1000:.4g} mm"
            yield Doubt(tag, evidence, raw, written(number * 1000))
        else:
            plausible = f"{_THINNEST_MM:g} to {_THICKEST_MM:g}"
            yield Doubt(tag, f"{title(tag)} is {shown(raw)} mm, outside of any plausible {plausible}", raw)
    spacing = image.numbers(tags.PIXEL_SPACING, 2)
    size = cells(image, instance)
    if spacing is None or size is None:
        return
    extents = (spacing[0] * size[0], spacing[1] * size[1])
    if min(extents) < _SMALLEST_EXTENT_MM or max(extents) > _LARGEST_EXTENT_MM:
        raw = image.text(tags.PIXEL_SPACING)
        evidence = (
            f"{title(tags.PIXEL_SPACING)} is {shown(raw)} mm: the image would be {extents[0]:.4g} x {extents[1]:.4g} mm"
        )
        yield Doubt(tags.PIXEL_SPACING, evidence, raw)


def acquisition_duration(instance: InstanceStatements) -> Iterator[Doubt]:
    """Acquisition Duration is in s."""
    tag = tags.ACQUISITION_DURATION
    number, raw = instance.top.number(tag), instance.top.text(tag)
    if number is not None and (number > _LONGEST_ACQUISITION_S or number < 0):
        suggested = written(number / 1000) if 0 < number / 1000 < _LONGEST_ACQUISITION_S else None
        meant = f", more than a day; if it was written in ms, it is {number / 1000:.6g} s" if suggested else ""
        yield Doubt(tag, f"{title(tag)} is {shown(raw)} s{meant or ', which no acquisition takes'}", raw, suggested)


def pixel_bandwidth(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Pixel Bandwidth is in Hz per pixel."""
    number, raw, tag = image.number(tags.PIXEL_BANDWIDTH), image.text(tags.PIXEL_BANDWIDTH), tags.PIXEL_BANDWIDTH
    if number is None or number == 0 or _NARROWEST_HZ <= number <= _WIDEST_HZ:
        return
    suggested = written(number * 1000) if 0 < number < _NARROWEST_HZ <= number * 1000 else None
    meant = f"if it was written in kHz, it is {number * 1000:.6g} Hz" if suggested else "no readout of an MR image"
    yield Doubt(tag, f"{title(tag)} is {shown(raw)} Hz per pixel; {meant}", raw, suggested)


def percentages(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Percent Sampling and Percent Phase Field of View are in percent."""
    for tag in (tags.PERCENT_SAMPLING, tags.PERCENT_PHASE_FIELD_OF_VIEW):
        number, raw = image.number(tag), image.text(tag)
        if number is None or number == 0 or _LARGEST_FRACTION < number <= _LARGEST_PERCENT:
            continue
        evidence = f"{title(tag)} is {shown(raw)} percent"
        if 0 < number <= _LARGEST_FRACTION < number * 100:
            meant = f"if it was written as a fraction, it is {number * 100:.4g} percent"
            yield Doubt(tag, f"{evidence}; {meant}", raw, written(number * 100))
        else:
            yield Doubt(tag, f"{evidence}, outside of any plausible {_LARGEST_FRACTION:g} to {_LARGEST_PERCENT:g}", raw)


CHECKS = (
    Check(
        "imaging-frequency-unit", (tags.IMAGING_FREQUENCY,), FindingKind.UNIT, Severity.NOTE,
        f"{_LOWEST_MHZ:g} to {_HIGHEST_MHZ:g} MHz; beyond, the value in Hz or kHz is suggested",
        "PS3.3 C.8.3.1, C.8.13.5.6 (MHz)",
        "0, and frequencies of other nuclei than 1H",
        Scope.IMAGE, imaging_frequency,
    ),
    Check(
        "field-strength-unit", (tags.MAGNETIC_FIELD_STRENGTH, tags.IMAGING_FREQUENCY), FindingKind.UNIT,
        Severity.WARNING,
        f"{_WEAKEST_T:g} to {_STRONGEST_T:g} T; beyond, gauss and mT are tried against nominal fields and the "
        "frequency, 5 %",
        "PS3.3 C.8.3.1 (T)",
        "low fields and animal scanners",
        Scope.IMAGE, magnetic_field,
    ),
    Check(
        "echo-time-unit", (tags.ECHO_TIME, tags.SCANNING_SEQUENCE, tags.REPETITION_TIME), FindingKind.UNIT,
        Severity.WARNING,
        f"{_SHORTEST_TE_MS:g} to {_LONGEST_TE_MS:g} ms; spin echo and echo planar from {_SHORTEST_SPIN_ECHO_TE_MS:g}",
        "PS3.3 C.8.3.1, C.8.13.5.4 (ms); ultrashort TE: Weiger, Pruessmann 2019, doi 10.1016/j.pnmrs.2019.07.001",
        "0 in frames of Philips' field maps, in derived images and maps, in research modes (zero TE)",
        Scope.IMAGE, echo_time,
    ),
    Check(
        "repetition-time-unit", (tags.REPETITION_TIME, tags.SCANNING_SEQUENCE), FindingKind.UNIT, Severity.WARNING,
        f"{_SHORTEST_TR_MS:g} to {_LONGEST_TR_MS:g} ms, spin echo from {_SHORTEST_SPIN_ECHO_TR_MS:g} ms",
        "PS3.3 C.8.3.1, C.8.13.5.2 (ms)",
        "0 or empty: a single shot is not repeated; gradient echo and research modes of any speed",
        Scope.IMAGE, repetition_time,
    ),
    Check(
        "inversion-time-unit", (tags.INVERSION_TIME,), FindingKind.UNIT, Severity.WARNING,
        f"{_SHORTEST_TI_MS:g} to {_LONGEST_TI_MS:g} ms",
        "PS3.3 C.8.3.1 (ms)",
        "0, which Philips writes for no inversion",
        Scope.IMAGE, inversion_time,
    ),
    Check(
        "flip-angle-range", (tags.FLIP_ANGLE,), FindingKind.VALUE, Severity.WARNING,
        "0 < angle <= 180 degrees; below 0.2 it is taken for radians",
        "PS3.3 C.8.3.1 (degrees); all real headers measured hold it",
        "0 in derived images",
        Scope.IMAGE, flip_angle,
    ),
    Check(
        "length-range",
        (tags.SLICE_THICKNESS, tags.SPACING_BETWEEN_SLICES, tags.PIXEL_SPACING, tags.ROWS, tags.COLUMNS),
        FindingKind.UNIT, Severity.ERROR,
        f"thickness and spacing {_THINNEST_MM:g} to {_THICKEST_MM:g} mm, extent {_SMALLEST_EXTENT_MM:g} to "
        f"{_LARGEST_EXTENT_MM:g} mm",
        "PS3.3 C.7.6.2, C.8.3.1 (mm)",
        "negative and zero spacing; zero thickness of derived images; sheets of tiles; animal scanners",
        Scope.IMAGE, lengths,
    ),
    Check(
        "acquisition-duration-unit", (tags.ACQUISITION_DURATION,), FindingKind.UNIT, Severity.NOTE,
        "at most a day in s",
        "PS3.3 C.8.13.2 (s)",
        "milliseconds that could be seconds of a long scan",
        Scope.INSTANCE, acquisition_duration,
    ),
    Check(
        "pixel-bandwidth-unit", (tags.PIXEL_BANDWIDTH,), FindingKind.UNIT, Severity.NOTE,
        f"{_NARROWEST_HZ:g} to {_WIDEST_HZ:g} Hz per pixel",
        "PS3.3 C.8.3.1 (Hz/pixel)",
        "0",
        Scope.IMAGE, pixel_bandwidth,
    ),
    Check(
        "percent-unit", (tags.PERCENT_SAMPLING, tags.PERCENT_PHASE_FIELD_OF_VIEW), FindingKind.UNIT, Severity.NOTE,
        f"above {_LARGEST_FRACTION:g} and at most {_LARGEST_PERCENT:g} percent",
        "PS3.3 C.8.3.1 (percent)",
        "0; Siemens mosaics with 200; oversampling above 100",
        Scope.IMAGE, percentages,
    ),
)  # fmt: skip
