"""Values that are not written as their value representation asks. What is no number is never treated as one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date
from functools import lru_cache

from pydicom.datadict import dictionary_VM

from iap_node.audit.checks import tags
from iap_node.audit.checks.check import Check, Doubt, Scope, shown, title, written
from iap_node.dicom.parameters import canonical_number
from iap_node.dicom.statements import FUNCTIONAL_GROUPS, Image, InstanceStatements, Stated
from iap_node.records import FindingKind, Severity

_NUMERIC = frozenset({"DS", "IS", "FD", "FL"})
_MOST_CHARACTERS = {"DS": 16, "IS": 12, "CS": 16}
_INT32 = 2**31
_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_WITH_UNIT = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+)) *(ms|s|us|mm|cm|m|T|mT|G|MHz|kHz|Hz|deg|°|%)", re.ASCII)
_CODE_STRING = re.compile(r"[A-Z0-9 _]*", re.ASCII)
_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})", re.ASCII)
_TIME = re.compile(r"([01]\d|2[0-3])(:?[0-5]\d(:?([0-5]\d|60)(\.\d{1,6})?)?)?", re.ASCII)
# Units in which these elements are stated (PS3.3), and what others are worth in them.
_MILLISECONDS = {"ms": 1.0, "s": 1000.0, "us": 0.001}
_MILLIMETRES = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
_WORTH: dict[int, dict[str, float]] = {
    tags.REPETITION_TIME: _MILLISECONDS,
    tags.ECHO_TIME: _MILLISECONDS,
    tags.INVERSION_TIME: _MILLISECONDS,
    tags.SLICE_THICKNESS: _MILLIMETRES,
    tags.SPACING_BETWEEN_SLICES: _MILLIMETRES,
    tags.RECONSTRUCTION_DIAMETER: _MILLIMETRES,
    tags.MAGNETIC_FIELD_STRENGTH: {"T": 1.0, "mT": 0.001, "G": 0.0001},
    tags.IMAGING_FREQUENCY: {"MHz": 1.0, "kHz": 0.001, "Hz": 0.000001},
    tags.PIXEL_BANDWIDTH: {"Hz": 1.0, "kHz": 1000.0},
    tags.FLIP_ANGLE: {"deg": 1.0, "°": 1.0},
    tags.PERCENT_SAMPLING: {"%": 1.0},
    tags.PERCENT_PHASE_FIELD_OF_VIEW: {"%": 1.0},
}
_CODES = (
    tags.SCANNING_SEQUENCE, tags.SEQUENCE_VARIANT, tags.SCAN_OPTIONS, tags.MR_ACQUISITION_TYPE, tags.ANGIO_FLAG,
    tags.IN_PLANE_PHASE_ENCODING_DIRECTION, tags.PATIENT_POSITION, tags.PHOTOMETRIC_INTERPRETATION, tags.MODALITY,
)  # fmt: skip
_DATES = (tags.STUDY_DATE, tags.SERIES_DATE, tags.ACQUISITION_DATE, tags.CONTENT_DATE)
_TIMES = (tags.STUDY_TIME, tags.SERIES_TIME, tags.ACQUISITION_TIME, tags.CONTENT_TIME)
_NUMBERS = tuple(sorted({*_WORTH, *FUNCTIONAL_GROUPS, tags.ECHO_NUMBERS, tags.NUMBER_OF_FRAMES, tags.SLICE_LOCATION}))


def _all_stated(image: Image) -> Iterable[tuple[int, Stated]]:
    yield from image.stated.items()
    if image.is_frame:
        for place in image.places:
            yield from place.items()


def not_a_number(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Every value of a numeric VR is a finite number."""
    for tag, stated in _all_stated(image):
        if stated.vr not in _NUMERIC or not stated.raw or canonical_number(stated.raw) is not None:
            continue
        wrong = [part for part in stated.parts if part and canonical_number(part) is None]
        if wrong:
            suggested = _number_meant(tag, wrong[0]) if len(stated.parts) == 1 else None
            yield Doubt(
                stated.tag, f"{title(stated.tag)} holds '{shown(wrong[0])}', which is no number", stated.raw, suggested
            )


def _number_meant(tag: int, text: str) -> str | None:
    if _COMMA.fullmatch(text):
        return text.replace(",", ".")
    found = _WITH_UNIT.fullmatch(text)
    worth = _WORTH.get(tag, {}).get(found[2]) if found else None
    return written(float(found[1]) * worth) if found and worth is not None else None


