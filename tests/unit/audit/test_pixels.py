"""What the pixels make of a header: findings of single values and of the whole, testimonies, and their silence.

Verdicts come from `compare`, predictions are made up. How often a model is right stands in docs/reference-model.md.
"""

from __future__ import annotations

import dataclasses

import pytest

from iap_node import records  # its class Testimony, imported by name, would look like tests to pytest
from iap_node.audit.pixels import pixel_findings, pixel_testimony
from iap_node.audit.verdicts import compare
from iap_node.config import AuditConfig
from iap_node.records import (
    Finding,
    FindingKind,
    HeaderFit,
    HeaderValue,
    ParameterKind,
    ParameterPrediction,
    SeriesHeader,
    SeriesPrediction,
    Severity,
    StatedFit,
    Verdict,
    Witness,
)

CONFIG = AuditConfig(alpha=0.05, joint_alpha=0.01, suggest_probability=0.8)


def classes(
    keyword: str, *probabilities: tuple[str, float], allowed: int = 1, association: bool = False
) -> ParameterPrediction:
    return ParameterPrediction(
        keyword,
        ParameterKind.CATEGORICAL,
        probabilities=probabilities,
        prediction_set=tuple(label for label, _ in probabilities[:allowed]),
        alpha=0.05,
        by_association=association,
    )


VENDOR = classes("Manufacturer", ("SIEMENS", 0.97), ("GE MEDICAL SYSTEMS", 0.03))
GE = classes("Manufacturer", ("GE MEDICAL SYSTEMS", 0.97), ("SIEMENS", 0.03))
MODEL = classes("ManufacturerModelName", ("Skyra", 0.9), ("SIGNA HDx", 0.1))
OPTIONS = classes("ScanOptions", ("FAST_GEMS\\PFP\\FS", 0.95), ("FS", 0.05))
AGENT = classes("ContrastBolusAgent", ("MAGNEVIST", 0.9), ("GADAVIST", 0.06), ("absent", 0.04), association=True)
MATRIX = classes("AcquisitionMatrix", ("448x381", 0.9), ("320x320", 0.1))
VIEW = classes("FieldOfView", ("360", 0.9), ("250", 0.1))
FLIP = classes("FlipAngle", ("10", 0.6), ("12", 0.4), allowed=2)
ECHO = ParameterPrediction(
    "EchoTime",
    ParameterKind.CONTINUOUS,
    value=2.0,
    interval=(1.8, 2.2),
    intervals=((0.5, 1.95, 2.05), (0.05, 1.8, 2.2), (0.01, 1.6, 2.4)),
    alpha=0.05,
)
EVERYTHING = (VENDOR, MODEL, OPTIONS, AGENT, MATRIX, FLIP, VIEW, ECHO)


def prediction(
    *parameters: ParameterPrediction, fit: HeaderFit | None = None, novel: bool = False
) -> SeriesPrediction:
    return SeriesPrediction("tiny-1", "trained on simulated images", novel, 1.0, 4.5, 8, parameters, fit)


def header(**stated: tuple[str, str | float | None]) -> SeriesHeader:
    return SeriesHeader(tuple(HeaderValue(keyword, *value) for keyword, value in stated.items()))


def found(
    stated: SeriesHeader, pixels: SeriesPrediction | None, others: tuple[Finding, ...] = ()
) -> dict[tuple[str, str], Finding]:
    """By element and check."""
    findings = pixel_findings(compare(stated, pixels, CONFIG), stated, pixels, CONFIG, others)
    by_key = {(finding.element, finding.check): finding for finding in findings}
    assert len(by_key) == len(findings)  # one finding per element and check
    return by_key


def said_of(stated: SeriesHeader, pixels: SeriesPrediction, keyword: str) -> records.Testimony | None:
    comparison = next(item for item in compare(stated, pixels, CONFIG) if item.keyword == keyword)
    return pixel_testimony(comparison, pixels)


def fit(p_value: float, *terms: tuple[str, float], without: tuple[float, ...] = ()) -> HeaderFit:
    return HeaderFit(p_value, tuple(StatedFit(*term) for term in terms), without)


# ---------------------------------------------------------------- single values


