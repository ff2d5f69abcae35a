"""The audit of a folder: the real series as they lie, series that are spread out, and what is no instance."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from iap_node.audit import folder
from iap_node.audit.cells import harmless_cell
from iap_node.audit.folder import FEW_FILES, FolderAudit, audit_files
from iap_node.audit.reports.folder import CSV_COLUMNS, as_csv, as_html, as_json
from iap_node.dicom.folder import list_files
from iap_node.dicom.statements import InstanceStatements
from iap_node.records import InstanceHeader
from tests.integration.audit.test_checks_on_real_series import EXPECTED
from tests.integration.listener.conftest import make_instance

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
# Two folders of the corpus hold one Series Instance UID: the same scan in classic and in enhanced form.
ONE_SERIES = {"philips_elition_r571_pcasl", "philips_elition_r571_enh_pcasl_same_scan_as_classic"}


def audited(root: Path, processes: int = 1) -> FolderAudit:
    return audit_files(root, list_files(root), processes=processes)


def save(ds: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def test_real_series_are_found_as_they_lie_with_what_is_wrong_with_them(mr_real: Path) -> None:
    audit = audited(mr_real)
    found = {
        place.name: {(finding.element, finding.check) for finding in series.findings}
        for series in audit.series
        for place in series.folders
    }
    assert {name: findings for name, findings in found.items() if findings} == EXPECTED
    assert ONE_SERIES in [{place.name for place in series.folders} for series in audit.series]
    assert len(audit.series) == len(found) - 1
    assert audit.n_instances == sum(series.n_instances for series in audit.series) == 197
    assert {one.path.suffix for one in audit.unread} <= {".csv", ".md", ".txt", ".json", ""}


def test_processes_find_what_one_finds(mr_real: Path, tmp_path: Path) -> None:
    source = next(place for place in sorted(mr_real.iterdir()) if place.name.startswith("uih_umr770_t1"))
    (file,) = sorted(source.iterdir())[:1]
    for n in range(FEW_FILES + 1):
        shutil.copy(file, tmp_path / f"{n}.dcm")
    alone, together = audited(tmp_path), audited(tmp_path, processes=2)
    assert together == alone
    assert together.n_instances == FEW_FILES + 1


def test_series_whose_instances_lie_in_several_folders_is_one(tmp_path: Path) -> None:
    for n in range(3):
        save(make_instance(InstanceNumber=n + 1, SeriesNumber=5), tmp_path / str(n) / "image")
    (series,) = audited(tmp_path).series
    assert series.n_instances == 3
    assert series.folders == tuple(tmp_path / str(n) for n in range(3))


def test_what_is_no_instance_is_told_and_the_rest_is_audited(tmp_path: Path) -> None:
    save(make_instance(), tmp_path / "image")
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "DICOMDIR").write_bytes(b"a list")
    (tmp_path / "link").symlink_to(tmp_path / "image")
    audit = audited(tmp_path)
    assert audit.n_instances == 1
    assert [one.path.name for one in audit.unread] == ["empty", "notes.txt"]
    assert all(one.reason for one in audit.unread)


def test_file_that_cannot_be_read_is_told_and_the_rest_is_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("closed", "image", "vanishing"):
        save(make_instance(), tmp_path / name)
    read, paths = folder.read_statements, list_files(tmp_path)

    def failing(path: Path) -> InstanceStatements:
        if path.name == "vanishing":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return read(path)

    identify = folder.read_instance_header

    def forbidden(path: Path) -> InstanceHeader:
        if path.name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return identify(path)

    monkeypatch.setattr(folder, "read_statements", failing)
    monkeypatch.setattr(folder, "read_instance_header", forbidden)
    audit = audit_files(tmp_path, paths, processes=1)
    assert audit.n_instances == 1
    assert [(one.path.name, one.reason) for one in audit.unread] == [
        ("closed", "Permission denied"),
        ("vanishing", "No such file or directory"),
    ]


def test_progress_is_told_twice_for_each_file(tmp_path: Path) -> None:
    save(make_instance(), tmp_path / "image")
    (tmp_path / "notes.txt").write_text("not DICOM")
    told: list[int] = []
    audit_files(tmp_path, list_files(tmp_path), processes=1, read=told.append)
    assert sum(told) == 4


def test_empty_folder_is_a_report_too(tmp_path: Path) -> None:
    audit = audited(tmp_path)
    assert (audit.series, audit.unread, audit.n_files) == ((), (), 0)
    assert "None." in as_html(audit, AT)
    assert as_csv(audit).splitlines() == [",".join(CSV_COLUMNS)]


# ---------------------------------------------------------------- reports


class _Page(HTMLParser):
    """What a browser would see: elements, their attributes, and text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_headers_are_text_in_page_and_table(tmp_path: Path) -> None:
    ds = make_instance(SeriesDescription="<script>alert(1)</script>", Manufacturer="=1+1", StudyDate="20260101")
    save(ds, tmp_path / "<b>folder" / "image")
    raw = (tmp_path / "<b>folder" / "image").read_bytes()
    (tmp_path / "<b>folder" / "image").write_bytes(raw.replace(b"20260101", b'=A1&"<i>'))
    audit = audited(tmp_path)
    assert any(finding.raw.startswith("=A1") for series in audit.series for finding in series.findings)
    page = _Page()
    page.feed(as_html(audit, AT))
    assert not {"script", "i", "b>folder"} & set(page.elements)
    assert page.links == []
    assert "<script>alert(1)</script>" in page.text and '=A1&"<i>' in page.text
    rows = list(csv.DictReader(io.StringIO(as_csv(audit))))
    assert rows and all(not cell.startswith(("=", "+", "@")) for row in rows for cell in row.values())
    assert {row["manufacturer"] for row in rows} == {"'=1+1"}
    content = json.loads(as_json(audit, AT))
    assert content["series"][0]["series_description"] == "<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("written", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-2+3", "'-2+3"),
        ("-2.5", "-2.5"),
        ("+1e-3", "+1e-3"),
        ("\t=1", "'?=1"),
        ("a\nb\x1b[31m", "a?b?[31m"),
        (None, ""),
        (7, "7"),
    ],
)
def test_no_cell_is_a_formula(written: object, cell: str) -> None:
    assert harmless_cell(written) == cell


def test_reports_tell_the_same(mr_real: Path) -> None:
    audit = audited(mr_real)
    content = json.loads(as_json(audit, AT))
    rows = list(csv.DictReader(io.StringIO(as_csv(audit))))
    assert content["n_findings"] == audit.n_findings == len(rows)
    assert sum(len(series["findings"]) for series in content["series"]) == len(rows)
    page = as_html(audit, AT)
    assert all(row["series_instance_uid"] in page and row["check"] in page for row in rows)
    assert "http:" not in page and "https:" not in page  # nothing is loaded from anywhere
