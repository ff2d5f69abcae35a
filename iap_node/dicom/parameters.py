"""THE table of acquisition parameters: keyword, tag, unit, tolerance, canonical form.

The ten categorical and two continuous parameters of arXiv 2303.04911, in the paper's output order. Which of
them a model predicts as classes and which as numbers, and which classes it knows, is said by its model
package, never here. Called by the header reader, the audit, routing, inference and training: one canonical
form for all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

CONTRAST_ABSENT = "absent"
CONTRAST_NOT_NAMED = "present but not named"


_STATED_BY = {"FieldOfView": "PixelSpacing", "SequenceFamily": "ScanningSequence"}


class Nature(StrEnum):
    """What a parameter's canonical value is."""

    TEXT = "text"  # str, white space collapsed; compared without case
    NUMBER = "number"  # float in `unit`; compared within `tolerance`
    MATRIX = "matrix"  # "FREQUENCYxPHASE"


@dataclass(frozen=True, slots=True)
class AcquisitionParameter:
    """One acquisition parameter that can be read from the header and predicted from pixels."""

    keyword: str  # DICOM keyword, except FieldOfView and SequenceFamily, which are computed
    tag: tuple[int, int]  # the element; for FieldOfView the Pixel Spacing it is computed from
    title: str  # for people
    nature: Nature
    unit: str = ""
    absolute_tolerance: float = 0.0  # in `unit`
    relative_tolerance: float = 0.0  # share of the reference value

    def tolerance(self, reference: float) -> float:
        """The largest difference from `reference`, in `unit`, that still counts as the same value."""
        return max(self.absolute_tolerance, self.relative_tolerance * abs(reference))

    def same(self, left: str | float, right: str | float) -> bool:
        """Whether two canonical values are the same: numbers within tolerance, text without case."""
        if self.nature is Nature.NUMBER:
            a, b = float(left), float(right)
            return abs(a - b) <= self.tolerance(b) + 1e-9
        return str(left).casefold() == str(right).casefold()

    def text(self, value: str | float | None) -> str:
        """A canonical value as text without unit; "" for None."""
        if value is None:
            return ""
        return f"{float(value):.6g}" if self.nature is Nature.NUMBER else str(value)

    def text_with_unit(self, value: str | float | None) -> str:
        """A canonical value as people read it, unit included; "" for None."""
        text = self.text(value)
        return f"{text} {self.unit}" if text and self.unit else text

    @property
    def element(self) -> str:
        """DICOM keyword of the element that states it: Pixel Spacing for Field of View, which no MR header holds."""
        return _STATED_BY.get(self.keyword, self.keyword)

    def equivalent(self, label: str, classes: Sequence[str]) -> set[str]:
        """`label` and the classes that a physicist calls the same value: 1.494 T is 1.5 T, 2.8936 T is 3 T."""
        return {other for other in classes if self.same(label, other) or self.same(other, label)}

    def match(self, value: str | float, classes: Sequence[str]) -> str | None:
        """The class of a vocabulary that `value` stands for, None when the vocabulary has none.

        Numbers take the nearest class within tolerance; text matches without case.
        """
        if self.nature is Nature.NUMBER:
            number = float(value)
            nearest = min(classes, key=lambda label: abs(float(label) - number), default=None)
            return nearest if nearest is not None and self.same(number, float(nearest)) else None
        folded = str(value).casefold()
        return next((label for label in classes if label.casefold() == folded), None)


# Tolerances: field strength 5 % because "3 T" systems run at 2.89 T (123.2 MHz) and 1.494 T is labelled 1.5 T
# (measured on real headers); the others are what two scanners of one protocol print differently.
PARAMETERS: tuple[AcquisitionParameter, ...] = (
    AcquisitionParameter("Manufacturer", (0x0008, 0x0070), "Manufacturer", Nature.TEXT),
    AcquisitionParameter("ManufacturerModelName", (0x0008, 0x1090), "Manufacturer's Model Name", Nature.TEXT),
    AcquisitionParameter("ScanOptions", (0x0018, 0x0022), "Scan Options", Nature.TEXT),
    AcquisitionParameter("PatientPosition", (0x0018, 0x5100), "Patient Position", Nature.TEXT),
    AcquisitionParameter(
        "MagneticFieldStrength",
        (0x0018, 0x0087),
        "Magnetic Field Strength",
        Nature.NUMBER,
        "T",
        relative_tolerance=0.05,
    ),
    AcquisitionParameter("ContrastBolusAgent", (0x0018, 0x0010), "Contrast/Bolus Agent", Nature.TEXT),
    AcquisitionParameter("AcquisitionMatrix", (0x0018, 0x1310), "Acquisition Matrix", Nature.MATRIX),
    AcquisitionParameter(
        "SliceThickness", (0x0018, 0x0050), "Slice Thickness", Nature.NUMBER, "mm", absolute_tolerance=0.005
    ),
    AcquisitionParameter("FlipAngle", (0x0018, 0x1314), "Flip Angle", Nature.NUMBER, "deg", absolute_tolerance=0.5),
    AcquisitionParameter("FieldOfView", (0x0028, 0x0030), "Field of View", Nature.NUMBER, "mm", absolute_tolerance=1.0),
    AcquisitionParameter(
        "EchoTime",
        (0x0018, 0x0081),
        "Echo Time",
        Nature.NUMBER,
        "ms",
        absolute_tolerance=0.01,
        relative_tolerance=0.01,
    ),
    AcquisitionParameter(
        "RepetitionTime",
        (0x0018, 0x0080),
        "Repetition Time",
        Nature.NUMBER,
        "ms",
        absolute_tolerance=0.01,
        relative_tolerance=0.01,
    ),
)