def not_an_integer(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Integer Strings hold integers of 32 bits."""
    for stated in image.stated.values():
        if stated.vr != "IS" or not stated.raw:
            continue
        for part in stated.parts:
            number = canonical_number(part)
            if number is not None and (number != int(number) or not -_INT32 <= number < _INT32):
                why = "no whole number" if number != int(number) else "more than 32 bits can hold"
                evidence = f"{title(stated.tag)} holds {shown(part)}, which is {why}"
                yield Doubt(stated.tag, evidence, stated.raw)


@lru_cache(maxsize=512)
def _multiplicity(tag: int) -> int | None:
    """The only number of values that PS3.6 allows; None where it allows several."""
    text = dictionary_VM(tag)
    return int(text) if text.isdigit() else None


def multiplicity(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """An element has as many values as PS3.6 says."""
    for tag, stated in _all_stated(image):
        if stated.vr not in _NUMERIC and stated.vr not in ("US", "CS"):
            continue
        if not stated.raw or (tag != stated.tag and tag == tags.ACQUISITION_MATRIX):
            continue  # the matrix of a frame is put together from two elements
        wanted, count = _multiplicity(stated.tag), stated.raw.count("\\") + 1
        if wanted is not None and count != wanted:
            evidence = f"{title(stated.tag)} has {count} values, the standard says {wanted}"
            yield Doubt(stated.tag, evidence, stated.raw)


def too_long(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Values of DS, IS and CS are not longer than their VR allows."""
    for stated in image.stated.values():
        most = _MOST_CHARACTERS.get(stated.vr)
        if most is None or len(stated.raw) <= most:
            continue
        longest = max(stated.parts, key=len)
        if len(longest) > most:
            evidence = f"{title(stated.tag)} has a value of {len(longest)} characters, {stated.vr} has {most} at most"
            yield Doubt(stated.tag, evidence, stated.raw)


def code_string(image: Image, instance: InstanceStatements) -> Iterator[Doubt]:
    """Code Strings of the acquisition hold capitals, digits, space and underscore."""
    for tag in _CODES:
        raw = image.text(tag)
        if raw and not _CODE_STRING.fullmatch(raw.replace("\\", "")):
            capitals = raw.upper()
            suggested = capitals if _CODE_STRING.fullmatch(capitals.replace("\\", "")) else None
            evidence = f"{title(tag)} holds '{shown(raw)}'; CS has capitals, digits, space and underscore only"
            yield Doubt(tag, evidence, raw, suggested)


def date_or_time(instance: InstanceStatements) -> Iterator[Doubt]:
    """Dates and times of the acquisition are such."""
    for tag in _DATES:
        raw = instance.top.text(tag)
        if raw and not _is_date(raw):
            yield Doubt(tag, f"{title(tag)} holds '{shown(raw)}', which is no date", raw)
    for tag in _TIMES:
        raw = instance.top.text(tag)
        if raw and not _TIME.fullmatch(raw):
            yield Doubt(tag, f"{title(tag)} holds '{shown(raw)}', which is no time", raw)


@lru_cache(maxsize=512)
def _is_date(raw: str) -> bool:
    found = _DATE.fullmatch(raw)
    if not found:
        return False
    try:
        date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        return False
    return True


CHECKS = (
    Check(
        "not-a-number", _NUMBERS, FindingKind.REPRESENTATION, Severity.WARNING,
        "every value of DS, IS, FD and FL is a finite number: no comma, unit, NaN or infinity",
        "PS3.5 Table 6.2-1 (DS, IS, FD, FL)",
        "empty values; private elements, among them GE's text in (0043,1080), which is declared DS",
        Scope.IMAGE, not_a_number,
    ),
    Check(
        "not-an-integer", (tags.ECHO_NUMBERS, tags.ECHO_TRAIN_LENGTH, tags.NUMBER_OF_PHASE_ENCODING_STEPS,
        tags.NUMBER_OF_FRAMES, tags.SERIES_NUMBER, tags.INSTANCE_NUMBER),
        FindingKind.REPRESENTATION, Severity.NOTE,
        "every value of IS is an integer from -2^31 to 2^31 - 1",
        "PS3.5 Table 6.2-1 (IS)",
        "integers with a decimal point and zeros behind it",
        Scope.IMAGE, not_an_integer,
    ),
    Check(
        "multiplicity", (*_NUMBERS, *_CODES), FindingKind.REPRESENTATION, Severity.WARNING,
        "as many values as PS3.6 says, where it says one number",
        "PS3.5 6.4; PS3.6 section 6",
        "text with a backslash in it, such as protocol names",
        Scope.IMAGE, multiplicity,
    ),
    Check(
        "value-too-long", (*_NUMBERS, *_CODES), FindingKind.REPRESENTATION, Severity.NOTE,
        "DS has 16 characters at most, IS 12, CS 16",
        "PS3.5 Table 6.2-1",
        "padding; positions, which differ in length from slice to slice",
        Scope.IMAGE, too_long,
    ),
    Check(
        "code-string-characters", _CODES, FindingKind.REPRESENTATION, Severity.NOTE,
        "CS holds A-Z, 0-9, space and underscore",
        "PS3.5 Table 6.2-1 (CS)",
        "Body Part Examined and Image Type, into which sites write as they like",
        Scope.IMAGE, code_string,
    ),
    Check(
        "date-or-time", (*_DATES, *_TIMES), FindingKind.REPRESENTATION, Severity.NOTE,
        "DA is YYYYMMDD and a day of the calendar, TM is HHMMSS.FFFFFF or its beginning",
        "PS3.5 Table 6.2-1 (DA, TM)",
        "the dots and colons of ACR-NEMA; empty values, which de-identification leaves",
        Scope.INSTANCE, date_or_time,
    ),
)  # fmt: skip