def test_value_outside_its_conformal_set_is_a_contradiction_with_its_numbers_and_the_model_that_says_so() -> None:
    findings = found(header(Manufacturer=("GE ", "GE MEDICAL SYSTEMS")), prediction(VENDOR))
    finding = findings.pop(("Manufacturer", "pixels-contradict"))
    assert findings == {}
    assert (finding.kind, finding.severity) == (FindingKind.CONTRADICTION, Severity.WARNING)
    assert (finding.raised_by, finding.raw, finding.suggested_value) == (Witness.PIXELS, "GE ", "SIEMENS")
    for part in (
        "Manufacturer (0008,0070) is 'GE MEDICAL SYSTEMS'",
        "a probability of 3 %",
        "at alpha 0.05: SIEMENS",
        "Judged from 8 slices by model tiny-1, trained on simulated images.",
    ):
        assert part in finding.evidence


def test_number_outside_all_intervals_has_a_p_value_below_the_least_alpha_and_not_zero() -> None:
    finding = found(header(EchoTime=("23", 23.0)), prediction(ECHO))["EchoTime", "pixels-contradict"]
    assert finding.suggested_value == "2"
    assert "1.8 to 2.2 ms" in finding.evidence
    assert "a p-value below 0.01" in finding.evidence
    finding = found(header(EchoTime=("2.3", 2.3)), prediction(ECHO))["EchoTime", "pixels-contradict"]
    assert "a p-value of 0.01" in finding.evidence


def test_value_that_the_pixels_allow_raises_nothing() -> None:
    stated = header(Manufacturer=("SIEMENS", "SIEMENS"), EchoTime=("2", 2.0), FlipAngle=("12", 12.0))
    assert found(stated, prediction(VENDOR, ECHO, FLIP)) == {}


@pytest.mark.parametrize(
    ("raw", "suggested"),
    [("0\\320\\320\\0", "0\\448\\381\\0"), ("320\\0\\0\\320", "448\\0\\0\\381"), ("320\\320", None)],
)
def test_matrix_is_suggested_as_it_would_be_written_or_not_at_all(raw: str, suggested: str | None) -> None:
    finding = found(header(AcquisitionMatrix=(raw, "320x320")), prediction(MATRIX))
    assert finding["AcquisitionMatrix", "pixels-contradict"].suggested_value == suggested


def test_field_of_view_is_a_finding_about_pixel_spacing_without_a_value_to_write() -> None:
    finding = found(header(FieldOfView=("256 x 0.97", 250.0)), prediction(VIEW))["PixelSpacing", "pixels-contradict"]
    assert finding.suggested_value is None
    assert "Pixel Spacing (0028,0030)" in finding.evidence
    assert "360 mm" in finding.evidence


def test_missing_value_that_the_pixels_are_sure_of_is_a_note_with_the_value() -> None:
    findings = found(SeriesHeader(()), prediction(VENDOR, ECHO, FLIP, MATRIX, VIEW))
    assert {(key, one.severity, one.suggested_value) for key, one in findings.items()} == {
        (("Manufacturer", "pixels-missing"), Severity.NOTE, "SIEMENS"),
        (("EchoTime", "pixels-missing"), Severity.NOTE, "2"),
        (("AcquisitionMatrix", "pixels-missing"), Severity.NOTE, None),  # which is which, rows or columns?
        (("PixelSpacing", "pixels-missing"), Severity.NOTE, None),
    }  # and not Flip Angle, of which they are not sure
    assert {one.kind for one in findings.values()} == {FindingKind.MISSING}
    assert "97 %" in findings["Manufacturer", "pixels-missing"].evidence


def test_missing_value_that_another_witness_reports_is_not_reported_again() -> None:
    known = Finding("EchoTime", "present", FindingKind.MISSING, Severity.WARNING, "", "", None)
    other = dataclasses.replace(known, element="Manufacturer", kind=FindingKind.VALUE)
    findings = found(SeriesHeader(()), prediction(VENDOR, ECHO), (known, other))
    assert set(findings) == {("Manufacturer", "pixels-missing")}


@pytest.mark.parametrize(
    ("stated", "vendor", "missed"),
    [
        (header(Manufacturer=("SIEMENS", "SIEMENS")), VENDOR, False),
        (header(Manufacturer=("Siemens Healthineers", "Siemens Healthineers")), VENDOR, False),
        (header(Manufacturer=("GE MEDICAL SYSTEMS", "GE MEDICAL SYSTEMS")), GE, True),
        (SeriesHeader(()), VENDOR, False),
        (SeriesHeader(()), GE, True),
    ],
)
def test_empty_scan_options_are_missed_unless_the_scanner_is_of_siemens(
    stated: SeriesHeader, vendor: ParameterPrediction, missed: bool
) -> None:
    findings = found(stated, prediction(vendor, OPTIONS))
    assert (("ScanOptions", "pixels-missing") in findings) == missed


