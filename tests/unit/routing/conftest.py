"""Predictions, evidence and expressions for the routing rules."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from pydantic import TypeAdapter

from iap_node.config.routing import Term
from iap_node.records import (
    FoundFact,
    HeaderValue,
    ParameterKind,
    ParameterPrediction,
    RoutingEvidence,
    SeriesFacts,
    SeriesHeader,
    SeriesPrediction,
)

_TERM: TypeAdapter[Any] = TypeAdapter(Term)


def term(content: dict[str, Any]) -> Any:
    """A condition as it is written in config.yaml."""
    return _TERM.validate_python(content)


def classes(keyword: str, *probabilities: tuple[str, float]) -> ParameterPrediction:
    return ParameterPrediction(keyword, ParameterKind.CATEGORICAL, probabilities=probabilities)


def number(keyword: str, value: float, below: float, above: float) -> ParameterPrediction:
    return ParameterPrediction(
        keyword, ParameterKind.CONTINUOUS, value=value, interval=(value - below, value + above), alpha=0.05
    )


def prediction(*parameters: ParameterPrediction, novel: bool = False) -> SeriesPrediction:
    return SeriesPrediction("model-1", "test", novel, 12.3 if novel else 1.0, 4.5, 8, parameters)


def header(**values: str | float) -> SeriesHeader:
    return SeriesHeader(tuple(HeaderValue(keyword, str(value), value) for keyword, value in values.items()))


# ---------------------------------------------------------------- for properties

_shares = st.floats(0.0, 1.0)
leaves = st.one_of(
    st.sampled_from(["SIEMENS", "GE MEDICAL SYSTEMS", "Philips"]).map(
        lambda value: {"parameter": "Manufacturer", "equals": value}
    ),
    st.just({"parameter": "Manufacturer", "matches": "^s"}),
    st.sampled_from([1.5, 3.0, 7.0]).map(
        lambda value: {"parameter": "MagneticFieldStrength", "near": value, "within": 0.3}
    ),
    st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 5.0)).map(
        lambda pair: {"parameter": "RepetitionTime", "between": [pair[0], pair[0] + pair[1]]}
    ),
    st.sampled_from(["SIEMENS", "Philips"]).map(lambda value: {"header": "Manufacturer", "equals": value}),
    st.just({"header": "EchoTime", "between": [1.0, 3.0]}),
    st.just({"series": "Modality", "equals": "MR"}),
    st.just({"series": "SeriesDescription", "matches": "dyn"}),
    st.just({"finding": "any", "severity": "error"}),
)
terms = st.recursive(
    leaves,
    lambda below: st.one_of(
        st.lists(below, min_size=1, max_size=3).map(lambda parts: {"all": parts}),
        st.lists(below, min_size=1, max_size=3).map(lambda parts: {"any": parts}),
        below.map(lambda part: {"not": part}),
    ),
    max_leaves=6,
)


@st.composite
def evidences(draw: st.DrawFn) -> RoutingEvidence:
    """Everything is known: the headers state, the model predicts, the audit looked."""
    share, other = draw(_shares), draw(_shares)
    found = FoundFact("pixels-contradict", "EchoTime", draw(st.sampled_from(["error", "note"])), "open", "pixels")
    return RoutingEvidence(
        prediction=prediction(
            classes("Manufacturer", ("SIEMENS", share), ("GE MEDICAL SYSTEMS", 1.0 - share)),
            classes("MagneticFieldStrength", ("3", other), ("1.5", 1.0 - other)),
            number("RepetitionTime", draw(st.floats(0.5, 12.0)), draw(_shares), draw(_shares)),
        ),
        header=header(Manufacturer=draw(st.sampled_from(["SIEMENS", "GE"])), EchoTime=draw(st.floats(0.5, 5.0))),
        facts=SeriesFacts(modality=draw(st.sampled_from(["MR", "CT"])), series_description="T1 Dyn"),
        findings=(found,) if draw(st.booleans()) else (),
    )


@st.composite
def less_known(draw: st.DrawFn, evidence: RoutingEvidence) -> RoutingEvidence:
    """The same series, of which less is known."""
    pixels = evidence.prediction
    assert pixels is not None and evidence.header is not None
    kept = [item for item in pixels.parameters if draw(st.booleans())]
    stated = [
        value if draw(st.booleans()) else HeaderValue(value.keyword, "", None) for value in evidence.header.values
    ]
    return RoutingEvidence(
        prediction=draw(st.sampled_from([None, prediction(novel=True), prediction(*kept), prediction(*kept)])),
        header=draw(st.sampled_from([None, SeriesHeader(tuple(stated)), SeriesHeader(tuple(stated))])),
        facts=draw(st.sampled_from([None, SeriesFacts(), evidence.facts])),
        findings=draw(st.sampled_from([None, evidence.findings])),
    )
