"""Verdicts of the header comparison, one table row per situation. The model itself is not tested here."""

from __future__ import annotations

import pytest

from iap_node.audit.verdicts import compare
from iap_node.config import AuditConfig
from iap_node.dicom.parameters import PARAMETERS
from iap_node.records import (
    HeaderComparison,
    HeaderValue,
    ParameterKind,
    ParameterPrediction,
    SeriesHeader,
    SeriesPrediction,
    Verdict,
)

CONFIG = AuditConfig(alpha=0.05, suggest_probability=0.8)


def classes(
    keyword: str, *probabilities: tuple[str, float], allowed: tuple[str, ...], association: bool = False
):
    return ParameterPrediction(
        keyword,
        ParameterKind.CATEGORICAL,
        probabilities=probabilities,
        prediction_set=allowed,
        alpha=0.05,
        by_association=association,
    )


def number(
    keyword: str, value: float, *intervals: tuple[float, float, float], association: bool = False
) -> ParameterPrediction:
    by_alpha = {alpha: (low, high) for alpha, low, high in intervals}
    return ParameterPrediction(
        keyword,
        ParameterKind.CONTINUOUS,
        value=value,
        interval=by_alpha[0.05],
        intervals=intervals,
        alpha=0.05,
        by_association=association,
    )


def prediction(*parameters: ParameterPrediction, novel: bool = False) -> SeriesPrediction:
    return SeriesPrediction("model-1", "test", novel, 12.34 if novel else 1.0, 4.5, 8, parameters)


def header(keyword: str, raw: str, canonical: str | float | None, problem: str = "") -> SeriesHeader:
    return SeriesHeader((HeaderValue(keyword, raw, canonical, problem),))


def compared(
    keyword: str, series_header: SeriesHeader, pixels: SeriesPrediction | None, reason: str = ""
) -> HeaderComparison:
    comparisons = compare(series_header, pixels, CONFIG, reason)
    assert [item.keyword for item in comparisons] == [parameter.keyword for parameter in PARAMETERS]
    return next(item for item in comparisons if item.keyword == keyword)


VENDOR = classes("Manufacturer", ("SIEMENS", 0.97), ("GE MEDICAL SYSTEMS", 0.03), allowed=("SIEMENS",))
FIELD = classes(
    "MagneticFieldStrength",
    ("1.494", 0.40),
    ("3", 0.41),
    ("1.5", 0.17),
    ("2.8936", 0.02),
    allowed=("1.494", "3"),
)
STRONG_FIELD = classes(
    "MagneticFieldStrength", ("2.8936", 0.9), ("3", 0.08), ("1.5", 0.02), allowed=("2.8936",)
)
ECHO = number("EchoTime", 2.0, (0.5, 1.95, 2.05), (0.2, 1.9, 2.1), (0.05, 1.8, 2.2), (0.01, 1.6, 2.4))
AGENT = classes(
    "ContrastBolusAgent", ("MAGNEVIST", 0.9), ("absent", 0.1), allowed=("MAGNEVIST",), association=True
)


@pytest.mark.parametrize(
    ("pixels", "raw", "canonical", "verdict", "probability"),
    [
        (VENDOR, "SIEMENS", "SIEMENS", Verdict.AGREES, 0.97),
        (VENDOR, "Siemens", "Siemens", Verdict.AGREES, 0.97),
        (VENDOR, "GE MEDICAL SYSTEMS", "GE MEDICAL SYSTEMS", Verdict.CONTRADICTS, 0.03),
        (STRONG_FIELD, "3", 3.0, Verdict.AGREES, 0.98),
        (STRONG_FIELD, "2.89", 2.89, Verdict.AGREES, 0.98),
        (STRONG_FIELD, "1.5", 1.5, Verdict.CONTRADICTS, 0.02),
        (FIELD, "1.5", 1.5, Verdict.AGREES, 0.57),
        (ECHO, "2.04", 2.04, Verdict.AGREES, 0.5),
        (ECHO, "2.15", 2.15, Verdict.AGREES, 0.05),
        (ECHO, "2.3", 2.3, Verdict.CONTRADICTS, 0.01),
        (ECHO, "23", 23.0, Verdict.CONTRADICTS, 0.0),
        (AGENT, "Magnevist", "MAGNEVIST", Verdict.AGREES, 0.9),
        (AGENT, "", "absent", Verdict.NOT_JUDGED, 0.1),
    ],
)
def test_header_value_gets_its_verdict_and_probability(
    pixels: ParameterPrediction, raw: str, canonical: str | float, verdict: Verdict, probability: float
) -> None:
    result = compared(pixels.keyword, header(pixels.keyword, raw, canonical), prediction(pixels))
    assert result.verdict is verdict
    assert result.header_probability == pytest.approx(probability)


def test_contradiction_names_what_the_pixels_allow_and_suggests_it() -> None:
    result = compared("Manufacturer", header("Manufacturer", "GE", "GE MEDICAL SYSTEMS"), prediction(VENDOR))
    assert result.suggested_value == "SIEMENS"
    assert "SIEMENS" in result.reason
    result = compared("EchoTime", header("EchoTime", "23", 23.0), prediction(ECHO))
    assert (result.predicted_value, result.suggested_value) == ("2 ms", "2")
    assert "1.8 to 2.2 ms" in result.reason


