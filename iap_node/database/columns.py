"""Column types that mean the same on SQLite and on PostgreSQL. Used by `tables`, and where stored text is compared."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from sqlalchemy import BigInteger, DateTime, Dialect, Enum, Integer, Text
from sqlalchemy.types import TypeDecorator

State = TypeVar("State", bound=StrEnum)

# SQLite numbers rows by itself only where the primary key is exactly INTEGER.
Identifier = BigInteger().with_variant(Integer(), "sqlite")

_LARGEST_INTEGER = 2**63 - 1  # of PostgreSQL's bigint and of SQLite


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in, aware UTC datetimes out.

    SQLite stores no time zone: there the value is UTC text of fixed width, so that text order is time order.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times: nobody could say later which hour was meant."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; pass datetime.now(UTC)")
        if value.tzinfo is not UTC:
            value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """PostgreSQL answers in the session's zone, SQLite without one."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def storable(text: str) -> str:
    """Text as both databases keep it: NUL is dropped, lone surrogates become `?`."""
    if text.isascii() and "\0" not in text:  # nearly always
        return text
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


class HeaderText(TypeDecorator[str]):
    """Text from outside: header elements, peers' comments, error texts.

    Real headers pad with NUL and carry bytes of undeclared character sets. PostgreSQL refuses NUL, both
    databases refuse lone surrogates. An odd description must not cost an instance: `storable` makes it one.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Make the text storable."""
        return None if value is None else storable(value)


class HeaderInteger(TypeDecorator[int]):
    """An Integer String (PS3.5 IS) from a header; None where no 64-bit integer can hold it."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        """Make the number storable."""
        return value if value is not None and abs(value) <= _LARGEST_INTEGER else None


def state_column(states: type[State], name: str) -> Enum:
    """A StrEnum stored as its text, with a CHECK called `name` that admits nothing else.

    Parameters
    ----------
    states
        The enumeration. Its texts are stored, not its Python names.
    name
        Of the CHECK; the naming convention puts `ck_TABLE_` before it.
    """
    return Enum(
        states,
        native_enum=False,
        create_constraint=True,
        validate_strings=True,
        length=16,
        name=name,
        values_callable=lambda enumeration: [member.value for member in enumeration],
    )
