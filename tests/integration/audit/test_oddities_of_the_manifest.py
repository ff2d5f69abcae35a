"""Each oddity that MANIFEST.csv tells of a real series: the findings that it is, or why it is none.

A table of the reader's kind: an oddity that is not in it, a finding that no oddity explains, and an oddity whose
finding is missing all fail.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from iap_node.records import Finding

Named = tuple[str, str]  # element and check

DATES = frozenset({"StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"})

# What an oddity begins with, and what the header checks must say of it.
FOUND: dict[str, Named] = {
    r"several SeriesNumbers share one SeriesInstanceUID": ("SeriesNumber", "one-series-number"),
    r"MagneticFieldStrength absent; ImagingFrequency": ("MagneticFieldStrength", "field-strength-missing"),
    r"ImagedNucleus 'H'": ("ImagedNucleus", "nucleus-without-mass-number"),
    r"ImagingFrequency \d+ is in Hz": ("ImagingFrequency", "imaging-frequency-unit"),
    r"AcquisitionDuration .* looks like ms": ("AcquisitionDuration", "acquisition-duration-unit"),
}
INVALID = r"invalid values: "  # one finding for each date among them that is not of the patient

# What an oddity begins with, and why it is no finding.
LEGITIMATE = {
    r"transfer syntax ": "all that the standard has, or had, are read alike",
    r"(Siemens mosaic|UIH VFRAME tile sheet)": "a sheet of tiles: one tile is compared with the matrix",
    r"MagneticFieldStrength 3 but (Imaging|Transmitter)Frequency 123": "2.89 T are called 3 T: within 5 %",
    r"MagneticFieldStrength written '3.0'": "the same number",
    r"AcquisitionMatrix .* vs Rows x Columns": "interpolated or zero-filled images are larger than what was acquired",
    r"AcquisitionMatrix .* not freq/phase complementary": "UIH's way to write ROW",
    r"absent: ": "elements of type 3, or that Siemens and UIH leave out; those of type 1 and 2 are other oddities",
    r"empty: ": "elements of type 2, or 3",
    r"enhanced multi-frame: TR/TE/FA etc. only in functional groups": "where the standard wants them",
    r"\d+ duplicate InstanceNumbers": "allowed: type 2, unique nowhere; echoes and copies repeat them",
    r"EchoTime varies|EchoNumbers varies": "two echoes, half of the images each",
    r"ImageType varies|RescaleSlope varies|RescaleIntercept varies": "magnitude and phase in one series",
    r"ImageType DERIVED": "maps are derived images",
    r"ImageOrientationPatient rounding jitter": "within 1e-3",
    r"EffectiveEchoTime 0.0 in some frames": "Philips' field maps",
    r"EPI with EchoTrainLength 1": "Siemens counts RF echoes",
    r"GE vendor ScanOptions": "defined terms, to which vendors may add; on GE's images",
    r"ScanOptions mixes NONE": "defined terms",
    r"\(0043,1080\) GE coil ID": "private, and declared by GE as what it is not",
    r"retired group-length elements": "retired is not forbidden",
    r"SpecificCharacterSet": "absent means ASCII; UTF-8 is a character set",
    r"PatientIdentityRemoved|PatientName|private header text|private creators|written by": "not about the acquisition",
    r"the same scan as": "one scan sent in classic and in enhanced form",
}


def _rows(mr_real: Path) -> list[tuple[str, list[str]]]:
    with (mr_real / "MANIFEST.csv").open(newline="", encoding="utf-8") as stream:
        return [(row["folder"], row["oddities"].split(" | ")) for row in csv.DictReader(stream)]


def _named(oddity: str) -> set[Named] | None:
    """The findings that an oddity is; None where the tables do not have it."""
    if re.match(INVALID, oddity):
        return {(element, "date-or-time") for element in re.findall(r"badvalue (\w+)", oddity) if element in DATES}
    for pattern, found in FOUND.items():
        if re.match(pattern, oddity):
            return {found}
    return set() if any(re.match(pattern, oddity) for pattern in LEGITIMATE) else None


def test_each_oddity_is_a_finding_or_legitimate_and_there_is_no_other_finding(
    mr_real: Path, findings: dict[str, tuple[Finding, ...]]
) -> None:
    rows = _rows(mr_real)
    assert len(rows) == len(findings) == 39
    unknown = [oddity for _, oddities in rows for oddity in oddities if _named(oddity) is None]
    assert not unknown
    for folder, oddities in rows:
        expected = {named for oddity in oddities for named in _named(oddity) or ()}
        assert {(finding.element, finding.check) for finding in findings[folder]} == expected, folder


@pytest.mark.parametrize("pattern", [*FOUND, INVALID, *LEGITIMATE])
def test_the_table_has_nothing_that_the_manifest_has_not(mr_real: Path, pattern: str) -> None:
    oddities = [oddity for _, of_series in _rows(mr_real) for oddity in of_series]
    assert any(re.match(pattern, oddity) for oddity in oddities)
