"""The coded terms of the SR document: those of the standard, and our own (99IAP) where it has none.

Called by `document`. Source: PS3.16 Annex D (DCM), CID 82 (UCUM units), TID 1500, 1501, 1002, 4019. Private code values
are made here and nowhere else; docs/decisions/0021-results-as-dicom.md lists them, and a test compares.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from iap_node.dicom.parameters import PARAMETERS

PRIVATE_SCHEME: Final = "99IAP"
PRIVATE_SCHEME_NAME: Final = "IAP node: acquisition parameters read from pixels"
MOST_MEANING = 64  # Code Meaning (0008,0104) is VR LO


class Code(NamedTuple):
    """Code Value (0008,0100), Coding Scheme Designator (0008,0102), Code Meaning (0008,0104)."""

    value: str
    scheme: str
    meaning: str


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


REPORT: Final = _dcm("126000", "Imaging Measurement Report")
LANGUAGE: Final = _dcm("121049", "Language of Content Item and Descendants")
ENGLISH: Final = Code("en", "RFC5646", "English")
OBSERVER_TYPE: Final = _dcm("121005", "Observer Type")
DEVICE: Final = _dcm("121007", "Device")
OBSERVER_UID: Final = _dcm("121012", "Device Observer UID")
OBSERVER_NAME: Final = _dcm("121013", "Device Observer Name")
OBSERVER_MANUFACTURER: Final = _dcm("121014", "Device Observer Manufacturer")
OBSERVER_MODEL: Final = _dcm("121015", "Device Observer Model Name")
PROCEDURE_REPORTED: Final = _dcm("121058", "Procedure reported")
MR_IMAGING: Final = Code("113091000", "SCT", "Magnetic resonance imaging")
IMAGING: Final = Code("363679005", "SCT", "Imaging")
IMAGE_LIBRARY: Final = _dcm("111028", "Image Library")
IMAGE_LIBRARY_GROUP: Final = _dcm("126200", "Image Library Group")
IMAGING_MEASUREMENTS: Final = _dcm("126010", "Imaging Measurements")
MEASUREMENT_GROUP: Final = _dcm("125007", "Measurement Group")
QUALITATIVE_EVALUATIONS: Final = Code("C0034375", "UMLS", "Qualitative Evaluations")
TRACKING_IDENTIFIER: Final = _dcm("112039", "Tracking Identifier")
TRACKING_UID: Final = _dcm("112040", "Tracking Unique Identifier")
FINDING: Final = _dcm("121071", "Finding")
ALGORITHM_NAME: Final = _dcm("111001", "Algorithm Name")
ALGORITHM_VERSION: Final = _dcm("111003", "Algorithm Version")
ALGORITHM_PARAMETERS: Final = _dcm("111002", "Algorithm Parameters")
PROBABILITY: Final = _dcm("122157", "Probability")
SEVERITY: Final = Code("246112005", "SCT", "Severity")

UNITS: Final[dict[str, Code]] = {
    "": Code("1", "UCUM", "no units"),
    "ms": Code("ms", "UCUM", "millisecond"),
    "mm": Code("mm", "UCUM", "millimeter"),
    "deg": Code("deg", "UCUM", "degree"),
    "T": Code("T", "UCUM", "Tesla"),
}
_STANDARD_PARAMETERS: Final = {
    "MagneticFieldStrength": _dcm("130542", "Magnetic field strength"),
    "SliceThickness": _dcm("112225", "Slice Thickness"),
}


def _own(value: str, meaning: str) -> Code:
    return Code(value, PRIVATE_SCHEME, meaning)


PREDICTED_PARAMETER: Final = _own("RES-PARAMETER", "Acquisition parameter")
HEADER_FINDING: Final = _own("RES-FINDING", "Finding against the header")
NOVELTY: Final = _own("RES-NOVELTY", "Novelty of the series")
STATUS: Final = _own("RES-STATUS", "Status of the analysis")
STATEMENT: Final = _own("RES-STATEMENT", "Statement about the analysis")
TRAINING_DATA: Final = _own("RES-TRAINING", "What the model was trained on")
LOWER_BOUND: Final = _own("RES-LOWER", "Lower bound of the prediction interval")
UPPER_BOUND: Final = _own("RES-UPPER", "Upper bound of the prediction interval")
CONFIDENCE: Final = _own("RES-CONFIDENCE", "Confidence of the prediction set or interval")
BY_ASSOCIATION: Final = _own("RES-ASSOCIATION", "Inferred by association, not from physics")
HEADER_VALUE: Final = _own("RES-HEADER", "Value stated in the header")
HEADER_PROBLEM: Final = _own("RES-PROBLEM", "Problem of the value in the header")
HEADER_PROBABILITY: Final = _own("RES-HEADERPROB", "Probability of the value in the header")
VERDICT: Final = _own("RES-VERDICT", "Header compared with the pixels")
SUGGESTED_VALUE: Final = _own("RES-SUGGESTED", "Suggested value")
ACCEPTED_VALUE: Final = _own("RES-ACCEPTED", "Value accepted by a person")
REASON: Final = _own("RES-REASON", "Reason")
VERBATIM: Final = _own("RES-VERBATIM", "Value in full")
NOVELTY_SCORE: Final = _own("RES-SCORE", "Novelty score")
NOVELTY_THRESHOLD: Final = _own("RES-THRESHOLD", "Novelty score above which the model abstains")
HEADER_FIT: Final = _own("RES-HEADERFIT", "Conformal p-value of the header as a whole")
CHECK: Final = _own("RES-CHECK", "Check")
ELEMENT: Final = _own("RES-ELEMENT", "Element")
KIND: Final = _own("RES-KIND", "Kind of finding")
STATE: Final = _own("RES-STATE", "State of the finding")
RAISED_BY: Final = _own("RES-WITNESS", "Raised by")
EVIDENCE: Final = _own("RES-EVIDENCE", "Evidence")
CONCLUSION: Final = _own("RES-CONCLUSION", "Conclusion")

PARAMETER_CODES: Final[dict[str, Code]] = {
    one.keyword: _STANDARD_PARAMETERS.get(
        one.keyword, _own(f"{one.tag[0]:04X}-{one.tag[1]:04X}" if one.keyword != "FieldOfView" else "FOV", one.title)
    )
    for one in PARAMETERS
}
"""Concept names of the acquisition parameters: the standard's, else the tag of the element that states it."""

PRIVATE_CODES: Final = tuple(
    code
    for code in (*(value for value in dict(globals()).values() if isinstance(value, Code)), *PARAMETER_CODES.values())
    if code.scheme == PRIVATE_SCHEME
)
"""All private codes with a fixed value."""


def term(kind: str, text: str) -> Code:
    """A private code for one of many texts: a class of a vocabulary, a check, a state.

    Its value is made from the text, so that the same text always has the same code; its meaning is the text, as far as
    Code Meaning can hold it (no backslash, no control characters, 64 characters).

    Parameters
    ----------
    kind
        What it is a term of: "EchoTime", "check"; equal texts of two kinds have two codes.
    """
    digest = hashlib.sha256(f"{kind}={text}".encode()).hexdigest()[:12].upper()
    return _own(f"T-{digest}", meaning(text))


def meaning(text: str) -> str:
    """A text as Code Meaning can hold it."""
    safe = "".join(one if one.isprintable() else " " for one in text.replace("\\", ", "))
    return " ".join(safe.split())[:MOST_MEANING].strip() or "(empty)"
