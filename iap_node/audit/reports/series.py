"""The report of one series: what its header says, what the pixels say, what was found and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from iap_node.audit.reports import findings
from iap_node.audit.reports.drawing import Axis, Drawing, bar, interval
from iap_node.audit.reports.files import safe_name
from iap_node.audit.reports.rendering import document, page, percent, plain, table
from iap_node.database.report_series import ReportedFinding, ReportedSeries
from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.records import (
    HeaderComparison,
    ParameterKind,
    ParameterPrediction,
    SeriesHeader,
    SeriesPrediction,
)

MOST_CLASSES = 4  # drawn of a parameter; the header's own is always among them

CSV_COLUMNS = (
    "series_instance_uid", "section", "parameter", "header_value", "predicted_value", "header_probability", "verdict",
    "reason", *findings.COLUMNS, "state", "accepted_value", "found_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ComparedParameter:
    """One parameter, header against pixels, with its distribution drawn."""

    comparison: HeaderComparison
    classes: tuple[tuple[str, Drawing, str], ...] = ()  # of a categorical one: label, bar, probability
    drawing: Drawing | None = None  # of a continuous one
    ends: tuple[str, str] = ("", "")  # of its axis


def name(series: ReportedSeries) -> str:
    """What the files of the report are called."""
    return safe_name("series", series.series_instance_uid)


def as_html(series: ReportedSeries, at: datetime) -> str:
    """A page that needs nothing else: for the screen, and for paper."""
    judgement = series.judgement
    return page(
        "series.html",
        at,
        series=series,
        judgement=judgement,
        parameters=[] if judgement is None else compared(judgement.prediction, judgement.comparisons, judgement.header),
        problems=[] if judgement is None else Counter(reason for _, reason in judgement.problems).most_common(5),
        entries=[(one.finding, one) for one in series.standing],
        settled=[(one.finding, one) for one in series.findings if one not in series.standing],
        about=findings,
    )


def as_csv(series: ReportedSeries) -> str:
    """Lines of section `pixels`, one per parameter, and of section `finding`, one per finding."""
    comparisons = () if series.judgement is None else series.judgement.comparisons
    no_finding, no_comparison = (None,) * (len(findings.COLUMNS) + 3), (None,) * 6
    uid = series.series_instance_uid
    lines: list[tuple[object, ...]] = [
        (uid, "pixels", one.keyword, one.header_value, one.predicted_value, one.header_probability, one.verdict,
         one.reason, *no_finding)
        for one in comparisons
    ]  # fmt: skip
    lines += [(uid, "finding", *no_comparison, *finding_cells(one)) for one in series.findings]
    return table(CSV_COLUMNS, lines)


def as_json(series: ReportedSeries, at: datetime) -> str:
    """Everything."""
    return document(at, {"series": as_object(series)})


def as_object(series: ReportedSeries) -> dict[str, Any]:
    """The series for programs."""
    reported = [{**findings.as_object(one.finding), "events": plain(one.events)} for one in series.findings]
    return {**plain(series), "findings": reported}


def finding_cells(one: ReportedFinding) -> tuple[object, ...]:
    """`findings.COLUMNS`, and what became of the finding."""
    return (*findings.cells(one.finding), one.state, one.finding.accepted_value, one.finding.found_at)


def compared(
    prediction: SeriesPrediction | None, comparisons: Sequence[HeaderComparison], header: SeriesHeader
) -> list[ComparedParameter]:
    """Every parameter that was compared, with the distribution that the pixels leave."""
    predicted = {} if prediction is None else {one.keyword: one for one in prediction.parameters}
    parameters = []
    for comparison in comparisons:
        of_model = predicted.get(comparison.keyword)
        if of_model is None:
            parameters.append(ComparedParameter(comparison))
        elif of_model.kind is ParameterKind.CATEGORICAL:
            parameters.append(ComparedParameter(comparison, classes=_classes(comparison, of_model)))
        else:
            stated = header.value(comparison.keyword).canonical
            parameters.append(_number(comparison, of_model, stated if isinstance(stated, float) else None))
    return parameters


def _classes(comparison: HeaderComparison, prediction: ParameterPrediction) -> tuple[tuple[str, Drawing, str], ...]:
    parameter = BY_KEYWORD[comparison.keyword]
    labels = [label for label, _ in prediction.probabilities]
    own = parameter.match(comparison.header_value, labels) if _usable(comparison) else None
    shown = [item for place, item in enumerate(prediction.probabilities) if place < MOST_CLASSES or item[0] == own]
    rows = []
    for label, probability in shown:
        allowed = label in prediction.prediction_set
        text = label + (" (header)" if label == own else "")
        about = f"{percent(probability)}, {'allowed' if allowed else 'ruled out'} at alpha {prediction.alpha:g}"
        rows.append((text, bar(probability, about, "series" if allowed else "range"), percent(probability)))
    return tuple(rows)


def _usable(comparison: HeaderComparison) -> bool:
    """Whether the header's value is one that can be compared: a number stays text where it is not one."""
    try:
        return bool(comparison.header_value) and (
            BY_KEYWORD[comparison.keyword].nature != "number" or float(comparison.header_value) > float("-inf")
        )
    except ValueError:
        return False


def _number(comparison: HeaderComparison, prediction: ParameterPrediction, stated: float | None) -> ComparedParameter:
    limits = [limit for _, low, high in prediction.intervals for limit in (low, high)]
    axis = Axis.around([*limits, *(value for value in (prediction.value, stated) if value is not None)])
    unit = BY_KEYWORD[comparison.keyword].unit
    label = f"{BY_KEYWORD[comparison.keyword].title}: predicted {comparison.predicted_value or 'nothing'}"
    return ComparedParameter(
        comparison,
        drawing=interval(prediction, axis, stated, label),
        ends=(f"{axis.low:.3g} {unit}".strip(), f"{axis.high:.3g} {unit}".strip()),
    )
