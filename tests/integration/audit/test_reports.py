"""Reports of an archive of simulated series, as commands and the scheduler write them; one series is hostile."""

from __future__ import annotations

import csv
import io
import json
import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from iap_node.audit.reports import month, scheduled, study
from iap_node.audit.reports.month import MONTHS_BEFORE
from iap_node.audit.reports.period import Month
from iap_node.audit.reports.rendering import LONGEST_WORD
from iap_node.cli import app
from iap_node.config import AuditConfig, ReportsConfig, parse_config
from iap_node.database.engine import Database
from iap_node.database.report_series import ReportedStudy
from iap_node.database.report_series import study as reported_study
from iap_node.errors import RetriableError
from iap_node.scheduler import run_scheduler
from tests.integration.audit.simulated_archive import (
    END_OF_FEBRUARY,
    SCANNERS,
    TRAINING_DATA,
    Series,
    file,
    fill,
    finding,
)
from tests.integration.worker.conftest import wait_for

AT = datetime(2026, 3, 5, 12, 0, tzinfo=UTC)
FEBRUARY = Month(2026, 2)
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>"
ESCAPES = "\x1b[31m\x1b]8;;https://evil.example/\x07\u202e"
HUGE = "=" + "A" * 4_000
HOSTILE = Series(
    900,
    END_OF_FEBRUARY - timedelta(days=2),
    (MARKUP, "@SUM(A1)", ESCAPES + "-1+1"),
    study=900,
    description=HUGE,
    protocol="=cmd|' /C calc'!A0",
    software=HUGE,
    findings=(
        finding(raw=MARKUP, evidence=f"says {MARKUP} {ESCAPES}"),
        finding("another-check", raw=HUGE, suggested=HUGE, evidence=HUGE),
    ),
)


