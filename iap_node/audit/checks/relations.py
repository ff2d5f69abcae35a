"""What must hold between the elements of one image: timing, field, matrix, extents."""

from __future__ import annotations

from collections.abc import Iterator

from iap_node.audit.checks import tags, vendors
from iap_node.audit.checks.check import Check, Doubt, Scope, is_original, shown, title, written
from iap_node.audit.checks.extent import cells, extents_mm, matrix_steps
from iap_node.audit.checks.units import FIELD_TOLERANCE, GYROMAGNETIC_RATIOS, frequency_mhz, nominal_field
from iap_node.dicom.parameters import canonical_matrix
from iap_node.dicom.statements import Image, InstanceStatements
from iap_node.records import FindingKind, Severity

_MATRIX_TOLERANCE = 2  # phase steps
_PERCENT_TOLERANCE = 3.0
_DIAMETER_TOLERANCE = 0.02
_SPACING_TOLERANCE = 0.005  # share: spacing is printed from positions, thickness from the protocol
_THICKEST_IN_3D = 4.2  # thickness in spacings: zero filling by four along the slices is the most that is sold
_THINNEST_IN_3D = 0.95


# ---------------------------------------------------------------- field and timing


def field_and_frequency(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Imaging Frequency = gamma / 2 pi x Magnetic Field Strength."""
    field, frequency = image.number(tags.MAGNETIC_FIELD_STRENGTH), frequency_mhz(image)
    if field is None or frequency is None or not 0 < field < 30:
        return
    terms = image.terms(tags.IMAGED_NUCLEUS) or image.terms(tags.RESONANT_NUCLEUS) or ("1H",)
    ratio = GYROMAGNETIC_RATIOS.get("1H" if terms[0] == "H" else terms[0])
    if ratio is None or abs(frequency / ratio - field) <= FIELD_TOLERANCE * field:
        return
    nearest = min(GYROMAGNETIC_RATIOS, key=lambda name: abs(frequency / GYROMAGNETIC_RATIOS[name] - field))
    meant, raw = frequency / ratio, image.text(tags.MAGNETIC_FIELD_STRENGTH)
    if abs(frequency / GYROMAGNETIC_RATIOS[nearest] - field) <= FIELD_TOLERANCE * field:
        tag = tags.IMAGED_NUCLEUS if image.get(tags.IMAGED_NUCLEUS) is not None else tags.RESONANT_NUCLEUS
        evidence = f"{written(frequency)} MHz at {written(field)} T is {nearest}, the header says {shown(terms[0])}"
        yield Doubt(tag, evidence, image.text(tag), nearest)
        return
    nominal = nominal_field(meant)
    evidence = (
        f"{title(tags.MAGNETIC_FIELD_STRENGTH)} is {shown(raw)} T, {written(frequency)} MHz of {shown(terms[0])} "
        f"mean {meant:.4g} T (tolerance 5 %)"
    )
    yield Doubt(tags.MAGNETIC_FIELD_STRENGTH, evidence, raw, written(nominal) if nominal is not None else None)


def echo_and_repetition(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Echo Time < Repetition Time."""
    echo, repetition = image.number(tags.ECHO_TIME), image.number(tags.REPETITION_TIME)
    if echo is None or repetition is None or not 0 < repetition <= echo:
        return
    if _is_echo_shifted(image):
        return
    stated = image.get(tags.ECHO_TIME)
    assert stated is not None
    evidence = f"{title(stated.tag)} {shown(stated.raw)} ms is not below Repetition Time {written(repetition)} ms"
    yield Doubt(stated.tag, evidence, stated.raw)


def _is_echo_shifted(image: Image) -> bool:
    """PRESTO and PSIF collect an echo in a later repetition than its excitation's."""
    names = f"{image.text(tags.SEQUENCE_NAME)} {image.text(tags.PROTOCOL_NAME)}".casefold()
    return "presto" in names or "psif" in names


def readout_and_repetition(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Half of the readout follows the echo within the repetition: TE + 500 / bandwidth <= TR."""
    echo, repetition = image.number(tags.ECHO_TIME), image.number(tags.REPETITION_TIME)
    bandwidth = image.number(tags.PIXEL_BANDWIDTH)
    if echo is None or repetition is None or bandwidth is None or not is_original(image):
        return
    if bandwidth <= 0 or not 0 < echo < repetition or "RM" in image.terms(tags.SCANNING_SEQUENCE):
        return
    readout = 1000 / bandwidth
    raw, tag = image.text(tags.PIXEL_BANDWIDTH), tags.PIXEL_BANDWIDTH
    evidence = (
        f"{title(tag)} {shown(raw)} Hz makes a readout of {readout:.4g} ms; with its echo at {written(echo)} ms it"
    )
    if readout > 1.02 * repetition or echo + readout / 4 > 1.02 * repetition:
        yield Doubt(tag, f"{evidence} does not end within Repetition Time {written(repetition)} ms", raw)
    elif "EP" in image.terms(tags.SCANNING_SEQUENCE) and readout > 2 * echo:
        yield Doubt(tag, f"{evidence} would begin before its excitation: echo planar reads whole lines", raw)


def inversion_and_repetition(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Inversion Time < Repetition Time in spin echo."""
    inversion, repetition = image.number(tags.INVERSION_TIME), image.number(tags.REPETITION_TIME)
    terms = image.terms(tags.SCANNING_SEQUENCE)
    if inversion is None or repetition is None or "SE" not in terms or "GR" in terms or "EP" in terms:
        return
    if 0 < repetition <= inversion:
        raw = image.text(tags.INVERSION_TIME)
        evidence = (
            f"{title(tags.INVERSION_TIME)} {shown(raw)} ms is not below Repetition Time {written(repetition)} ms of a "
            "spin echo"
        )
        yield Doubt(tags.INVERSION_TIME, evidence, raw)


# ---------------------------------------------------------------- matrix and field of view


def matrix_values(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Acquisition Matrix has one frequency and one phase value."""
    raw = image.text(tags.ACQUISITION_MATRIX)
    if raw and raw.count("\\") == 3 and canonical_matrix(raw) is None and raw.replace("0", "").replace("\\", ""):
        evidence = f"{title(tags.ACQUISITION_MATRIX)} {shown(raw)} has not exactly one frequency and one phase value"
        yield Doubt(tags.ACQUISITION_MATRIX, evidence, raw)


def matrix_and_direction(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    r"""COL means a matrix f\0\0\p, ROW means 0\f\p\0."""
    direction, raw = image.terms(tags.IN_PLANE_PHASE_ENCODING_DIRECTION), image.text(tags.ACQUISITION_MATRIX)
    numbers = image.numbers(tags.ACQUISITION_MATRIX, 4)
    if image.is_frame or numbers is None or len(direction) != 1 or matrix_steps(image) is None:
        return
    filled = tuple(place for place, number in enumerate(numbers) if number)
    stated = "COL" if filled == (0, 3) else "ROW" if filled == (1, 2) else None
    if stated is None:
        if vendors.by_name(image.text(tags.MANUFACTURER)) == vendors.UIH:
            return
        evidence = f"{title(tags.ACQUISITION_MATRIX)} {shown(raw)} states frequency and phase along one direction"
        yield Doubt(tags.ACQUISITION_MATRIX, evidence, raw)
    elif direction[0] in ("ROW", "COL") and direction[0] != stated:
        tag = tags.IN_PLANE_PHASE_ENCODING_DIRECTION
        evidence = f"{title(tag)} is {direction[0]}, Acquisition Matrix {shown(raw)} means {stated}"
        yield Doubt(tag, evidence, image.text(tag), stated)


def matrix_and_image(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Acquisition Matrix <= the larger side of the image."""
    steps, size = matrix_steps(image), cells(image, instance)
    if steps is None or size is None or not is_original(image) or max(steps) <= max(size):
        return
    raw = image.text(tags.ACQUISITION_MATRIX)
    slice_size = f"{size[0]:g} x {size[1]:g}"
    evidence = f"{title(tags.ACQUISITION_MATRIX)} {steps[0]} x {steps[1]} is larger than the slice of {slice_size}"
    yield Doubt(tags.ACQUISITION_MATRIX, evidence, raw)


def matrix_and_percent(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Phase steps = frequency steps x phase field of view x sampling, in 2D."""
    steps, fov = matrix_steps(image), image.number(tags.PERCENT_PHASE_FIELD_OF_VIEW)
    sampling = image.number(tags.PERCENT_SAMPLING)
    if steps is None or fov is None or sampling is None or fov <= 1.5 or sampling <= 1.5 or fov >= 200:
        return
    if "2D" not in image.terms(tags.MR_ACQUISITION_TYPE) or not is_original(image) or image.is_frame:
        return
    expected = steps[0] * fov / 100 * sampling / 100
    if abs(expected - steps[1]) <= max(_MATRIX_TOLERANCE, 0.02 * steps[1]):
        return
    raw = image.text(tags.ACQUISITION_MATRIX)
    evidence = (
        f"{title(tags.ACQUISITION_MATRIX)} states {steps[1]} phase steps; {steps[0]} x {fov:g} % phase field of view x "
        f"{sampling:g} % sampling make {expected:.4g} (tolerance {_MATRIX_TOLERANCE})"
    )
    yield Doubt(tags.ACQUISITION_MATRIX, evidence, raw)


def phase_fov_and_extent(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Percent Phase Field of View = extent along phase / extent along frequency, in images that are not square."""
    tag = tags.PERCENT_PHASE_FIELD_OF_VIEW
    fov, extents = image.number(tag), extents_mm(image, instance)
    direction = image.terms(tags.IN_PLANE_PHASE_ENCODING_DIRECTION)
    if fov is None or extents is None or not 1.5 < fov < 200 or direction not in (("ROW",), ("COL",), ("COLUMN",)):
        return
    size = cells(image, instance)
    if size is None or size[0] == size[1] or not is_original(image):
        return
    phase, frequency = extents if direction != ("ROW",) else extents[::-1]
    found = 100 * phase / frequency
    if abs(found - fov) > _PERCENT_TOLERANCE:
        evidence = (
            f"{title(tag)} is {fov:g} %, the image measures {phase:.4g} mm along phase and {frequency:.4g} mm along "
            f"frequency: {found:.4g} % (tolerance {_PERCENT_TOLERANCE:g})"
        )
        yield Doubt(tag, evidence, image.text(tag), f"{found:.4g}")


def diameter_and_extent(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Reconstruction Diameter = the larger extent of the image."""
    tag = tags.RECONSTRUCTION_DIAMETER
    diameter, extents = image.number(tag), extents_mm(image, instance)
    if diameter is None or diameter == 0 or extents is None or not is_original(image):
        return
    if abs(diameter - max(extents)) > _DIAMETER_TOLERANCE * max(extents):
        evidence = (
            f"{title(tag)} is {diameter:g} mm, Pixel Spacing makes the image {extents[0]:.5g} x {extents[1]:.5g} mm "
            "(tolerance 2 %); right only where the image was cropped or padded afterwards"
        )
        yield Doubt(tag, evidence, image.text(tag), f"{max(extents):.4g}")


def spacing_and_thickness(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """2D: spacing >= thickness. 3D: thickness from about one to four spacings."""
    spacing, thickness = image.number(tags.SPACING_BETWEEN_SLICES), image.number(tags.SLICE_THICKNESS)
    if spacing is None or thickness is None or not is_original(image):
        return
    spacing, kinds = abs(spacing), image.terms(tags.MR_ACQUISITION_TYPE)
    if spacing <= 0 or thickness <= 0:
        return
    raw, share = image.text(tags.SLICE_THICKNESS), thickness / spacing
    if kinds == ("2D",) and share > 1 + _SPACING_TOLERANCE:
        evidence = (
            f"{title(tags.SLICE_THICKNESS)} {thickness:g} mm is more than Spacing Between Slices {spacing:g} mm in a "
            "2D acquisition: its slices would overlap"
        )
    elif kinds == ("3D",) and not _THINNEST_IN_3D <= share <= _THICKEST_IN_3D:
        evidence = (
            f"{title(tags.SLICE_THICKNESS)} {thickness:g} mm is {share:.3g} times Spacing Between Slices {spacing:g} "
            f"mm in a 3D acquisition ({_THINNEST_IN_3D:g} to {_THICKEST_IN_3D:g} can be)"
        )
    else:
        return
    yield Doubt(tags.SLICE_THICKNESS, evidence, raw)


CHECKS = (
    Check(
        "field-strength-and-frequency",
        (tags.MAGNETIC_FIELD_STRENGTH, tags.IMAGING_FREQUENCY, tags.IMAGED_NUCLEUS, tags.RESONANT_NUCLEUS),
        FindingKind.CONTRADICTION, Severity.WARNING,
        "|Imaging Frequency / (gamma / 2 pi) - Magnetic Field Strength| <= 5 %, by the gamma of the nucleus",
        "Larmor relation; PS3.3 C.8.3.1, C.8.13.2, C.8.13.5.6; gamma: doi 10.1351/pac200173111795",
        "Siemens, Canon and Toshiba call 2.89 T (123.2 MHz) 3 T; frequencies in Hz (UIH); nuclei not known here",
        Scope.IMAGE, field_and_frequency,
    ),
    Check(
        "echo-time-and-repetition-time", (tags.ECHO_TIME, tags.REPETITION_TIME, tags.SEQUENCE_NAME, tags.PROTOCOL_NAME),
        FindingKind.CONTRADICTION, Severity.WARNING,
        "Echo Time < Repetition Time",
        "PS3.3 C.8.3.1: both count from an excitation; the repetition ends at the next. Holds on all real series",
        "repetition 0 or empty; echo-shifted sequences, known by PRESTO or PSIF in the name of sequence or protocol",
        Scope.IMAGE, echo_and_repetition,
    ),
    Check(
        "readout-and-repetition-time",
        (tags.PIXEL_BANDWIDTH, tags.ECHO_TIME, tags.REPETITION_TIME, tags.SCANNING_SEQUENCE),
        FindingKind.CONTRADICTION, Severity.NOTE,
        "1000 / Pixel Bandwidth <= 1.02 TR and TE + 250 / Pixel Bandwidth <= 1.02 TR, ms; echo planar: 500 / Pixel "
        "Bandwidth <= TE",
        "PS3.3 C.8.3.1: Hz per pixel, so a readout takes 1 / bandwidth; a quarter of it at least follows the echo",
        "partial echoes; derived images; research modes",
        Scope.IMAGE, readout_and_repetition,
    ),
    Check(
        "inversion-time-and-repetition-time",
        (tags.INVERSION_TIME, tags.REPETITION_TIME, tags.SCANNING_SEQUENCE),
        FindingKind.CONTRADICTION, Severity.WARNING,
        "Inversion Time < Repetition Time where Scanning Sequence is a spin echo",
        "PS3.3 C.8.3.1",
        "inversion-prepared gradient echo and echo planar, whose repetition is that of the readouts (UIH, Philips)",
        Scope.IMAGE, inversion_and_repetition,
    ),
    Check(
        "acquisition-matrix-values", (tags.ACQUISITION_MATRIX,), FindingKind.VALUE, Severity.WARNING,
        "exactly one of values 1 and 2 and one of values 3 and 4 is above 0",
        "PS3.3 C.8.3.1; all real series measured hold it",
        "a matrix of zeros, which says nothing",
        Scope.IMAGE, matrix_values,
    ),
    Check(
        "phase-direction-and-matrix", (tags.IN_PLANE_PHASE_ENCODING_DIRECTION, tags.ACQUISITION_MATRIX),
        FindingKind.CONTRADICTION, Severity.WARNING,
        r"COL with f\0\0\p, ROW with 0\f\p\0",
        "PS3.3 C.8.3.1 (frequency rows, frequency columns, phase rows, phase columns)",
        r"UIH writes 0\f\0\p for ROW",
        Scope.IMAGE, matrix_and_direction,
    ),
    Check(
        "matrix-and-image-size", (tags.ACQUISITION_MATRIX, tags.ROWS, tags.COLUMNS), FindingKind.CONTRADICTION,
        Severity.WARNING,
        "max(frequency, phase) <= max(Rows, Columns), of one tile where the image is a mosaic",
        "PS3.3 C.8.3.1; all real series measured hold it",
        "interpolated images, which are larger; sheets of tiles; derived images",
        Scope.IMAGE, matrix_and_image,
    ),
    Check(
        "matrix-and-percentages",
        (tags.ACQUISITION_MATRIX, tags.PERCENT_PHASE_FIELD_OF_VIEW, tags.PERCENT_SAMPLING),
        FindingKind.CONTRADICTION, Severity.NOTE,
        "phase = frequency x Percent Phase Field of View x Percent Sampling / 10^4, +-2 steps or 2 %, in 2D",
        "PS3.3 C.8.3.1; all real series measured but one hold it",
        "3D, where sampling counts both phase directions (GE, Philips); Siemens mosaics with 200 %; functional groups",
        Scope.IMAGE, matrix_and_percent,
    ),
    Check(
        "phase-field-of-view-and-extent",
        (tags.PERCENT_PHASE_FIELD_OF_VIEW, tags.IN_PLANE_PHASE_ENCODING_DIRECTION, tags.PIXEL_SPACING, tags.ROWS,
        tags.COLUMNS), FindingKind.CONTRADICTION, Severity.NOTE,
        "Percent Phase Field of View = 100 x extent along phase / extent along frequency, +-3",
        "PS3.3 C.8.3.1",
        "square images, which GE and others pad to; Siemens mosaics with 200 %",
        Scope.IMAGE, phase_fov_and_extent,
    ),
    Check(
        "reconstruction-diameter-and-extent",
        (tags.RECONSTRUCTION_DIAMETER, tags.PIXEL_SPACING, tags.ROWS, tags.COLUMNS),
        FindingKind.CONTRADICTION, Severity.WARNING,
        "Reconstruction Diameter = max(Rows x row spacing, Columns x column spacing), 2 %",
        "PS3.3 C.8.3.1 (Note: so where the image is neither cropped nor padded); all real series measured hold it",
        "Siemens and UIH, who leave it out; 0; derived images",
        Scope.IMAGE, diameter_and_extent,
    ),
    Check(
        "spacing-and-thickness", (tags.SLICE_THICKNESS, tags.SPACING_BETWEEN_SLICES, tags.MR_ACQUISITION_TYPE),
        FindingKind.CONTRADICTION, Severity.WARNING,
        f"2D: Slice Thickness <= 1.005 spacing; 3D: {_THINNEST_IN_3D:g} to {_THICKEST_IN_3D:g} spacings",
        "PS3.3 C.7.6.2 (thickness), C.8.3.1 (spacing between centres); all real 2D series measured hold it",
        "3D slices that overlap by zero filling; negative spacing; derived images (thick reformats, projections)",
        Scope.IMAGE, spacing_and_thickness,
    ),
)  # fmt: skip
