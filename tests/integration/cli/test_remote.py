"""`iap-node remote`: a terminal on another machine asks a node that is served, over a socket and with a token."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from iap_node.cli import app
from iap_node.config import parse_config
from iap_node.database import accounts
from iap_node.database.engine import Database
from iap_node.records import Role
from iap_node.spool import Spool
from iap_node.web.app import create_app
from iap_node.web.node import WebNode
from iap_node.web.secrets import hash_token, new_token
from iap_node.web.server import listening, serve
from tests.integration.audit.simulated_archive import Series, file, finding

Remote = Callable[..., Result]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[tuple[str, Database]]:
    """A served node with three series; its URL and its database."""
    folder = tmp_path_factory.mktemp("remote")
    database = Database(f"sqlite:///{shutil.copyfile(migrated_sqlite, folder / 'node.sqlite')}")
    config = parse_config({"data_dir": "data", "spool": {"disk_reserve_mb": 0}, "web": {"port": 0}}, folder)
    config.spool_dir.mkdir(parents=True)
    with database.transaction() as session:
        for number in (1, 2, 3):
            file(session, Series(number, datetime.now(UTC), findings=(finding(),) if number == 1 else ()))
    stop = threading.Event()
    web = create_app(WebNode(config, None, database, Spool(config.spool_dir)))
    with listening(config.web) as bound:
        serving = threading.Thread(target=serve, args=(web, config.web, bound, stop))
        serving.start()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}", database
        stop.set()
        serving.join(30)
    database.dispose()


@pytest.fixture
def remote(node: tuple[str, Database], tmp_path: Path) -> Remote:
    """`remote(Role.VIEWER, "get", "/series")`: the command with a token of this scope."""
    url, database = node

    def run(role: Role, *arguments: str) -> Result:
        token, now = new_token(), datetime.now(UTC)
        with database.transaction() as session:
            owner = accounts.create_account(session, f"owner {token[:6]}", role, now)
            accounts.create_token(session, hash_token(token), "terminal", owner, role, now)
        path = tmp_path / "token"
        path.write_text(f"{token}\n")
        return CliRunner().invoke(app, ["remote", *arguments, "--url", url, "--token-file", str(path)])

    return run


def test_it_lists_what_the_other_node_offers(remote: Remote) -> None:
    told = remote(Role.VIEWER)
    assert told.exit_code == 0
    assert "/series/{series_id}/rejudge" in told.stdout and "/jobs/retry" in told.stdout


def test_it_asks_with_values_in_the_query_and_follows_pages(remote: Remote) -> None:
    first = json.loads(remote(Role.VIEWER, "get", "/series", "limit=2").stdout)
    assert len(first["items"]) == 2 and first["next"] is not None
    lines = remote(Role.VIEWER, "get", "/series", "limit=2", "--all").stdout.splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) == 3


def test_it_has_something_done_with_values_in_the_body(remote: Remote) -> None:
    done = remote(Role.OPERATOR, "post", "/series/1/hold", "reason=a phantom")
    assert done.exit_code == 0, done.output
    held = json.loads(remote(Role.VIEWER, "get", "/held").stdout)
    assert "a phantom" in json.dumps(held)


def test_files_are_written_where_they_shall_be(remote: Remote, tmp_path: Path) -> None:
    table = tmp_path / "findings.csv"
    assert remote(Role.PHYSICIST, "get", "/findings.csv", "--out", str(table)).exit_code == 0
    assert table.read_text().startswith("id,state,severity")


def test_what_the_node_refuses_is_said_with_its_reason(remote: Remote) -> None:
    refused = remote(Role.VIEWER, "post", "/series/2/hold", "reason=no")
    assert refused.exit_code == 1 and refused.stderr.startswith("iap-node: 403 ")
    assert remote(Role.VIEWER, "get", "/series/999").exit_code == 4


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["get", "/serie"], "/series"),
        (["get", "/series", "stat=judged"], "state"),
        (["get", "/series", "judged"], "KEY=VALUE"),
        (["delete", "/series/1"], "get, post, put"),
        (["get", "/status", "--all"], "--all"),
    ],
)
def test_what_is_not_offered_is_wrong_usage_with_the_nearest_right_one(
    remote: Remote, arguments: list[str], text: str
) -> None:
    wrong = remote(Role.VIEWER, *arguments)
    assert wrong.exit_code == 2
    assert text in " ".join(wrong.stderr.replace("│", " ").split())


@pytest.mark.parametrize("url", ["http://node.hospital:8080", "ftp://127.0.0.1", "https://node/console", "node"])
def test_token_is_shown_to_nobody_without_tls(url: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    run = CliRunner().invoke(app, ["remote", "get", "/status", "--url", url, "--token-file", str(tmp_path / "token")])
    assert run.exit_code != 0
    assert "https://" in str(run.exception)


def test_node_that_is_not_there_and_a_token_that_is_none_are_said(remote: Remote, tmp_path: Path) -> None:
    nobody = ["remote", "get", "/status", "--url", "http://127.0.0.1:1"]
    missing = CliRunner().invoke(app, [*nobody, "--token-file", str(tmp_path / "none")])
    assert "iap-node tokens add" in str(missing.exception)
    (tmp_path / "token").write_text("secret")
    away = CliRunner().invoke(app, [*nobody, "--token-file", str(tmp_path / "token")])
    assert "cannot be reached" in str(away.exception)
