r"""What is to be corrected: from accepted values and from what a person sets, checked before anything is written.

Called by `copies` and by the command `correct`. A value is one for the series; where the headers of a series differ
in an element, a change says which of the old values it replaces, and without that nothing is done.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from iap_node.correction.values import UnusableValue, attribute, check_value, same_text, why_never_written
from iap_node.database.corrections import AcceptedValue
from iap_node.dicom.parameters import CONTRAST_ABSENT, CONTRAST_NOT_NAMED, canonical_matrix
from iap_node.errors import PermanentError
from iap_node.records import FindingKind

ANY_OLD_VALUE = "*"
MATRIX = "AcquisitionMatrix"
WHOLE_HEADER = "SeriesInstanceUID"  # the element of findings against the header as a whole
_SETTING = re.compile(r"(?P<keyword>[A-Za-z0-9]+)(?:\[(?P<old>[^\]]*)\])?=(?P<value>.*)", re.DOTALL)
_STEPS = re.compile(r"([1-9][0-9]*)x([1-9][0-9]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Change:
    """One element that gets another value."""

    keyword: str  # as the finding or the person named it
    value: str | None  # as it is to be written, "" for empty; None: the element goes
    replaces: str | None = None  # only where this stands; None: where one value stands, or the one in `found`
    everywhere: bool = False  # whatever stands there
    only_missing: bool = False  # only where nothing stands
    found: str = ""  # the old value that the finding is about
    reason: str = ""  # which finding, or that a person set it
    who: str = ""

    @property
    def label(self) -> str:
        """The keyword, with the old value where only that is replaced."""
        if self.everywhere and self.replaces is None:
            return f"{self.keyword}[{ANY_OLD_VALUE}]"
        return self.keyword if self.replaces is None else f"{self.keyword}[{self.replaces}]"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An accepted value that no element can be given, and why."""

    keyword: str
    value: str
    reason: str
    why: str


@dataclass(frozen=True, slots=True)
class Changes:
    """All changes of one series."""

    changes: tuple[Change, ...]
    left_out: tuple[LeftOut, ...] = ()
    accepted: tuple[AcceptedValue, ...] = ()  # those that the changes are made of

    @property
    def elements(self) -> dict[str, str | None]:
        """Label to value, None for an element that goes: what `CorrectionRow` keeps."""
        return {change.label: change.value for change in self.changes}

    @property
    def fingerprint(self) -> str:
        """The same for the same changes, whoever accepted them and when; the UIDs of a copy are made from it."""
        return fingerprint(self.elements)


def fingerprint(elements: Mapping[str, str | None]) -> str:
    """SHA-256 over labels and values, 32 hexadecimal digits."""
    text = json.dumps(sorted(elements.items(), key=lambda pair: pair[0]), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def gather(accepted: Iterable[AcceptedValue], settings: Sequence[str] = ()) -> Changes:
    r"""The changes of one series.

    Parameters
    ----------
    accepted
        Accepted values of its findings. One that no element can be given is left out, with the reason.
    settings
        What a person sets: `KEYWORD=VALUE`, values joined by a backslash; `KEYWORD[OLD]=VALUE` only where OLD stands,
        `KEYWORD[*]=VALUE` whatever stands there. They go before accepted values of the same element.

    Raises
    ------
    PermanentError
        A value is against the standard, two accepted values of one element differ, or a setting is none.
    """
    changes: list[Change] = [_setting(text) for text in settings]
    set_keywords = {change.keyword for change in changes}
    labels = [change.label for change in changes]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise PermanentError(f"{twice} is set twice; set it once")
    left_out: list[LeftOut] = []
    taken: list[AcceptedValue] = []
    by_keyword: dict[str, tuple[AcceptedValue, Change]] = {}
    for value in accepted:
        if value.keyword in set_keywords:
            continue
        if why := _why_left_out(value.keyword):
            left_out.append(LeftOut(value.keyword, value.value, value.reason, why))
            continue
        change = _accepted(value)
        first = by_keyword.setdefault(value.keyword, (value, change))
        if not same_text(first[1].value, change.value):
            raise PermanentError(
                f"finding {first[0].finding_id} wants {first[0].value!r} for {value.keyword}, finding "
                f"{value.finding_id} wants {value.value!r}; dismiss one of them"
            )
        taken.append(value)
    changes += [change for _, change in by_keyword.values()]
    return Changes(tuple(sorted(changes, key=lambda change: change.label)), tuple(left_out), tuple(taken))


def _why_left_out(keyword: str) -> str | None:
    if keyword == "FieldOfView":
        return (
            "it is computed from Rows (0028,0010) and Pixel Spacing (0028,0030); if the spacing is wrong, correct "
            "PixelSpacing"
        )
    if keyword == WHOLE_HEADER:
        return "the finding is against the header as a whole; accept values of single elements"
    try:
        return why_never_written(attribute(keyword))
    except UnusableValue as error:  # a private element
        return str(error)


def _accepted(value: AcceptedValue) -> Change:
    text: str | None = value.value
    if value.keyword == "ContrastBolusAgent" and value.value == CONTRAST_ABSENT:
        text = None
    elif value.keyword == "ContrastBolusAgent" and value.value == CONTRAST_NOT_NAMED:
        text = ""
    try:
        _check(value.keyword, text)
    except UnusableValue as error:
        raise UnusableValue(f"{value.reason}: {error}; accept another value") from error
    return Change(
        keyword=value.keyword,
        value=text,
        everywhere=value.kind is FindingKind.INCONSTANT,
        only_missing=value.kind is FindingKind.MISSING and not value.found.strip(),
        found=value.found,
        reason=value.reason,
        who=value.who,
    )


def _setting(text: str) -> Change:
    found = _SETTING.fullmatch(text)
    if found is None:
        raise PermanentError(f"{text[:80]!r} sets nothing; write --set KEYWORD=VALUE, for example --set EchoTime=2.5")
    keyword, old, value = found["keyword"], found["old"], found["value"].strip()
    if keyword == "FieldOfView":
        raise UnusableValue(f"FieldOfView cannot be set: {_why_left_out(keyword)}")
    if why := why_never_written(attribute(keyword)):
        raise UnusableValue(f"{attribute(keyword).title} cannot be set: {why}")
    _check(keyword, value)
    return Change(
        keyword=keyword,
        value=value,
        replaces=None if old in (None, ANY_OLD_VALUE) else old.strip(),
        everywhere=old == ANY_OLD_VALUE,
        reason="--set",
    )


def _check(keyword: str, value: str | None) -> None:
    if value is None or (keyword == MATRIX and matrix_steps(value) is not None):
        return
    check_value(attribute(keyword), value)


def matrix_steps(value: str) -> tuple[int, int] | None:
    r"""Frequency and phase steps of an Acquisition Matrix, given as 256x230 or as four values; None for neither."""
    found = _STEPS.fullmatch(canonical_matrix(value) or value.strip())
    if found is None or max(int(found[1]), int(found[2])) > 0xFFFF:
        return None
    return int(found[1]), int(found[2])
