"""`iap-node users` and `tokens`: who may sign in, from the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from iap_node.cli import app
from iap_node.cli.accounts import make_first_admin
from iap_node.config import load_config
from iap_node.database import accounts
from iap_node.database.engine import Database, migrate
from iap_node.records import Role, TokenScope
from iap_node.web.secrets import hash_token, is_password


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("data_dir: data\n")
    config = load_config(path)
    config.data_dir.mkdir()
    database = Database(config.database_url)
    migrate(database)
    database.dispose()
    return path


@pytest.fixture
def run(config_path: Path) -> Callable[..., Result]:
    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--config", str(config_path)])

    return invoke


def database_of(config_path: Path) -> Database:
    return Database(load_config(config_path).database_url)


def test_the_first_start_makes_one_admin_and_prints_the_password_once(
    config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_first_admin(load_config(config_path))
    told = capsys.readouterr().err
    password = re.search(r"one-time password (\w+)", told)
    assert password is not None
    with database_of(config_path).reading() as session:
        found = accounts.password_of(session, "admin")
    assert found is not None and found[0].role is Role.ADMIN and found[0].must_change_password
    assert is_password(found[1], password[1]) and not is_password(found[1], "wrong") and not is_password(None, "x")
    make_first_admin(load_config(config_path))
    assert capsys.readouterr().err == ""


def test_people_come_change_and_go(run: Callable[..., Result], config_path: Path) -> None:
    assert run("users", "add", "Ada", "--role", "admin").exit_code == 0
    assert "one-time password" in run("users", "add", "Bea").stdout
    assert run("users", "role", "Bea", "operator").exit_code == 0
    assert run("users", "disable", "Bea").exit_code == 0
    with database_of(config_path).reading() as session:
        found = {one.name: (one.role, one.disabled_at is None) for one in accounts.list_accounts(session)}
        lines = [(line.action, line.subject) for line in accounts.trail(session)]
    assert found == {"Ada": (Role.ADMIN, True), "Bea": (Role.OPERATOR, False)}
    assert lines[0] == ("disable account", "Bea") and ("make account", "Ada") in lines
    assert run("users", "disable", "Nobody").exit_code == 4
    assert "Bea" in run("users", "list").stdout


def test_a_token_is_printed_once_and_ends_when_told(run: Callable[..., Result], config_path: Path) -> None:
    run("users", "add", "Ada", "--role", "physicist")
    token = run("tokens", "add", "Ada", "pacs script", "--role", "viewer").stdout.strip()
    database = database_of(config_path)
    with database.reading() as session:
        account = accounts.token_account(session, hash_token(token), datetime.now(UTC))
        (one,) = accounts.list_tokens(session)
    assert account is not None and account.role is Role.VIEWER
    assert token not in run("tokens", "list").stdout
    assert run("tokens", "revoke", str(one.id)).exit_code == 0
    with database.reading() as session:
        assert accounts.token_account(session, hash_token(token), datetime.now(UTC)) is None
    assert run("tokens", "revoke", str(one.id)).exit_code == 4


def test_a_token_that_stores_is_named_as_an_ae_title_and_opens_no_api(
    run: Callable[..., Result], config_path: Path
) -> None:
    run("users", "add", "Ada", "--role", "admin")
    assert run("tokens", "add", "Ada", "a name that is none", "--scope", "store").exit_code != 0
    token = run("tokens", "add", "Ada", "PACS_NORTH", "--scope", "store").stdout.strip()
    with database_of(config_path).reading() as session:
        now = datetime.now(UTC)
        assert accounts.storing_token(session, hash_token(token), now) == "PACS_NORTH"
        assert accounts.token_account(session, hash_token(token), now) is None
        assert [one.scope for one in accounts.list_tokens(session)] == [TokenScope.STORE]
