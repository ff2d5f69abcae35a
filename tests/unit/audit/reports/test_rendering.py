"""What reports are made of: shares and their intervals, axes, months, names of files, cells."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import UTC, datetime, timedelta

import pytest

from iap_node.audit.reports.drawing import Axis, bar, columns, interval
from iap_node.audit.reports.files import MOST_CHARACTERS, safe_name, write
from iap_node.audit.reports.period import MOST_COLUMNS, Month, findings_over_time, series_over_time, week_starts
from iap_node.audit.reports.rates import Rate
from iap_node.audit.reports.rendering import document, number, percent, table
from iap_node.database.report_figures import Week
from iap_node.records import ParameterKind, ParameterPrediction, Severity


@pytest.mark.parametrize(
    ("n", "of", "low", "high"),
    [  # Wilson's interval, from Newcombe 1998 (Stat. Med. 17, 857-872), Table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_of_a_share_is_wilsons(n: int, of: int, low: float, high: float) -> None:
    rate = Rate(n, of)
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=5e-5)


def test_one_of_one_is_no_certainty_and_nothing_of_nothing_no_share() -> None:
    assert Rate(1, 1).share == 1 and Rate(1, 1).low == pytest.approx(0.2065, abs=1e-4)
    assert Rate(1, 1).high == 1.0
    assert (Rate(0, 0).share, Rate(0, 0).low, Rate(0, 0).high) == (None, 0.0, 1.0)
    assert Rate(9, 10).differs(Rate(10, 100)) and not Rate(1, 1).differs(Rate(20, 100))


def test_everything_drawn_lies_in_its_box() -> None:
    prediction = ParameterPrediction(
        "EchoTime", ParameterKind.CONTINUOUS, value=2.0, interval=(1.0, math.inf),
        intervals=((0.5, 1.9, 2.1), (0.01, -math.inf, math.inf)),
    )  # fmt: skip
    drawings = (
        bar(7.0, "too much"),
        columns([[("error", 1.0, ""), ("note", 2.0, "")], [], [("note", 0.0, "")]], "weeks"),
        interval(prediction, Axis.around([1.9, 2.1, math.inf]), 1e9, "a header far away"),
        interval(prediction, Axis.around([math.nan]), math.nan, "no number at all"),
        Rate(0, 0).drawing,
        Rate(5, 5).drawing,
    )
    for drawing in drawings:
        for one in drawing.rectangles:
            assert one.x >= 0 and one.y >= -1e-9 and one.width >= 0 and one.height >= 0
            assert one.x + one.width <= 101 and one.y + one.height <= 100 + 1e-9


def test_months_know_their_neighbours_and_their_ends() -> None:
    assert [str(Month(2026, 1).plus(n)) for n in (-13, -1, 0, 11, 12)] == [
        "2024-12", "2025-12", "2026-01", "2026-12", "2027-01",
    ]  # fmt: skip
    assert Month.parse("2026-02").until == datetime(2026, 3, 1, tzinfo=UTC)
    assert Month.of(datetime.fromisoformat("2026-03-01T00:30:00+02:00")) == Month(2026, 2)
    for text in ("2026", "2026-13", "0001-01", "february"):
        with pytest.raises(ValueError):
            Month.parse(text)


@pytest.mark.parametrize("days", [0.1, 7, 31, 90, 3650])
def test_weeks_divide_a_period_from_its_beginning_and_are_not_too_many(days: float) -> None:
    since = datetime(2026, 2, 4, 13, 30, tzinfo=UTC)
    starts = week_starts(since, since + timedelta(days=days))
    assert starts[0] == since and starts == sorted(set(starts))
    assert len(starts) <= MOST_COLUMNS + 1
    assert all(
        start.weekday() == 0 and start.hour == 0 and start < since + timedelta(days=days) for start in starts[1:]
    )


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("series", "1.2.3"), "series-1.2.3"),
        (("series", "../../etc/passwd"), "series-etc_passwd"),
        (("scanner", ".hidden"), "scanner-hidden"),
        (("scanner", "$(reboot)\n;\x1b[31m"), "scanner-reboot_31m"),
        (("study", ""), "study-unknown"),
    ],
)
def test_names_of_files_cannot_lead_elsewhere(parts: tuple[str, ...], name: str) -> None:
    assert safe_name(*parts) == name
    assert len(safe_name("series", "1." * 4000)) <= MOST_CHARACTERS


def test_file_is_whole_or_as_it_was(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "new", "audit", {"csv": "a"})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "new", "audit", {"csv": "b"})
    assert {path.name: path.read_text() for path in (tmp_path / "new").iterdir()} == {"audit.csv": "a"}


def test_numbers_for_people_are_never_rounded_to_certainty() -> None:
    assert [percent(share) for share in (None, 0.0, 0.0004, 0.5, 0.9996, 1.0)] == [
        "", "0 %", "< 0.1 %", "50 %", "> 99.9 %", "100 %",
    ]  # fmt: skip
    assert [number(value) for value in (None, 0.00123, 2.0, 12345.6)] == ["", "0.00123", "2", "12,346"]


def test_json_has_no_numbers_that_json_does_not_know() -> None:
    content = json.loads(
        document(datetime(2026, 3, 1, tzinfo=UTC), {"a": math.nan, "b": Severity.NOTE, "c": (1, None)})
    )
    assert content["made_at"] == "2026-03-01T00:00:00+00:00"
    assert (content["a"], content["b"], content["c"]) == (None, "note", [1, None])


def test_table_holds_what_it_is_given_and_runs_nothing() -> None:
    written = table(("a", "b"), [("=1+1", Severity.ERROR), (None, "x\r\n=y")])
    assert list(csv.reader(io.StringIO(written))) == [["a", "b"], ["'=1+1", "error"], ["", "x??=y"]]


@pytest.mark.parametrize(("days", "says"), [(30, "week by week"), (365, "week by week"), (800, "3 weeks at a time")])
def test_columns_say_how_long_each_is(days: int, says: str) -> None:
    since = datetime(2024, 1, 3, tzinfo=UTC)
    weeks = [Week(start, 1, 1, 0, 0) for start in week_starts(since, since + timedelta(days=days))]
    assert findings_over_time(weeks)[0].label == f"findings per 100 series, {says}"
    assert series_over_time(weeks)[0].label == f"series, {says}"


def test_week_with_one_series_does_not_set_the_scale() -> None:
    since = datetime(2026, 1, 5, tzinfo=UTC)
    weeks = [Week(since, 10, 1, 1, 0), Week(since + timedelta(days=7), 1, 3, 0, 3)]
    drawing, top = findings_over_time(weeks)
    assert top == "20 per 100 series; fewer than 5 series are cut there"
    heights = [round(one.height) for one in drawing.rectangles]
    assert heights == [50, 50, 50, 50]
    assert drawing.rectangles[2].title == "2026-01-12: 1 series, 3 errors"
