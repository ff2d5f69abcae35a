"""A folder's series before all three witnesses: protocols with variants, pixels, and what follows, in every report."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from iap_node.audit.folder import FolderAudit, audit_files
from iap_node.audit.folder_witnesses import heard, with_pixels
from iap_node.audit.reports import folder as report
from iap_node.cli import app
from iap_node.config import AuditConfig, InferenceConfig
from iap_node.dicom.folder import list_files
from iap_node.errors import ModelPackageError
from iap_node.records import Witness
from tests.integration.listener.conftest import make_instance
from tests.integration.worker.conftest import SIEMENS, ScriptedPredictor, prediction

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
N_SERIES = 12
ODD = f"1.2.{N_SERIES - 1}"  # another repetition time than the others, and another manufacturer than its pixels


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve series of one protocol in studies of their own, the last of them odd; spectra without pixels."""
    folder = tmp_path_factory.mktemp("folder")
    for number in range(N_SERIES):
        odd = number == N_SERIES - 1
        ds = make_instance(
            StudyInstanceUID=f"1.{number}", SeriesInstanceUID=f"1.2.{number}", SeriesNumber=number,
            ProtocolName="t1 <b>", SeriesDescription="t1 <b>", DeviceSerialNumber="77", SoftwareVersions="VE11",
            ManufacturerModelName="Skyra", EchoTime="2.1", RepetitionTime="51" if odd else "5.1", FlipAngle="10",
            MagneticFieldStrength="3", Manufacturer="SIEMENS", StudyDate=f"202601{number + 1:02}",
        )  # fmt: skip
        ds.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    spectra = make_instance(SOPClassUID="1.2.840.10008.5.1.4.1.1.4.2", SeriesInstanceUID="1.2.99")
    spectra.save_as(folder / "spectra.dcm", enforce_file_format=True)
    return folder


@pytest.fixture(scope="module")
def audit(root: Path) -> FolderAudit:
    """The folder, audited, with what scripted pixels say: that all are Siemens, and all repetition times 5.1 ms."""
    said = prediction(SIEMENS)
    headers = audit_files(root, list_files(root), processes=1)
    told: list[int] = []
    judged = with_pixels(headers, ScriptedPredictor(said), AuditConfig(), InferenceConfig(), lambda: told.append(1))
    assert len(told) == len(headers.series)
    return heard(judged)


class _Text(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.elements: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_variant_and_its_deviation_stand_in_all_reports(audit: FolderAudit) -> None:
    (deviates,) = [
        (series, finding)
        for series in audit.series
        for finding in series.findings
        if finding.raised_by is Witness.HABIT
    ]
    series, finding = deviates
    assert (series.series_instance_uid, finding.element) == (ODD, "RepetitionTime")
    assert finding.conclusion and {one.witness for one in finding.testimonies} >= {Witness.HABIT, Witness.STANDARD}
    page = _Text(report.as_html(audit, AT))
    assert "Protocols with variants (1)" in page.text and "Repetition Time 51 usually 5.1" in page.text
    assert finding.conclusion in page.text and "b" in page.elements and "t1 <b>" in page.text
    content = json.loads(report.as_json(audit, AT))
    (protocol,) = [one for one in content["protocols"] if len(one["groups"]) > 1]
    assert [one["n_series"] for one in protocol["groups"]] == [N_SERIES - 1, 1]
    keys = {one["key"]: one for one in content["series"]}
    assert keys[protocol["groups"][1]["series"][0]]["group"] == 2
    lines = list(csv.DictReader(io.StringIO(report.groups_as_csv(audit))))
    variant = [line for line in lines if line["element"] == "RepetitionTime"]
    assert [(line["group"], line["dominant"], line["usual"], line["here"]) for line in variant] == [
        ("2", "False", "5.1", "51")
    ]
    rows = list(csv.DictReader(io.StringIO(report.as_csv(audit))))
    (row,) = [row for row in rows if row["check"] == finding.check]
    assert "standard for" in row["testimonies"] and row["conclusion"] == finding.conclusion and row["group"] == "2"


def test_pixels_are_told_with_the_model_and_what_it_learned_from(audit: FolderAudit) -> None:
    by_uid = {series.series_instance_uid: series for series in audit.series}
    assert by_uid["1.2.99"].pixels is not None and by_uid["1.2.99"].pixels.prediction is None
    content = json.loads(report.as_json(audit, AT))
    assert content["models"] == [
        {"model_id": "scripted-1", "training_data": "none: scripted for a test", "n_judged": N_SERIES, "n_novel": 0}
    ]
    of_series = {one["series_instance_uid"]: one["pixels"] for one in content["series"]}
    assert of_series["1.2.0"]["prediction"]["model_id"] == "scripted-1"
    assert "spectra" in of_series["1.2.99"]["not_analysed_reason"]
    page = _Text(report.as_html(audit, AT))
    assert "none: scripted for a test" in page.text and "SIEMENS (header)" in page.text
    assert "Pixels were not judged" not in page.text


def test_page_of_many_series_names_the_worst_and_counts_the_rest(
    audit: FolderAudit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MOST_SHOWN", 2)
    page = _Text(report.as_html(audit, AT)).text
    assert f"Series with findings ({N_SERIES})" in page
    assert ODD in page and f"And {N_SERIES - 2} more: see the tables." in page
    assert len(list(csv.DictReader(io.StringIO(report.as_csv(audit))))) == audit.n_findings


def test_novel_series_gets_no_verdict_and_says_so(root: Path) -> None:
    novel = ScriptedPredictor(prediction(novel=True))
    judged = with_pixels(audit_files(root, list_files(root), processes=1), novel, AuditConfig(), InferenceConfig())
    page = _Text(report.as_html(judged, AT))
    assert f"0 series, and {N_SERIES} more unlike its training data" in page.text
    assert "unlike the training data, no verdict" in page.text


def test_file_that_went_before_its_pixels_were_read_is_told(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes((root / "0.dcm").read_bytes())
    headers = audit_files(tmp_path, [path], processes=1)
    path.unlink()
    judged = with_pixels(headers, ScriptedPredictor(prediction(SIEMENS)), AuditConfig(), InferenceConfig())
    assert [(one.path, one.reason) for one in judged.unread] == [(path, "No such file or directory")]
    assert judged.series[0].pixels is None


def test_command_loads_the_model_that_is_named(root: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    (images / "0.dcm").write_bytes((root / "0.dcm").read_bytes())
    done = CliRunner().invoke(app, ["audit", str(images), "--out", str(out), "--pixels", "--json"])
    assert done.exit_code == 0, done.exception
    (model,) = json.loads(done.stdout)["models"]
    assert model["training_data"] == "trained on simulated images"
    assert (out / "audit.groups.csv").read_text().startswith("protocol,")


def test_model_that_is_not_there_is_named(root: Path, tmp_path: Path) -> None:
    missing = CliRunner().invoke(app, ["audit", str(root), "--model", str(tmp_path / "nowhere")])
    assert isinstance(missing.exception, ModelPackageError) and "nowhere" in str(missing.exception)
