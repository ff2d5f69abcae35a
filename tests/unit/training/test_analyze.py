"""The analysis of labels, on a manifest whose figures are known."""

import json

import pytest
from typer.testing import CliRunner

from training import analysis_report, analyze
from training.analyze import LabelledSeries
from training.cli import app
from training.manifest import ManifestRow, write_manifest

ROWS = [
    ("SIEMENS", 1.0, 4.0, 9.0, "training", "a"),
    ("SIEMENS", 2.0, 3.0, None, "training", "a"),
    ("GE", 3.0, 2.5, 12.0, "training", "b"),
    ("GE", 4.0, 1.0, 10.0, "test", "c"),
    ("UIH", 5.0, 0.5, 11.0, "test", "d"),
]
KEYWORDS = ("Manufacturer", "EchoTime", "RepetitionTime", "FlipAngle")
SERIES = [LabelledSeries(dict(zip(KEYWORDS, row[:4], strict=True)), *row[4:]) for row in ROWS]


@pytest.fixture(scope="module")
def found():
    return analyze.analyze("real MR of a test", SERIES)


def of(found, keyword):
    return next(one for one in found.distributions if one.keyword == keyword)


def test_distributions_count_series_and_patients_and_what_is_missing(found):
    makers = of(found, "Manufacturer")
    assert makers.classes == (("GE", 2, 2), ("SIEMENS", 2, 1), ("UIH", 1, 1))
    assert of(found, "FlipAngle").n_missing == 1
    assert of(found, "EchoTime").summary == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert sum(n for _, _, n in of(found, "EchoTime").histogram) == 5
    assert of(found, "ScanOptions").classes == ()


def test_the_commonest_label_is_that_of_the_training_split(found):
    assert of(found, "Manufacturer").majority == {"training": pytest.approx(2 / 3), "test": 0.0}


def test_spearman_is_of_ranks_over_what_both_state(found):
    place = found.correlated.index
    row = found.correlations[place("EchoTime")]
    assert row[place("RepetitionTime")] == -1.0
    assert row[place("EchoTime")] == 1.0
    assert row[place("FlipAngle")] == pytest.approx(0.4)  # ranks 1, 2, 3, 4 against 1, 4, 2, 3
    assert row[place("ScanOptions")] is None


def test_what_the_splits_share_is_told_by_combination(found):
    makers = next(one for one in found.sharing if one.keywords == ("Manufacturer",))
    assert makers.distinct == {"training": 2, "test": 2}
    assert makers.shared_combinations == {"test": 1}
    assert makers.shared_series == {"test": 0.5}


def test_texts_from_headers_do_no_harm_in_the_reports():
    hostile = LabelledSeries({"Manufacturer": "<script>|\n"}, "training", "a")
    found = analyze.analyze("real", [hostile, hostile])
    assert "<script>" not in analysis_report.as_html(found)
    assert all(line.count("|") - line.count("\\|") == 5 for line in analysis_report.as_markdown(found).splitlines()
               if line.startswith("| <script>"))  # fmt: skip


def test_the_command_writes_tables_and_a_page_that_needs_nothing_else(tmp_path):
    rows = [
        ManifestRow("1.2", f"1.2.{n}", one.patient, one.split, one.labels, {}, "", 3, "")
        for n, one in enumerate(SERIES)
    ]
    write_manifest(tmp_path, [*rows, ManifestRow("1", "2", "e", "test", {}, {}, "", 0, "", "novel")])
    done = CliRunner().invoke(app, ["analyze", str(tmp_path / "manifest.parquet"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "5 series of 4 patients" in done.output
    page = (tmp_path / "out" / "labels.html").read_text()
    assert page.count("<svg") == 5  # four parameters with labels, and the matrix
    assert "http" not in page and "<script" not in page
    assert json.loads((tmp_path / "out" / "labels.json").read_text())["n_series"] == {"training": 3, "test": 2}
    assert "| Manufacturer | 5 | 0 | 3 | GE | 0.667 | 0.000 |" in (tmp_path / "out" / "labels.md").read_text()
