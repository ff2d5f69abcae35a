"""The rules of a configuration file that changes while the node runs. Only SQLite: nothing here is the database's."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from iap_node.config import load_config
from iap_node.database import routes
from iap_node.database.engine import Database
from iap_node.routing import rules_file
from iap_node.routing.rules_file import RulesFile

DESTINATIONS = {"people": {"ae_title": "P", "host": "127.0.0.1", "port": 1}}
moments = itertools.count(int(time.time()) - 100_000)  # each writing is a second after the one before, long ago


def content(pattern: str = "res", destination: str = "people") -> dict[str, Any]:
    when = {"series": "SeriesDescription", "matches": pattern}
    return {
        "destinations": DESTINATIONS,
        "routing": {"rules": {"research": {"when": when, "destinations": [destination]}}},
    }


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    shutil.copyfile(migrated_sqlite, tmp_path / "node.sqlite")
    opened = Database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    yield opened
    opened.dispose()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes config.yaml as an editor did a while ago, or just now."""

    def to_file(text: str, *, settled: bool = True) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        if settled:
            moment = next(moments)
            os.utime(path, (moment, moment))
        return path

    return to_file


@pytest.fixture
def followed(database: Database, write: Callable[..., Path]) -> RulesFile:
    path = write(yaml.safe_dump(content()))
    return RulesFile(path, load_config(path), database)


def test_a_changed_file_is_taken_and_its_rules_are_kept_under_their_version(
    followed: RulesFile, write: Callable[..., Path], database: Database
) -> None:
    before = followed.current()
    write(yaml.safe_dump(content("stu")))
    after = followed.current()
    assert after.version != before.version
    with database.reading() as session:
        for rules, pattern in ((before, "res"), (after, "stu")):
            kept = routes.rules_of(session, rules.version)
            assert kept is not None and kept["rules"]["research"]["when"]["matches"] == pattern
    write(yaml.safe_dump(content("stu") | {"log": {"level": "debug"}}))
    assert followed.current() is after


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("routing: [", "is not YAML"),
        (yaml.safe_dump(content("(a")), "unclosed group"),
        (yaml.safe_dump(content(destination="peple")), "'peple' is not defined; did you mean 'people'?"),
        (yaml.safe_dump(content() | {"listener": {"prot": 1}}), "listener.prot: unknown key; did you mean 'port'?"),
        (
            yaml.safe_dump(
                content(destination="new") | {"destinations": {"new": DESTINATIONS["people"], **DESTINATIONS}}
            ),
            "the running node has no destination 'new'; restart it",
        ),
    ],
)
def test_what_is_not_valid_is_refused_once_with_the_reason_and_the_old_rules_stay(
    followed: RulesFile, write: Callable[..., Path], text: str, reason: str
) -> None:
    before = followed.current()
    write(text)
    with structlog.testing.capture_logs() as logs:
        assert followed.current() is before
        assert followed.current() is before
    (refusal,) = logs
    assert refusal["log_level"] == "error" and reason in refusal["reason"]
    write(yaml.safe_dump(content("stu")))
    assert followed.current() is not before


def test_a_file_that_is_gone_is_refused_and_taken_again_when_it_is_back(
    followed: RulesFile, write: Callable[..., Path], tmp_path: Path
) -> None:
    before = followed.current()
    (tmp_path / "config.yaml").unlink()
    with structlog.testing.capture_logs() as logs:
        assert followed.current() is before
    assert "cannot be read" in logs[0]["reason"]
    write(yaml.safe_dump(content("stu")))
    assert followed.current() is not before


def test_a_file_that_may_still_be_written_is_left_alone_for_now(
    followed: RulesFile, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = followed.current()
    monkeypatch.setattr(rules_file, "SETTLED_S", 3600.0)  # this machine may be slow
    text = yaml.safe_dump(content("stu"))
    write(text[: text.index("routing")], settled=False)  # half of it would be valid: no rules at all
    assert followed.current() is before
    write(text)
    assert followed.current().version != before.version
