"""Which downstream models take a series: three-valued rules over what the pixels say. Pure functions.

A condition holds with the probability that the model gives it. It is true when that reaches the
domain's least probability, false when its opposite does, and unknown in between or when nobody knows:
parameter not predicted, value outside the model's vocabulary, series novel or not analysed. Unknown is
never false, and never enough.

A domain's joint probability is the product of its conditions' probabilities. The heads of the network
are calibrated one by one given the image, so the product takes their remaining errors as independent.
Where they are not, they hang together through the protocol (manufacturer, model and options are wrong
together); then the product is below the true joint probability and errs towards the default route. The
bound that needs no assumption (Frechet: 1 - sum of the opposites) hardly differs where all conditions
are nearly certain, and gives domains of many conditions away.

Called by `iap_node.worker.infer`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from statistics import NormalDist

from iap_node.config.routing import ConditionConfig, DomainConfig, RoutingConfig
from iap_node.dicom.parameters import BY_KEYWORD, AcquisitionParameter, Nature
from iap_node.records import (
    ConditionTrace,
    DomainTrace,
    ParameterKind,
    ParameterPrediction,
    RouteDecision,
    SeriesPrediction,
    Truth,
)

Range = tuple[float, float]


def decide(prediction: SeriesPrediction | None, config: RoutingConfig, reason: str = "") -> RouteDecision:
    """Judge every domain and choose the route.

    All downstream models whose domain is true take the series, in the order of the configuration, each
    destination once; when there are none the default route does. `reason` says why `prediction` is None.
    """
    trace = tuple(judge_domain(name, domain, prediction) for name, domain in config.domains.items())
    held = [domain for domain in trace if domain.truth is Truth.TRUE]
    names = {domain.domain for domain in held}
    takers = {name: model for name, model in config.downstream_models.items() if model.domain in names}
    version = rules_version(config)
    if not takers:
        return RouteDecision(
            domain=None,
            downstream_models=(),
            destinations=tuple(dict.fromkeys(config.default.destinations)),
            reason=f"default route: {_why_default(trace, held, prediction, reason)}",
            trace=trace,
            rules_version=version,
        )
    served = list(dict.fromkeys(model.domain for model in takers.values()))
    shown = {domain.domain: f"{domain.domain} ({_share(domain.probability)})" for domain in held}
    return RouteDecision(
        domain=served[0],
        downstream_models=tuple(takers),
        destinations=tuple(dict.fromkeys(name for model in takers.values() for name in model.destinations)),
        reason=f"{' and '.join(shown[name] for name in served)} by the pixels: to {', '.join(takers)}",
        trace=trace,
        rules_version=version,
    )


def rules_version(config: RoutingConfig) -> str:
    """First 12 hexadecimal digits of SHA-256 over the rules as JSON, in the order of the configuration."""
    text = json.dumps(config.model_dump(mode="json"), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def judge_domain(name: str, domain: DomainConfig, prediction: SeriesPrediction | None) -> DomainTrace:
    """One domain with all its conditions.

    True when the joint probability reaches the least one, false when any condition is false, else unknown.
    """
    conditions = tuple(judge_condition(item, prediction, domain.least_probability) for item in domain.all)
    probabilities = [item.probability for item in conditions if item.probability is not None]
    joint = math.prod(probabilities) if len(probabilities) == len(conditions) else None
    truth = Truth.UNKNOWN
    if joint is not None and joint >= domain.least_probability:  # no factor is less: every condition is true
        truth = Truth.TRUE
    elif any(item.truth is Truth.FALSE for item in conditions):
        truth = Truth.FALSE
    return DomainTrace(name, truth, joint, domain.least_probability, conditions)


def judge_condition(
    condition: ConditionConfig, prediction: SeriesPrediction | None, least_probability: float
) -> ConditionTrace:
    """One condition: true when so probable, false when its opposite is, else unknown."""
    parameter = BY_KEYWORD[condition.parameter]
    pixels = None
    observed = f"the model does not predict {parameter.title}"
    if prediction is None:
        observed = "not analysed"
    elif prediction.novel:
        observed = "novel: unlike the training data"
    else:
        pixels = next((item for item in prediction.parameters if item.keyword == condition.parameter), None)
    probability: float | None = None
    complete = False
    if pixels is not None:
        observed = _observed(parameter, pixels)
        probability, complete = _probability(parameter, condition, pixels)
        if probability is None:
            observed += "; the model knows no value of this condition"
    truth = Truth.UNKNOWN
    if probability is not None and probability >= least_probability:
        truth = Truth.TRUE
    elif probability is not None and complete and 1.0 - probability >= least_probability:
        truth = Truth.FALSE
    return ConditionTrace(_text(parameter, condition), truth, probability, observed)


# ---------------------------------------------------------------- probabilities


def _probability(
    parameter: AcquisitionParameter, condition: ConditionConfig, pixels: ParameterPrediction
) -> tuple[float | None, bool]:
    """That the condition holds, and whether the model knows every value it names.

    Values that the model was never shown could be what the pixels show: what is left is a lower bound, which
    may make the condition true but never false; None when nothing is left.
    """
    if pixels.kind is ParameterKind.CONTINUOUS:
        interval = _interval(pixels)
        if parameter.nature is not Nature.NUMBER or pixels.value is None or interval is None:
            return None, False
        alpha, low, high = interval
        masses = [_mass(pixels.value, (low, high), alpha, item) for item in _ranges(parameter, condition)]
        return min(1.0, sum(masses)), True
    labels = [label for label, _ in pixels.probabilities]
    wanted: list[set[str]]
    if parameter.nature is Nature.NUMBER:
        ranges = _ranges(parameter, condition)
        wanted = [{label for label in labels if _inside(float(label), item)} for item in ranges]
    else:
        wanted = [{label for label in labels if parameter.same(label, value)} for value in _values(condition)]
    satisfying = set().union(*wanted)
    if not satisfying:
        return None, False
    probability = sum(share for label, share in pixels.probabilities if label in satisfying)
    return min(1.0, probability), all(wanted)


def _values(condition: ConditionConfig) -> tuple[str | float, ...]:
    if condition.one_of is not None:
        return condition.one_of
    return () if condition.equals is None else (condition.equals,)


def _ranges(parameter: AcquisitionParameter, condition: ConditionConfig) -> list[Range]:
    """The numbers that satisfy a condition, as ranges without overlap; `equals` takes the tolerance."""
    if condition.between is not None:
        return [condition.between]
    if condition.near is not None and condition.within is not None:
        return [(condition.near - condition.within, condition.near + condition.within)]
    ranges: list[Range] = []
    for number in sorted(float(value) for value in _values(condition)):
        low, high = number - parameter.tolerance(number), number + parameter.tolerance(number)
        if ranges and low <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(high, ranges[-1][1]))
        else:
            ranges.append((low, high))
    return ranges


def _interval(pixels: ParameterPrediction) -> tuple[float, float, float] | None:
    """(alpha, low, high); the widest that is calibrated where the calibration data do not reach `alpha`."""
    if pixels.interval is not None:
        return (pixels.alpha, *pixels.interval)
    return min(pixels.intervals, default=None)


def _inside(number: float, item: Range) -> bool:
    return item[0] - 1e-9 <= number <= item[1] + 1e-9


def _mass(value: float, interval: Range, alpha: float, item: Range) -> float:
    """Probability of a range under a normal around `value` with `interval` as its central 1 - alpha interval.

    Each side of the value takes its own width and half of the probability, so that an interval that is wider
    above than below stays so.
    """
    quantile = NormalDist().inv_cdf(1.0 - alpha / 2.0)
    below, above = (max(0.0, value - interval[0]) / quantile, max(0.0, interval[1] - value) / quantile)

    def cumulative(number: float) -> float:
        width = below if number < value else above
        if width == 0.0:
            return 0.0 if number < value else 1.0
        return NormalDist().cdf((number - value) / width)

    if below == 0.0 and above == 0.0:  # a point: inside or not, ends included
        return 1.0 if _inside(value, item) else 0.0
    return max(0.0, cumulative(item[1]) - cumulative(item[0]))


# ---------------------------------------------------------------- sentences


def _text(parameter: AcquisitionParameter, condition: ConditionConfig) -> str:
    unit = f" {parameter.unit}" if parameter.unit else ""
    if condition.between is not None:
        return f"{parameter.title} between {condition.between[0]:g} and {condition.between[1]:g}{unit}"
    if condition.near is not None:
        return f"{parameter.title} = {condition.near:g} ± {condition.within:g}{unit}"
    values = ", ".join(parameter.text(value) for value in _values(condition))
    return f"{parameter.title} {'=' if condition.one_of is None else 'one of'} {values}{unit}"


def _observed(parameter: AcquisitionParameter, pixels: ParameterPrediction) -> str:
    if pixels.kind is ParameterKind.CONTINUOUS:
        interval = _interval(pixels)
        if pixels.value is None or interval is None:
            return "no interval"
        _, low, high = interval
        return f"{pixels.value:.3g} {parameter.unit} ({low:.3g} to {high:.3g})"
    if not pixels.probabilities:
        return "no probabilities"
    label, probability = max(pixels.probabilities, key=lambda pair: pair[1])
    return f"{label}{' ' + parameter.unit if parameter.unit else ''} ({probability:.2f})"


def _why_default(
    trace: Sequence[DomainTrace],
    held: Sequence[DomainTrace],
    prediction: SeriesPrediction | None,
    reason: str,
) -> str:
    if prediction is None:
        return f"not analysed: {reason}" if reason else "not analysed"
    if prediction.novel:
        score, threshold = prediction.novelty_score, prediction.novelty_threshold
        return f"the series is unlike the training data (novelty {score:.4g} > {threshold:.4g})"
    if not trace:
        return "no domains are configured"
    if held:
        return f"no downstream model takes {' or '.join(domain.domain for domain in held)}"
    nearest = max(trace, key=_nearness)
    failing = _weakest(nearest)
    if failing is None:
        return (
            f"nearest is {nearest.domain}, whose conditions hold one by one but together only with "
            f"{_share(nearest.probability)} of {nearest.least_probability:g}"
        )
    how = "fails" if failing.truth is Truth.FALSE else "is unknown"
    if failing.probability is not None:
        how += f" ({_share(failing.probability)} of {nearest.least_probability:g})"
    return f"nearest is {nearest.domain}, where '{failing.condition}' {how}; seen: {failing.observed}"


def _nearness(domain: DomainTrace) -> tuple[bool, float, float]:
    holding = sum(item.truth is Truth.TRUE for item in domain.conditions) / len(domain.conditions)
    return domain.truth is not Truth.FALSE, holding, domain.probability or 0.0


def _weakest(domain: DomainTrace) -> ConditionTrace | None:
    """The condition to blame: the least probable false one, else the least certain unknown one."""
    for truth in (Truth.FALSE, Truth.UNKNOWN):
        found = [item for item in domain.conditions if item.truth is truth]
        if found:
            return min(found, key=lambda item: -1.0 if item.probability is None else item.probability)
    return None


def _share(probability: float | None) -> str:
    return "unknown" if probability is None else f"{probability:.2f}"
