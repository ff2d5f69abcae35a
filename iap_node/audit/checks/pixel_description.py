"""How the pixels are described, against the pixel data that is really there (PS3.3 C.7.6.3, PS3.5 section 8)."""

from __future__ import annotations

from collections.abc import Iterator

from iap_node.audit.checks import tags
from iap_node.audit.checks.check import Check, Doubt, Scope, shown, title
from iap_node.dicom.elements import (
    DEFLATED,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from iap_node.dicom.statements import InstanceStatements
from iap_node.records import FindingKind, Severity

_NATIVE = frozenset({IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN, *DEFLATED})
_GREY = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"})
_SUBSAMPLED = {"YBR_FULL_422": 2, "YBR_PARTIAL_422": 2, "YBR_PARTIAL_420": 1.5}  # samples per pixel in native data


def bits(instance: InstanceStatements) -> Iterator[Doubt]:
    """Bits Stored <= Bits Allocated, High Bit = Bits Stored - 1."""
    top = instance.top
    allocated, stored, high = (top.number(tag) for tag in (tags.BITS_ALLOCATED, tags.BITS_STORED, tags.HIGH_BIT))
    if allocated is not None and allocated != 1 and (allocated <= 0 or allocated % 8):
        raw = top.text(tags.BITS_ALLOCATED)
        evidence = f"{title(tags.BITS_ALLOCATED)} is {shown(raw)}; it must be 1 or a multiple of 8"
        yield Doubt(tags.BITS_ALLOCATED, evidence, raw)
    if allocated is not None and stored is not None and not 0 < stored <= allocated:
        raw = top.text(tags.BITS_STORED)
        evidence = f"{title(tags.BITS_STORED)} is {stored:g}; it must be from 1 to Bits Allocated {allocated:g}"
        yield Doubt(tags.BITS_STORED, evidence, raw)
    elif stored is not None and high is not None and high != stored - 1:
        raw = top.text(tags.HIGH_BIT)
        evidence = f"{title(tags.HIGH_BIT)} is {high:g}; with Bits Stored {stored:g} it must be {stored - 1:g}"
        yield Doubt(tags.HIGH_BIT, evidence, raw, f"{stored - 1:g}")


def samples(instance: InstanceStatements) -> Iterator[Doubt]:
    """Grey images have one sample per pixel, colour images three."""
    top = instance.top
    number, terms = top.number(tags.SAMPLES_PER_PIXEL), top.terms(tags.PHOTOMETRIC_INTERPRETATION)
    if number is None or len(terms) != 1:
        return
    if (terms[0] in _GREY and number != 1) or (terms[0] in ("RGB", *_SUBSAMPLED, "YBR_FULL") and number != 3):
        raw = top.text(tags.SAMPLES_PER_PIXEL)
        needed = "1" if terms[0] in _GREY else "3"
        evidence = f"{title(tags.SAMPLES_PER_PIXEL)} is {number:g}; Photometric Interpretation {terms[0]} has {needed}"
        yield Doubt(tags.SAMPLES_PER_PIXEL, evidence, raw, needed)


def there(instance: InstanceStatements) -> Iterator[Doubt]:
    """An image has pixel data, whole and encoded as its transfer syntax says."""
    pixels, tag = instance.pixels, tags.PIXEL_DATA
    if pixels is None:
        yield Doubt(tag, f"{title(tag)} is absent: an MR image without its image")
        return
    is_native = instance.transfer_syntax_uid in _NATIVE
    if pixels.stated_bytes is None:
        if not pixels.fragments:
            yield Doubt(tag, f"{title(tag)} is marked as compressed and holds no frame")
        elif not pixels.is_complete:
            yield Doubt(tag, f"{title(tag)} is cut off after {pixels.fragments} fragments; send it again")
        elif is_native:
            syntax = instance.transfer_syntax_uid
            yield Doubt(tag, f"{title(tag)} is marked as compressed, its transfer syntax {syntax} is not")
    elif pixels.bytes_there < pixels.stated_bytes:
        evidence = (
            f"{title(tag)} is cut off: {pixels.bytes_there} of {pixels.stated_bytes} bytes are there; send it again"
        )
        yield Doubt(tag, evidence)


def size(instance: InstanceStatements) -> Iterator[Doubt]:
    """Native pixel data has Rows x Columns x Samples x Frames cells of Bits Allocated."""
    pixels, top = instance.pixels, instance.top
    if pixels is None or pixels.stated_bytes is None:
        return
    rows, columns, allocated = (top.number(tag) for tag in (tags.ROWS, tags.COLUMNS, tags.BITS_ALLOCATED))
    if rows is None or columns is None or allocated is None:
        return
    per_pixel = top.number(tags.SAMPLES_PER_PIXEL) or 1
    frames = top.number(tags.NUMBER_OF_FRAMES) or 1
    photometric = top.terms(tags.PHOTOMETRIC_INTERPRETATION)[:1]
    per_pixel = _SUBSAMPLED.get(photometric[0], per_pixel) if photometric and per_pixel == 3 else per_pixel
    expected = -(-rows * columns * per_pixel * frames * allocated // 8)
    if 0 <= pixels.stated_bytes - expected < max(2, columns * per_pixel * allocated / 8):
        return
    evidence = (
        f"{title(tags.PIXEL_DATA)} has {pixels.stated_bytes} bytes; {rows:g} rows x {columns:g} columns x "
        f"{per_pixel:g} samples x {frames:g} frames of {allocated:g} bits are {expected:.0f}"
    )
    yield Doubt(tags.PIXEL_DATA, evidence)


def codestream(instance: InstanceStatements) -> Iterator[Doubt]:
    """A compressed frame is of the size that the header states."""
    pixels, top = instance.pixels, instance.top
    if pixels is None or pixels.codestream is None:
        return
    found = pixels.codestream
    for tag, inside in (
        (tags.ROWS, found.rows),
        (tags.COLUMNS, found.columns),
        (tags.SAMPLES_PER_PIXEL, found.samples),
    ):
        stated = top.number(tag)
        if stated is not None and inside and stated != inside:
            evidence = f"{title(tag)} is {stated:g}, the compressed image itself says {inside}"
            yield Doubt(tag, evidence, top.text(tag), str(inside))


def fragments(instance: InstanceStatements) -> Iterator[Doubt]:
    """Encapsulated pixel data has one fragment per frame at least."""
    pixels, frames = instance.pixels, instance.top.number(tags.NUMBER_OF_FRAMES)
    if pixels is None or pixels.stated_bytes is not None or frames is None or not pixels.is_complete:
        return
    if pixels.fragments and pixels.fragments < frames:
        raw = instance.top.text(tags.NUMBER_OF_FRAMES)
        evidence = f"{title(tags.NUMBER_OF_FRAMES)} is {shown(raw)}, the pixel data has {pixels.fragments} fragments"
        yield Doubt(tags.NUMBER_OF_FRAMES, evidence, raw)


def tiles(instance: InstanceStatements) -> Iterator[Doubt]:
    """A mosaic says how many tiles it has, and they divide its sheet."""
    if instance.grid_problem and (instance.top.number(tags.NUMBER_OF_FRAMES) or 1) == 1:
        evidence = f"{title(tags.IMAGE_TYPE)} says mosaic, but its tiles cannot be placed: {instance.grid_problem}"
        yield Doubt(tags.IMAGE_TYPE, evidence, instance.top.text(tags.IMAGE_TYPE))


CHECKS = (
    Check(
        "bits", (tags.BITS_ALLOCATED, tags.BITS_STORED, tags.HIGH_BIT), FindingKind.PIXELS, Severity.ERROR,
        "Bits Allocated 1 or whole bytes; Bits Stored <= Bits Allocated; High Bit = Bits Stored - 1",
        "PS3.5 8.1.1; PS3.3 C.7.6.3; holds on all real headers",
        "nothing",
        Scope.INSTANCE, bits,
    ),
    Check(
        "samples-and-photometric-interpretation", (tags.SAMPLES_PER_PIXEL, tags.PHOTOMETRIC_INTERPRETATION),
        FindingKind.PIXELS, Severity.ERROR,
        "MONOCHROME and PALETTE COLOR: 1 sample; RGB and YBR: 3",
        "PS3.3 C.7.6.3.1.1, C.7.6.3.1.2",
        "colour maps (Siemens XA)",
        Scope.INSTANCE, samples,
    ),
    Check(
        "pixel-data-there", (tags.PIXEL_DATA,), FindingKind.PIXELS, Severity.ERROR,
        "Pixel Data is there, not cut off, and encapsulated only under a transfer syntax that says so",
        "PS3.3 C.7.6.3; PS3.5 A.4",
        "raw data and spectra, which are not asked; Float Pixel Data",
        Scope.INSTANCE, there,
    ),
    Check(
        "pixel-data-size",
        (tags.PIXEL_DATA, tags.ROWS, tags.COLUMNS, tags.NUMBER_OF_FRAMES, tags.BITS_ALLOCATED, tags.SAMPLES_PER_PIXEL),
        FindingKind.PIXELS, Severity.ERROR,
        "bytes = Rows x Columns x Samples per Pixel x Number of Frames x Bits Allocated / 8, and less than a row more",
        "PS3.5 8.1.1, A.1 to A.2, 7.1.1 (even length)",
        "padding, also where it is longer than the one byte allowed; chroma that is stored for every other pixel",
        Scope.INSTANCE, size,
    ),
    Check(
        "codestream-and-header", (tags.ROWS, tags.COLUMNS, tags.SAMPLES_PER_PIXEL), FindingKind.PIXELS, Severity.ERROR,
        "rows, columns and samples of the first JPEG, JPEG-LS or JPEG 2000 frame are the header's",
        "PS3.5 8.2.1, 8.2.3, 8.2.4; ITU-T T.81 B.2.2, T.87 C.2.2, T.800 A.5.1",
        "another precision than Bits Stored: encoders write 16 bits for 12, and 10 where no pixel needs more",
        Scope.INSTANCE, codestream,
    ),
    Check(
        "fragments-and-frames", (tags.NUMBER_OF_FRAMES, tags.PIXEL_DATA), FindingKind.PIXELS, Severity.ERROR,
        "at least as many fragments as frames",
        "PS3.5 A.4",
        "frames in several fragments; the Basic Offset Table",
        Scope.INSTANCE, fragments,
    ),
    Check(
        "mosaic-tiles", (tags.IMAGE_TYPE, tags.ROWS, tags.COLUMNS), FindingKind.PIXELS, Severity.WARNING,
        "a classic image marked MOSAIC or VFRAME states its number of tiles, and they divide Rows and Columns",
        "Siemens' and UIH's private headers, on eight real series",
        "multi-frame images that keep the word in Image Type",
        Scope.INSTANCE, tiles,
    ),
)  # fmt: skip
