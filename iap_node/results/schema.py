"""The JSON Schemas of a result and of the message that webhooks get, made from the records.

They are published as `docs/result.schema.json` and `docs/result-message.schema.json`; `iap-node result-schema` writes
them, and a test says whether the published ones are current. Receivers pass over keys that they do not know: new ones
are no new version.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from iap_node.results import content, message

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def result_schema() -> dict[str, Any]:
    """Of a result, as `iap-node result --json`, the API and the SR document's twin have it."""
    schema = _schema_of(content.SeriesResult)
    marked = _marked(schema, content.FORMAT, content.FORMAT_VERSION)
    return {"$schema": DIALECT, **marked, "title": "Result of a series"}


def message_schema() -> dict[str, Any]:
    """Of what a webhook gets."""
    schema = _schema_of(message.ResultMessage)
    inner = schema["$defs"]["SeriesResult"]
    schema["$defs"]["SeriesResult"] = _marked(inner, content.FORMAT, content.FORMAT_VERSION)
    schema = _marked(schema, message.FORMAT, message.FORMAT_VERSION)
    schema["properties"] = {"event": {"const": message.EVENT}, **schema["properties"]}
    schema["required"] = ["event", *schema["required"]]
    return {"$schema": DIALECT, **schema, "title": "Result of a series, as a webhook gets it"}


def schema_text(schema: dict[str, Any]) -> str:
    """A schema as it is published."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _schema_of(record: type[Any]) -> dict[str, Any]:
    """Of a record, what its fields are for included: a setting that records can only inherit, here of a list."""
    adapter = TypeAdapter(list[record], config=ConfigDict(use_attribute_docstrings=True))  # type: ignore[valid-type]
    schema = adapter.json_schema(mode="serialization")
    own = schema["$defs"].pop(record.__name__)
    return {"$defs": schema["$defs"], **own}


def _marked(schema: dict[str, Any], name: str, version: int) -> dict[str, Any]:
    """With the two keys that say what it is."""
    marks = {"format": {"const": name}, "format_version": {"const": version}}
    return {
        **schema,
        "properties": {**marks, **schema["properties"]},
        "required": [*marks, *schema["required"]],
    }
