"""Header against pixels: one comparison per acquisition parameter of a series.

The model says what the pixels allow, as a conformal set (classes) or interval (numbers) at level alpha.
A header value outside it contradicts the pixels; a right one is so accused at a rate of about alpha.
Where the model has nothing to say (novel series, no calibration, unknown class, unusable header, habit instead
of physics) the verdict is "not judged" with its reason. Called by `iap_node.worker.infer`; pure functions.

References
----------
Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World, 2005, chapter 2 (conformal p-values and
sets).
"""

from __future__ import annotations

from iap_node.config import AuditConfig
from iap_node.dicom.parameters import PARAMETERS, AcquisitionParameter, Nature
from iap_node.records import (
    HeaderComparison,
    HeaderValue,
    ParameterKind,
    ParameterPrediction,
    SeriesHeader,
    SeriesPrediction,
    Verdict,
)

RAW_TEXT_LIMIT = 64  # characters shown of an unusable value: the most that VR LO has (PS3.5 Table 6.2-1)
ASSOCIATION = "inferred by association: learned from protocol habits, not from the physics of the image"


def compare(
    header: SeriesHeader, prediction: SeriesPrediction | None, config: AuditConfig, reason: str = ""
) -> tuple[HeaderComparison, ...]:
    """Compare every parameter of `PARAMETERS`, in that order.

    Parameters
    ----------
    header
        The series' header in canonical form.
    prediction
        What the pixels say; None when the series was not analysed.
    config
        `suggest_probability`: how sure the pixels must be before a class is suggested. The level alpha
        of sets and intervals is the one that the prediction was made with.
    reason
        Why `prediction` is None.
    """
    silence = _why_nothing_is_judged(prediction, reason)
    predicted = {} if prediction is None else {item.keyword: item for item in prediction.parameters}
    comparisons = []
    for parameter in PARAMETERS:
        value = header.value(parameter.keyword)
        pixels = predicted.get(parameter.keyword)
        if silence:
            comparisons.append(_not_judged(parameter, value, silence, _shown_only(parameter, pixels)))
        elif pixels is None:
            comparisons.append(_not_judged(parameter, value, f"the model does not predict {parameter.title}"))
        elif pixels.kind is ParameterKind.CATEGORICAL:
            comparisons.append(_compare_class(parameter, value, pixels, config))
        else:
            comparisons.append(_compare_number(parameter, value, pixels))
    return tuple(comparisons)


def _why_nothing_is_judged(prediction: SeriesPrediction | None, reason: str) -> str:
    if prediction is None:
        return f"not analysed: {reason}" if reason else "not analysed"
    if prediction.novel:
        score, threshold = prediction.novelty_score, prediction.novelty_threshold
        return f"the series is unlike the training data (novelty {score:.4g} > {threshold:.4g})"
    if not prediction.calibrated:
        return f"model {prediction.model_id} is not calibrated: iap-train recalibrate makes a package that is"
    return ""


def _shown_only(parameter: AcquisitionParameter, pixels: ParameterPrediction | None) -> str:
    """What a model that is not calibrated takes for the most probable; nothing rests on it."""
    if pixels is None:
        return ""
    if pixels.kind is ParameterKind.CONTINUOUS:
        return "" if pixels.value is None else parameter.text_with_unit(_rounded(pixels.value))
    best = pixels.probabilities[0][0] if pixels.probabilities else None
    return "" if best is None else parameter.text_with_unit(_canonical_label(parameter, best))


# ---------------------------------------------------------------- classes


def _compare_class(
    parameter: AcquisitionParameter, value: HeaderValue, pixels: ParameterPrediction, config: AuditConfig
) -> HeaderComparison:
    labels = [label for label, _ in pixels.probabilities]
    if not labels:
        return _not_judged(parameter, value, f"the model gave no probabilities for {parameter.title}")
    best, best_probability = _most_probable(parameter, pixels)
    predicted = parameter.text_with_unit(_canonical_label(parameter, best))
    suggestion = best if best_probability >= config.suggest_probability else ""

    unusable = _why_unusable(value)
    if unusable:
        return _not_judged(parameter, value, unusable, predicted)
    if value.canonical is None:
        sure = "" if suggestion else "no value is suggested: "
        why = f"{sure}the most probable, {predicted}, has {_percent(best_probability)}"
        why += f"; {ASSOCIATION}" if pixels.by_association else ""
        return HeaderComparison(parameter.keyword, "", predicted, None, Verdict.MISSING, suggestion, why)

    label = parameter.match(value.canonical, labels)
    if label is None:
        never = shown(parameter.text_with_unit(value.canonical))
        return _not_judged(parameter, value, f"the model has never seen '{never}'", predicted)
    equivalent = parameter.equivalent(label, labels)
    probability = _probability(pixels, equivalent)
    if not pixels.prediction_set:
        return _not_judged(parameter, value, "no class fits the pixels at this level", predicted, probability)
    if equivalent & set(pixels.prediction_set):
        return _comparison(parameter, value, predicted, probability, Verdict.AGREES)
    if pixels.by_association:
        return _not_judged(
            parameter, value, f"{ASSOCIATION}; the pixels look like {predicted}", predicted, probability
        )
    allowed = _listed(pixels.prediction_set)
    why = f"outside the classes that the pixels allow at alpha {pixels.alpha:g}: {allowed}"
    return _comparison(parameter, value, predicted, probability, Verdict.CONTRADICTS, suggestion, why)


