"""Connecting, beginning, migrating: on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import alembic.command
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import IntegrityError, StatementError

from iap_node.database.engine import SCHEMA, Database, DatabaseUnavailable, is_current, migrate, migration_config
from iap_node.database.tables import PatientRow, StudyRow, Table
from iap_node.errors import ConfigError


def test_migrations_make_exactly_the_tables(database: Database) -> None:
    with database.reading() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_server_default": True})
        assert compare_metadata(context, Table.metadata) == []


def test_migrations_make_the_same_checks_as_the_tables(database: Database) -> None:
    def checks() -> dict[str, set[tuple[str | None, str]]]:
        inspector = inspect(database.engine)
        return {
            table: {(check["name"], check["sqltext"]) for check in inspector.get_check_constraints(table)}
            for table in Table.metadata.tables
        }

    migrated = checks()
    assert {name for name, _ in migrated["job"]} >= {"ck_job_state", "ck_job_kind", "ck_job_due_while_open"}
    Table.metadata.drop_all(database.engine)
    Table.metadata.create_all(database.engine)
    assert checks() == migrated


def test_migrations_can_be_taken_back(database: Database) -> None:
    config = migration_config()
    with database.transaction() as session:
        config.attributes["connection"] = session.connection()
        alembic.command.downgrade(config, "base")
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    assert not is_current(database)
    migrate(database)
    assert is_current(database)


def test_an_empty_database_is_not_current_until_migrated(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    assert not is_current(database)
    migrate(database)
    migrate(database)
    assert is_current(database)
    database.dispose()


def test_roles_that_start_together_migrate_once(
    empty_database_url: str, in_threads: Callable[[int, Callable[[int], None]], None]
) -> None:
    databases = [Database(empty_database_url) for _ in range(4)]
    in_threads(4, lambda number: migrate(databases[number]))
    assert is_current(databases[0])
    for database in databases:
        database.dispose()


def test_absent_migrations_are_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pip install -e"):
        migration_config(tmp_path / "migrations")


def test_sqlite_commits_are_durable_and_readers_wait_for_nobody(migrated_sqlite: Path) -> None:
    database = Database(f"sqlite:///{migrated_sqlite}")
    with database.reading() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(text("PRAGMA synchronous")) == 2  # FULL
        assert session.scalar(text("PRAGMA foreign_keys")) == 1
        assert session.scalar(text("PRAGMA busy_timeout")) == 60_000
    database.dispose()


def test_a_reader_sees_one_state_while_a_writer_commits(database: Database) -> None:
    now = datetime.now(UTC)
    with database.transaction() as writer:
        writer.add(PatientRow(patient_hash="a", received_at=now))
        writer.flush()
        with database.reading() as reader:
            assert reader.scalars(select(PatientRow.patient_hash)).all() == []
    with database.reading() as reader:
        assert reader.scalars(select(PatientRow.patient_hash)).all() == ["a"]


def test_a_reading_session_cannot_write(database: Database) -> None:
    with pytest.raises(Exception, match=r"read-?only"), database.reading() as session:
        session.add(PatientRow(patient_hash="a", received_at=datetime.now(UTC)))
    with database.transaction() as session:  # on the same connection
        session.add(PatientRow(patient_hash="a", received_at=datetime.now(UTC)))


def test_a_transaction_that_raises_leaves_nothing_behind(database: Database) -> None:
    with pytest.raises(RuntimeError), database.transaction() as session:
        session.add(PatientRow(patient_hash="a", received_at=datetime.now(UTC)))
        session.flush()
        raise RuntimeError
    with database.reading() as session:
        assert session.scalars(select(PatientRow)).all() == []


def test_foreign_keys_are_kept_and_errors_hide_the_values(database: Database) -> None:
    with pytest.raises(IntegrityError) as caught, database.transaction() as session:
        session.add(
            StudyRow(
                patient_id=99,
                study_instance_uid="1.2.3",
                study_date="SECRET^NAME",
                received_at=datetime.now(UTC),
            )
        )
    assert "SECRET^NAME" not in str(caught.value)


def test_times_come_back_aware_and_in_utc(database: Database) -> None:
    tokyo = timezone(timedelta(hours=9))
    moment = datetime(2026, 3, 1, 8, 30, 0, 123456, tzinfo=tokyo)
    with database.transaction() as session:
        session.add(PatientRow(patient_hash="a", received_at=moment))
    with database.reading() as session:
        found = session.scalars(select(PatientRow.received_at)).one()
        earlier = session.scalars(
            select(PatientRow.patient_hash).where(PatientRow.received_at < moment + timedelta(microseconds=1))
        ).all()
    assert found == moment
    assert found.utcoffset() == timedelta(0)
    assert earlier == ["a"]


def test_a_time_without_zone_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="no time zone"), database.transaction() as session:
        session.add(PatientRow(patient_hash="a", received_at=datetime(2026, 3, 1)))


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///:memory:", "mysql://host/name", "postgresql+asyncpg://host/name", "node.sqlite"],
)
def test_a_database_that_cannot_serve_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"database\.url"):
        Database(url)


def test_a_database_that_does_not_answer_is_retriable_and_its_password_is_not_shown(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/absent/node.sqlite", f"postgresql://iap:secret@/name?host={tmp_path}"):
        with pytest.raises(DatabaseUnavailable) as caught, Database(url).reading():
            pass
        assert "secret" not in str(caught.value)


def test_the_schema_of_this_version_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(migration_config()).get_heads() == [SCHEMA]
