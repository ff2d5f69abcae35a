"""Conditions and decisions as people read them. Called by the expressions and the rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from iap_node.config.routing import (
    HEADER_ELEMENTS,
    AllConfig,
    AnyConfig,
    ConditionConfig,
    DomainConditionConfig,
    FindingConditionConfig,
    HeaderConditionConfig,
    NotConfig,
    SeriesConditionConfig,
    TestsConfig,
)
from iap_node.dicom.parameters import BY_KEYWORD, AcquisitionParameter
from iap_node.records import ConditionTrace, DomainTrace, RoutingEvidence, Truth

_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def condition_text(term: Any) -> str:
    """A condition, or several taken together, as one phrase."""
    if isinstance(term, ConditionConfig):
        parameter = BY_KEYWORD[term.parameter]
        return _tested(parameter.title, parameter, term)
    if isinstance(term, HeaderConditionConfig):
        stated = HEADER_ELEMENTS[term.header]
        return f"header: {_tested(stated.title, stated, term)}"
    if isinstance(term, SeriesConditionConfig):
        return _tested(_WORDS.sub(" ", term.series), None, term)
    if isinstance(term, FindingConditionConfig):
        return _finding(term)
    if isinstance(term, DomainConditionConfig):
        return f"in {term.domain}"
    if isinstance(term, NotConfig):
        return f"not {_bracketed(term.not_)}"
    assert isinstance(term, AllConfig | AnyConfig)
    parts, word = (term.all, " and ") if isinstance(term, AllConfig) else (term.any, " or ")
    return word.join(_bracketed(part) for part in parts)


def why_default(
    evidence: RoutingEvidence, domains: Sequence[DomainTrace], held: Sequence[DomainTrace], nothing_configured: bool
) -> str:
    """Why nothing takes a series."""
    prediction = evidence.prediction
    if prediction is None:
        reason = evidence.not_analysed_reason
        return f"not analysed: {reason}" if reason else "not analysed"
    if prediction.novel:
        score, threshold = prediction.novelty_score, prediction.novelty_threshold
        return f"the series is unlike the training data (novelty {score:.4g} > {threshold:.4g})"
    if not prediction.calibrated:
        return f"model {prediction.model_id} is not calibrated: no route rests on it"
    if not domains:
        return "no domains are configured" if nothing_configured else "no rule applies, and no domains are configured"
    if held:
        return f"no downstream model takes {' or '.join(domain.domain for domain in held)}"
    nearest = max(domains, key=_nearness)
    failing = weakest(nearest.conditions)
    if failing is None:
        return (
            f"nearest is {nearest.domain}, whose conditions hold one by one but together only with "
            f"{share(nearest.probability)} of {nearest.least_probability:g}"
        )
    how = "fails" if failing.truth is Truth.FALSE else "is unknown"
    if failing.probability is not None:
        how += f" ({share(failing.probability)} of {nearest.least_probability:g})"
    return f"nearest is {nearest.domain}, where '{failing.condition}' {how}; seen: {failing.observed}"


def weakest(conditions: Sequence[ConditionTrace]) -> ConditionTrace | None:
    """The condition to blame: the least probable false one, else the least certain unknown one."""
    for truth in (Truth.FALSE, Truth.UNKNOWN):
        found = [item for item in conditions if item.truth is truth]
        if found:
            return min(found, key=lambda item: -1.0 if item.probability is None else item.probability)
    return None


def share(probability: float | None) -> str:
    """A probability with two digits."""
    return "unknown" if probability is None else f"{probability:.2f}"


def _nearness(domain: DomainTrace) -> tuple[bool, float, float]:
    holding = sum(item.truth is Truth.TRUE for item in domain.conditions) / len(domain.conditions)
    return domain.truth is not Truth.FALSE, holding, domain.probability or 0.0


def _bracketed(term: Any) -> str:
    text = condition_text(term)
    several = (isinstance(term, AllConfig) and len(term.all) > 1) or (isinstance(term, AnyConfig) and len(term.any) > 1)
    return f"({text})" if several else text


def _tested(title: str, parameter: AcquisitionParameter | None, tests: TestsConfig) -> str:
    unit = f" {parameter.unit}" if parameter is not None and parameter.unit else ""
    if tests.missing:
        return f"{title} is missing"
    if tests.matches is not None:
        return f"{title} matches '{tests.matches}'"
    if tests.between is not None:
        return f"{title} between {tests.between[0]:g} and {tests.between[1]:g}{unit}"
    if tests.near is not None:
        return f"{title} = {tests.near:g} ± {tests.within:g}{unit}"
    values = ", ".join(
        f"{value:g}" if isinstance(value, float) else parameter.text(value) if parameter is not None else value
        for value in tests.values
    )
    return f"{title} {'=' if tests.one_of is None else 'one of'} {values}{unit}"


def _finding(term: FindingConditionConfig) -> str:
    what = "any finding" if term.finding == "any" else f"finding {term.finding}"
    if term.element is not None:
        what += f" of {' or '.join(term.element)}"
    details = [" or ".join(item) for item in (term.severity, term.raised_by, term.state) if item is not None]
    return f"{what} ({'; '.join(details)})"
