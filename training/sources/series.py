"""What a source says of a series before anybody reads it. Called by the sources and by `training.prepare`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from iap_node.dicom.file_slice import InstanceFile
from iap_node.dicom.parameters import PARAMETERS
from iap_node.records import Severity

_WHOLE = "SeriesInstanceUID"  # the element of findings against a header as a whole
_OF_ELEMENT = {parameter.element: parameter.keyword for parameter in PARAMETERS} | {
    parameter.keyword: parameter.keyword for parameter in PARAMETERS
}
# What a parameter is computed from, or what tells it beside its own element.
_ALSO = {
    "Rows": "FieldOfView",
    "Columns": "FieldOfView",
    "ReconstructionDiameter": "FieldOfView",
    "ImagingFrequency": "MagneticFieldStrength",
    "EffectiveEchoTime": "EchoTime",
    "PercentPhaseFieldOfView": "AcquisitionMatrix",
    "InPlanePhaseEncodingDirection": "AcquisitionMatrix",
    "MRAcquisitionFrequencyEncodingSteps": "AcquisitionMatrix",
    "MRAcquisitionPhaseEncodingStepsInPlane": "AcquisitionMatrix",
    "ContrastBolusAgentSequence": "ContrastBolusAgent",
}


@dataclass(frozen=True, slots=True)
class SourceSeries:
    """A series that may be learned from; nothing of it has been read.

    Attributes
    ----------
    patient
        Keyed hash of the patient.
    files
        Its instances whose pixels a model can read; empty where `dropped_reason` says why.
    reference
        Where it came from, for the manifest: never with anything of the patient.
    left_out
        By keyword, the check whose open finding keeps the header's value from being a label.
    dropped_reason
        Why it is not learned from at all.
    """

    study_instance_uid: str
    series_instance_uid: str
    patient: str
    files: tuple[InstanceFile, ...] = field(repr=False)
    reference: str
    left_out: Mapping[str, str] = field(default_factory=dict)
    dropped_reason: str | None = None


class Source(Protocol):
    """Anything that has series to learn from."""

    @property
    def images(self) -> str:
        """Where the images come from, in plain words that follow "trained on": shown with every answer."""

    @property
    def identity(self) -> str:
        """What tells this source from another one, when a data set that was begun goes on."""

    def count(self) -> int | None:
        """How many series there will be; None where nobody can tell yet."""

    def series(self) -> Iterator[SourceSeries]:
        """Every series, those that are dropped included, in an order that stays the same."""


class Against(Protocol):
    """What is found against a header: `iap_node.records.Finding`, or what the archive has of it."""

    @property
    def element(self) -> str:
        """DICOM keyword."""

    @property
    def check(self) -> str:
        """Which check found it."""

    @property
    def severity(self) -> Severity:
        """How much it matters."""


def left_out_labels(findings: Sequence[Against]) -> dict[str, str]:
    """By keyword, the check that makes a header's value no label: of findings that say that it is wrong or unreliable.

    Notes are against the standard or unlikely, mostly harmless, and say nothing against a value; nor does a finding
    that the value is missing.
    """
    found: dict[str, str] = {}
    for one in findings:
        keyword = _OF_ELEMENT.get(one.element) or _ALSO.get(one.element)
        if keyword is not None and one.severity is not Severity.NOTE:
            found.setdefault(keyword, one.check)
    return found


def against_the_whole(findings: Sequence[Against]) -> str | None:
    """The check that found something against the header as a whole; None where none did."""
    return next((one.check for one in findings if one.element == _WHOLE and one.severity is not Severity.NOTE), None)