# Beyond the paper's. Computed from several elements, none of which could be given its value: a model may predict it,
# rules may ask for it and the header is read for it, but it is not held against the header and never suggested.
FURTHER_PARAMETERS: tuple[AcquisitionParameter, ...] = (
    AcquisitionParameter("SequenceFamily", (0x0018, 0x0020), "Sequence Family", Nature.TEXT),
)

ALL_PARAMETERS = PARAMETERS + FURTHER_PARAMETERS

BY_KEYWORD: dict[str, AcquisitionParameter] = {parameter.keyword: parameter for parameter in ALL_PARAMETERS}

_SPACE = re.compile(r"\s+")
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def canonical_text(raw: str) -> str | None:
    """White space collapsed and ends stripped; None when nothing is left."""
    text = _SPACE.sub(" ", raw.replace("\0", " ")).strip()
    return text or None


@lru_cache(maxsize=4096)  # the instances of a series say the same, and several checks ask for it
def canonical_number(raw: str) -> float | None:
    """A finite decimal string (PS3.5 DS) as float; None for the rest (commas, units, NaN, infinities)."""
    text = raw.replace("\0", " ").strip()
    if not _DECIMAL.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


@lru_cache(maxsize=1024)
def canonical_matrix(raw: str) -> str | None:
    r"""Acquisition Matrix (0018,1310) `frequency rows\columns\phase rows\columns` as "FREQUENCYxPHASE".

    Exactly one frequency and one phase value must be positive (161 of 161 real series obey); None otherwise.
    """
    numbers = [canonical_number(part) for part in raw.split("\\")]
    if len(numbers) != 4 or any(number is None or number < 0 or number != int(number) for number in numbers):
        return None
    frequency = [int(number) for number in numbers[:2] if number]
    phase = [int(number) for number in numbers[2:] if number]
    return f"{frequency[0]}x{phase[0]}" if len(frequency) == len(phase) == 1 else None


def canonical_contrast_agent(raw: str | None) -> str:
    """Contrast/Bolus Agent (0018,0010) in capitals, `present but not named` when empty, `absent` for None."""
    if raw is None:
        return CONTRAST_ABSENT
    text = canonical_text(raw)
    return text.upper() if text else CONTRAST_NOT_NAMED


def sequence_family(raw: str) -> str | None:
    r"""What Scanning Sequence (0018,0020), values joined by a backslash, says of how the echo is made.

    Echo planar reads many echoes, whatever makes them. None for RM (research mode, which GE writes over any sequence)
    and for an inversion without its echo.
    """
    terms = {part.strip().upper() for part in raw.split("\\")}
    if "EP" in terms:
        return "echo planar"
    if {"SE", "GR"} <= terms:
        return "gradient and spin echo"
    return "spin echo" if "SE" in terms else "gradient echo" if "GR" in terms else None


def canonical(keyword: str, raw: str) -> str | float | None:
    """The canonical value of an element's text (values joined by a backslash); None when unusable.

    Absence of the contrast agent is a value of its own: `canonical_contrast_agent` tells None apart.
    """
    parameter = BY_KEYWORD[keyword]
    if keyword == "ContrastBolusAgent":
        return canonical_contrast_agent(raw)
    if parameter.nature is Nature.MATRIX:
        return canonical_matrix(raw)
    if parameter.nature is Nature.NUMBER:
        return canonical_number(raw)
    if keyword == "SequenceFamily":
        return sequence_family(raw)
    if keyword == "ScanOptions":
        parts = [text for part in raw.split("\\") if (text := canonical_text(part))]
        return "\\".join(parts) or None
    return canonical_text(raw)
