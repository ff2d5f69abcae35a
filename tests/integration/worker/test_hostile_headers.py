"""Hostile header values from the listener through worker and database to the commands that show them.

What a folder's audit makes of them is the subject of tests/integration/audit/test_hostile_headers.py.
"""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from iap_node.cli import app
from iap_node.database import archive
from iap_node.listener.intake import Intake
from iap_node.listener.reception import Request
from tests.integration.audit.hostile import FORMULA, HOSTILE, hostile_instance, is_tame
from tests.integration.listener.conftest import encode

SHOWN_ALONE = ("link", "rich", "override")  # by the commands that show one series; lists show all
SERIES = {name: f"1.2.840.99.7.{number}" for number, name in enumerate(HOSTILE)}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_headers_say_is_stored_and_shown_and_nothing_obeys_it(
    make_node: Any, scripted: Any, tmp_path: Path
) -> None:
    node = make_node()
    intake = Intake(node.spool, node.database, b"k" * 32)
    for name, text in HOSTILE.items():
        ds = hostile_instance(text, SeriesInstanceUID=SERIES[name])
        uids = (ds.SOPClassUID, ds.SOPInstanceUID, ds.file_meta.TransferSyntaxUID)
        intake.file(encode(ds), Request(*uids, "SCANNER", "127.0.0.1"))
    with node.database.transaction() as session:
        assert len(archive.complete_series(session, list(SERIES.values()), datetime.now(UTC))) == len(HOSTILE)
    while node.infer(scripted()):
        pass

    config = tmp_path / "config.yaml"
    url = node.database.engine.url.render_as_string(hide_password=False)
    config.write_text(json.dumps({"data_dir": str(tmp_path), "database": {"url": url}}))

    def said(*words: str) -> str:
        result = CliRunner().invoke(app, [*words, "--config", str(config)])
        assert result.exit_code == 0, (words, result.output, result.exception)
        assert is_tame(result.output), words
        return result.output

    listed = json.loads(said("findings", "list", "--json", "--limit", "1000"))
    assert {one["series_instance_uid"] for one in listed} == set(SERIES.values())
    assert any(one["raw"].startswith("=cmd") for one in listed)
    assert "alert(1)" in said("findings")
    reports = tmp_path / "reports"
    for name in SHOWN_ALONE:
        (first, *_) = [one for one in listed if one["series_instance_uid"] == SERIES[name]]
        said("findings", "show", str(first["id"]))
        for words in (("show",), ("why",), ("correct", "--dry-run"), ("report", "series", "--out", str(reports))):
            said(*words, SERIES[name])
    said("report", "study", next(one["study_instance_uid"] for one in listed), "--out", str(reports))
    said("report", "scanner", "--out", str(reports))
    said("report", "month", f"{datetime.now(UTC):%Y-%m}", "--out", str(reports))
    for words in (("series",), ("status",), ("routes",), ("protocols",), ("jobs",)):
        said(*words)
    written = list(reports.iterdir())
    assert len(written) == 3 * (len(SHOWN_ALONE) + 3)
    for report in written:
        text = report.read_text(encoding="utf-8")
        assert report.name.isascii() and is_tame(text), report.name
        assert "<script" not in text or report.suffix != ".html", report.name
    rows = list(csv.reader(io.StringIO(said("findings", "export", "-", "--format", "csv"))))
    assert len(rows) == 1 + len(listed) and len({len(row) for row in rows}) == 1
    cells = [cell for row in rows[1:] for cell in row]
    assert not [cell for cell in cells if cell.startswith(FORMULA) and not cell.lstrip("+-").replace(".", "").isdigit()]
    assert said("findings", "export", "-", "--format", "json").isascii()
