"""The whole database as one file, of one moment, while the node works; and back. Called by `iap_node.upkeep.backup`
and `iap_node.upkeep.restore`.

SQLite is copied by its own backup interface. PostgreSQL has programs for it, of its own version: `pg_dump` and
`pg_restore`; where they are not installed, the error says what to run where they are.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, func, inspect, select, text

from iap_node.database.engine import Database
from iap_node.database.tables import Table
from iap_node.errors import PermanentError, RetriableError

SQLITE_FILE = "node.sqlite"
POSTGRESQL_FILE = "node.dump"
PROBLEM_CHARACTERS = 500


class ProgramAbsent(PermanentError):
    """A program of PostgreSQL is not installed here; the text says what to run instead."""


def file_name(database: Database) -> str:
    """How the file of a dump is called."""
    return SQLITE_FILE if database.is_sqlite else POSTGRESQL_FILE


def dump(database: Database, path: Path) -> dict[str, int]:
    """Write a dump; the number of rows in each table, as they are in it.

    Raises
    ------
    ProgramAbsent
        `pg_dump` is not installed.
    PermanentError
        The copy is not whole.
    RetriableError
        The database did not let itself be copied.
    """
    if database.is_sqlite:
        source = database.engine.url.database or ""
        with _sqlite_errors(), closing(sqlite3.connect(source)) as rows, closing(sqlite3.connect(path)) as copy:
            rows.backup(copy)  # in one step: one state, and nobody who writes is held up (WAL)
            if (said := copy.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise PermanentError(f"the copy of {database.name} is not whole: {said}; check the disk")
            counts = {name: copy.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in _names()}
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
        return counts
    with _one_state(database) as connection:
        snapshot = connection.scalar(text("SELECT pg_export_snapshot()"))
        _run(database, "pg_dump", "--format=custom", f"--snapshot={snapshot}", f"--file={path}")
        return count_rows(connection)


def load(database: Database, path: Path) -> None:
    """Fill an empty PostgreSQL database from a dump. (A dump of SQLite is the database: it is copied.)

    Raises
    ------
    ProgramAbsent
        `pg_restore` is not installed.
    RetriableError
        It did not work; the text says why.
    """
    _run(database, "pg_restore", "--no-owner", "--exit-on-error", "--single-transaction", str(path), to_database=True)


def is_empty(database: Database) -> bool:
    """Whether a database has no tables."""
    with database.reading() as session:
        return not inspect(session.connection()).get_table_names()


def count_rows(connection: Connection) -> dict[str, int]:
    """The number of rows in each table that is there."""
    there = set(inspect(connection).get_table_names())
    return {
        table.name: connection.scalar(select(func.count()).select_from(table)) or 0
        for table in Table.metadata.sorted_tables
        if table.name in there
    }


@contextmanager
def _one_state(database: Database) -> Iterator[Connection]:
    with (
        database.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection,
        connection.begin(),
    ):
        yield connection


@contextmanager
def _sqlite_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise RetriableError(f"the database cannot be copied: {error}") from error


def _names() -> list[str]:
    return [table.name for table in Table.metadata.sorted_tables]


def _run(database: Database, program: str, *arguments: str, to_database: bool = False) -> None:
    """Run a program of PostgreSQL; the password goes by its environment, which other users do not see."""
    url = database.engine.url.set(drivername="postgresql", password=None)
    command = [program, *arguments, f"--dbname={url.render_as_string()}"]
    if shutil.which(program) is None:
        where = "restore" if to_database else "back up"
        raise ProgramAbsent(
            f"{program} is not installed here; {where} the database from a machine that has it: {shlex.join(command)}"
        )
    password = database.engine.url.password
    environment = os.environ | ({"PGPASSWORD": str(password)} if password is not None else {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RetriableError(f"{program} did not work: {done.stderr.strip()[:PROBLEM_CHARACTERS]}")