def test_what_is_inferred_by_association_is_asked_and_nothing_is_suggested() -> None:
    findings = found(header(ContrastBolusAgent=("Gadavist", "GADAVIST")), prediction(AGENT))
    finding = findings.pop(("ContrastBolusAgent", "pixels-question"))
    assert findings == {}
    assert (finding.kind, finding.severity, finding.suggested_value) == (FindingKind.QUESTION, Severity.NOTE, None)
    assert "inferred by association" in finding.evidence
    assert "a probability of 6 %" in finding.evidence


def test_absent_contrast_agent_is_no_question() -> None:
    assert found(header(ContrastBolusAgent=("", "absent")), prediction(AGENT)) == {}


def test_missing_value_inferred_by_association_is_a_question_too() -> None:
    habit = dataclasses.replace(VENDOR, by_association=True)
    assert set(found(SeriesHeader(()), prediction(habit))) == {("Manufacturer", "pixels-question")}


def test_novel_series_and_series_without_a_prediction_raise_nothing() -> None:
    stated = header(Manufacturer=("GE", "GE MEDICAL SYSTEMS"))
    assert found(stated, prediction(novel=True)) == {}
    assert found(stated, None) == {}


def test_hostile_values_come_out_printable_and_bounded() -> None:
    hostile = "\x1b[31m" + "x" * 5000
    findings = found(header(EchoTime=(hostile, 23.0), Manufacturer=(hostile, hostile)), prediction(ECHO, VENDOR))
    for finding in findings.values():
        assert finding.evidence.isprintable()
        assert len(finding.raw) <= 256


# ---------------------------------------------------------------- the whole header

RIGHT = header(
    Manufacturer=("SIEMENS", "SIEMENS"), FlipAngle=("12", 12.0), EchoTime=("2.1", 2.1), FieldOfView=("", 360.0)
)
UNLIKELY = fit(
    0.002, ("FlipAngle", 0.02), ("EchoTime", 0.04), ("FieldOfView", 0.5), ("Manufacturer", 1.0),
    without=(0.03, 0.4, 0.9),
)  # fmt: skip


def test_header_of_values_that_are_each_possible_is_found_against_as_a_whole() -> None:
    findings = found(RIGHT, prediction(VENDOR, FLIP, ECHO, VIEW, fit=UNLIKELY))
    finding = findings.pop(("SeriesInstanceUID", "pixels-joint"))
    assert findings == {}
    assert (finding.kind, finding.severity) == (FindingKind.CONTRADICTION, Severity.WARNING)
    assert finding.suggested_value is None
    other = dataclasses.replace(RIGHT, values=(HeaderValue("FlipAngle", "11", 11.0), *RIGHT.values))
    again = found(other, prediction(VENDOR, FLIP, ECHO, VIEW, fit=UNLIKELY))["SeriesInstanceUID", "pixels-joint"]
    assert again.raw != finding.raw  # a decision about one header holds for no other
    assert "only 0.2 % of right headers fit no better (joint alpha 0.01)" in finding.evidence
    assert "Flip Angle 12 deg (p 0.02), Echo Time 2.1 ms (p 0.04)" in finding.evidence
    assert "trained on simulated images" in finding.evidence
    (said,) = finding.testimonies
    assert (said.witness, said.against, said.probability) == (Witness.PIXELS, True, 0.002)


def test_header_that_fits_well_enough_as_a_whole_raises_nothing() -> None:
    likely = dataclasses.replace(UNLIKELY, p_value=0.02)
    assert found(RIGHT, prediction(VENDOR, FLIP, ECHO, VIEW, fit=likely)) == {}


def test_one_wrong_value_that_explains_the_whole_is_one_alarm() -> None:
    stated = header(Manufacturer=("SIEMENS", "SIEMENS"), EchoTime=("23", 23.0), FlipAngle=("10", 10.0))
    explained = fit(0.001, ("EchoTime", 0.001), ("FlipAngle", 0.3), ("Manufacturer", 1.0), without=(0.4, 0.9))
    findings = found(stated, prediction(VENDOR, ECHO, FLIP, fit=explained))
    assert {key: one.severity for key, one in findings.items()} == {
        ("EchoTime", "pixels-contradict"): Severity.WARNING
    }


