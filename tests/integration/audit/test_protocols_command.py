"""`iap-node protocols`: groups of the archive for people and for programs, and the vocabulary as a file."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from iap_node.audit.vocabulary import parse_vocabulary
from iap_node.cli import app
from iap_node.database.engine import Database
from iap_node.database.protocols import save_protocol
from iap_node.database.tables import PatientRow, SeriesRow, StudyRow
from iap_node.records import SeriesState
from tests.unit.audit.past_series import FIRST, PROTOCOL, stated


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Path:
    """A node whose archive holds one protocol with a variant, and a hostile one."""
    root = tmp_path_factory.mktemp("node")
    shutil.copyfile(migrated_sqlite, root / "node.sqlite")
    path = root / "config.yaml"
    path.write_text("data_dir: .\n", encoding="utf-8")
    database = Database(f"sqlite:///{root / 'node.sqlite'}")
    with database.transaction() as session:
        patient = PatientRow(patient_hash="c0ffee", received_at=FIRST)
        session.add(patient)
        session.flush()
        for n in range(8):
            at = FIRST + timedelta(days=20 * n)
            own = stated(
                EchoTime="3.69" if n in (2, 5) else "2.46",
                ManufacturerModelName="TrioTim" if n % 2 else "Trio",
                ScanOptions="PFP\\FS" if n else "FS\\PFP",
            )
            if n == 7:
                own = stated("[red]\x1b[31m<b>\\fl\\m", SequenceVariant="=1+1")
            study = StudyRow(patient_id=patient.id, study_instance_uid=f"1.2.{n}", study_date="", received_at=at)
            session.add(study)
            session.flush()
            values = dict(own.values)
            series = SeriesRow(
                study_id=study.id, series_instance_uid=f"1.2.{n}.1", modality="MR", series_description="",
                protocol_name="", body_part_examined="", manufacturer="SIEMENS",
                manufacturer_model_name=values["ManufacturerModelName"], device_serial_number="45001",
                software_versions="", calling_ae_title="", revision=1, state=SeriesState.JUDGED,
                first_received_at=at, last_received_at=at,
            )  # fmt: skip
            session.add(series)
            session.flush()
            save_protocol(session, series.id, 1, own, at)
    database.dispose()
    return path


def run(config: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["protocols", *arguments, "--config", str(config)])
    assert result.exit_code == 0, result.output
    return result.output


def test_groups_are_listed_with_what_differs(config: Path) -> None:
    text = run(config, "t1_fl3d")
    dominant, variant = (line for line in text.splitlines() if "dominant" in line or "variant" in line)
    assert "SIEMENS Trio" in dominant
    assert "syngo MR E11" in dominant
    assert "EchoTime 3.69 (usually 2.46)" in variant
    assert "2026-04" in variant


def test_hostile_names_are_harmless_on_the_terminal(config: Path) -> None:
    text = run(config)
    assert "\x1b" not in text
    assert "[red]?[31m<b>" in text


def test_programs_get_all_groups_with_their_series(config: Path) -> None:
    (found,) = json.loads(run(config, "--json", "--variants"))
    assert (found["protocol"], found["n_series"], found["model"]) == (PROTOCOL, 7, "Trio")
    assert [(one["rank"], one["n_series"], one["n_studies"]) for one in found["groups"]] == [(1, 5, 5), (2, 2, 2)]
    assert found["groups"][1]["differences"] == [{"element": "EchoTime", "usual": "2.46", "here": "3.69"}]
    assert found["groups"][1]["series"] == ["1.2.5/1.2.5.1", "1.2.2/1.2.2.1"]


def test_the_vocabulary_is_printed_as_a_file_that_can_be_pinned(config: Path, tmp_path: Path) -> None:
    text = run(config, "--vocabulary")
    assert "Trio:" in text
    words = parse_vocabulary(yaml.safe_load(text))
    assert words.model("TrioTim") == words.model("Trio")
    assert words.options("FS\\PFP") == "PFP\\FS"


def test_an_archive_without_protocols_says_so(tmp_path: Path, migrated_sqlite: Path) -> None:
    shutil.copyfile(migrated_sqlite, tmp_path / "node.sqlite")
    path = tmp_path / "config.yaml"
    path.write_text("data_dir: .\n", encoding="utf-8")
    assert "no series of a named protocol was judged yet" in run(path)
    assert run(path, "--vocabulary") == "{}\n"
    assert json.loads(run(path, "--json")) == []
