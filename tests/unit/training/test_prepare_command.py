"""`iap-train prepare`: what it prints, and what it refuses."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import typer
from typer.testing import CliRunner

from training.cli import app, prepare
from training.manifest import SHARES


def test_a_folder_becomes_a_data_set_and_says_what_was_dropped(tmp_path, make_series):
    for number in range(3):
        make_series(tmp_path / "dicom", number)
    (tmp_path / "dicom" / "notes.txt").write_text("no instance")
    command = ["prepare", str(tmp_path / "data"), "--folder", str(tmp_path / "dicom"), "--recipe", "small"]
    command += ["--processes", "1", "--slices", "2", "--images", "real MR of a test"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "Data set of real MR of a test" in done.output
    assert "1 files not read" in done.output
    assert "too few: conformal" in done.output
    assert (tmp_path / "patient.key").stat().st_mode & 0o077 == 0
    again = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(again.stdout)["series"] == json.loads((tmp_path / "data" / "summary.json").read_text())["series"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "name one of"),
        (["--folder", "a", "--duke"], "name one of"),
        (["--folder", "a", "--since", "30d"], "of --archive"),
        (["--folder", "a", "--share", "training=1"], "each split once"),
    ],
)
def test_wrong_options_are_refused_with_what_is_right(tmp_path, options, says):
    done = CliRunner().invoke(app, ["prepare", str(tmp_path), *options])
    assert done.exit_code == 2
    assert says in " ".join(done.output.replace("│", " ").split())


def test_since_is_an_age_or_a_date():
    ago = datetime.now(UTC) - prepare.since("30d")
    assert abs(ago - timedelta(days=30)) < timedelta(minutes=1)
    assert prepare.since("2026-01-31T00:00:00+00:00") == datetime(2026, 1, 31, tzinfo=UTC)
    assert prepare.since("2026-01-31").tzinfo is not None
    assert prepare.since(None) is None
    with pytest.raises(typer.BadParameter, match="not 'soon'"):
        prepare.since("soon")


def test_shares_name_every_split():
    assert prepare.shares(None) == SHARES
    texts = ["training=0.4", "temperature=0.2", "conformal=0.2", "test=0.2"]
    assert prepare.shares(texts)["training"] == 0.4
    for wrong in (texts[:3], [*texts[:3], "test=half"], ["training"]):
        with pytest.raises(typer.BadParameter, match="each split once"):
            prepare.shares(wrong)
