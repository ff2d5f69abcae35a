"""Header against pixels, parameter by parameter, with the distribution that the pixels leave drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iap_node.audit.reports.drawing import Axis, Drawing, bar, interval
from iap_node.audit.reports.rendering import percent
from iap_node.dicom.parameters import BY_KEYWORD, Nature, canonical_number
from iap_node.records import (
    HeaderComparison,
    ParameterKind,
    ParameterPrediction,
    SeriesHeader,
    SeriesPrediction,
)

MOST_CLASSES = 4  # drawn of a parameter; the header's own is always among them


@dataclass(frozen=True, slots=True)
class ComparedParameter:
    """One parameter, header against pixels, with its distribution drawn."""

    comparison: HeaderComparison
    classes: tuple[tuple[str, Drawing, str], ...] = ()  # of a categorical one: label, bar, probability
    drawing: Drawing | None = None  # of a continuous one
    ends: tuple[str, str] = ("", "")  # of its axis


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
    own = _own_class(comparison, [label for label, _ in prediction.probabilities])
    shown = [item for place, item in enumerate(prediction.probabilities) if place < MOST_CLASSES or item[0] == own]
    rows = []
    for label, probability in shown:
        allowed = label in prediction.prediction_set
        text = label + (" (header)" if label == own else "")
        about = f"{percent(probability)}, {'allowed' if allowed else 'ruled out'} at alpha {prediction.alpha:g}"
        rows.append((text, bar(probability, about, "series" if allowed else "range"), percent(probability)))
    return tuple(rows)


def _own_class(comparison: HeaderComparison, labels: Sequence[str]) -> str | None:
    """The class that the header states; None where it states none of them, or nothing usable."""
    parameter = BY_KEYWORD[comparison.keyword]
    text = comparison.header_value
    value = canonical_number(text) if parameter.nature is Nature.NUMBER else text or None
    return None if value is None else parameter.match(value, labels)


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
