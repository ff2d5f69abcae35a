"""`iap-node correct` on an archive with real instances: shown first, then written, the originals untouched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom import dcmread
from sqlalchemy import select, update
from typer.testing import CliRunner

from iap_node.cli import app
from iap_node.config import NodeConfig, load_config
from iap_node.correction import folder
from iap_node.database import archive, corrections, findings
from iap_node.database.engine import Database
from iap_node.database.tables import BytesState, FindingRow, InstanceRow, JobRow
from iap_node.listener.intake import Intake
from iap_node.listener.reception import Request
from iap_node.records import Finding, FindingKind, FindingState, JobKind, JobState, Severity, Witness
from iap_node.spool import PREAMBLE_BYTES, Spool
from tests.unit.correction.conftest import SERIES, Original

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass
class Node:
    """A node's archive, and the command on it."""

    folder: Path
    config: NodeConfig
    database: Database
    spool: Spool

    def run(self, *arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, ["correct", SERIES, "-c", str(self.folder / "config.yaml"), *arguments])
        said = f"{result.output}{result.exception}"
        assert result.exit_code == code, said
        return result

    @property
    def series_id(self) -> int:
        with self.database.reading() as session:
            return archive.find_series(session, SERIES).id

    def accept(self, element: str, value: str, raw: str = "") -> int:
        finding = Finding(element, "a-check", FindingKind.UNIT, Severity.WARNING, "for a test", raw, value)
        series_id = self.series_id
        with self.database.transaction() as session:
            findings.record(session, series_id, 1, [finding], NOW, unheard=list(Witness))
            number = session.scalars(select(FindingRow.id).where(FindingRow.element == element)).one()
            findings.decide(session, number, FindingState.ACCEPTED, "Ada", value=value, now=NOW)
        return number

    def originals(self) -> dict[str, bytes]:
        """What the spool holds, by SOP Instance UID."""
        with self.database.reading() as session:
            instances = archive.current_instances(session, self.series_id)
        found = {}
        for instance in instances:
            with self.spool.locate(instance.spool_path).open("rb") as stream:
                stream.seek(PREAMBLE_BYTES)
                found[instance.sop_instance_uid] = sha256(stream.read()).digest()
        return found


@pytest.fixture
def node(tmp_path: Path, migrated_sqlite: Path, write: Callable[..., Original]) -> Node:
    """A series of three instances in the archive of a node with two destinations."""
    home = tmp_path / "node"
    (home / "var").mkdir(parents=True)
    shutil.copyfile(migrated_sqlite, home / "var" / "node.sqlite")
    peer = {"ae_title": "PEER", "host": "127.0.0.1", "port": 104}
    content = {"destinations": {"research": peer | {"send": "corrected"}, "clinic": peer}}
    (home / "config.yaml").write_text(yaml.safe_dump(content))
    config = load_config(home / "config.yaml")
    made = Node(home, config, Database(config.database_url), Spool(config.spool_dir))
    intake = Intake(made.spool, made.database, b"k" * 32)
    for number in (1, 2, 3):
        original = write(number)
        data = original.file.read_bytes()
        uids = (original.sop_class_uid, original.sop_instance_uid, original.transfer_syntax_uid)
        request = Request(*uids, "SCANNER", "127.0.0.1")
        intake.file(data[144 + int.from_bytes(data[140:144], "little") :], request)
    intake.close()
    return made


def test_a_dry_run_shows_what_would_be_written_and_writes_nothing(node: Node, tmp_path: Path) -> None:
    number = node.accept("RepetitionTime", "2500", raw="2.5")
    out = tmp_path / "out"
    shown = node.run("--dry-run", "--set", "FlipAngle=9", "--out", str(out)).output
    for text in ("(0018,0080)", "RepetitionTime", "2.5", "2500", f"finding {number}", "Ada", "absent", "3 instances"):
        assert text in shown
    listed = json.loads(node.run("--dry-run", "--json").output)
    assert listed["groups"][0]["elements"] == [
        {
            "tag": "00180080", "keyword": "RepetitionTime", "where": "top level", "old": "2.5", "new": "2500",
            "from": f"finding {number} (a-check)", "accepted_by": "Ada",
        }
    ]  # fmt: skip
    assert not out.exists()
    with node.database.reading() as session:
        assert corrections.list_corrections(session, node.series_id) == []
        assert session.scalars(select(FindingRow.state)).one() is FindingState.ACCEPTED