def test_manufacturer_with_its_model_is_one_mistake() -> None:
    stated = header(
        Manufacturer=("GE", "GE MEDICAL SYSTEMS"), ManufacturerModelName=("", "SIGNA HDx"), EchoTime=("2", 2.0)
    )
    explained = fit(
        0.001, ("Manufacturer", 0.001), ("ManufacturerModelName", 0.01), ("EchoTime", 0.9), without=(0.02, 0.9)
    )
    findings = found(stated, prediction(VENDOR, MODEL, ECHO, fit=explained))
    assert {one.check: one.severity for one in findings.values()} == {"pixels-contradict": Severity.WARNING}


def test_rest_that_does_not_fit_either_is_found_against_as_a_whole() -> None:
    stated = header(Manufacturer=("SIEMENS", "SIEMENS"), EchoTime=("23", 23.0), FlipAngle=("10", 10.0))
    beyond = fit(0.001, ("EchoTime", 0.001), ("FlipAngle", 0.02), ("Manufacturer", 0.02), without=(0.004, 0.02))
    findings = found(stated, prediction(VENDOR, ECHO, FLIP, fit=beyond))
    assert set(findings) == {("SeriesInstanceUID", "pixels-joint"), ("EchoTime", "pixels-contradict")}


def test_several_wrong_values_are_a_doubt_about_the_whole_that_comes_first_and_keep_their_suggestions() -> None:
    stated = header(Manufacturer=("GE", "GE MEDICAL SYSTEMS"), EchoTime=("23", 23.0), AcquisitionMatrix=("", "320x320"))
    swapped = fit(0.001, ("EchoTime", 0.001), ("Manufacturer", 0.001), ("AcquisitionMatrix", 0.01), without=(0.1, 0.3))
    findings = found(stated, prediction(VENDOR, ECHO, MATRIX, fit=swapped))
    assert [one.check for one in findings.values()] == ["pixels-joint"] + 3 * ["pixels-contradict"]
    # A rule of routing about contradictions sees them at the severity that each has alone.
    assert {one.severity for one in findings.values()} == {Severity.WARNING}
    assert next(iter(findings)) == ("SeriesInstanceUID", "pixels-joint")
    assert findings["EchoTime", "pixels-contradict"].suggested_value == "2"


def test_several_wrong_values_of_a_header_that_is_not_doubted_as_a_whole_are_told_singly() -> None:
    stated = header(Manufacturer=("GE", "GE MEDICAL SYSTEMS"), EchoTime=("23", 23.0))
    for unspecific in (None, fit(0.02, ("EchoTime", 0.03), ("Manufacturer", 0.03), without=(0.03,))):
        findings = found(stated, prediction(VENDOR, ECHO, fit=unspecific))
        assert {one.check: one.severity for one in findings.values()} == {"pixels-contradict": Severity.WARNING}


# ---------------------------------------------------------------- testimonies


def test_pixels_testify_for_what_they_allow_and_against_what_they_rule_out() -> None:
    stated = header(Manufacturer=("SIEMENS", "SIEMENS"), EchoTime=("23", 23.0))
    pixels = prediction(VENDOR, ECHO)
    spoken = said_of(stated, pixels, "Manufacturer")
    assert spoken == records.Testimony(
        Witness.PIXELS,
        False,
        "the pixels allow Manufacturer 'SIEMENS': a probability of 97 % (model tiny-1, trained on simulated images)",
        0.97,
    )
    against = said_of(stated, pixels, "EchoTime")
    assert against is not None
    assert (against.against, against.probability, against.value) == (True, 0.0, "2")
    assert "1.8 to 2.2 ms" in against.statement


def test_pixels_testify_to_a_missing_value_when_they_are_sure() -> None:
    said = said_of(SeriesHeader(()), prediction(VENDOR, FLIP), "Manufacturer")
    assert said is not None
    assert (said.against, said.value, said.probability) == (True, "SIEMENS", None)
    assert said_of(SeriesHeader(()), prediction(VENDOR, FLIP), "FlipAngle") is None


def test_pixels_are_silent_about_what_they_do_not_judge_or_know_by_association() -> None:
    unseen = header(Manufacturer=("Philips", "Philips"), ContrastBolusAgent=("Gadavist", "GADAVIST"))
    for keyword in ("Manufacturer", "ContrastBolusAgent", "RepetitionTime"):
        assert said_of(unseen, prediction(VENDOR, AGENT), keyword) is None
    usual = header(ContrastBolusAgent=("Magnevist", "MAGNEVIST"))  # which speaks for the header as little
    assert said_of(usual, prediction(VENDOR, AGENT), "ContrastBolusAgent") is None
    for item in compare(unseen, prediction(novel=True), CONFIG):
        assert item.verdict is Verdict.NOT_JUDGED
        assert pixel_testimony(item) is None
