"""INSERT that may meet a row already there, in the words of both databases; for the queries beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import sqlalchemy
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.dml import ReturningInsert

from iap_node.database.tables import Table

Insert = postgresql.Insert | sqlite.Insert


def insert_into(session: Session, table: type[Table]) -> Insert:
    """An INSERT with ON CONFLICT, of the session's database."""
    return _insert(session.get_bind().dialect.name, table)


def insert_if_new(
    session: Session, table: type[Table], unique: tuple[InstrumentedAttribute[Any], ...], **values: Any
) -> bool:
    """Insert a row unless one with the same `unique` columns is there; True when it was inserted.

    Meant for rows that several associations make at once: nobody fails, one of them inserts. On PostgreSQL it
    waits for a transaction that is inserting the same row, and a query after it sees that row.
    """
    names = tuple(column.key for column in unique)
    statement = _insert_if_new(session.get_bind().dialect.name, table, names)
    return session.connection().execute(statement, values).first() is not None  # cheaper than the session's way


def insert_all_or_none(
    session: Session,
    table: type[Table],
    unique: tuple[InstrumentedAttribute[Any], ...],
    rows: Sequence[Mapping[str, Any]],
) -> bool:
    """Insert rows with the same keys; False when one with the same `unique` columns is there: roll back then."""
    names = tuple(column.key for column in unique)
    statement = _insert_or_leave(session.get_bind().dialect.name, table, names)
    result = session.connection().execute(statement, list(rows), execution_options={"preserve_rowcount": True})
    return result.rowcount == len(rows)


def _insert(dialect: str, table: type[Table]) -> Insert:
    rows = cast(sqlalchemy.Table, table.__table__)
    return sqlite.insert(rows) if dialect == "sqlite" else postgresql.insert(rows)


@cache
def _insert_or_leave(dialect: str, table: type[Table], unique: tuple[str, ...]) -> Insert:
    return _insert(dialect, table).on_conflict_do_nothing(index_elements=unique)


@cache  # building a statement takes longer than SQLite takes to run it
def _insert_if_new(
    dialect: str, table: type[Table], unique: tuple[str, ...]
) -> ReturningInsert[Any]:
    insert = _insert(dialect, table).on_conflict_do_nothing(index_elements=unique)
    return insert.returning(sqlalchemy.literal_column("1"))
