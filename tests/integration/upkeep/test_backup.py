"""A node that is receiving, backed up and restored: every row with its bytes, on both databases."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from iap_node.cli import app
from iap_node.config import NodeConfig, parse_config
from iap_node.database import models
from iap_node.database.dump import ProgramAbsent, count_rows
from iap_node.database.engine import Database
from iap_node.database.tables import InstanceRow
from iap_node.errors import PermanentError
from iap_node.listener.recovery import checksum_of
from iap_node.spool import MAX_RECORD_BYTES, Spool
from iap_node.upkeep import spool_copy
from iap_node.upkeep.backup import MANIFEST, UNFINISHED, Manifest, back_up, read_manifest
from iap_node.upkeep.fsck import check
from iap_node.upkeep.restore import restore

from .conftest import NOW, Archive

LARGE = {"PixelData": bytes(MAX_RECORD_BYTES)}  # a file of its own


def config_of(archive: Archive, folder: Path, url: str | None = None) -> NodeConfig:
    (folder / "patient.key").write_bytes(b"k" * 32)
    (folder / "config.yaml").write_text("{}\n")
    url = url or archive.database.engine.url.render_as_string(hide_password=False)
    return parse_config({"data_dir": ".", "database": {"url": url}}, folder)


def take(archive: Archive, folder: Path, *, with_spool: bool = True) -> Manifest:
    target = folder.parent / f"{folder.name}-backup"
    config = config_of(archive, folder)
    return back_up(config, folder / "config.yaml", archive.database, target, NOW, with_spool=with_spool)


def bring_back(folder: Path, url: str | None = None) -> tuple[Database, Spool]:
    backup, data = folder.parent / f"{folder.name}-backup", folder.parent / f"{folder.name}-again"
    config = parse_config({"data_dir": data, "database": {"url": url}}, folder)
    restored = restore(config, backup / "config.yaml", backup)
    assert restored.spool is not None and restored.spool.is_whole
    assert (data / "patient.key").stat().st_mode & 0o777 == 0o600
    return Database(config.database_url), Spool(config.spool_dir)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path


def test_a_node_that_is_receiving_comes_back_with_every_row_and_its_bytes(
    make_archive: Callable[[], Archive], data: Path, request: pytest.FixtureRequest
) -> None:
    archive = make_archive()
    archive.receive(1, 1)
    archive.receive(1, 2, **LARGE)
    archive.receive(1, 1, comment="other bytes")  # a conflict
    archive.refuse()
    archive.judge(1, "lesions")
    archive.intake.flush(30)
    stop, n_sent = threading.Event(), [0]

    def send() -> None:
        while not stop.is_set() and n_sent[0] < 200:
            archive.receive(2, n_sent[0])
            n_sent[0] += 1

    sender = threading.Thread(target=send)
    sender.start()
    try:
        manifest = take(archive, data)
    finally:
        stop.set()
        sender.join()
    assert manifest.rows["instance"] >= 2 and manifest.rows["conflict"] == manifest.rows["quarantine"] == 1
    assert manifest.spool is not None and manifest.spool["is_whole"]
    url = None if archive.database.is_sqlite else request.getfixturevalue("postgresql").create_database()
    database, spool = bring_back(data, url)
    with database.reading() as session:
        assert count_rows(session.connection()) == manifest.rows
        (large,) = session.scalars(select(InstanceRow).where(InstanceRow.size_bytes > MAX_RECORD_BYTES))
    assert archive.spool.path(large.spool_path).read_bytes() == spool.path(large.spool_path).read_bytes()
    summary = check(spool, database, lambda path: checksum_of(spool, path), deep=True, settled_after_s=-60.0)
    database.dispose()
    # of PostgreSQL the spool is copied by the rows of now: what came since has bytes, and no row
    assert summary.rows == sum(manifest.rows[table] for table in ("instance", "conflict", "quarantine"))
    assert summary.is_well or not archive.database.is_sqlite


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
class TestOfFiles:
    """What does not depend on the database."""

    def test_the_packages_of_registered_models_come_back_and_no_others(
        self, make_archive: Callable[[], Archive], data: Path
    ) -> None:
        archive = make_archive()
        for name in ("site-1-aaaaaaaa", "site-2-bbbbbbbb", "nobodys"):
            (data / "models" / name).mkdir(parents=True)
            (data / "models" / name / "model.json").write_text(name)
        with archive.database.transaction() as session:
            for name in ("site-1-aaaaaaaa", "site-2-bbbbbbbb", "gone-1-cccccccc"):
                models.register_candidate(
                    session, {}, name, f"models/{name}", None, {}, NOW, manifest_sha256="0" * 64, who="eve"
                )
        manifest = take(archive, data)
        assert {"models/site-1-aaaaaaaa/model.json", "models/site-2-bbbbbbbb/model.json"} < set(manifest.files)
        take(archive, data)  # once more, over itself
        again = data.parent / f"{data.name}-again" / "models"
        (again / "site-1-aaaaaaaa").mkdir(parents=True)  # they may be left there
        (again / "site-1-aaaaaaaa" / "model.json").write_text("damaged")
        bring_back(data)[0].dispose()
        assert {path.name: (path / "model.json").read_text() for path in again.iterdir()} == {
            name: name for name in ("site-1-aaaaaaaa", "site-2-bbbbbbbb")
        }
        (data.parent / f"{data.name}-backup" / "models/site-1-aaaaaaaa/model.json").write_text("other")
        shutil.rmtree(again.parent)
        with pytest.raises(PermanentError, match=r"model\.json"):
            bring_back(data)

    def test_a_backup_that_was_cut_off_goes_on_and_copies_nothing_twice(
        self, make_archive: Callable[[], Archive], data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        archive = make_archive()
        for number in range(1, 8):
            archive.receive(1, number)
        archive.receive(1, 8, **LARGE)
        archive.intake.flush(30)
        monkeypatch.setattr(spool_copy, "ROWS_AT_ONCE", 3)

        def cut_off(copied: spool_copy.Copied) -> None:
            if copied.instances:
                raise KeyboardInterrupt

        config, target = config_of(archive, data), data.parent / f"{data.name}-backup"
        with pytest.raises(KeyboardInterrupt):
            back_up(
                config, data / "config.yaml", archive.database, target, NOW, with_spool=True, progress=cut_off
            )
        assert (target / UNFINISHED).exists()
        with pytest.raises(PermanentError, match="is not finished"):
            read_manifest(target)
        spool = take(archive, data).spool
        assert spool is not None and (spool["instances"], spool["copied"]) == (8, 5)
        again = take(archive, data)
        assert again.spool is not None and (again.spool["instances"], again.spool["copied"]) == (8, 0)
        archive.receive(1, 9)
        archive.intake.flush(30)
        with pytest.raises(KeyboardInterrupt):
            back_up(
                config, data / "config.yaml", archive.database, target, NOW, with_spool=True, progress=cut_off
            )
        assert read_manifest(target) == again  # whole as before
        bring_back(data)[0].dispose()

    def test_damaged_and_missing_bytes_are_named_and_not_copied(
        self, make_archive: Callable[[], Archive], data: Path
    ) -> None:
        archive = make_archive()
        for number in (1, 2, 3):
            archive.receive(1, number, **(LARGE if number < 3 else {}))
        archive.intake.flush(30)
        damaged, missing = (archive.row(1, number).spool_path for number in (1, 2))
        content = archive.spool.path(damaged).read_bytes()
        archive.spool.path(damaged).write_bytes(content[:-1] + b"\1")
        archive.spool.path(missing).unlink()
        spool = take(archive, data).spool
        assert spool is not None and not spool["is_whole"]
        assert (spool["damaged"], spool["missing"], spool["instances"]) == (1, 1, 1)
        assert sorted(spool["named"]) == sorted([damaged, missing])
        assert not Spool(data.parent / f"{data.name}-backup" / "spool").exists(damaged)

    def test_nothing_is_restored_over_anything_nor_from_a_damaged_or_newer_backup(
        self, make_archive: Callable[[], Archive], data: Path
    ) -> None:
        archive = make_archive()
        archive.receive(1)
        archive.intake.flush(30)
        manifest = take(archive, data)
        backup, again = data.parent / f"{data.name}-backup", data.parent / f"{data.name}-again"
        config = parse_config({"data_dir": again}, data)

        def refusal() -> str:
            with pytest.raises(PermanentError) as error:
                restore(config, backup / "config.yaml", backup)
            return str(error.value)

        again.mkdir()
        (again / "node.sqlite").touch()
        assert "is not empty (node.sqlite)" in refusal()
        (again / "node.sqlite").unlink()
        (backup / MANIFEST).write_text(json.dumps(asdict(replace(manifest, schema="9999"))))
        assert "install that version" in refusal()
        (backup / MANIFEST).write_text(json.dumps(asdict(manifest)))
        with (backup / "node.sqlite").open("r+b") as stream:
            stream.seek(5000)
            stream.write(b"\xff")
        assert "is damaged" in refusal()
        assert list(again.iterdir()) == []

    def test_the_commands_back_up_and_restore_a_node_with_its_configuration(
        self, make_archive: Callable[[], Archive], data: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        archive = make_archive()
        archive.receive(1)
        archive.intake.flush(30)
        (data / "patient.key").write_bytes(b"k" * 32)
        (data / "config.yaml").write_text("data_dir: .\nlog: {level: error}\n")
        other = tmp_path_factory.mktemp("other")
        run = CliRunner()
        done = run.invoke(app, ["backup", str(other / "backup"), "--spool", "-c", str(data / "config.yaml")])
        assert done.exit_code == 0, done.output
        inside = run.invoke(app, ["backup", str(data / "here"), "-c", str(data / "config.yaml")])
        assert isinstance(inside.exception, PermanentError)
        text = (other / "backup" / "config.yaml").read_text()
        (other / "config.yaml").write_text(text.replace("data_dir: .", "data_dir: var"))
        done = run.invoke(app, ["restore", str(other / "backup"), "-c", str(other / "config.yaml")])
        assert done.exit_code == 0, done.output
        assert "rows and bytes agree" in done.output
        assert (other / "var" / "patient.key").read_bytes() == b"k" * 32
        shutil.rmtree(other)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_where_pg_dump_is_not_installed_the_error_says_what_to_run(
    make_archive: Callable[[], Archive], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_archive()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ProgramAbsent, match="pg_dump --format=custom"):
        take(archive, data)
