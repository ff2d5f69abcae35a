"""The published schemas of a result and of a webhook's message: current, and true of every kind of result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from typer.testing import CliRunner

from iap_node.cli import app
from iap_node.results.content import SeriesResult
from iap_node.results.message import ResultMessage, Route
from iap_node.results.schema import message_schema, result_schema

DOCUMENTS = Path(__file__).resolve().parents[3] / "docs"
ROUTE = Route(("people",), ("lesions",), ("lesion model",), ("a rule",), "abcd", "")


@pytest.mark.parametrize(("arguments", "name"), [((), "result"), (("--webhook",), "result-message")])
def test_the_published_schema_is_current(arguments: tuple[str, ...], name: str) -> None:
    published = (DOCUMENTS / f"{name}.schema.json").read_text(encoding="utf-8")
    printed = CliRunner().invoke(app, ["result-schema", *arguments]).stdout
    assert published == printed, f"run `iap-node result-schema {' '.join(arguments)} > docs/{name}.schema.json`"


def test_every_kind_of_result_is_as_the_schema_says(results: dict[str, SeriesResult]) -> None:
    validator = Draft202012Validator(result_schema())
    for result in results.values():
        told: Any = json.loads(json.dumps(result.as_json(), allow_nan=False))
        validator.validate(told)
        del told["status"]
        with pytest.raises(ValidationError):
            validator.validate(told)


def test_a_message_holds_the_result_as_it_is(results: dict[str, SeriesResult]) -> None:
    message = ResultMessage("1.2.3.4/1/lesions", "lesions", 1, True, ROUTE, results["novel"])
    told: Any = json.loads(json.dumps(message.as_json(), allow_nan=False))
    Draft202012Validator(message_schema()).validate(told)
    assert told["result"] == json.loads(json.dumps(results["novel"].as_json()))
    assert told["result"]["novelty_score"] is None  # it is infinite
    other = json.loads(json.dumps(replace(message, shadow=False).as_json()))
    assert {key for key in told if told[key] != other[key]} == {"shadow"}
