"""Frozen dataclasses of `records` as JSON values and back; for the columns that hold a whole record.

Fields that a stored payload lacks take their defaults, fields that the record no longer has are passed over:
a node reads what an older one wrote.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache, partial
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
    return cast(Record, _converter(cast(Any, kind))(payload))


# What a kind is made of is looked at once: a long replay converts millions of values.


@cache
def _converter(kind: Any) -> Callable[[Any], Any]:
    if get_origin(kind) in (Union, types.UnionType):
        return _union_member(get_args(kind))
    if get_origin(kind) is tuple:
        return _tuple(get_args(kind))
    if is_dataclass(kind) and isinstance(kind, type):
        return partial(_record, kind)
    if kind is float:
        return _float
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind
    return partial(_as_it_is, kind)


def _record(kind: Any, payload: Any) -> Any:
    if not isinstance(payload, dict):
        raise TypeError(f"a stored {kind.__name__} is not an object: {type(payload).__name__}")
    return kind(**{name: convert(payload[name]) for name, convert in _fields(kind) if name in payload})


def _float(payload: Any) -> float:
    if isinstance(payload, dict) and _NOT_FINITE in payload:
        return float(payload[_NOT_FINITE])
    if isinstance(payload, int | float):
        return float(payload)
    raise TypeError(f"a stored value is {type(payload).__name__}, not {float}")


def _as_it_is(kind: Any, payload: Any) -> Any:
    if isinstance(kind, type) and isinstance(payload, kind):
        return payload
    raise TypeError(f"a stored value is {type(payload).__name__}, not {kind}")


def _union_member(kinds: tuple[Any, ...]) -> Callable[[Any], Any]:
    remaining = [kind for kind in kinds if kind not in (type(None), str)]

    def convert(payload: Any) -> Any:
        if payload is None and type(None) in kinds:
            return None
        if isinstance(payload, str) and str in kinds:
            return payload
        if len(remaining) != 1:
            raise TypeError(f"a stored value fits none of {kinds}: {type(payload).__name__}")
        return _converter(remaining[0])(payload)

    return convert


def _tuple(kinds: tuple[Any, ...]) -> Callable[[Any], Any]:
    alike = len(kinds) == 2 and kinds[1] is Ellipsis
    converters = [_converter(kind) for kind in (kinds[:1] if alike else kinds)]

    def convert(payload: Any) -> tuple[Any, ...]:
        if not isinstance(payload, list):
            raise TypeError(f"a stored tuple is not a list: {type(payload).__name__}")
        if alike:
            return tuple(map(converters[0], payload))
        return tuple(one(item) for one, item in zip(converters, payload, strict=True))

    return convert


@cache
def _fields(kind: type[Any]) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """Not asked for before a record is converted: records may hold others of their own kind."""
    return tuple((name, _converter(hint)) for name, hint in get_type_hints(kind).items())
