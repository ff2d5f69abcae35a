"""The rule editor: checked as it is typed, replayed, saved without touching what stands around the section."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from iap_node.config import load_config
from iap_node.database import accounts
from iap_node.database.engine import Database
from iap_node.errors import ConfigError
from iap_node.records import Role
from iap_node.routing.rules import rules_version
from iap_node.routing.rules_edit import MOST_CHARACTERS, checked_rules, read_rules
from iap_node.routing.rules_file import RulesFile
from iap_node.spool import Spool
from iap_node.web.node import WebNode
from tests.integration.audit.simulated_archive import Series, file
from tests.integration.web.conftest import Browser

People = Callable[..., Browser]

HEAD = """\
# our node in the basement
data_dir: data   # not backed up
spool: {disk_reserve_mb: 0}

"""
TAIL = """
# where the series go
destinations:
  people: {ae_title: PEOPLE, host: 127.0.0.1, port: 104}  # the archive
"""
AROUND = (HEAD, TAIL)
SECTION = """\
routing:   # ours
  # nothing yet
  default:
    destinations: []
"""
NEW = """\
routing:
  rules:
    signa:   # of the old building
      when: {series: SeriesDescription, matches: 'fs'}
      destinations: [people]
"""


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    """SQLite alone: what is said to the database here is tested with it on both."""
    copy = shutil.copyfile(migrated_sqlite, tmp_path / "node.sqlite")
    opened = Database(f"sqlite:///{copy}")
    yield opened
    opened.dispose()


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(SECTION.join(AROUND), encoding="utf-8")
    return path


@pytest.fixture
def web_node(database: Database, config_path: Path) -> WebNode:
    config = load_config(config_path)
    config.spool_dir.mkdir(parents=True)
    return WebNode(config, config_path, database, Spool(config.spool_dir))


@pytest.fixture
def operator(signed_in: People) -> Browser:
    return signed_in(Role.OPERATOR, name="Op")


def replayed(browser: Browser, text: str) -> dict[str, str]:
    """The form as it is after a replay of the text."""
    loaded = hidden(browser.get("/routes").text, "file_version")
    answer = browser.post("/routes/rules/replay", {"text": text, "days": 30})
    assert answer.status_code == 200, answer.text
    return {"text": text, "file_version": loaded, "replayed": hidden(answer.text, "replayed")}


def hidden(html: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]+)"', html)
    assert found is not None, html
    return found[1]


def test_rules_are_replayed_then_saved_and_taken_by_the_worker(
    operator: Browser, web_node: WebNode, config_path: Path
) -> None:
    with web_node.database.transaction() as session:
        for number in (1, 2, 3):
            file(session, Series(number, datetime.now(UTC), description="t1 fs" if number < 3 else "t2"))
    answer = operator.post("/routes/rules/replay", {"text": NEW, "days": 7})
    assert "<strong>2</strong> of 3 series of the last 7 days" in answer.text
    assert "signa → people" in answer.text and "1.2.826.8.1" in answer.text
    worker = RulesFile(config_path, web_node.config, web_node.database)
    before = worker.current().version
    config_path.chmod(0o640)
    saved = operator.post("/routes/rules", replayed(operator, NEW))
    assert saved.status_code == 200 and "Saved as rules" in saved.text
    assert config_path.read_text() == NEW.join(AROUND)  # every comment elsewhere, and what stands in the new text
    assert config_path.with_name("config.yaml.before").read_text() == SECTION.join(AROUND)
    assert config_path.stat().st_mode & 0o777 == 0o640
    assert sorted(one.name for one in config_path.parent.glob("*config*")) == ["config.yaml", "config.yaml.before"]
    os.utime(config_path, (1.0e9, 1.0e9))  # has rested for a while
    version = worker.current().version
    assert version != before and version == rules_version(load_config(config_path).routing)
    with web_node.database.reading() as session:
        line = next(one for one in accounts.trail(session) if one.action == "change rules")
    assert (line.who, line.subject) == ("Op", version) and before in line.detail
    assert "of the old building" in operator.get("/routes").text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("routing:\n  ruels: {}\n", "routing.ruels: unknown key; did you mean 'rules'?"),
        ("routing:\n  default:\n    destinations: [peeple]\n", "did you mean 'people'?"),
        ("routing:\n  rules: [\n", "line 3: not YAML"),
        ("routing:\n\trules: {}\n", "line 2: a character that cannot be seen, U+0009"),
        ("routing:\n  default: {}\n  default: {}\n", "line 3: the key 'default' stands here twice"),
        ("routing: {}\nweb: {bind: 0.0.0.0}\n", "and nothing else"),
        ("routing: {}\n---\nx: 1\n", "not YAML"),
        (" routing: {}\n", "from the first column on"),
        ("", "from the first column on"),
        ("routing: !!python/object/apply:os.system [ls]\n", "not YAML"),
        ("routing:\n  domains: &a {x: [1]}\n  rules: [*a, *a, *a, *a]\n", "line 3: the editor takes no aliases"),
        ("routing: " + "[" * 3000, "nested deeper than 50 times"),
        ("routing: " + "[" * 40 + "]" * 40, "routing: "),
        ("routing: {}  #" + "x" * MOST_CHARACTERS, "the editor takes 65536"),
        ("routing:\n  default: {destinations: ['p\u202eeople']}\n", "U+202E"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SECTION.join(AROUND))
    with pytest.raises(ConfigError) as refused:
        checked_rules(read_rules(path), text, tmp_path, ("people",))
    assert problem in str(refused.value)


def test_what_is_wrong_is_shown_and_never_saved(operator: Browser, config_path: Path) -> None:
    for text in ("routing:\n  ruels: {}\n", "routing: [\n", "routing: &a {rules: [*a]}\n"):
        for path in ("/routes/rules/check", "/routes/rules/replay"):
            answer = operator.post(path, {"text": text})
            assert answer.status_code == 200 and 'role="alert"' in answer.text, answer.text
            assert "Save these rules" not in answer.text
        form = {"text": text, "file_version": read_rules(config_path).version, "replayed": "0" * 12}
        assert operator.post("/routes/rules", form).status_code == 422
    assert config_path.read_text() == SECTION.join(AROUND)


def test_valid_text_is_said_to_be_new_or_not(operator: Browser) -> None:
    assert "means the same as the rules in force" in operator.post("/routes/rules/check", {"text": SECTION}).text
    assert "replay them" in operator.post("/routes/rules/check", {"text": NEW.replace("\n", "\r\n")}).text


def test_a_file_that_changed_meanwhile_is_not_overwritten(operator: Browser, config_path: Path) -> None:
    form = replayed(operator, NEW)
    by_hand = SECTION.join(AROUND) + "log: {level: debug}\n"
    config_path.write_text(by_hand)
    answer = operator.post("/routes/rules", form)
    assert answer.status_code == 409 and "was changed since" in answer.text
    assert config_path.read_text() == by_hand


def test_rules_that_were_not_replayed_as_they_are_wait(operator: Browser, config_path: Path) -> None:
    form = replayed(operator, NEW) | {"text": NEW.replace("fs", "dwi")}
    answer = operator.post("/routes/rules", form)
    assert answer.status_code == 409 and "were not replayed" in answer.text
    assert config_path.read_text() == SECTION.join(AROUND)


def test_only_operators_edit(signed_in: People, operator: Browser) -> None:
    viewer = signed_in(Role.PHYSICIST)
    assert "<textarea" not in viewer.get("/routes").text
    for path in ("/routes/rules/check", "/routes/rules/replay", "/routes/rules"):
        assert viewer.post(path, {"text": NEW, "file_version": "x"}).status_code == 403
    assert "<textarea" in operator.get("/routes").text


def test_a_folder_that_is_not_the_nodes_is_said(
    operator: Browser, config_path: Path, web_node: WebNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = replayed(operator, NEW)

    def refuse(source: Path, target: Path) -> Path:  # tests may run as root, whom no folder refuses
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "replace", refuse)
    answer = operator.post("/routes/rules", form)
    assert answer.status_code == 422 and "Read-only file system" in answer.text and "by hand" in answer.text
    assert config_path.read_text() == SECTION.join(AROUND)
    assert not list(config_path.parent.glob(".config*"))
    with web_node.database.reading() as session:
        assert "change rules" not in [one.action for one in accounts.trail(session)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", NEW),
        ("# only a comment", "", "# only a comment\n" + NEW),
        ("log: {level: info}\n", "", "log: {level: info}\n" + NEW),
    ],
)
def test_a_file_without_the_section_gets_one_at_its_end(tmp_path: Path, before: str, after: str, expected: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(before + after)
    text = read_rules(path)
    assert checked_rules(text, NEW, tmp_path, ("people",))[1] == expected if "people" in before else True
    assert text.with_section(NEW) == expected


@pytest.mark.parametrize(
    "content",
    [
        "{routing: {}, log: {level: info}}\n",
        "? routing\n: {}\n",
        "routing: {}\nlog: {}\nrouting: {}\n",
        "---\nrouting: {}\n",
        "  routing: {}\n",
        "- routing\n",
        "routing: [\n",
    ],
)
def test_where_the_section_is_not_certain_nothing_is_edited(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match="by hand"):
        read_rules(path)


def test_lines_end_as_they_did_and_links_stay(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(SECTION.join(AROUND).replace("\n", "\r\n").encode())
    text = read_rules(path)
    _, whole = checked_rules(text, NEW, tmp_path, ("people",))
    assert whole == NEW.join(AROUND).replace("\n", "\r\n")


def test_an_anchor_that_others_need_keeps_its_section(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("routing:\n  default: &d {destinations: []}\nseries: *d\n")
    with pytest.raises(ConfigError, match="undefined alias"):
        checked_rules(read_rules(path), "routing: {}\n", tmp_path, ())


def test_a_node_without_a_file_says_so(web_node: WebNode) -> None:
    from iap_node.web.pages.rules import editor

    assert "without a configuration file" in editor(replace(web_node, config_path=None))["refused"]
