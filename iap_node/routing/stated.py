"""Conditions over what is stated: headers, what the archive knows of the series, findings of the audit.

A value that is not there makes every test but `missing` unknown, never false; so does one that varies in the series or
cannot be used. Called by `expressions`.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from iap_node.config.patterns import Pattern
from iap_node.config.routing import (
    HEADER_ELEMENTS,
    NUMERIC_FACTS,
    FindingConditionConfig,
    HeaderConditionConfig,
    SeriesConditionConfig,
    TestsConfig,
)
from iap_node.dicom.parameters import (
    BY_KEYWORD,
    CONTRAST_ABSENT,
    CONTRAST_NOT_NAMED,
    AcquisitionParameter,
    Nature,
    canonical_number,
    canonical_text,
)
from iap_node.records import FoundFact, RoutingEvidence, Truth, Witness
from iap_node.routing.logic import truth_of

MOST_CHARACTERS = 120  # of a header's value in a trace
_FACT_NAMES = {
    "CallingAETitle": "calling_ae_title",
    "Modality": "modality",
    "SeriesDescription": "series_description",
    "ProtocolName": "protocol_name",
    "BodyPartExamined": "body_part_examined",
    "Manufacturer": "manufacturer",
    "ManufacturerModelName": "manufacturer_model_name",
    "DeviceSerialNumber": "device_serial_number",
    "SoftwareVersions": "software_versions",
    "SeriesNumber": "series_number",
    "StudyDate": "study_date",
    "NumberOfSeriesRelatedInstances": "number_of_instances",
}


class Stated(NamedTuple):
    """How a condition over something stated came out."""

    truth: Truth
    observed: str


class _Value(NamedTuple):
    """What is stated of one subject."""

    value: str | float | None  # None: missing, or not usable
    observed: str
    missing: Truth


class StatedTests:
    """The tests of one condition over a stated value, made ready once per version of the rules."""

    def __init__(self, condition: HeaderConditionConfig | SeriesConditionConfig) -> None:
        self._condition: TestsConfig = condition
        self._keyword = condition.header if isinstance(condition, HeaderConditionConfig) else condition.series
        self._of_archive = isinstance(condition, SeriesConditionConfig)
        self._parameter = None if self._of_archive else HEADER_ELEMENTS[self._keyword]
        self._pattern = None if condition.matches is None else Pattern(condition.matches)

    def __call__(self, evidence: RoutingEvidence) -> Stated:
        """The truth, and what was stated."""
        found = self._fact(evidence) if self._of_archive else self._stated(evidence)
        if self._condition.missing:
            return Stated(found.missing, found.observed)
        if found.value is None:
            return Stated(Truth.UNKNOWN, found.observed)
        return Stated(self._test(found.value), found.observed)

    def _test(self, value: str | float) -> Truth:
        condition = self._condition
        if self._parameter is not None and self._parameter.nature is Nature.NUMBER:
            number = value if isinstance(value, float) else canonical_number(value)
            if number is None:
                return Truth.UNKNOWN  # several, by design of the protocol: nobody can say which is meant
            value = number
        if self._pattern is not None:
            return truth_of(self._pattern.matches(_text(self._parameter, value)))
        if condition.near is not None or condition.between is not None:
            number = value if isinstance(value, float) else canonical_number(value)
            if number is None:
                return Truth.UNKNOWN  # not a number: nobody can say how near it is
            if condition.between is not None:
                return truth_of(condition.between[0] - 1e-9 <= number <= condition.between[1] + 1e-9)
            assert condition.near is not None and condition.within is not None  # they go together
            return truth_of(abs(number - condition.near) <= condition.within + 1e-9)
        return truth_of(any(_same(self._parameter, value, wanted) for wanted in condition.values))

    def _fact(self, evidence: RoutingEvidence) -> _Value:
        if evidence.facts is None:
            return _Value(None, "the archive was not asked", Truth.UNKNOWN)
        fact = getattr(evidence.facts, _FACT_NAMES[self._keyword])
        number = self._keyword in NUMERIC_FACTS and fact is not None
        value = float(fact) if number else canonical_text(fact or "")
        if value is None:
            return _Value(None, "missing", Truth.TRUE)
        return _Value(value, _shown(_text(None, value)), Truth.FALSE)

    def _stated(self, evidence: RoutingEvidence) -> _Value:
        assert self._parameter is not None  # of a header
        if self._keyword in BY_KEYWORD:
            return self._of_parameter(self._parameter, evidence)
        if evidence.stated is None:
            return _Value(None, "not kept for this series", Truth.UNKNOWN)
        # What is not among them may be absent, or vary in the series, or never be kept: nobody knows which.
        value = next((canonical_text(text) for keyword, text in evidence.stated if keyword == self._keyword), None)
        if value is None:
            return _Value(None, "no constant value is kept", Truth.UNKNOWN)
        unit = f" {self._parameter.unit}" if self._parameter.unit else ""
        return _Value(value, _shown(value) + unit, Truth.FALSE)

    def _of_parameter(self, parameter: AcquisitionParameter, evidence: RoutingEvidence) -> _Value:
        if evidence.header is None:
            return _Value(None, "the header was not read", Truth.UNKNOWN)
        stated = evidence.header.value(parameter.keyword)
        if stated.canonical in (CONTRAST_ABSENT, CONTRAST_NOT_NAMED) and parameter.keyword == "ContrastBolusAgent":
            return _Value(stated.canonical, str(stated.canonical), Truth.TRUE)  # that it is absent is a value too
        if stated.canonical is not None:
            return _Value(stated.canonical, _shown(parameter.text_with_unit(stated.canonical)), Truth.FALSE)
        if stated.raw or stated.problem:
            return _Value(None, _shown(stated.problem or stated.raw), Truth.FALSE)
        return _Value(None, "missing", Truth.TRUE)


def finding_truth(condition: FindingConditionConfig, evidence: RoutingEvidence) -> Stated:
    """Whether the audit found what the condition asks for; unknown where a witness who might have was not heard."""
    if evidence.findings is None:
        return Stated(Truth.UNKNOWN, "the audit did not look")
    found = [finding for finding in evidence.findings if _is_asked_for(condition, finding)]
    silent = [witness for witness in _unheard(evidence) if _might_raise(condition, witness)]
    if not found and silent:
        return Stated(Truth.UNKNOWN, f"none, but not heard: {', '.join(silent)}")
    if not found:
        return Stated(Truth.FALSE, "none")
    counted = Counter(f"{item.check} of {item.element} ({item.severity}, {item.state})" for item in found)
    return Stated(Truth.TRUE, _shown(", ".join(counted)))


def _unheard(evidence: RoutingEvidence) -> list[str]:
    pixels_spoke = evidence.prediction is not None and evidence.prediction.speaks
    return [one for one in Witness if one in evidence.unheard or (one is Witness.PIXELS and not pixels_spoke)]


def _might_raise(condition: FindingConditionConfig, witness: str) -> bool:
    if condition.raised_by is not None and witness not in condition.raised_by:
        return False
    if condition.finding == "any":
        return True
    # checks of pixels and habit begin with the witness's name; all others are the standard's
    named = next((one for one in Witness if condition.finding.startswith(f"{one}-")), Witness.STANDARD)
    return named == witness


def _is_asked_for(condition: FindingConditionConfig, finding: FoundFact) -> bool:
    return (
        condition.finding in ("any", finding.check)
        and (condition.element is None or finding.element in condition.element)
        and (condition.severity is None or finding.severity in condition.severity)
        and (condition.raised_by is None or finding.raised_by in condition.raised_by)
        and finding.state in condition.state
    )


def _same(parameter: AcquisitionParameter | None, value: str | float, wanted: str | float) -> bool:
    if parameter is not None and parameter.nature is Nature.NUMBER:
        return parameter.same(value, wanted)
    if isinstance(wanted, float):
        number = value if isinstance(value, float) else canonical_number(value)
        return number == wanted if number is not None else f"{wanted:g}" == value
    if isinstance(value, float):
        return canonical_number(wanted) == value
    return value.casefold() == (canonical_text(wanted) or "").casefold()


def _text(parameter: AcquisitionParameter | None, value: str | float) -> str:
    if parameter is not None:
        return parameter.text(value)
    return f"{value:g}" if isinstance(value, float) else value


def _shown(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 3] + "..."
