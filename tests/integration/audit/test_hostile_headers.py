"""One hostile instance through every outlet of the audit: page, table, JSON, terminal, errors, log.

Its values are markup, formulas, terminal escapes (ESC, CSI, OSC 8 links, C1 controls), bidirectional overrides, rich
markup, huge strings and paths in UIDs; its folder and file are named so too. What programs read (JSON) keeps the value
in ASCII; what people read shows it without acting on it. The archive's own pages and commands are the subject of
tests/acceptance.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from iap_node.audit.reports.files import safe_name
from iap_node.cli import app
from iap_node.cli.logs import start_logging
from iap_node.config import LogConfig
from tests.integration.audit.hostile import FORMULA, HOSTILE, hostile_instance, is_tame
from tests.integration.listener.conftest import make_instance


class _Page(HTMLParser):
    """What a browser would make of it."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of hostile instances, each with one kind of hostility in every value that is shown."""
    root = tmp_path_factory.mktemp("archive")
    for number, (name, text) in enumerate(HOSTILE.items()):
        ds = hostile_instance(text, SeriesInstanceUID=f"1.2.3.{number}")
        in_a_path = text.replace("/", "_")[:60]
        folder = root / (in_a_path or name)
        folder.mkdir()
        ds.save_as(folder / f"{in_a_path}.dcm", enforce_file_format=True)
    ds = make_instance(SeriesInstanceUID="1.2.3")
    path = root / "\x1b[31mpath"
    ds.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes().replace(b"1.2.3\x00", b"../../"))  # a UID that climbs
    (root / "\udcff\x1b]0;not UTF-8\x07").write_bytes(b"no instance")
    return root


@pytest.fixture(scope="module")
def told(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """What `iap-node audit` said, and where its reports lie."""
    out = tmp_path_factory.mktemp("out")
    result = CliRunner().invoke(app, ["audit", str(archive), "--out", str(out), "--processes", "1"])
    assert result.exit_code == 0, (result.output, result.exception)
    return result, out


def test_the_terminal_obeys_nothing_of_it(told: tuple[Result, Path]) -> None:
    text = told[0].output
    assert "evil.example" in text and "alert(1)" in text
    assert is_tame(text)
    assert "[bold red]" in text, "markup was interpreted"


def test_the_page_shows_it_and_runs_nothing(told: tuple[Result, Path]) -> None:
    text = (told[1] / "audit.html").read_text(encoding="utf-8")
    assert is_tame(text)
    page = _Page()
    page.feed(text)
    assert not page.elements & {"script", "img", "iframe", "object", "embed", "base", "form", "a", "link", "input"}
    assert not {name for name in page.attributes if name.startswith("on") or name in ("href", "src", "srcdoc")}
    assert "<script>alert(1)</script>" in page.text and "{{ 7*7 }}" in page.text
    assert len(text) < 3_000_000, "huge values are shown whole, again and again"


def test_no_cell_of_the_table_runs(told: tuple[Result, Path]) -> None:
    text = (told[1] / "audit.csv").read_text(encoding="utf-8")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len(rows) > len(HOSTILE)
    assert len({len(row) for row in rows}) == 1, "a cell broke out of its line"
    cells = [cell for row in rows[1:] for cell in row]
    assert all(is_tame(cell) and "\n" not in cell and "\r" not in cell for cell in cells)
    assert not [cell for cell in cells if cell.startswith(FORMULA) and not cell.lstrip("+-").replace(".", "").isdigit()]
    assert any(cell.startswith("'=cmd") for cell in cells)


def test_json_is_ascii_and_keeps_the_value(told: tuple[Result, Path], archive: Path) -> None:
    text = (told[1] / "audit.json").read_text(encoding="ascii")
    assert is_tame(text)
    described = {series["series_description"] for series in json.loads(text)["series"]}
    assert {HOSTILE["markup"], HOSTILE["formula"], HOSTILE["rich"]} <= described
    printed = CliRunner().invoke(app, ["audit", str(archive), "--json", "--processes", "1"])
    assert printed.exit_code == 0 and printed.output.isascii() and is_tame(printed.output)
    assert json.loads(printed.output)["n_files"] == len(HOSTILE) + 2


def test_uid_that_climbs_is_not_read_and_named_as_such(told: tuple[Result, Path]) -> None:
    unread = json.loads((told[1] / "audit.json").read_text())["unread"]
    assert len(unread) == 2
    assert all(one["reason"] and is_tame(one["reason"]) for one in unread)
    assert sorted(path.name for path in told[1].iterdir()) == [
        "audit.csv", "audit.groups.csv", "audit.html", "audit.json",
    ]  # fmt: skip


def test_an_error_about_a_hostile_path_is_tame(tmp_path: Path) -> None:
    blocked = tmp_path / "\x1b[31mout\u202e"
    blocked.write_text("a file where a folder should be")
    result = CliRunner().invoke(app, ["audit", str(tmp_path), "--out", str(blocked), "--processes", "1"])
    assert result.exit_code != 0
    assert is_tame(result.output)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_reports_name_made_of_it_is_a_name(name: str) -> None:
    made = safe_name(HOSTILE[name], HOSTILE[name])
    assert made.isascii() and made.isprintable() and len(made) <= 100
    assert not set(made) & set("/\\ :*?\"'<>|$&;`(){}[]") and not made.startswith((".", "-"))


@pytest.mark.parametrize("form", ["console", "json"])
def test_log_lines_stay_lines_and_tame(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(root, "handlers", [])
    try:
        start_logging(LogConfig(format=form))
        structlog.get_logger().warning("series judged", series_description=HOSTILE["escape"], reason=HOSTILE["link"])
        structlog.get_logger().warning("override", series_description=HOSTILE["override"] + "\nforged=line")
        logging.getLogger("peer").warning("association from %s", HOSTILE["link"] + "\nforged line")
    finally:
        structlog.reset_defaults()
        root.handlers, root.level = handlers, level
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3, lines
    assert all(is_tame(line) for line in lines), lines