def test_association_is_named_and_never_contradicts() -> None:
    result = compared("ContrastBolusAgent", header("ContrastBolusAgent", "", "absent"), prediction(AGENT))
    assert result.reason.startswith("inferred by association: ")
    habit = number("RepetitionTime", 5.0, (0.05, 4.0, 6.0), association=True)
    result = compared("RepetitionTime", header("RepetitionTime", "60", 60.0), prediction(habit))
    assert result.verdict is Verdict.NOT_JUDGED
    assert result.reason.startswith("inferred by association: ")


def test_missing_value_is_suggested_when_the_pixels_are_sure() -> None:
    result = compared("Manufacturer", SeriesHeader(()), prediction(VENDOR))
    assert (result.verdict, result.suggested_value, result.header_value) == (Verdict.MISSING, "SIEMENS", "")
    assert result.header_probability is None
    result = compared("EchoTime", SeriesHeader(()), prediction(ECHO))
    assert (result.verdict, result.suggested_value) == (Verdict.MISSING, "2")


def test_missing_value_is_not_suggested_when_the_pixels_are_not_sure() -> None:
    result = compared("MagneticFieldStrength", SeriesHeader(()), prediction(FIELD))
    assert (result.verdict, result.suggested_value) == (Verdict.MISSING, "")
    assert result.reason == "no value is suggested: the most probable, 1.494 T, has 57 %"


def test_equal_classes_pool_their_probability_before_the_most_probable_is_named() -> None:
    pixels = classes(
        "MagneticFieldStrength", ("3", 0.42), ("1.494", 0.30), ("1.5", 0.28), allowed=("3", "1.494")
    )
    result = compared("MagneticFieldStrength", SeriesHeader(()), prediction(pixels))
    assert result.predicted_value == "1.494 T"


@pytest.mark.parametrize(
    ("pixels", "value", "reason"),
    [
        (VENDOR, HeaderValue("Manufacturer", "Philips", "Philips"), "the model has never seen 'Philips'"),
        (FIELD, HeaderValue("MagneticFieldStrength", "7", 7.0), "the model has never seen '7 T'"),
        (ECHO, HeaderValue("EchoTime", "2,1", None), "the header's value is unusable: '2,1'"),
        (
            ECHO,
            HeaderValue("EchoTime", "2.1 ; 4.2", None, "varies in the series: 2.1, 4.2 ms"),
            "varies in the series: 2.1, 4.2 ms",
        ),
        (
            ECHO,
            HeaderValue("EchoTime", "2.1 ms", None, "not a decimal number"),
            "not a decimal number: the header says '2.1 ms'",
        ),
        (ECHO, HeaderValue("EchoTime", "", None, "varies in the series"), "varies in the series"),
        (
            classes("Manufacturer", ("SIEMENS", 0.5), ("GE", 0.5), allowed=()),
            HeaderValue("Manufacturer", "SIEMENS", "SIEMENS"),
            "no class fits the pixels at this level",
        ),
        (
            ParameterPrediction("EchoTime", ParameterKind.CONTINUOUS, value=2.0),
            HeaderValue("EchoTime", "2", 2.0),
            "the model's calibration does not reach alpha 0.05 for Echo Time",
        ),
        (
            ParameterPrediction("EchoTime", ParameterKind.CONTINUOUS),
            HeaderValue("EchoTime", "2", 2.0),
            "the model gave no value for Echo Time",
        ),
        (
            ParameterPrediction("Manufacturer", ParameterKind.CATEGORICAL),
            HeaderValue("Manufacturer", "GE", "GE"),
            "the model gave no probabilities for Manufacturer",
        ),
    ],
)
def test_what_cannot_be_judged_says_why(pixels: ParameterPrediction, value: HeaderValue, reason: str) -> None:
    result = compared(pixels.keyword, SeriesHeader((value,)), prediction(pixels))
    assert (result.verdict, result.reason) == (Verdict.NOT_JUDGED, reason)


def test_unusable_text_is_shown_bounded_and_printable() -> None:
    raw = "\x1b[31m" + "9" * 500
    result = compared("EchoTime", header("EchoTime", raw, None), prediction(ECHO))
    assert result.verdict is Verdict.NOT_JUDGED
    assert len(result.header_value) == 64
    assert result.header_value.isprintable()
    assert result.header_value in result.reason


def test_parameter_that_the_package_does_not_predict_is_not_judged() -> None:
    result = compared("FlipAngle", header("FlipAngle", "10", 10.0), prediction(VENDOR))
    assert (result.verdict, result.header_value) == (Verdict.NOT_JUDGED, "10")
    assert result.reason == "the model does not predict Flip Angle"


def test_novel_series_gets_no_verdict_from_pixels() -> None:
    for item in compare(header("Manufacturer", "GE", "GE"), prediction(novel=True), CONFIG):
        assert item.verdict is Verdict.NOT_JUDGED
        assert item.reason == "the series is unlike the training data (novelty 12.34 > 4.5)"
        assert (item.predicted_value, item.suggested_value, item.header_probability) == ("", "", None)


def test_series_without_prediction_is_not_judged_with_the_given_reason() -> None:
    for item in compare(header("EchoTime", "2", 2.0), None, CONFIG, "no MR image"):
        assert (item.verdict, item.reason) == (Verdict.NOT_JUDGED, "not analysed: no MR image")
