"""The acquisition parameters of a series as its headers state them: raw text and canonical form.

Called by the worker and by training. Classic MR states them at the top level, enhanced MR in functional
groups (PS3.3 C.7.6.16, C.8.13.5). Values are read as written: what is no number stays text, with its problem.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydicom.dataset import Dataset

from iap_node.dicom import elements as el
from iap_node.dicom import mosaic
from iap_node.dicom.file_slice import InstanceFile
from iap_node.dicom.parameters import (
    ALL_PARAMETERS,
    AcquisitionParameter,
    Nature,
    canonical,
    canonical_contrast_agent,
    canonical_number,
)
from iap_node.dicom.part10 import open_data_set
from iap_node.dicom.values import items, raw_text
from iap_node.errors import UnreadablePixels
from iap_node.records import HeaderValue, SeriesHeader

SHARED_GROUPS = 0x52009229
PER_FRAME_GROUPS = 0x52009230
# Legacy Converted Enhanced MR keeps what it did not place in its classic form (PS3.3 C.7.6.16.2.25 and 26).
_UNASSIGNED = (0x00209170, 0x00209171)
_PIXEL_SPACING = 0x00280030
_CONTRAST_SEQUENCE = 0x00180012  # of the Enhanced Contrast/Bolus Module
_CODE_MEANING = 0x00080104
_FREQUENCY_STEPS = (0x00189125, 0x00189058)
_PHASE_STEPS = (0x00189125, 0x00189231)
_TOP_LEVEL = 0

# Parameter -> (functional group sequence, element in it)
_FUNCTIONAL_GROUPS: dict[str, tuple[int, int]] = {
    "RepetitionTime": (0x00189112, 0x00180080),  # MR Timing and Related Parameters
    "FlipAngle": (0x00189112, 0x00181314),
    "EchoTime": (0x00189114, 0x00189082),  # MR Echo: Effective Echo Time
    "SliceThickness": (0x00289110, 0x00180050),  # Pixel Measures
    "FieldOfView": (0x00289110, _PIXEL_SPACING),
}

HEADER_TAGS = frozenset(
    {
        0x00080005, 0x00080008, 0x00080016, 0x00080018, 0x00180012, 0x00280008, 0x00280010, 0x00280011,
        SHARED_GROUPS, PER_FRAME_GROUPS, *(tag[0] << 16 | tag[1] for tag in (p.tag for p in ALL_PARAMETERS)),
        0x00189008, 0x00189018,
    }
    | mosaic.PRIVATE_TAGS
)  # fmt: skip
_MAX_INFLATED_HEADER = 512 * 1024**2
_MAX_PRIVATE_BYTES = 1024**2  # a CSA image header has some 12 kB
_SHOWN_VALUES = 5  # of those that vary

_PROBLEMS = {
    Nature.NUMBER: "not a decimal number",
    Nature.MATRIX: "not exactly one frequency and one phase value",
    Nature.TEXT: "not usable",
}


class _Reading(NamedTuple):
    """One parameter in one instance or frame."""

    raw: str
    canonical: str | float | None
    problem: str = ""


def read_header_dataset(file: InstanceFile) -> Dataset:
    """The elements of an instance that `read_series_header` looks at, unconverted; never its pixels.

    Raises
    ------
    UnreadableInstance
        The file is not a DICOM instance, or its header is damaged.
    OSError
        The file cannot be read; trying again may help.
    """
    with open_data_set(file, _MAX_INFLATED_HEADER) as (stream, transfer_syntax_uid):
        encoding = el.encoding_of(transfer_syntax_uid)
        found, _ = el.walk(stream, encoding, HEADER_TAGS, PER_FRAME_GROUPS, _MAX_PRIVATE_BYTES)
        return el.excerpt(found, encoding)


def read_series_header(datasets: Sequence[Dataset]) -> SeriesHeader:
    """Every acquisition parameter over all instances and frames of one series, canonical where they agree.

    A value that differs beyond its tolerance inside the series has the canonical form None and the problem
    "varies in the series: ..."; a value that cannot be used keeps its raw text with the problem. Field of
    View is Rows (0028,0010) x row spacing (0028,0030), in mm, of one tile where the image is a mosaic.
    """
    values = [_settle(parameter, _series_readings(parameter, datasets)) for parameter in ALL_PARAMETERS]
    return SeriesHeader(values=tuple(values))


def _series_readings(parameter: AcquisitionParameter, datasets: Iterable[Dataset]) -> list[_Reading]:
    """The distinct readings of one parameter, in the order met."""
    distinct: dict[_Reading, None] = {}
    for ds in datasets:
        distinct.update(dict.fromkeys(_instance_readings(parameter, ds)))
    return list(distinct)


def _instance_readings(parameter: AcquisitionParameter, ds: Dataset) -> list[_Reading]:
    tag = parameter.tag[0] << 16 | parameter.tag[1]
    if parameter.keyword == "ContrastBolusAgent":
        return [_contrast_agent(ds, tag)]
    if parameter.keyword == "SequenceFamily":
        terms = raw_text(ds, tag) or _enhanced_scanning_sequence(ds)
        return [_Reading(terms, canonical(parameter.keyword, terms))] if terms else []
    raws: list[str] = []
    if SHARED_GROUPS in ds or PER_FRAME_GROUPS in ds:
        if parameter.keyword == "AcquisitionMatrix":
            readings = [_matrix(frequency, phase) for frequency, phase in _matrix_steps(ds)]
            if readings:
                return readings
        elif parameter.keyword in _FUNCTIONAL_GROUPS:
            raws = _in_groups(ds, *_FUNCTIONAL_GROUPS[parameter.keyword])
        if not raws:
            raws = [raw for sequence in _UNASSIGNED for raw in _in_groups(ds, sequence, tag)]
    if not raws:
        raw = raw_text(ds, tag)
        raws = [raw] if raw is not None else []
    if parameter.keyword == "FieldOfView":
        return [_field_of_view(ds, raw) for raw in raws]
    return [_reading(parameter, raw) for raw in raws]


def _reading(parameter: AcquisitionParameter, raw: str) -> _Reading:
    value = canonical(parameter.keyword, raw)
    return _Reading(raw, value, _PROBLEMS[parameter.nature] if value is None and raw.strip() else "")


def _enhanced_scanning_sequence(ds: Dataset) -> str:
    """Echo Pulse Sequence (0018,9008) and Echo Planar Pulse Sequence (0018,9018) in the terms of Scanning Sequence."""
    echo = (raw_text(ds, 0x00189008) or "").upper()
    terms = ["EP"] if (raw_text(ds, 0x00189018) or "").upper() == "YES" else []
    terms += {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}.get(echo, [])
    return "\\".join(terms)


def _groups(ds: Dataset) -> list[Dataset]:
    """The functional groups of an enhanced instance: shared first, then one item per frame."""
    return [*items(ds, SHARED_GROUPS)[:1], *items(ds, PER_FRAME_GROUPS)]


def _in_groups(ds: Dataset, sequence: int, tag: int) -> list[str]:
    """The distinct raw values of one element over shared and per-frame functional groups."""
    distinct: dict[str, None] = {}
    for group in _groups(ds):
        for item in items(group, sequence)[:1]:
            raw = raw_text(item, tag)
            if raw is not None:
                distinct[raw] = None
    return list(distinct)


def _matrix_steps(ds: Dataset) -> list[tuple[str, str]]:
    """MR Acquisition Frequency Encoding Steps and Phase Encoding Steps in Plane, distinct pairs."""
    distinct: dict[tuple[str, str], None] = {}
    for group in _groups(ds):
        for item in items(group, _FREQUENCY_STEPS[0])[:1]:
            frequency = raw_text(item, _FREQUENCY_STEPS[1])
            phase = raw_text(item, _PHASE_STEPS[1])
            if frequency is not None or phase is not None:
                distinct[(frequency or "", phase or "")] = None
    return list(distinct)


def _matrix(frequency: str, phase: str) -> _Reading:
    raw = f"{frequency}\\{phase}"
    steps = [canonical_number(text) for text in (frequency, phase)]
    if any(step is None or step <= 0 or step != int(step) for step in steps):
        return _Reading(raw, None, _PROBLEMS[Nature.MATRIX] if frequency or phase else "")
    return _Reading(raw, "x".join(str(int(step)) for step in steps if step))


def _contrast_agent(ds: Dataset, tag: int) -> _Reading:
    raw = raw_text(ds, tag)
    if raw is None and _CONTRAST_SEQUENCE in ds:
        agents = [raw_text(item, _CODE_MEANING) or "" for item in items(ds, _CONTRAST_SEQUENCE)]
        raw = "\\".join(agent for agent in agents if agent.strip())
    return _Reading(raw or "", canonical_contrast_agent(raw))


def _field_of_view(ds: Dataset, pixel_spacing: str) -> _Reading:
    spacing = [canonical_number(part) for part in pixel_spacing.split("\\")]
    if not pixel_spacing.strip():
        return _Reading("", None)
    if len(spacing) != 2 or any(value is None or value <= 0 for value in spacing):
        return _Reading(pixel_spacing, None, "Pixel Spacing (0028,0030) is not two positive numbers")
    try:
        grid = mosaic.tile_grid(ds)
    except UnreadablePixels as error:
        return _Reading(pixel_spacing, None, str(error))
    rows = float(grid.tile_rows) if grid else canonical_number(raw_text(ds, mosaic.ROWS) or "")
    if not rows or spacing[0] is None:
        return _Reading(pixel_spacing, None, "Rows (0028,0010) is not a positive number")
    return _Reading(f"{rows:g} x {pixel_spacing.split(chr(92))[0].strip()}", round(rows * spacing[0], 6))


def _settle(parameter: AcquisitionParameter, readings: list[_Reading]) -> HeaderValue:
    """One value for the series from its distinct readings."""
    raws = list(dict.fromkeys(reading.raw for reading in readings if reading.raw))
    raw = _shown(raws, " ; ")
    problem = next((reading.problem for reading in readings if reading.problem), "")
    if problem:
        return HeaderValue(parameter.keyword, raw, None, problem)
    distinct: list[str | float] = []
    for reading in readings:
        value = reading.canonical
        if value is not None and not any(parameter.same(value, other) for other in distinct):
            distinct.append(value)
    if len(distinct) > 1:
        values = _shown([parameter.text(value) for value in distinct], ", ")
        unit = f" {parameter.unit}" if parameter.unit else ""
        return HeaderValue(parameter.keyword, raw, None, f"varies in the series: {values}{unit}")
    return HeaderValue(parameter.keyword, raw, distinct[0] if distinct else None)


def _shown(texts: list[str], separator: str) -> str:
    """The first few of the distinct values, and that there are more."""
    more = [f"... ({len(texts)} values)"] if len(texts) > _SHOWN_VALUES else []
    return separator.join([*texts[:_SHOWN_VALUES], *more])
