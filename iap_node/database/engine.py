"""The database itself: connect, begin, migrate. Opened by the commands, handed to rooms that keep things.

SQLite in WAL mode serves one machine, any number of processes; PostgreSQL (psycopg 3) serves several.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

import iap_node
from iap_node.errors import ConfigError, RetriableError

if TYPE_CHECKING:  # ten megabytes that only `migrate` needs
    from alembic.config import Config

MIGRATIONS = Path(iap_node.__file__).resolve().parent.parent / "migrations"

# The newest migration: what the tables of this version look like. A test holds it against `migrations/`.
SCHEMA = "0011"

# How long a writer waits for its turn on SQLite before it gives up. A turn takes milliseconds: a queue of a
# minute means that the disk hangs.
_BUSY_TIMEOUT_S = 60.0
# One connection per thread inside a transaction: 25 associations (listener.max_associations) and some more.
_CONNECTIONS_KEPT, _CONNECTIONS_MORE = 10, 30
# An advisory lock (PostgreSQL): processes that start together migrate one after the other. "iap" in ASCII.
_MIGRATION_LOCK = 0x696170


class DatabaseUnavailable(RetriableError):
    """The database did not answer, or not in time. Nothing of the transaction was kept."""


class Database:
    """One database and its connections.

    Parameters
    ----------
    url
        SQLAlchemy URL: `sqlite:////srv/iap/node.sqlite` or `postgresql://user@host/name` (always psycopg 3).

    Raises
    ------
    ConfigError
        The URL names no database that the node can work with.
    """

    def __init__(self, url: str) -> None:
        parsed = _usable_url(url)
        self.name = parsed.render_as_string(hide_password=True)  # for logs and error texts
        options: dict[str, Any] = {}
        if parsed.get_backend_name() == "sqlite":
            options["connect_args"] = {"timeout": _BUSY_TIMEOUT_S}
        else:
            options["pool_pre_ping"] = True  # a restarted server costs one reconnect, not one failed job
        self.engine: Engine = create_engine(
            parsed,
            pool_size=_CONNECTIONS_KEPT,
            max_overflow=_CONNECTIONS_MORE,
            hide_parameters=True,  # they are header values, which must not reach logs through error texts
            json_deserializer=_from_json,
            **options,
        )
        if self.is_sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        # SQLite's writers find their turn by sleeping and asking again, up to 100 ms at a time. Threads of
        # one process, such as a listener's associations, queue here and follow each other at once. PostgreSQL
        # lets as many write together as there are connections.
        at_once = 1 if self.is_sqlite else _CONNECTIONS_KEPT + _CONNECTIONS_MORE
        self._turn = threading.BoundedSemaphore(at_once)
        self._reader = self.engine.execution_options(iap_read_only=True, postgresql_readonly=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite; otherwise it is PostgreSQL."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that may write: committed and durable when the block ends, rolled back when it raises.

        On SQLite it holds the only write lock from the start (BEGIN IMMEDIATE): keep network, pixels and
        waiting out of the block.

        Raises
        ------
        DatabaseUnavailable
            No connection, no turn in time, or a deadlock that PostgreSQL broke; trying again may help.
        """
        if not self._turn.acquire(timeout=_BUSY_TIMEOUT_S):
            raise DatabaseUnavailable(f"the database {self.name} cannot be used now: no turn to write came")
        try:
            with self._session(self.engine) as session:
                yield session
        finally:
            self._turn.release()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads; it waits for no writer.

        Raises
        ------
        DatabaseUnavailable
            See `transaction`.
        """
        with self._session(self._reader) as session:
            yield session

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                session.connection()  # begins now, not at the first query: callers decide on one state
                yield session
        except (OperationalError, InterfaceError, PoolTimeoutError) as error:
            cause = error.orig if isinstance(error, OperationalError | InterfaceError) else error
            raise DatabaseUnavailable(f"the database {self.name} cannot be used now: {cause}") from error

    def dispose(self) -> None:
        """Close the connections. The database can be used again: it connects anew."""
        self.engine.dispose()


def migrate(database: Database) -> None:
    """Bring the tables to the newest form; nothing happens where they have it. Safe from several processes.

    Raises
    ------
    ConfigError
        The folder `migrations/` is not beside the package.
    DatabaseUnavailable
        The database did not answer.
    """
    import alembic.command

    config = migration_config()
    with database.transaction() as session:
        connection = session.connection()
        if not database.is_sqlite:  # SQLite: BEGIN IMMEDIATE lets one process in
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        if _schema_of(connection) != SCHEMA:
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")


def is_current(database: Database) -> bool:
    """Whether the tables have the form that this version of the node works with.

    Raises
    ------
    ConfigError, DatabaseUnavailable
        See `migrate`.
    """
    with database.reading() as session:
        return _schema_of(session.connection()) == SCHEMA


def migration_config(folder: Path = MIGRATIONS) -> Config:
    """Alembic's configuration; set `attributes["connection"]` before a command that touches a database.

    Raises
    ------
    ConfigError
        `folder` is not there. The node runs from a checkout, where the migrations stand beside the package.
    """
    if not (folder / "env.py").is_file():
        raise ConfigError(
            f"the migrations are not at {folder}; install the node from a checkout (pip install -e .)"
        )
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config


def _schema_of(connection: Connection) -> str | None:
    """The migration that a database is at; None: it has no tables."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    schema: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return schema


def _usable_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError(
            "database.url is not a URL; write sqlite:////path/node.sqlite or postgresql://user@host/name"
        ) from None
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        if parsed.database in (None, "", ":memory:"):
            raise ConfigError("database.url: SQLite needs a file, for example sqlite:////srv/iap/node.sqlite")
        return parsed
    raise ConfigError(
        f"database.url: {parsed.drivername!r} is not supported; "
        "use sqlite:////path/node.sqlite or postgresql://user@host/name"
    )


def _from_json(text: str | bytes) -> Any:
    """Twice as fast as Python's own, which takes over for what is stricter here: a lone surrogate in a header."""
    try:
        return from_json(text)
    except ValueError:
        return json.loads(text)


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: `_begin_sqlite` does
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    # Success means durable: FULL flushes the log at every commit. With NORMAL a power cut could take back
    # what was answered with Success.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once, without waiting, when another writer came
    # between (SQLITE_BUSY_SNAPSHOT): writers therefore queue at BEGIN.
    if connection.get_execution_options().get("iap_read_only"):
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("PRAGMA query_only = ON")
    else:
        connection.exec_driver_sql("PRAGMA query_only = OFF")  # of the reader that had the connection before
        connection.exec_driver_sql("BEGIN IMMEDIATE")
