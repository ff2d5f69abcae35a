"""Records become JSON and come back the same, whatever is in them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iap_node.database.engine import _from_json
from iap_node.database.payloads import from_payload, to_payload
from iap_node.records import (
    ConditionTrace,
    HeaderComparison,
    HeaderValue,
    Job,
    RouteDecision,
    SeriesHeader,
    SeriesPrediction,
    Verdict,
)

numbers = st.floats(allow_nan=False)
st.register_type_strategy(float, numbers)
# conditions lie in conditions: two below each other show it
leaf = st.builds(ConditionTrace, parts=st.just(()))
st.register_type_strategy(ConditionTrace, leaf | st.builds(ConditionTrace, parts=st.tuples(leaf)))
records = st.one_of(
    [st.from_type(kind) for kind in (SeriesPrediction, SeriesHeader, RouteDecision, HeaderComparison, Job)]
)


@given(record=records)
def test_a_record_survives_json(record: Any) -> None:
    text = json.dumps(to_payload(record), allow_nan=False)
    back = from_payload(type(record), _from_json(text))
    assert back == record
    assert repr(back) == repr(record)  # types as well: 1.0 == 1 and a StrEnum equals its text


@given(text=st.text(st.characters(exclude_categories=())))
def test_any_text_comes_back_from_the_database_lone_surrogates_included(text: str) -> None:
    assert _from_json(json.dumps({text: text})) == {text: text}


@pytest.mark.parametrize("canonical", [None, "SIEMENS", "1.5", 1.5, 0.0, float("inf"), ""])
def test_a_header_value_keeps_the_type_of_its_canonical_value(canonical: str | float | None) -> None:
    value = HeaderValue("MagneticFieldStrength", "1.5", canonical)
    assert repr(from_payload(HeaderValue, json.loads(json.dumps(to_payload(value))))) == repr(value)


def test_what_is_not_a_number_survives_although_json_has_no_word_for_it() -> None:
    comparison = HeaderComparison("EchoTime", "1.5", "", float("nan"), Verdict.NOT_JUDGED, reason="abstained")
    text = json.dumps(to_payload(comparison), allow_nan=False)
    assert repr(from_payload(HeaderComparison, json.loads(text))) == repr(comparison)


def test_fields_that_an_older_node_did_not_write_take_their_defaults() -> None:
    payload = {"keyword": "EchoTime", "raw": "", "canonical": None, "of_a_later_version": 1}
    assert from_payload(HeaderValue, payload) == HeaderValue("EchoTime", "", None)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (HeaderValue, ["EchoTime"]),
        (SeriesHeader, {"values": {"EchoTime": 1}}),
        (HeaderValue, {"keyword": 3, "raw": "", "canonical": None}),
        (Job, {"id": "1"}),
    ],
)
def test_a_payload_of_another_shape_is_refused(kind: type[Any], payload: Any) -> None:
    with pytest.raises(TypeError, match="stored"):
        from_payload(kind, payload)
