"""Frozen dataclasses of `records` as JSON values and back; for the columns that hold a whole record.

Fields that a stored payload lacks take their defaults, fields that the record no longer has are passed over:
a node reads what an older one wrote.
"""

from __future__ import annotations

import math
import types
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Record = TypeVar("Record")

# JSON has no NaN and no infinities (RFC 8259, section 6), and PostgreSQL refuses Python's spelling of them.
_NOT_FINITE = "not finite"


def to_payload(record: Any) -> Any:
    """A record as nested dicts, lists, strings, numbers, booleans and None."""
    if is_dataclass(record) and not isinstance(record, type):
        return {field.name: to_payload(getattr(record, field.name)) for field in fields(record)}
    if isinstance(record, tuple | list):
        return [to_payload(item) for item in record]
    if isinstance(record, StrEnum):
        return record.value
    if isinstance(record, float):
        return float(record) if math.isfinite(record) else {_NOT_FINITE: repr(float(record))}
    return record


def from_payload(kind: type[Record], payload: Any) -> Record:
    """The record of type `kind` that `to_payload` turned into `payload`.

    Raises
    ------
    TypeError
        `payload` does not have the shape of `kind`.
    """
    return cast(Record, _value(kind, payload))


def _value(kind: Any, payload: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        return _union_member(get_args(kind), payload)
    if get_origin(kind) is tuple:
        return _tuple(get_args(kind), payload)
    if isinstance(payload, dict) and _NOT_FINITE in payload:
        return float(payload[_NOT_FINITE])
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(payload, dict):
            raise TypeError(f"a stored {kind.__name__} is not an object: {type(payload).__name__}")
        hints = _hints(kind)
        return kind(**{name: _value(hint, payload[name]) for name, hint in hints.items() if name in payload})
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(payload)
    if kind is float and isinstance(payload, int | float):
        return float(payload)
    if isinstance(kind, type) and isinstance(payload, kind):
        return payload
    raise TypeError(f"a stored value is {type(payload).__name__}, not {kind}")


def _union_member(kinds: tuple[Any, ...], payload: Any) -> Any:
    if payload is None and type(None) in kinds:
        return None
    if isinstance(payload, str) and str in kinds:
        return payload
    remaining = [kind for kind in kinds if kind not in (type(None), str)]
    if len(remaining) != 1:
        raise TypeError(f"a stored value fits none of {kinds}: {type(payload).__name__}")
    return _value(remaining[0], payload)


def _tuple(kinds: tuple[Any, ...], payload: Any) -> tuple[Any, ...]:
    if not isinstance(payload, list):
        raise TypeError(f"a stored tuple is not a list: {type(payload).__name__}")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_value(kinds[0], item) for item in payload)
    return tuple(_value(kind, item) for kind, item in zip(kinds, payload, strict=True))


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)
