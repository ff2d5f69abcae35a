"""What three witnesses make of one header value together: who says what, what is suggested, who is probably wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from iap_node.audit.verdicts import compare
from iap_node.audit.witnesses import hear
from iap_node.config import AuditConfig
from iap_node.records import (
    Finding,
    FindingKind,
    HeaderComparison,
    HeaderValue,
    ParameterKind,
    ParameterPrediction,
    SeriesHeader,
    SeriesPrediction,
    Severity,
    Testimony,
    Witness,
)

STANDARD, PIXELS, HABIT = Witness.STANDARD, Witness.PIXELS, Witness.HABIT


def finding(
    element: str = "EchoTime",
    check: str = "echo-time-and-repetition-time",
    kind: FindingKind = FindingKind.CONTRADICTION,
    suggested: str | None = None,
    raised_by: Witness = STANDARD,
    raw: str = "25",
) -> Finding:
    evidence = f"{element} cannot be {raw}"
    return Finding(element, check, kind, Severity.WARNING, evidence, raw, suggested, raised_by)


def pixels(stated: str, keyword: str = "EchoTime", low: float = 2.0, high: float = 3.0) -> dict[str, object]:
    """What `hear` is given when the pixels look like a number within an interval and the header states another."""
    prediction = SeriesPrediction(
        "reference-1", "trained on simulated images", False, 1.0, 4.0, 3,
        (ParameterPrediction(keyword, ParameterKind.CONTINUOUS, value=(low + high) / 2, interval=(low, high),
                             intervals=((0.01, low, high),), alpha=0.01),),
    )  # fmt: skip
    value = HeaderValue(keyword, stated, float(stated) if stated else None)
    return {"comparisons": compare(SeriesHeader((value,)), prediction, AuditConfig()), "prediction": prediction}


def habit(against: bool, value: str = "", element: str = "EchoTime") -> dict[str, object]:
    said = Testimony(HABIT, against, "90 of 100 series have it", 0.01 if against else 0.9, value)
    return {"habit": lambda asked: said if asked == element else None}


def judged(one: Finding, *others: Finding, **said: object) -> Finding:
    return hear([one, *others], **said)[0]  # type: ignore[arg-type]


def spoken(one: Finding) -> list[tuple[Witness, bool]]:
    return [(said.witness, said.against) for said in one.testimonies]


def test_a_finding_hears_all_who_know_something_of_its_element() -> None:
    heard = judged(finding(suggested="2.5"), **pixels("25"), **habit(True, "2.5"))
    assert spoken(heard) == [(STANDARD, True), (PIXELS, True), (HABIT, True)]
    by_pixels = heard.testimonies[1]
    assert by_pixels.probability == 0.0 and "2 to 3 ms" in by_pixels.statement
    assert "trained on simulated images" in by_pixels.statement
    assert heard.testimonies[2].probability == 0.01
    assert heard.suggested_value == "2.5"
    assert heard.conclusion == "the standard, the pixels and the scanner's habit agree: probably 2.5"


def test_a_witness_that_raised_nothing_says_what_is_for_the_value() -> None:
    heard = judged(finding(raised_by=HABIT, kind=FindingKind.DEVIATION), **pixels("2.5"))
    assert spoken(heard) == [(HABIT, True), (STANDARD, False), (PIXELS, False)]
    assert heard.testimonies[1].statement.endswith("no objection")


def test_standard_and_pixels_that_agree_outweigh_the_habit() -> None:
    heard = judged(finding(suggested="2.5"), **pixels("25"), **habit(False, "25"))
    assert heard.suggested_value == "2.5"
    heard = judged(finding(suggested="2.5"), **pixels("25"), **habit(True, "7"))
    assert heard.suggested_value == "2.5"


@pytest.mark.parametrize(
    ("one", "said", "conclusion"),
    [
        (finding(suggested="1.5"), pixels("25"), "the standard and the pixels disagree"),
        (finding(suggested="1.5"), habit(True, "7"), "the standard and the scanner's habit disagree"),
        (finding(suggested="1.5"), habit(False, "25"), "is against the header, the scanner's habit for it"),
        (finding(suggested="1.5"), pixels("2.2"), "the standard is against the header, the pixels for it"),
        (finding(), habit(True), "the header is probably wrong, by the word of the standard and the scanner's habit"),
        (finding(), {}, "by the standard alone; nobody knows what is right"),
        (finding("Manufacturer", kind=FindingKind.MISSING, raw=""), {}, "nobody knows what should stand there"),
    ],
)
def test_nothing_is_suggested_where_witnesses_disagree_or_nobody_knows(
    one: Finding, said: dict[str, object], conclusion: str
) -> None:
    heard = judged(one, **said)
    assert heard.suggested_value is None
    assert heard.conclusion.startswith(conclusion) or conclusion in heard.conclusion


def test_pixels_that_allow_both_values_are_for_neither() -> None:
    heard = judged(finding(suggested="2.4", raw="2.6"), **pixels("2.6"))
    assert (STANDARD, True) in spoken(heard) and (PIXELS, False) in spoken(heard)
    assert heard.suggested_value == "2.4"


def test_a_habit_that_the_series_has_is_against_the_odd_value_of_one_image() -> None:
    odd = finding(kind=FindingKind.INCONSTANT, suggested="2.46", raw="24.6")
    heard = judged(odd, **habit(False, "2.46"))
    assert spoken(heard) == [(STANDARD, True), (HABIT, True)]
    assert heard.suggested_value == "2.46"
    own = finding(kind=FindingKind.INCONSTANT, raw="2.460")
    assert spoken(judged(own, **habit(False, "2.46")))[1] == (HABIT, False)
    of_several = finding(raw="7.38")
    assert spoken(judged(of_several, **habit(False, "4.92\\7.38")))[1] == (HABIT, False)


def test_a_habit_of_writing_in_the_wrong_form_is_no_defence() -> None:
    unit = finding(kind=FindingKind.UNIT, suggested="2.5", raw="0.0025")
    assert judged(unit, **habit(False, "0.0025")).suggested_value == "2.5"
    assert judged(replace(unit, kind=FindingKind.CONTRADICTION), **habit(False, "0.0025")).suggested_value is None


def test_a_missing_value_is_suggested_by_whoever_knows_it_the_most_exactly() -> None:
    missing = finding(kind=FindingKind.MISSING, raw="", check="type-2")
    assert judged(missing, **pixels("")).suggested_value == "2.5"
    heard = judged(missing, **pixels(""), **habit(True, "2.46"))
    assert heard.suggested_value == "2.46"
    assert heard.conclusion == "the pixels and the scanner's habit agree: probably 2.46"
    assert judged(missing, **pixels(""), **habit(True, "7")).suggested_value is None


def test_the_habit_alone_changes_nothing() -> None:
    deviates = finding(kind=FindingKind.DEVIATION, raised_by=HABIT, check="habit-deviates", suggested="2.5", raw="2.8")
    heard = judged(deviates)
    assert heard.suggested_value is None
    assert heard.conclusion == "unlike what this scanner usually writes; that alone is no reason to change it"
    assert judged(deviates, **pixels("2.8")).suggested_value is None
    assert judged(replace(deviates, raw="25"), **pixels("25")).suggested_value == "2.5"


def test_the_element_that_others_are_against_is_the_one_that_is_wrong() -> None:
    heard = judged(finding(raw="2.5", suggested="1"), **pixels("2", "RepetitionTime", 5.0, 6.0))
    assert heard.suggested_value is None
    assert heard.conclusion.startswith("Repetition Time is probably what is wrong, by the word of the pixels")
    assert spoken(heard) == [(STANDARD, True), (PIXELS, False)]
    assert heard.testimonies[1].statement.startswith("of Repetition Time, which this is compared with: ")


def test_findings_of_one_element_hear_each_other_and_each_element_and_check_has_one() -> None:
    comma = finding(check="not-a-number", kind=FindingKind.REPRESENTATION, suggested="2.5", raw="2,5")
    contradicted = finding(check="pixels-contradict", raised_by=PIXELS, suggested="2.7")
    heard = hear([comma, contradicted, comma, finding("FlipAngle")], **pixels("25"))  # type: ignore[arg-type]
    assert [(one.element, one.check) for one in heard] == [
        ("EchoTime", "not-a-number"), ("EchoTime", "pixels-contradict"), ("FlipAngle", "echo-time-and-repetition-time"),
    ]  # fmt: skip
    assert spoken(heard[0]) == [(STANDARD, True), (PIXELS, True)]
    assert spoken(heard[1]) == [(PIXELS, True), (STANDARD, True)]
    assert heard[0].suggested_value == heard[1].suggested_value == "2.5"


def test_what_is_known_by_association_stays_a_question() -> None:
    asked = finding(check="pixels-question", kind=FindingKind.QUESTION, raised_by=PIXELS)
    heard = judged(asked, **habit(False, "25"))
    assert heard.suggested_value is None
    assert heard.conclusion.startswith("worth a look, no more")
    assert "the scanner's habit is against it too" in judged(asked, **habit(True, "3")).conclusion
    other = finding(suggested="2.5")
    assert hear([other, asked])[0].testimonies == hear([other])[0].testimonies  # it is no evidence against anything


def test_doubt_about_a_whole_header_suggests_no_value() -> None:
    whole = finding("SeriesInstanceUID", "pixels-joint", raised_by=PIXELS, raw="")
    heard = judged(whole)
    assert heard.suggested_value is None and "header as a whole" in heard.conclusion


def test_the_silence_of_checks_that_did_not_look_is_no_objection_missed() -> None:
    contradicted = finding(check="pixels-contradict", raised_by=PIXELS)
    assert spoken(judged(contradicted, checked=False, **pixels("25"))) == [(PIXELS, True)]


def test_classes_that_are_one_value_to_a_physicist_agree() -> None:
    prediction = SeriesPrediction(
        "reference-1", "trained on simulated images", False, 1.0, 4.0, 3,
        (ParameterPrediction("MagneticFieldStrength", ParameterKind.CATEGORICAL, alpha=0.01,
                             probabilities=(("1.494", 0.6), ("1.5", 0.39), ("3", 0.01)),
                             prediction_set=("1.494",)),),
    )  # fmt: skip
    header = SeriesHeader((HeaderValue("MagneticFieldStrength", "3", 3.0),))
    comparisons: tuple[HeaderComparison, ...] = compare(header, prediction, AuditConfig())
    one = finding("MagneticFieldStrength", "field-strength-and-frequency", suggested="1.5", raw="3")
    heard = judged(one, comparisons=comparisons, prediction=prediction)
    assert heard.suggested_value == "1.5"
    assert heard.conclusion == "the standard and the pixels agree: probably 1.5"
