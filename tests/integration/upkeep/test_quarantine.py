"""Bytes that cannot be filed and their entry: both, or neither, whatever fails in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import delete

from iap_node.database.tables import QuarantineRow
from iap_node.errors import RetriableError
from iap_node.spool.files import NewFile
from iap_node.upkeep.quarantine import put_aside, put_aside_copy

from .conftest import NOW, Archive

FACTS = {"reason": "no DICOM", "sop_instance_uid": "1.2.3", "calling_ae_title": "SCANNER", "part_10": "yes"}


@contextmanager
def database_away(node: Archive, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def away() -> None:
        raise RetriableError("the database is away")

    with monkeypatch.context() as patched:
        patched.setattr(node.database, "transaction", away)
        yield


def new_file(node: Archive, content: bytes = b"no DICOM") -> NewFile:
    file = node.spool.new_file()
    file.write(content)
    return file


def test_bytes_get_an_entry_and_their_facts_beside_them(node: Archive) -> None:
    spool_path, new = put_aside(node.spool, node.database, new_file(node), FACTS, NOW)
    assert new
    (entry,) = node.rows(QuarantineRow)
    assert (entry.spool_path, entry.size_bytes, entry.received_at) == (spool_path, len(b"no DICOM"), NOW)
    assert (entry.reason, entry.sop_instance_uid, entry.calling_ae_title) == ("no DICOM", "1.2.3", "SCANNER")
    assert node.spool.path(spool_path).read_bytes() == b"no DICOM"


def test_nothing_is_left_where_the_entry_cannot_be_made(node: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    file = new_file(node)
    with database_away(node, monkeypatch), pytest.raises(RetriableError):
        put_aside(node.spool, node.database, file, FACTS, NOW)
    assert node.files("quarantine") == []
    assert put_aside(node.spool, node.database, new_file(node), FACTS, NOW)[1]


def test_bytes_in_the_spool_stay_there_until_their_copy_has_its_entry(
    node: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.receive(1)
    spool_path = node.row(1).spool_path
    with database_away(node, monkeypatch), pytest.raises(RetriableError):
        put_aside_copy(node.spool, node.database, spool_path, FACTS, NOW)
    assert node.files("quarantine") == [] and node.spool.exists(spool_path)
    aside, _ = put_aside_copy(node.spool, node.database, spool_path, FACTS, NOW)
    (entry,) = node.rows(QuarantineRow)
    with node.spool.locate(spool_path).open("rb") as stream:
        content = stream.read()
    assert node.spool.path(aside).read_bytes() == content
    assert entry.size_bytes == len(content)


def test_bytes_that_come_again_get_the_entry_that_a_crash_prevented(node: Archive) -> None:
    put_aside(node.spool, node.database, new_file(node), FACTS, NOW)
    with node.database.transaction() as session:
        session.execute(delete(QuarantineRow))
    spool_path, new = put_aside(node.spool, node.database, new_file(node), FACTS, NOW)
    assert not new
    assert [entry.spool_path for entry in node.rows(QuarantineRow)] == [spool_path]
    put_aside(node.spool, node.database, new_file(node), FACTS, NOW)
    assert len(node.rows(QuarantineRow)) == 1