class Page(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def node(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a node whose archive holds simulated series, and a hostile one."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "var").mkdir()
    shutil.copyfile(migrated_sqlite, folder / "var" / "node.sqlite")
    (folder / "config.yaml").write_text("data_dir: var\n")
    database = open_database(folder)
    with database.transaction() as session:
        fill(session, END_OF_FEBRUARY, weeks=10, per_week=3)
        file(session, HOSTILE)
        # one series, with an error: no reason to call the scanner the worst
        file(
            session, Series(901, END_OF_FEBRUARY - timedelta(days=3), ("UIH", "uMR", "U-1"), 901, findings=(finding(),))
        )
    database.dispose()
    return folder


def open_database(node: Path) -> Database:
    return Database(f"sqlite:///{node / 'var' / 'node.sqlite'}")


@pytest.fixture(scope="module")
def report(node: Path) -> Callable[..., Result]:
    """Runs `iap-node report ...` on that node."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["report", *arguments, "--config", str(node / "config.yaml")])

    return run


@pytest.fixture(scope="module")
def written(report: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All reports in all forms, by file name."""
    out = tmp_path_factory.mktemp("reports")
    period = ("--since", "2025-11-01", "--until", "2026-03-01")
    for arguments in (
        ("series", "1.2.826.8.29"),
        ("series", HOSTILE.uid),
        ("study", "1.2.826.7.8"),
        ("study", "1.2.826.7.900"),
        ("scanner", "--model", "SIGNA HDx", *period),
        ("scanner", "--serial", ESCAPES + "-1+1", *period),
        ("month", "2026-02"),
    ):
        done = report(*arguments, "--out", str(out))
        assert done.exit_code == 0, (arguments, done.output, done.exception)
    return {path.name: path.read_text(encoding="utf-8") for path in out.iterdir()}


def form(written: dict[str, str], suffix: str) -> dict[str, str]:
    return {name: text for name, text in written.items() if name.endswith(suffix)}


# ---------------------------------------------------------------- all of them


def test_every_report_comes_as_page_table_and_json(written: dict[str, str]) -> None:
    names = {name.rpartition(".")[0] for name in written}
    assert {f"{name}.{suffix}" for name in names for suffix in ("html", "csv", "json")} == set(written)
    assert names == {
        "series-1.2.826.8.29", "series-1.2.826.8.900", "study-1.2.826.7.8", "study-1.2.826.7.900",
        "scanner-SIGNA_HDx-2025-11-01-2026-03-01", "physicist-2026-02",
        "scanner-31m_8_https_evil.example_-1_1-2025-11-01-2026-03-01",
    }  # fmt: skip


def test_pages_load_and_run_nothing_and_show_what_headers_say(written: dict[str, str]) -> None:
    for name, text in form(written, ".html").items():
        page = Page(text)
        assert not page.elements & {"script", "img", "a", "link", "iframe", "form", "base", "object"}, name
        assert not {one for one in page.attributes if one.startswith("on") or one in ("href", "src")}, name
        assert "default-src 'none'" in text and "A4" in text
        assert "\x1b" not in text and "\u202e" not in text, name
        assert HUGE not in text, f"{name} shows a huge value whole"
    for name in ("series-1.2.826.8.900.html", "study-1.2.826.7.900.html", "physicist-2026-02.html"):
        assert "<script>alert(1)</script>" in Page(written[name]).text, name


class Cells(HTMLParser):
    """Words in cells that are too long for a column and stand where nothing breaks them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.within: list[tuple[str, set[str]]] = []
        self.unbroken: list[str] = []
        self.n_long = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "rect"):
            self.within.append((tag, set((dict(attrs).get("class") or "").split())))

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.within.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        words = [word for word in data.split() if len(word) > LONGEST_WORD]
        if words and any(tag in ("td", "svg") for tag, _ in self.within):
            self.n_long += 1
            if not any(classes & {"path", "raw", "uid", "bars"} for _, classes in self.within):
                self.unbroken += words


def test_long_words_break_no_layout(written: dict[str, str]) -> None:
    cells = {name: Cells(text) for name, text in form(written, ".html").items()}
    assert {name: one.unbroken for name, one in cells.items() if one.unbroken} == {}
    assert sum(one.n_long for one in cells.values()) > 5


def test_tables_are_whole_and_run_nothing(written: dict[str, str]) -> None:
    for name, text in form(written, ".csv").items():
        rows = list(csv.reader(io.StringIO(text, newline="")))
        assert len(rows) > 1 and len({len(row) for row in rows}) == 1, name
        for cell in (cell for row in rows for cell in row):
            assert cell.isprintable(), name
            assert not cell.startswith(("=", "@", "\t")), name
            assert not cell.startswith(("+", "-")) or cell.lstrip("+-").replace(".", "").replace("e-", "").isdigit(), (
                cell
            )


def test_json_is_ascii_says_who_made_it_and_keeps_the_values(written: dict[str, str]) -> None:
    for name, text in form(written, ".json").items():
        assert text.isascii(), name
        assert json.loads(text)["made_by"].startswith("iap-node "), name
    hostile = json.loads(written["series-1.2.826.8.900.json"])["series"]
    assert hostile["series_description"] == HUGE and hostile["device_serial_number"] == ESCAPES + "-1+1"
    assert MARKUP in {one["raw"] for one in hostile["findings"]}


def test_no_report_names_a_patient(written: dict[str, str]) -> None:
    assert not [name for name, text in written.items() if "c0ffee" in text or "patient_hash" in text]


# ---------------------------------------------------------------- each of them


def test_series_tells_header_pixels_witnesses_and_history(written: dict[str, str]) -> None:
    content = json.loads(written["series-1.2.826.8.29.json"])["series"]
    page = Page(written["series-1.2.826.8.29.html"])
    assert TRAINING_DATA in page.text and "8 slices were read" in page.text
    assert "GE MEDICAL SYSTEMS (header)" in page.text and "contradicts, suggested" in page.text
    comparisons = {one["keyword"]: one for one in content["judgement"]["comparisons"]}
    assert comparisons["EchoTime"]["verdict"] == "contradicts"
    assert "svg" in page.elements
    hostile = Page(written["series-1.2.826.8.900.html"]).text
    assert "the pixels rule out 15000" in hostile and "this scanner wrote 15000 in 12 of 12 series" in hostile
    assert "found in revision 1" in hostile and "field-strength-unit" in hostile


def test_study_tells_what_differs_although_it_is_one_study(node: Path, written: dict[str, str]) -> None:
    database = open_database(node)
    with database.reading() as session:
        found = reported_study(session, "1.2.826.7.8")
    database.dispose()
    differing = {one.element: one for one in study.differences(found)}
    assert differing["DeviceSerialNumber"].of_the_study
    assert {value for value, _ in differing["DeviceSerialNumber"].values} == {"G-1", "G-2", "S-1"}
    assert study.differences(ReportedStudy(found.study_instance_uid, found.received_at, 1, found.series[:1])) == []
    assert "Differs, although it is one study" in written["study-1.2.826.7.8.html"]
    rows = list(csv.DictReader(io.StringIO(written["study-1.2.826.7.8.csv"])))
    assert {row["series_instance_uid"] for row in rows} == {one.series_instance_uid for one in found.series}


def test_month_puts_first_what_is_known_and_what_moved(node: Path) -> None:
    database = open_database(node)
    with database.reading() as session:
        figures = month.gather(session, FEBRUARY)
    database.dispose()
    assert str(figures.before) == str(FEBRUARY.plus(-MONTHS_BEFORE))
    text = Page(month.as_html(figures, AT)).text
    worst = text[text.index("Scanners with the most") : text.index("What was found, by check")]
    assert worst.index(SCANNERS[1][2]) < worst.index("U-1"), "one series of one is no certainty"
    first = month.compared(figures.contradictions)[0]
    assert (first.of.scanner.serial_number, first.of.keyword, first.moved) == ("G-1", "EchoTime", True)
    drift = {(one.drift.scanner.serial_number, one.drift.keyword): one for one in month.drawn(figures.drift)}
    assert drift["G-1", "EchoTime"].drift.now.quantiles[2] == pytest.approx(-0.5, abs=0.06)
    assert not drift["G-1", "EchoTime"].moved, "four series are too few to say so"
    assert "1 of " in text and "above alpha" in text
    assert [one.software_versions for one in figures.software if one.scanner.serial_number == "G-1"] == ["DV26"]


def test_programs_get_the_rates_with_their_intervals(written: dict[str, str]) -> None:
    content = json.loads(written["physicist-2026-02.json"])
    assert (content["month"], content["before"], content["is_over"]) == ("2026-02", "2025-11", True)
    (alarm,) = [
        one for one in content["alarms"] if (one["scanner"]["serial_number"], one["keyword"]) == ("G-1", "EchoTime")
    ]
    assert alarm["rate"] == 1.0 and alarm["interval"][0] > alarm["alpha"] and alarm["above_alpha"]
    rates = {one["scanner"]["serial_number"]: one["conspicuous"] for one in content["scanners"]}
    assert rates["U-1"]["share"] == 1.0 and rates["U-1"]["low"] < rates["G-1"]["low"]
    rows = list(csv.DictReader(io.StringIO(written["physicist-2026-02.csv"])))
    (row,) = [row for row in rows if row["section"] == "scanner" and row["serial_number"] == "G-1"]
    assert float(row["low"]) == pytest.approx(rates["G-1"]["low"])


def test_month_without_series_is_a_report_too(report: Callable[..., Result]) -> None:
    done = report("month", "2020-02", "--json")
    assert done.exit_code == 0
    assert json.loads(done.output)["scanners"] == []


# ---------------------------------------------------------------- the commands


def test_file_gets_one_form_and_json_is_printed(report: Callable[..., Result], tmp_path: Path) -> None:
    assert report("month", "2026-02", "--out", str(tmp_path / "a" / "feb.html")).exit_code == 0
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["feb.html"]
    printed = report("series", "8.29", "--json")
    assert json.loads(printed.output)["series"]["series_instance_uid"] == "1.2.826.8.29"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("series", "1.2.3"), 4, "no series"),
        (("study", "1.2.3"), 4, "no study"),
        (("scanner", "--serial", "\x1b[31mX", "--since", "2025-11-01", "--until", "2026-03-01"), 4, "S-1"),
        (("scanner", "--since", "2026-03-01", "--until", "2026-02-01"), 2, "--until"),
        (("month", "february"), 2, "2026-02"),
        (("month", "2026-02", "--out", "/proc/nowhere"), 1, "/proc/nowhere"),
    ],
)
def test_what_cannot_be_reported_is_told(
    report: Callable[..., Result], arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = report(*arguments)
    assert (done.exit_code, says in done.output) == (code, True), done.output
    assert "\x1b" not in done.output


# ---------------------------------------------------------------- by the clock


@pytest.mark.parametrize(
    ("now", "first", "months"),
    [
        (datetime(2026, 3, 1, 5, 59, tzinfo=UTC), datetime(2026, 2, 10, tzinfo=UTC), []),
        (datetime(2026, 3, 1, 6, 0, tzinfo=UTC), datetime(2026, 2, 10, tzinfo=UTC), ["2026-02"]),
        (datetime(2026, 3, 20, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC), ["2025-12", "2026-01", "2026-02"]),
        (datetime(2026, 3, 20, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC), []),
        (datetime(2026, 3, 20, tzinfo=UTC), None, []),
    ],
)
def test_report_is_due_once_its_month_is_over_and_the_hour_has_come(
    tmp_path: Path, now: datetime, first: datetime | None, months: list[str]
) -> None:
    assert [str(one) for one in scheduled.due(ReportsConfig(folder=tmp_path), now, first)] == months
    assert scheduled.due(ReportsConfig(), now, first) == []


def test_report_is_written_once_and_made_up_for(node: Path, tmp_path: Path) -> None:
    database = open_database(node)
    config = AuditConfig(reports=ReportsConfig(folder=tmp_path / "reports"))
    written = scheduled.write_due(config, database, AT)
    assert {path.name for path in written} == {
        f"physicist-{about}.{suffix}"
        for about in ("2025-12", "2026-01", "2026-02")
        for suffix in ("html", "csv", "json")
    }
    page = tmp_path / "reports" / "physicist-2026-02.html"
    page.write_text("a person's notes")
    assert scheduled.write_due(config, database, AT + timedelta(days=1)) == []
    assert page.read_text() == "a person's notes"
    (tmp_path / "reports" / "physicist-2026-02.json").unlink()
    assert len(scheduled.write_due(config, database, AT)) == 3
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(RetriableError, match=r"audit\.reports\.folder"):
        scheduled.write_due(AuditConfig(reports=ReportsConfig(folder=blocked)), database, AT)
    database.dispose()


def test_scheduler_writes_the_report_where_the_configuration_says(node: Path, tmp_path: Path) -> None:
    config = parse_config({"audit": {"reports": {"folder": str(tmp_path), "cron": "* * * * *"}}}, node)
    database, stop = open_database(node), threading.Event()
    thread = threading.Thread(target=run_scheduler, args=(config, database, stop))
    thread.start()
    try:
        wait_for(lambda: len(list(tmp_path.glob("physicist-*.json"))) == scheduled.MONTHS_MADE_UP, "the reports")
    finally:
        stop.set()
        thread.join(timeout=30)
        database.dispose()
    last = Month.of(datetime.now(UTC)).plus(-1)
    assert json.loads((tmp_path / f"physicist-{last}.json").read_text())["month"] == str(last)