def test_copies_are_written_and_recorded_and_the_originals_stay(node: Node, tmp_path: Path) -> None:
    number = node.accept("RepetitionTime", "2500", raw="2.5")
    before = node.originals()
    out = tmp_path / "out"
    node.run("--out", str(out), "--as", "Grace")
    copies = [dcmread(path) for path in sorted(out.iterdir())]
    assert [ds.RepetitionTime for ds in copies] == [2500] * 3
    assert {ds.OriginalAttributesSequence[0].SourceOfPreviousValues for ds in copies} == {"SCANNER"}
    old = {ds.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].SOPInstanceUID for ds in copies}
    assert old == set(before)
    assert node.originals() == before
    with node.database.reading() as session:
        (noted,) = corrections.list_corrections(session, node.series_id)
        events = findings.finding_events(session, number)
        assert session.scalars(select(FindingRow.state)).one() is FindingState.CORRECTED
    assert (noted.target, noted.n_instances, noted.made_by) == (str(out), 3, "Grace")
    assert noted.series_instance_uid == copies[0].SeriesInstanceUID
    assert [event.who for event in events if event.state is FindingState.CORRECTED] == ["Grace"]

    (listed,) = json.loads(node.run("--list", "--json").output)
    assert listed["series_instance_uid"] == noted.series_instance_uid
    assert listed["elements"] == {"RepetitionTime": "2500"}
    assert "RepetitionTime=2500" in node.run("--list").output
    content = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "3 of them there already" in node.run("--out", str(out)).output
    node.run("--out", str(tmp_path / "elsewhere"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()} == content
    node.run()  # below the data directory
    below = node.config.data_dir / "corrected" / str(copies[0].SeriesInstanceUID)
    assert {path.name: path.read_bytes() for path in below.iterdir()} == content


def test_copies_that_keep_their_uids_take_the_place_of_the_originals(node: Node, tmp_path: Path) -> None:
    node.run("--set", "RepetitionTime=2500", "--keep-uids", "--out", str(tmp_path / "out"))
    assert {path.stem for path in (tmp_path / "out").iterdir()} == set(node.originals())


def test_what_cannot_be_written_is_an_error_and_nothing_is_written(node: Node, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = node.run("--set", "EchoTime=2,5", "--out", str(out), code=1)
    assert "cannot be written into Echo Time" in str(result.exception)
    node.accept("EchoTime", "soon")
    assert "finding 1" in str(node.run("--out", str(out), code=1).exception)
    assert not out.exists()


def test_an_accepted_value_that_no_element_takes_is_told_and_the_rest_written(node: Node, tmp_path: Path) -> None:
    kept = node.accept("FieldOfView", "350")
    node.accept("EchoTime", "21", raw="20")
    shown = node.run("--out", str(tmp_path / "out"))
    assert "not written: FieldOfView of finding 1 (a-check): it is computed" in shown.output
    with node.database.reading() as session:
        states = {row.id: row.state for row in session.scalars(select(FindingRow))}
    assert states.pop(kept) is FindingState.ACCEPTED
    assert set(states.values()) == {FindingState.CORRECTED}


def test_nothing_accepted_and_nothing_to_do_are_told(node: Node) -> None:
    assert "no value is accepted" in node.run().output
    assert "there is nothing to correct" in node.run("--set", "RepetitionTime=2.50").output
    assert not (node.config.data_dir / "corrected").exists()


def test_originals_whose_bytes_are_gone_are_a_clear_error(node: Node, tmp_path: Path) -> None:
    with node.database.transaction() as session:
        one = select(InstanceRow.id).limit(1).scalar_subquery()
        session.execute(update(InstanceRow).where(InstanceRow.id == one).values(bytes_state=BytesState.DELETED))
    result = node.run("--set", "RepetitionTime=2500", "--out", str(tmp_path / "out"), code=1)
    assert f"the bytes of 1 instances of series {SERIES} are gone" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_copies_of_originals_that_go_meanwhile_are_removed_again(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = node.accept("RepetitionTime", "2500", raw="2.5")
    write_all = folder.write_copies

    def and_retention_comes(copies: Any, out: Path) -> Any:
        yield from write_all(copies, out)
        with node.database.transaction() as session:
            first = select(InstanceRow.id).order_by(InstanceRow.id).limit(1).scalar_subquery()
            session.execute(update(InstanceRow).where(InstanceRow.id == first).values(bytes_state=BytesState.DELETING))

    monkeypatch.setattr(folder, "write_copies", and_retention_comes)
    result = node.run("--out", str(tmp_path / "out"), code=1)
    assert "1 instances went while they were copied" in str(result.exception)
    assert len(list((tmp_path / "out").iterdir())) == 2
    with node.database.reading() as session:
        assert session.get_one(FindingRow, number).state is FindingState.ACCEPTED


def test_sending_opens_a_delivery_of_accepted_values_alone(node: Node) -> None:
    node.accept("EchoTime", "21", raw="20")
    assert "not judged yet" in str(node.run("--send", "research", code=1).exception)
    with node.database.transaction() as session:
        session.execute(update(archive.SeriesRow).values(judged_revision=1))
    assert "takes originals" in str(node.run("--send", "clinic", code=1).exception)
    assert "no destination" in str(node.run("--send", "nowhere", code=1).exception)
    node.run("--send", "research", "--set", "FlipAngle=9", code=2)
    node.run("--send", "research")
    with node.database.reading() as session:
        job = session.scalars(select(JobRow)).one()
    assert (job.kind, job.destination, job.state) == (JobKind.DELIVER, "research", JobState.READY)


def test_an_unknown_series_has_its_own_exit_code(node: Node) -> None:
    result = CliRunner().invoke(app, ["correct", "9.9.9", "-c", str(node.folder / "config.yaml")])
    assert result.exit_code == 4
