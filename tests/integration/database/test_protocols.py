"""Stated protocols in the archive: kept once per series, asked for as a scanner's habit, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from iap_node.audit.habit import habit_findings, learn_habit
from iap_node.audit.vocabulary import Vocabulary, learn_vocabulary
from iap_node.config import HabitConfig
from iap_node.database import protocols
from iap_node.database.engine import Database
from iap_node.database.tables import SeriesRow, StatedProtocolRow
from iap_node.records import StatedProtocol, StoreOutcome
from tests.unit.audit.past_series import PROTOCOL, stated

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
Store = Callable[..., StoreOutcome]
File = Callable[..., int]


@pytest.fixture
def file(database: Database, store: Store) -> File:
    """Files a series and what it states; its row's number."""

    def one(number: int, study: int | None = None, revision: int = 1, **changes: str | None) -> int:
        own = stated(**changes)
        values = dict(own.values)
        store(
            series=number,
            instance=number,
            study=number if study is None else study,
            received_at=NOON + timedelta(days=number),
            manufacturer=values.get("Manufacturer", ""),
            manufacturer_model_name=values.get("ManufacturerModelName", ""),
            device_serial_number=values.get("DeviceSerialNumber", ""),
        )
        with database.transaction() as session:
            row = session.query(SeriesRow).filter_by(series_instance_uid=f"1.2.826.8.{number}").one()
            protocols.save_protocol(session, row.id, revision, own, NOON)
            return row.id

    return one


def history(database: Database, own: StatedProtocol, series_id: int, limit: int = 500) -> list[str]:
    with database.reading() as session:
        return [one.series for one in protocols.history(session, own, series_id, limit)]


def test_history_is_what_came_before_on_this_device_for_this_protocol(database: Database, file: File) -> None:
    first, second, third = (file(number) for number in (1, 2, 3))
    file(4, DeviceSerialNumber="45002")
    file(5, protocol="another\\fl\\m")
    last = file(6, SoftwareVersions="syngo MR XA30", ManufacturerModelName="MAGNETOM Skyra")
    file(7)
    names = {number: f"1.2.826.7.{number}/1.2.826.8.{number}" for number in (1, 2, 3, 6)}
    assert history(database, stated(), first) == []
    assert history(database, stated(), third) == [names[2], names[1]]
    assert history(database, stated(), last + 1) == [names[6], names[3], names[2], names[1]]
    assert history(database, stated(), last + 1, limit=2) == [names[6], names[3]]
    assert history(database, stated(protocol=""), last + 1) == []
    assert second > first


def test_a_past_series_is_read_back_as_it_was_stated(database: Database, file: File) -> None:
    file(1, ContrastBolusAgent="Gadavist \u00e9\u4e2d")
    own = file(2)
    with database.reading() as session:
        (past,) = protocols.history(session, stated(), own, 10)
    assert past.protocol == stated(ContrastBolusAgent="Gadavist \u00e9\u4e2d")
    assert (past.study, past.at) == ("1.2.826.7.1", NOON + timedelta(days=1))


def test_without_a_serial_number_the_model_is_the_device(database: Database, file: File) -> None:
    file(1, DeviceSerialNumber=None)
    file(2, DeviceSerialNumber=None, ManufacturerModelName="Aera")
    own = file(3, DeviceSerialNumber=None)
    with database.reading() as session:
        (past,) = protocols.history(session, stated(DeviceSerialNumber=None), own, 10)
    assert past.protocol == stated(DeviceSerialNumber=None)


def test_a_new_revision_takes_the_place_of_the_one_before_and_never_the_other_way(
    database: Database, file: File
) -> None:
    series_id = file(1, revision=2, EchoTime="3.69")
    with database.transaction() as session:
        protocols.save_protocol(session, series_id, 1, stated(EchoTime="1"), NOON)
    with database.reading() as session:
        assert session.get_one(StatedProtocolRow, series_id).stated["EchoTime"] == "3.69"
    with database.transaction() as session:
        protocols.save_protocol(session, series_id, 3, stated(EchoTime="2.46"), NOON)
    with database.reading() as session:
        row = session.get_one(StatedProtocolRow, series_id)
        assert (row.revision, row.stated["EchoTime"]) == (3, "2.46")


def test_a_study_is_its_other_series(database: Database, file: File) -> None:
    own = file(1, study=9)
    file(2, study=9, protocol="another\\fl\\m")
    file(3, study=8)
    with database.reading() as session:
        assert [one.series for one in protocols.of_study(session, own)] == ["1.2.826.7.9/1.2.826.8.2"]


def test_the_longest_keys_that_a_header_can_make_are_stored(database: Database, file: File) -> None:
    """A PostgreSQL index takes no more than 2,704 bytes of a row."""
    widest = "\U00010400"
    own = StatedProtocol(widest * 64, widest * 64, widest * 64, widest * 256, widest * 261, (("EchoTime", "1"),))
    series_id = file(1)
    with database.transaction() as session:
        protocols.save_protocol(session, series_id, 2, own, NOON)
    assert history(database, own, series_id + 1) == ["1.2.826.7.1/1.2.826.8.1"]


def test_the_archive_teaches_the_habit_and_the_vocabulary(database: Database, file: File) -> None:
    for number in range(12):
        file(number, ManufacturerModelName="TrioTim" if number % 3 else "Trio",
             ScanOptions="PFP\\FS" if number % 4 else "FS\\PFP")  # fmt: skip
    own = stated(ManufacturerModelName="Trio", EchoTime="4.92")
    series_id = file(12, EchoTime="4.92")
    with database.reading() as session:
        devices, options = protocols.device_spellings(session), protocols.scan_options(session)
        past = protocols.history(session, own, series_id, 500)
        known = protocols.list_protocols(session, 10)
        assert protocols.list_protocols(session, 10, containing="FL3D_%") == []
        assert protocols.list_protocols(session, 10, containing="T1_fl3d") == known
        newest = protocols.newest_series(session, own.device, PROTOCOL, 5)
    assert devices == [("SIEMENS", "TrioTim", "45001", 8), ("SIEMENS", "Trio", "45001", 4),
                       ("SIEMENS", "Skyra", "45001", 1)]  # fmt: skip
    assert options == [("PFP\\FS", 10), ("FS\\PFP", 3)]
    assert [(one.device, one.protocol, one.n_series) for one in known] == [("siemens\\\\45001", PROTOCOL, 13)]
    assert [one.study for one in newest] == [f"1.2.826.7.{number}" for number in (12, 11, 10, 9, 8)]
    words = learn_vocabulary(Vocabulary(), devices, options)
    found = habit_findings(own, learn_habit(own, past, HabitConfig(), words))
    assert [(one.element, one.suggested_value) for one in found] == [("EchoTime", "2.46")]
    assert "12 of 12 series of this protocol on this scanner since 2026-03" in found[0].evidence
