"""Quarantined instances filed again: after an upgrade, or because a person says which UID to trust."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from iap_node.database.quarantine import QuarantineEntry, all_entries, find_entries, list_entries, record_quarantine
from iap_node.database.tables import ConflictRow, InstanceRow
from iap_node.dicom.part10 import file_preamble
from iap_node.errors import RetriableError, UnreadableInstance
from iap_node.listener.readmission import Readmission, examine, readmit
from iap_node.listener.reception import Request
from iap_node.records import QuarantinedInstance
from iap_node.upkeep.quarantine import discard, put_aside

from .conftest import Node, encode, make_instance

LONG_AGO = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def still(make_node) -> Node:
    """A node whose listener does not run."""
    return make_node(start=False)


def entries(node: Node) -> list[QuarantineEntry]:
    with node.database.reading() as session:
        return list_entries(session)


def file(node: Node, dataset: bytes, sop_class_uid: str, sop_instance_uid: str) -> None:
    request = Request(sop_class_uid, sop_instance_uid, ExplicitVRLittleEndian, "SCANNER", "127.0.0.1")
    node.intake.file(dataset, request)


def refuse(node: Node, dataset: bytes, sop_class_uid: str, sop_instance_uid: str) -> QuarantineEntry:
    with pytest.raises(UnreadableInstance):
        file(node, dataset, sop_class_uid, sop_instance_uid)
    return entries(node)[0]


def quarantine_sound_instance(node: Node, ds) -> QuarantineEntry:
    """A sound instance in the quarantine, as an older version that could not read it left it."""
    uid = str(ds.SOPInstanceUID)
    preamble = file_preamble(str(ds.SOPClassUID), uid, ExplicitVRLittleEndian)
    facts = {
        "reason": "an older version could not read it",
        "sop_instance_uid": uid,
        "calling_ae_title": "SCANNER",
        "source_address": "127.0.0.1",
        "part_10": "yes",
    }
    quarantined = node.spool.new_file()
    quarantined.write(preamble + encode(ds))
    put_aside(node.spool, node.database, quarantined, facts, LONG_AGO)
    return entries(node)[0]


def again(node: Node, entry: QuarantineEntry, trust_data_set: bool = False):
    return readmit(entry, node.intake, node.spool, node.database, trust_data_set=trust_data_set)


def quarantined_files(node: Node) -> list[str]:
    return [str(path) for path in node.files() if path.parts[0] == "quarantine"]


def test_an_instance_that_can_be_read_now_is_filed_and_leaves_the_quarantine(still: Node) -> None:
    ds = make_instance()
    readmitted = again(still, quarantine_sound_instance(still, ds))
    assert (readmitted.outcome, readmitted.sop_instance_uid) == (Readmission.STORED, ds.SOPInstanceUID)
    assert still.stored_dataset(ds.SOPInstanceUID) == (ExplicitVRLittleEndian, encode(ds))
    (row,) = still.rows(InstanceRow)
    assert (row.calling_ae_title, row.source_address) == ("SCANNER", "127.0.0.1")
    assert entries(still) == [] and quarantined_files(still) == []


def test_an_instance_that_came_again_meanwhile_leaves_the_quarantine_as_a_duplicate(still: Node) -> None:
    ds = make_instance()
    entry = quarantine_sound_instance(still, ds)
    file(still, encode(ds), ds.SOPClassUID, ds.SOPInstanceUID)
    assert again(still, entry).outcome is Readmission.DUPLICATE
    assert entries(still) == [] and len(still.rows(InstanceRow)) == 1


def test_an_instance_that_came_again_with_other_bytes_becomes_a_conflict(still: Node) -> None:
    ds = make_instance()
    entry = quarantine_sound_instance(still, ds)
    ds.PatientComments = "changed"
    file(still, encode(ds), ds.SOPClassUID, ds.SOPInstanceUID)
    assert again(still, entry).outcome is Readmission.CONFLICT
    assert entries(still) == [] and len(still.rows(ConflictRow)) == 1


def test_an_instance_that_still_cannot_be_read_stays_as_the_one_entry_it_was(still: Node) -> None:
    broken = encode(make_instance(SeriesInstanceUID=None))
    entry = refuse(still, broken, "1.2.840.10008.5.1.4.1.1.4", "1.2.3.4")
    readmitted = again(still, entry, trust_data_set=True)
    assert readmitted.outcome is Readmission.UNREADABLE
    assert "Series Instance UID" in readmitted.reason
    assert entries(still) == [entry] and len(quarantined_files(still)) == 2


def test_a_mismatched_instance_is_filed_under_its_own_uids_only_when_told_so(still: Node) -> None:
    ds = make_instance()
    entry = refuse(still, encode(ds), ds.SOPClassUID, "1.2.3.4.5")
    kept = again(still, entry)
    assert kept.outcome is Readmission.MISMATCHED
    assert "1.2.3.4.5" in kept.reason and ds.SOPInstanceUID in kept.reason and "--trust-data-set" in kept.reason
    assert entries(still) == [entry] and still.rows(InstanceRow) == []
    assert again(still, entry, trust_data_set=True).outcome is Readmission.STORED
    assert still.stored_dataset(ds.SOPInstanceUID) == (ExplicitVRLittleEndian, encode(ds))
    assert entries(still) == []


@pytest.mark.parametrize("claimed", ["../../etc/passwd", "9" * 4000, ""])
def test_bytes_kept_without_a_preamble_because_the_request_had_no_uid_can_be_filed_too(
    still: Node, claimed: str
) -> None:
    ds = make_instance()
    entry = refuse(still, encode(ds), ds.SOPClassUID, claimed)
    assert again(still, entry, trust_data_set=True).outcome is Readmission.STORED
    assert still.stored_dataset(ds.SOPInstanceUID) == (ExplicitVRLittleEndian, encode(ds))


def test_looking_at_an_entry_changes_nothing(still: Node) -> None:
    entry = quarantine_sound_instance(still, make_instance())
    before = still.files()
    assert examine(entry, still.spool).obstacle is None
    assert still.files() == before and entries(still) == [entry]


def test_an_entry_without_its_notes_goes_by_its_row(still: Node) -> None:
    ds = make_instance()
    entry = refuse(still, encode(ds), ds.SOPClassUID, "1.2.3.4.5")
    still.spool.path(entry.spool_path).with_suffix(".json").write_text("torn")
    assert again(still, entry).outcome is Readmission.MISMATCHED
    still.spool.path(entry.spool_path).with_suffix(".json").unlink()
    assert again(still, entry, trust_data_set=True).outcome is Readmission.STORED


def test_an_entry_whose_bytes_are_gone_says_so_and_can_be_given_up(still: Node) -> None:
    entry = quarantine_sound_instance(still, make_instance())
    still.spool.path(entry.spool_path).unlink()
    readmitted = again(still, entry)
    assert readmitted.outcome is Readmission.LOST and "delete" in readmitted.reason
    discard(entry, still.spool, still.database)
    discard(entry, still.spool, still.database)  # a second time is no error: a crash may have come in between
    assert entries(still) == [] and quarantined_files(still) == []


def test_a_database_that_goes_away_leaves_the_entry_for_the_next_try(still: Node, monkeypatch) -> None:
    ds = make_instance()
    entry = quarantine_sound_instance(still, ds)

    def away(*_: object, **__: object) -> None:
        raise RetriableError("the database is away")

    with monkeypatch.context() as patched:
        patched.setattr("iap_node.listener.readmission.discard", away)
        with pytest.raises(RetriableError):
            again(still, entry)
    assert entries(still) == [entry]
    assert again(still, entry).outcome is Readmission.DUPLICATE
    assert entries(still) == []


def test_entries_are_walked_oldest_first_in_batches(still: Node, monkeypatch) -> None:
    monkeypatch.setattr("iap_node.database.quarantine.ENTRIES_AT_ONCE", 2)
    with still.database.transaction() as session:
        for number in range(5):
            at = LONG_AGO.replace(day=1 + number)
            record_quarantine(session, QuarantinedInstance(f"quarantine/{number}", "why", "", "A", "", 1, at))
    assert [entry.spool_path for entry in all_entries(still.database)] == [f"quarantine/{n}" for n in range(5)]
    older = list(all_entries(still.database, LONG_AGO.replace(day=3)))
    assert [entry.received_at.day for entry in older] == [1, 2]
    with still.database.reading() as session:
        assert [entry.id for entry in find_entries(session, [older[1].id, 4711])] == [older[1].id]
