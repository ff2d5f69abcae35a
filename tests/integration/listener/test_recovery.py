"""What a crash leaves, and the next start. The crash itself is made by hand; processes are killed in the
acceptance tests."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from iap_node.database.engine import Database
from iap_node.database.tables import ConflictRow, InstanceRow
from iap_node.dicom.part10 import file_preamble
from iap_node.listener.intake import Intake
from iap_node.listener.reception import Request
from iap_node.listener.recovery import Recovered, recover
from iap_node.records import StoreOutcome
from iap_node.spool import PREAMBLE_BYTES, Facts, Spool, content_checksum
from tests.integration.listener.conftest import KEY, encode, lying_in, make_instance, split_part10
from tests.spooled import write_file


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.fixture
def intake(spool: Spool, database: Database) -> Intake:
    return Intake(spool, database, KEY)


def leave_without_row(spool: Spool, ds: pydicom.Dataset) -> str:
    """As if the machine had stopped between the rename and the commit."""
    preamble = file_preamble(ds.SOPClassUID, ds.SOPInstanceUID, ExplicitVRLittleEndian, "SCANNER")
    spool_path = spool.new_name(ds.SeriesInstanceUID, ds.SOPInstanceUID)
    write_file(spool, spool_path, [preamble, encode(ds)])
    make_old(spool.path(spool_path))
    return spool_path


def make_old(path: Path) -> None:
    os.utime(path, (1_600_000_000, 1_600_000_000))


def file(intake: Intake, ds: pydicom.Dataset) -> StoreOutcome:
    request = Request(ds.SOPClassUID, ds.SOPInstanceUID, ExplicitVRLittleEndian, "SCANNER", "127.0.0.1")
    return intake.file(encode(ds), request)


def rows(database: Database, table: type) -> list[tuple[str, ...]]:
    with database.reading() as session:
        return [(row.spool_path, row.calling_ae_title) for row in session.query(table)]


def test_complete_file_without_row_is_filed(spool: Spool, database: Database, intake: Intake) -> None:
    ds = make_instance()
    spool_path = leave_without_row(spool, ds)
    assert recover(spool, database, intake) == Recovered(torn=0, filed=1, unreadable=0)
    assert rows(database, InstanceRow) == [(spool_path, "SCANNER")]
    assert file(intake, ds) is StoreOutcome.DUPLICATE  # the sender, which was never told, tries again
    assert split_part10(spool.path(spool_path).read_bytes()) == (ExplicitVRLittleEndian, encode(ds))


def test_file_without_row_whose_instance_came_again_is_removed(
    spool: Spool, database: Database, intake: Intake
) -> None:
    ds = make_instance()
    orphan = leave_without_row(spool, ds)
    assert file(intake, ds) is StoreOutcome.STORED
    recover(spool, database, intake)
    assert not spool.path(orphan).exists()
    ((kept, _),) = rows(database, InstanceRow)
    assert spool.exists(kept)


def test_filed_instances_and_conflicts_are_left_alone(
    spool: Spool, database: Database, intake: Intake
) -> None:
    ds = make_instance()
    assert file(intake, ds) is StoreOutcome.STORED
    ds.EchoTime = "2.5"
    assert file(intake, ds) is StoreOutcome.CONFLICT
    before = lying_in(spool)
    assert recover(spool, database, intake) == Recovered(torn=0, filed=0, unreadable=0)
    assert lying_in(spool) == before
    assert len(rows(database, ConflictRow)) == 1


def test_everything_is_filed_again_when_the_database_was_lost(
    spool: Spool, database: Database, intake: Intake
) -> None:
    instances = [make_instance(InstanceNumber=number) for number in range(1, 6)]
    for ds in instances:
        leave_without_row(spool, ds)
    assert recover(spool, database, intake).filed == 5
    assert len(rows(database, InstanceRow)) == 5
    assert all(file(intake, ds) is StoreOutcome.DUPLICATE for ds in instances)


def test_torn_files_are_removed_and_those_being_written_are_not(
    spool: Spool, database: Database, intake: Intake
) -> None:
    leave_without_row(spool, make_instance())
    torn, being_written = spool.root / "incoming" / "a.part", spool.root / "incoming" / "b.part"
    torn.write_bytes(b"half")
    make_old(torn)
    being_written.write_bytes(b"half")
    assert recover(spool, database, intake).torn == 1
    assert not torn.exists()
    assert being_written.exists()


def test_young_file_may_be_another_process_at_work_and_is_left(
    spool: Spool, database: Database, intake: Intake
) -> None:
    spool_path = leave_without_row(spool, make_instance())
    os.utime(spool.path(spool_path))
    assert recover(spool, database, intake).filed == 0
    make_old(spool.path(spool_path))
    assert recover(spool, database, intake).filed == 1  # the next start looks there again


def test_only_series_that_changed_are_looked_through(
    spool: Spool, database: Database, intake: Intake
) -> None:
    spool_path = leave_without_row(spool, make_instance())
    make_old(spool.path(spool_path).parent)
    spool.note_looked_through(1_700_000_000)
    assert recover(spool, database, intake).filed == 0


def test_rows_that_a_crash_left_to_recovery_are_written_in_the_order_in_which_instances_came(
    spool: Spool, database: Database, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter(("ffffffffffffffff", "0000000000000000"))  # the later segment is the first by name
    monkeypatch.setattr(secrets, "token_hex", lambda _: next(ids))
    ds = make_instance()
    first, second = (spool.begin(head_of(ds)) for _ in range(2))
    kept = []
    for minute, instance in enumerate((first, second)):
        ds.EchoTime = f"2.{minute}"
        instance.write(encode(ds))
        checksum = content_checksum(ExplicitVRLittleEndian)
        checksum.update(encode(ds))
        facts = Facts(datetime(2024, 1, 1, 12, minute, tzinfo=UTC), "127.0.0.1", checksum.digest())
        uids = {"series_instance_uid": ds.SeriesInstanceUID, "sop_instance_uid": ds.SOPInstanceUID}
        kept.append(spool.keep(instance, facts, **uids))
    end_process(spool)
    assert recover(Spool(spool.root), database, intake).filed == 2
    assert [path for path, _ in rows(database, InstanceRow)] == kept[:1]
    assert [path for path, _ in rows(database, ConflictRow)] == kept[1:]


def test_record_that_a_power_cut_tore_between_whole_ones_is_erased(
    spool: Spool, database: Database, intake: Intake
) -> None:
    kept = []
    for ds in (make_instance(), make_instance()):
        instance = spool.begin(head_of(ds))
        instance.write(encode(ds))
        checksum = content_checksum(ExplicitVRLittleEndian)
        checksum.update(encode(ds))
        facts = Facts(datetime(2024, 1, 1, tzinfo=UTC), "127.0.0.1", checksum.digest())
        uids = {"series_instance_uid": ds.SeriesInstanceUID, "sop_instance_uid": ds.SOPInstanceUID}
        kept.append(spool.keep(instance, facts, **uids))
    (segment,) = spool.segments()
    with segment.open("r+b") as file:
        file.seek(700)  # the pixels of the first one
        file.write(b"torn")
    end_process(spool)
    assert recover(Spool(spool.root), database, intake).filed == 1
    assert [name for name, _ in spool.records(segment, verify=False)] == kept[1:]


def head_of(ds: pydicom.Dataset) -> bytes:
    """DICM and file meta."""
    return file_preamble(ds.SOPClassUID, ds.SOPInstanceUID, ExplicitVRLittleEndian, "SCANNER")[PREAMBLE_BYTES:]


def end_process(spool: Spool) -> None:
    """As if the process had ended: its locks go."""
    for lane in spool._lanes._in_use.values():
        os.close(lane.handle)


def test_unreadable_file_is_reported_and_left(spool: Spool, database: Database, intake: Intake) -> None:
    spool_path = spool.new_name("1.2.3", "1.2.3.4")
    write_file(spool, spool_path, [b"not DICOM at all"])
    make_old(spool.path(spool_path))
    assert recover(spool, database, intake) == Recovered(torn=0, filed=0, unreadable=1)
    assert spool.path(spool_path).exists()
