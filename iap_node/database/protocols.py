"""What series state of scanner and protocol: kept for each, and asked for as the habit of a scanner.

Called by the worker in the transaction of a judgement, and by `iap-node protocols`. Every query is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, Select, func, or_, select
from sqlalchemy.orm import Session

from iap_node.database.insertion import insert_into
from iap_node.database.tables import SeriesRow, StatedProtocolRow, StudyRow
from iap_node.records import PastSeries, StatedProtocol

MOST_OF_STUDY = 500  # series of one study that are compared
MOST_SPELLINGS = 10_000
NEWEST_SERIES = 20_000  # whose spellings are looked at


@dataclass(frozen=True, slots=True)
class KnownProtocol:
    """A scanner and a protocol of which the archive has series."""

    device: str
    protocol: str
    n_series: int


def save_protocol(session: Session, series_id: int, revision: int, protocol: StatedProtocol, now: datetime) -> None:
    """Keep what a revision of a series states; an older revision never replaces a newer one."""
    values = {
        "revision": revision,
        "device": protocol.device,
        "software_versions": protocol.software_versions,
        "protocol": protocol.protocol,
        "stated": dict(protocol.values),
        "stated_at": now,
    }
    study_id = select(SeriesRow.study_id).where(SeriesRow.id == series_id).scalar_subquery()
    statement = insert_into(session, StatedProtocolRow).values(series_id=series_id, study_id=study_id, **values)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[StatedProtocolRow.series_id],
            set_={name: statement.excluded[name] for name in values},
            where=StatedProtocolRow.revision <= statement.excluded.revision,
        )
    )


def history(session: Session, protocol: StatedProtocol, series_id: int, limit: int) -> tuple[PastSeries, ...]:
    """The newest `limit` series of the same device and protocol that came before `series_id`, newest first.

    What came later is left out, so that judging a series again finds what it found. None where the protocol has no
    name.
    """
    if not protocol.protocol:
        return ()
    query = _newest(protocol.device, protocol.protocol, limit).where(StatedProtocolRow.series_id < series_id)
    return tuple(_past(row) for row in session.execute(query))


def newest_series(session: Session, device: str, protocol: str, limit: int) -> tuple[PastSeries, ...]:
    """The newest `limit` series of a device and protocol, newest first."""
    return tuple(_past(row) for row in session.execute(_newest(device, protocol, limit)))


def of_study(session: Session, series_id: int) -> tuple[PastSeries, ...]:
    """What the other series of the same study state, in the order they came."""
    study_id = select(SeriesRow.study_id).where(SeriesRow.id == series_id).scalar_subquery()
    query = (
        _rows()
        .where(StatedProtocolRow.study_id == study_id, StatedProtocolRow.series_id != series_id)
        .order_by(StatedProtocolRow.series_id)
        .limit(MOST_OF_STUDY)
    )
    return tuple(_past(row) for row in session.execute(query))


def list_protocols(session: Session, limit: int, containing: str = "") -> list[KnownProtocol]:
    """Scanners and protocols, those with the most series first; series of no protocol are left out.

    Parameters
    ----------
    containing
        Only those whose device or protocol holds this text, whatever its case.
    """
    folded = containing.casefold()
    holds = or_(
        StatedProtocolRow.device.contains(folded, autoescape=True),
        StatedProtocolRow.protocol.contains(folded, autoescape=True),
    )
    n_series = func.count()
    query = (
        select(StatedProtocolRow.device, StatedProtocolRow.protocol, n_series)
        .where(StatedProtocolRow.protocol != "", holds)
        .group_by(StatedProtocolRow.device, StatedProtocolRow.protocol)
        .order_by(n_series.desc(), StatedProtocolRow.device, StatedProtocolRow.protocol)
        .limit(limit)
    )
    return [KnownProtocol(*row) for row in session.execute(query)]


def device_spellings(session: Session) -> list[tuple[str, str, str, int]]:
    """Manufacturer, model and serial number as written, and in how many of the newest series."""
    newest = (
        select(SeriesRow.manufacturer, SeriesRow.manufacturer_model_name, SeriesRow.device_serial_number)
        .order_by(SeriesRow.id.desc())
        .limit(NEWEST_SERIES)
        .subquery()
        .c
    )
    columns = (newest.manufacturer, newest.manufacturer_model_name, newest.device_serial_number)
    query = select(*columns, func.count()).group_by(*columns).order_by(func.count().desc(), *columns)
    found = session.execute(query.limit(MOST_SPELLINGS))
    return [(manufacturer, model, serial_number, n) for manufacturer, model, serial_number, n in found]


def scan_options(session: Session) -> list[tuple[str, int]]:
    """Scan Options as written, and in how many of the newest series."""
    newest = select(StatedProtocolRow.stated["ScanOptions"].as_string().label("options")).order_by(
        StatedProtocolRow.series_id.desc()
    )
    options = newest.limit(NEWEST_SERIES).subquery().c.options
    query = select(options, func.count()).where(options.is_not(None)).group_by(options)
    query = query.order_by(func.count().desc(), options).limit(MOST_SPELLINGS)
    return [(text, n) for text, n in session.execute(query)]


def _rows() -> Select[*tuple[object, ...]]:
    return (
        select(
            StatedProtocolRow.device,
            StatedProtocolRow.software_versions,
            StatedProtocolRow.protocol,
            StatedProtocolRow.stated,
            SeriesRow.series_instance_uid,
            SeriesRow.first_received_at,
            StudyRow.study_instance_uid,
        )
        .join(SeriesRow, SeriesRow.id == StatedProtocolRow.series_id)
        .join(StudyRow, StudyRow.id == StatedProtocolRow.study_id)
    )


def _newest(device: str, protocol: str, limit: int) -> Select[*tuple[object, ...]]:
    return (
        _rows()
        .where(StatedProtocolRow.device == device, StatedProtocolRow.protocol == protocol)
        .order_by(StatedProtocolRow.series_id.desc())
        .limit(limit)
    )


def _past(row: Row[*tuple[object, ...]]) -> PastSeries:
    stated: Mapping[str, str] = row.stated
    manufacturer, model, serial_number = row.device.split("\\")
    protocol = StatedProtocol(
        manufacturer=manufacturer,
        model=model or stated.get("ManufacturerModelName", "").casefold(),
        serial_number=serial_number,
        software_versions=row.software_versions,
        protocol=row.protocol,
        values=tuple(sorted(stated.items())),
    )
    return PastSeries(f"{row.study_instance_uid}/{row.series_instance_uid}", row.study_instance_uid, protocol,
                      row.first_received_at)  # fmt: skip