def _most_probable(parameter: AcquisitionParameter, pixels: ParameterPrediction) -> tuple[str, float]:
    """The class whose equivalent classes together are the most probable, and their probability."""
    labels = [label for label, _ in pixels.probabilities]
    own = dict(pixels.probabilities)
    pooled = {label: _probability(pixels, parameter.equivalent(label, labels)) for label in labels}
    best = max(labels, key=lambda label: (pooled[label], own[label]))
    return best, pooled[best]


def _probability(pixels: ParameterPrediction, labels: set[str]) -> float:
    return min(1.0, sum(probability for label, probability in pixels.probabilities if label in labels))


# ---------------------------------------------------------------- numbers


def _compare_number(
    parameter: AcquisitionParameter, value: HeaderValue, pixels: ParameterPrediction
) -> HeaderComparison:
    if pixels.value is None:
        return _not_judged(parameter, value, f"the model gave no value for {parameter.title}")
    best = parameter.text(_rounded(pixels.value))
    predicted = parameter.text_with_unit(_rounded(pixels.value))
    if pixels.interval is None:
        why = f"the model's calibration does not reach alpha {pixels.alpha:g} for {parameter.title}"
        return _not_judged(parameter, value, why, predicted)
    low, high = pixels.interval
    allowed = f"{low:.4g} to {high:.4g} {parameter.unit}".strip()

    unusable = _why_unusable(value)
    if unusable:
        return _not_judged(parameter, value, unusable, predicted)
    if value.canonical is None:
        why = f"between {allowed} at alpha {pixels.alpha:g}"
        why += f"; {ASSOCIATION}" if pixels.by_association else ""
        return HeaderComparison(parameter.keyword, "", predicted, None, Verdict.MISSING, best, why)

    number = float(value.canonical)
    probability = _p_value(number, pixels)
    if low <= number <= high:
        return _comparison(parameter, value, predicted, probability, Verdict.AGREES)
    if pixels.by_association:
        return _not_judged(
            parameter, value, f"{ASSOCIATION}; the pixels look like {predicted}", predicted, probability
        )
    why = f"outside what the pixels allow at alpha {pixels.alpha:g}: {allowed}"
    return _comparison(parameter, value, predicted, probability, Verdict.CONTRADICTS, best, why)


def _p_value(number: float, pixels: ParameterPrediction) -> float:
    """Conformal p-value, rounded down: the largest alpha whose interval holds the number; 0 outside all."""
    intervals = list(pixels.intervals)
    if pixels.interval is not None:
        intervals.append((pixels.alpha, *pixels.interval))
    return max((alpha for alpha, low, high in intervals if low <= number <= high), default=0.0)


def _rounded(number: float) -> float:
    return float(f"{number:.3g}")  # the pixels do not know more digits than that


# ---------------------------------------------------------------- rows


def _why_unusable(value: HeaderValue) -> str:
    if value.problem.startswith("varies") or (value.problem and not value.raw):
        return value.problem  # it names the values itself
    if value.problem:
        return f"{value.problem}: the header says '{shown(value.raw)}'"
    if value.canonical is None and value.raw:
        return f"the header's value is unusable: '{shown(value.raw)}'"
    return ""


def _comparison(
    parameter: AcquisitionParameter,
    value: HeaderValue,
    predicted: str,
    probability: float | None,
    verdict: Verdict,
    suggestion: str = "",
    reason: str = "",
) -> HeaderComparison:
    text = parameter.text(value.canonical) or shown(value.raw)
    return HeaderComparison(parameter.keyword, text, predicted, probability, verdict, suggestion, reason)


def _not_judged(
    parameter: AcquisitionParameter,
    value: HeaderValue,
    reason: str,
    predicted: str = "",
    probability: float | None = None,
) -> HeaderComparison:
    return _comparison(parameter, value, predicted, probability, Verdict.NOT_JUDGED, reason=reason)


def _canonical_label(parameter: AcquisitionParameter, label: str) -> str | float:
    return float(label) if parameter.nature is Nature.NUMBER else label


def shown(raw: str) -> str:
    """Text from outside for a sentence or a cell: printable, of bounded length."""
    text = "".join(character if character.isprintable() else " " for character in raw).strip()
    return text if len(text) <= RAW_TEXT_LIMIT else text[: RAW_TEXT_LIMIT - 3] + "..."


def _listed(labels: tuple[str, ...], most: int = 4) -> str:
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f} %"
