"""INSERT that may meet a row already there, in the words of both databases; for the queries beside it."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from iap_node.database.tables import Table

Insert = postgresql.Insert | sqlite.Insert


def insert_into(session: Session, table: type[Table]) -> Insert:
    """An INSERT with ON CONFLICT, of the session's database."""
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def insert_if_new(
    session: Session, table: type[Table], unique: tuple[InstrumentedAttribute[Any], ...], **values: Any
) -> bool:
    """Insert a row unless one with the same `unique` columns is there; True when it was inserted.

    Meant for rows that several associations make at once: nobody fails, one of them inserts. On PostgreSQL it
    waits for a transaction that is inserting the same row, and a query after it sees that row.
    """
    statement = insert_into(session, table).values(**values).on_conflict_do_nothing(index_elements=unique)
    return session.execute(statement.returning(unique[0])).first() is not None
