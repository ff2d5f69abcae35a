"""What is received is filed to the bit, over real sockets. Not covered: power cuts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from iap_node.database.quarantine import list_entries
from iap_node.database.tables import ConflictRow, InstanceRow, JobRow, PatientRow, QuarantineRow
from iap_node.dicom.sop_classes import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES
from tests.integration.listener.conftest import Node, Sender, encode, make_instance, split_part10, wait_for

PRIVATE_SOP_CLASS = "1.2.840.113619.4.26"
PRIVATE_TRANSFER_SYNTAX = "1.2.840.113619.5.99"
DEFLATED = "1.2.840.10008.1.2.1.99"


def one_of_each_transfer_syntax(mr_real: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(mr_real.rglob("*.dcm")):
        with path.open("rb") as stream:
            syntax, _ = split_part10(stream.read(4096))
        if syntax not in found or path.stat().st_size < found[syntax].stat().st_size:
            found[syntax] = path
    return found


def test_every_transfer_syntax_of_the_real_corpus_is_filed_to_the_bit(
    node: Node, connect: Callable[..., Sender], mr_real: Path
) -> None:
    files = one_of_each_transfer_syntax(mr_real)
    assert len(files) >= 7
    sent = {}
    for syntax, path in files.items():
        _, dataset = split_part10(path.read_bytes())
        ds = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        sender = connect(node.port, [(ds.SOPClassUID, syntax)])
        assert sender.store(dataset, ds.SOPInstanceUID, ds.SOPClassUID, syntax).Status == 0x0000
        sender.assoc.release()
        sent[str(ds.SOPInstanceUID)] = (syntax, dataset)
    for sop_instance_uid, as_sent in sent.items():
        assert node.stored_dataset(sop_instance_uid) == as_sent


def test_filed_instance_is_a_part_10_file_that_pydicom_reads(
    node: Node, connect: Callable[..., Sender]
) -> None:
    ds = make_instance()
    assert connect(node.port).store_instance(ds).Status == 0x0000
    (row,) = node.rows(InstanceRow)
    read = pydicom.dcmread(BytesIO(node.content(row.spool_path)))
    assert read == ds
    assert read.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert read.file_meta.MediaStorageSOPClassUID == MRImageStorage
    assert read.file_meta.SourceApplicationEntityTitle == "SCANNER"
    assert row.size_bytes == len(node.content(row.spool_path))
    assert (row.calling_ae_title, row.source_address) == ("SCANNER", "127.0.0.1")
    assert row.not_analysed_reason is None


def test_file_names_logs_and_rows_show_no_patient(
    node: Node, connect: Callable[..., Sender], capsys: pytest.CaptureFixture[str]
) -> None:
    sender = connect(node.port)
    assert sender.store_instance(make_instance()).Status == 0x0000
    assert sender.store_instance(make_instance(StudyInstanceUID=None)).Status == 0xC000
    sender.assoc.release()
    wait_for(lambda: node.scp.open_associations == 0, "the end of the association")
    shown = "".join(capsys.readouterr()) + " ".join(map(str, node.files()))
    shown += " ".join(
        str(vars(row)) for table in (InstanceRow, PatientRow, QuarantineRow) for row in node.rows(table)
    )
    shown += " ".join(path.read_text() for path in node.spool.root.rglob("*.json"))
    assert "association established" in shown
    assert "SECRET" not in shown.upper()


def test_every_storage_sop_class_and_transfer_syntax_is_accepted(
    node: Node, connect: Callable[..., Sender]
) -> None:
    pairs = [(sop_class, TRANSFER_SYNTAXES[0]) for sop_class in STORAGE_SOP_CLASSES]
    pairs += [(MRImageStorage, syntax) for syntax in TRANSFER_SYNTAXES]
    pairs += [(PRIVATE_SOP_CLASS, ExplicitVRLittleEndian), (MRImageStorage, PRIVATE_TRANSFER_SYNTAX)]
    for start in range(0, len(pairs), 128):  # an A-ASSOCIATE-RQ has room for 128 presentation contexts
        sender = connect(node.port, pairs[start : start + 128])
        accepted = [(cx.abstract_syntax, cx.transfer_syntax[0]) for cx in sender.assoc.accepted_contexts]
        assert accepted == pairs[start : start + 128]
        sender.assoc.release()


def test_service_that_is_no_storage_is_refused_and_storage_beside_it_works(
    node: Node, connect: Callable[..., Sender]
) -> None:
    move = "1.2.840.10008.5.1.4.1.2.2.2"
    sender = connect(node.port, [(move, ExplicitVRLittleEndian), (MRImageStorage, ExplicitVRLittleEndian)])
    assert [cx.abstract_syntax for cx in sender.assoc.rejected_contexts] == [move]
    assert sender.store_instance(make_instance()).Status == 0x0000


@pytest.mark.parametrize(
    ("sop_class_uid", "transfer_syntax_uid"),
    [
        (PRIVATE_SOP_CLASS, ExplicitVRLittleEndian),
        (MRImageStorage, PRIVATE_TRANSFER_SYNTAX),
        ("1.2.840.10008.5.1.4.1.1.88.22", ExplicitVRLittleEndian),  # Enhanced SR
        ("1.2.840.10008.5.1.4.1.1.104.1", ExplicitVRLittleEndian),  # Encapsulated PDF
        ("1.2.840.10008.5.1.4.1.1.2", ExplicitVRLittleEndian),  # CT
        ("1.2.840.10008.5.1.4.1.1.5", ExplicitVRLittleEndian),  # Nuclear Medicine, retired
    ],
)
def test_what_the_model_cannot_read_is_kept_with_its_reason(
    node: Node, connect: Callable[..., Sender], sop_class_uid: str, transfer_syntax_uid: str
) -> None:
    sender = connect(node.port, [(sop_class_uid, transfer_syntax_uid)])
    ds = make_instance(SOPClassUID=sop_class_uid)
    dataset = encode(ds)
    status = sender.store(dataset, ds.SOPInstanceUID, sop_class_uid, transfer_syntax_uid)
    assert status.Status == 0x0000
    assert node.stored_dataset(ds.SOPInstanceUID) == (transfer_syntax_uid, dataset)
    (row,) = node.rows(InstanceRow)
    assert (row.not_analysed_reason is None) == (sop_class_uid == MRImageStorage)


def test_identical_instance_sent_again_changes_nothing(node: Node, connect: Callable[..., Sender]) -> None:
    ds = make_instance()
    sender = connect(node.port)
    assert sender.store_instance(ds).Status == 0x0000
    before, files = vars(node.rows(InstanceRow)[0]), node.files()
    assert sender.store_instance(ds).Status == 0x0000
    other = connect(node.port, calling_ae_title="PACS")
    assert other.store_instance(ds).Status == 0x0000
    after = vars(node.rows(InstanceRow)[0])
    assert {k: v for k, v in after.items() if k[0] != "_"} == {k: v for k, v in before.items() if k[0] != "_"}
    assert node.files() == files
    assert len(node.rows(InstanceRow)) == 1


def test_other_bytes_under_the_same_uid_are_kept_aside_and_overwrite_nothing(
    node: Node, connect: Callable[..., Sender]
) -> None:
    ds = make_instance()
    sender = connect(node.port)
    assert sender.store_instance(ds).Status == 0x0000
    original = node.stored_dataset(ds.SOPInstanceUID)
    ds.EchoTime = "2.5"
    for _ in range(3):  # the conflict is kept once, however often it comes
        assert sender.store_instance(ds).Status == 0x0000
    assert node.stored_dataset(ds.SOPInstanceUID) == original
    (conflict,) = node.rows(ConflictRow)
    assert split_part10(node.content(conflict.spool_path)) == (
        ExplicitVRLittleEndian,
        encode(ds),
    )
    assert len(node.files()) == 2


def test_archived_file_that_got_lost_is_restored_when_its_instance_comes_again(
    node: Node, connect: Callable[..., Sender]
) -> None:
    ds = make_instance()
    sender = connect(node.port)
    assert sender.store_instance(ds).Status == 0x0000
    (lost,) = node.files()
    node.spool.remove(str(lost))
    assert node.files() == []
    assert sender.store_instance(ds).Status == 0x0000
    assert len(node.files()) == 1
    assert node.stored_dataset(ds.SOPInstanceUID) == (ExplicitVRLittleEndian, encode(ds))


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        (b"\x08\x00", ""),
        (os.urandom(2048), ""),
        (encode(make_instance())[:60], "is absent"),
        (encode(make_instance(SeriesInstanceUID=None)), "Series Instance UID"),
    ],
    ids=["two bytes", "noise", "cut short", "without series"],
)
def test_broken_instance_is_quarantined_with_its_reason_and_the_association_goes_on(
    node: Node, connect: Callable[..., Sender], dataset: bytes, says: str
) -> None:
    sender = connect(node.port)
    broken_uid = generate_uid()
    status = sender.store(dataset, broken_uid)
    assert status.Status == 0xC000
    assert status.ErrorComment.startswith("Quarantined: ")
    assert len(status.ErrorComment) <= 64
    sound = make_instance()
    assert sender.store_instance(sound).Status == 0x0000
    with node.database.reading() as session:
        (quarantined,) = list_entries(session)
    assert quarantined.sop_instance_uid == broken_uid
    assert says in quarantined.reason
    path = node.spool.path(quarantined.spool_path)
    assert split_part10(path.read_bytes()) == (ExplicitVRLittleEndian, dataset)
    assert json.loads(path.with_suffix(".json").read_text())["reason"] == quarantined.reason
    assert [row.sop_instance_uid for row in node.rows(InstanceRow)] == [sound.SOPInstanceUID]


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SOPClassUID"])
def test_data_set_that_is_not_what_the_request_says_is_quarantined(
    node: Node, connect: Callable[..., Sender], keyword: str
) -> None:
    ds = make_instance()
    said = {"sop_instance_uid": str(ds.SOPInstanceUID)}
    setattr(ds, keyword, "1.2.840.10008.5.1.4.1.1.2" if keyword == "SOPClassUID" else "1.2.3.4.5")
    sender = connect(node.port)
    status = sender.store(encode(ds), **said)
    assert status.Status == 0xA900
    assert "differ" in status.ErrorComment
    assert len(status.ErrorComment) <= 64
    assert len(node.rows(QuarantineRow)) == 1
    assert node.rows(InstanceRow) == []


def test_deflated_data_set_is_filed_as_it_came(node: Node, connect: Callable[..., Sender]) -> None:
    import zlib

    ds = make_instance()
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    dataset = deflater.compress(encode(ds)) + deflater.flush()
    sender = connect(node.port, [(MRImageStorage, DEFLATED)])
    assert sender.store(dataset, ds.SOPInstanceUID, transfer_syntax_uid=DEFLATED).Status == 0x0000
    assert node.stored_dataset(ds.SOPInstanceUID) == (DEFLATED, dataset)


def test_two_studies_of_one_patient_share_the_hash(node: Node, connect: Callable[..., Sender]) -> None:
    sender = connect(node.port)
    sender.store_instance(make_instance())
    sender.store_instance(make_instance(StudyInstanceUID="1.2.840.99.2", SeriesInstanceUID="1.2.840.99.2.1"))
    sender.store_instance(
        make_instance(StudyInstanceUID="1.2.840.99.3", SeriesInstanceUID="1.2.840.99.3.1", PatientID="OTHER")
    )
    assert len(node.rows(PatientRow)) == 2


def test_release_tells_which_series_came_and_an_abort_does_not(
    node: Node, connect: Callable[..., Sender]
) -> None:
    aborted = connect(node.port)
    aborted.store_instance(make_instance(SeriesInstanceUID="1.2.840.99.1.5"))
    aborted.assoc.abort()
    wait_for(lambda: node.scp.open_associations == 0, "the end of the aborted association")
    released = connect(node.port)
    released.store_instance(make_instance(SeriesInstanceUID="1.2.840.99.1.6"))
    released.store_instance(make_instance(SeriesInstanceUID="1.2.840.99.1.7"))
    released.assoc.release()
    wait_for(lambda: node.released, "the call at release")
    assert node.released == [["1.2.840.99.1.6", "1.2.840.99.1.7"]]
    assert node.rows(JobRow) == []  # completing is the callee's business


def test_large_instance_arrives_whole(node: Node, connect: Callable[..., Sender]) -> None:
    ds = make_instance()
    ds.Rows = ds.Columns = 1024
    ds.PixelData = os.urandom(2 * 1024 * 1024)
    assert connect(node.port).store_instance(ds).Status == 0x0000
    assert node.stored_dataset(ds.SOPInstanceUID)[1] == encode(ds)


def make_series(count: int) -> list[Dataset]:
    return [make_instance(InstanceNumber=number) for number in range(1, count + 1)]


def test_associations_that_send_the_same_series_at_once_file_it_once(
    node: Node, connect: Callable[..., Any]
) -> None:
    import threading

    series = make_series(12)
    senders = [connect(node.port, calling_ae_title=f"SENDER{number}") for number in range(4)]
    statuses: list[int] = []

    def send(sender: Sender) -> None:
        statuses.extend(sender.store_instance(ds).Status for ds in series)

    threads = [threading.Thread(target=send, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0x0000] * 48
    assert len(node.rows(InstanceRow)) == 12
    assert len(node.files()) == 12
    for ds in series:
        assert node.stored_dataset(ds.SOPInstanceUID) == (ExplicitVRLittleEndian, encode(ds))
