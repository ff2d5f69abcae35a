"""Rows of what came in: instances filed many at a time, duplicates and conflicts told apart, series reopened.

Called by the listener's registrar, for everything whose bytes are in the spool.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import Row, Table, bindparam, select, update
from sqlalchemy.orm import Session

from iap_node.database.insertion import insert_all_or_none, insert_if_new
from iap_node.database.jobs import supersede
from iap_node.database.tables import BytesState, ConflictRow, InstanceRow, PatientRow, SeriesRow, StudyRow
from iap_node.errors import PermanentError
from iap_node.records import InstanceHeader, JobKind, ReceivedInstance, SeriesState, StoreOutcome


class Likeness(StrEnum):
    """What the bytes of two receptions turned out to be whose checksums agree."""

    SAME = "same"
    OTHER = "other"  # somebody forged the checksum
    GONE = "gone"  # those of the standing one are not in the spool any more


Compare = Callable[[str, str], Likeness]  # spool paths of the standing and of the received instance


@dataclass(frozen=True, slots=True)
class Arrival:
    """A received instance and what the archive keeps of its patient."""

    received: ReceivedInstance
    patient_hash: str  # keyed hash of Patient ID and its issuer; kept with a study when the study is new


class Overtaken(Exception):
    """Another process filed one of the instances at the same moment: file them one by one, or try again."""


def checksums_suffice(standing: str, received: str) -> Likeness:
    """For callers whose checksums nobody forges."""
    return Likeness.SAME


def record_instances(
    session: Session, arrivals: Sequence[Arrival], compare: Compare = checksums_suffice
) -> list[StoreOutcome]:
    """File received instances, in their order; several processes may file instances of one series at once.

    An instance for a series that is complete opens the series' next revision, and ends INFER jobs of earlier
    ones. Filing one that is filed already under the same spool path changes nothing and is STORED.

    Returns
    -------
    list[StoreOutcome]
        One per arrival. DUPLICATE leaves no trace: the caller removes the new bytes. That holds for a conflicting
        instance that came before with the same bytes, too. Where a row has lost its bytes (`BytesState`), to
        retention or to the disk, the same bytes are STORED under it anew: the series opens no revision, since nothing
        was learned, and its age begins anew.

    Raises
    ------
    Overtaken
        Roll back.
    """
    standing = _standing_instances(session, [arrival.received.header.sop_instance_uid for arrival in arrivals])
    outcomes: dict[int, StoreOutcome] = {}
    first_of_uid: dict[str, int] = {}
    of_series: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    again: list[int] = []  # a second instance of the same UID among the arrivals
    for index, arrival in enumerate(arrivals):
        header = arrival.received.header
        if header.sop_instance_uid in standing:
            known = standing[header.sop_instance_uid]
            outcomes[index] = _same_or_conflict(session, known, arrival.received, compare)
        elif header.sop_instance_uid in first_of_uid:
            again.append(index)
        else:
            first_of_uid[header.sop_instance_uid] = index
            of_series[header.study_instance_uid, header.series_instance_uid].append(index)
    for uids in sorted(of_series):  # everybody locks in this order
        _file_in_series(session, [arrivals[index] for index in of_series[uids]])
        outcomes.update((index, StoreOutcome.STORED) for index in of_series[uids])
    for index in again:
        received = arrivals[index].received
        known = _standing_instances(session, [received.header.sop_instance_uid])[received.header.sop_instance_uid]
        outcomes[index] = _same_or_conflict(session, known, received, compare)
    return [outcomes[index] for index in range(len(arrivals))]


def _file_in_series(session: Session, arrivals: Sequence[Arrival]) -> None:
    """New instances of one series."""
    series = _locked_series(session, arrivals[0])
    late = series.state is not SeriesState.RECEIVING
    revision = series.revision + 1 if late else series.revision
    rows = [_instance(arrival.received, series.id, revision) for arrival in arrivals]
    if not insert_all_or_none(session, InstanceRow, (InstanceRow.sop_instance_uid,), rows):
        raise Overtaken  # one was filed since the look above, by another process
    newest = max(arrival.received.received_at for arrival in arrivals)
    if late:
        _open_revision(session, series.id, revision, newest)
    last_received_at = max(newest, series.last_received_at)
    session.connection().execute(_RECEIVED_BY_SERIES, {"series_id": series.id, "received_at": last_received_at})


# Run for every batch: built once and executed by the connection, because building them, and a session's own
# bookkeeping, take longer than SQLite takes to run them.
_STANDING = select(
    InstanceRow.id,
    InstanceRow.series_id,
    InstanceRow.sop_instance_uid,
    InstanceRow.checksum,
    InstanceRow.spool_path,
    InstanceRow.bytes_state,
).where(InstanceRow.sop_instance_uid.in_(bindparam("sop_instance_uids", expanding=True)))
_SERIES_TO_LOCK = (
    select(SeriesRow.id, SeriesRow.revision, SeriesRow.state, SeriesRow.last_received_at)
    .join(StudyRow, StudyRow.id == SeriesRow.study_id)
    .where(
        StudyRow.study_instance_uid == bindparam("study_instance_uid"),
        SeriesRow.series_instance_uid == bindparam("series_instance_uid"),
    )
    .with_for_update(of=SeriesRow)
)
_RECEIVED_BY_SERIES = (
    update(cast(Table, SeriesRow.__table__))
    .where(SeriesRow.id == bindparam("series_id"))
    .values(last_received_at=bindparam("received_at", type_=SeriesRow.last_received_at.type))
)


_Standing = Row[int, int, str, str, str, BytesState]
_LockedSeries = Row[int, int, SeriesState, datetime]


def _standing_instances(session: Session, sop_instance_uids: Sequence[str]) -> dict[str, _Standing]:
    found = session.connection().execute(_STANDING, {"sop_instance_uids": sop_instance_uids})
    return {row.sop_instance_uid: row for row in found}


def _same_or_conflict(
    session: Session, standing: _Standing, received: ReceivedInstance, compare: Compare
) -> StoreOutcome:
    if standing.spool_path == received.spool_path:  # filed before we were interrupted
        return StoreOutcome.STORED
    if standing.checksum == received.checksum:
        is_present = standing.bytes_state is BytesState.PRESENT
        likeness = compare(standing.spool_path, received.spool_path) if is_present else Likeness.GONE
        if likeness is Likeness.GONE:
            _restore(session, standing, received)
            return StoreOutcome.STORED
        if likeness is Likeness.SAME:
            return StoreOutcome.DUPLICATE
    conflict = session.execute(
        select(ConflictRow.id, ConflictRow.spool_path, ConflictRow.bytes_state).where(
            ConflictRow.instance_id == standing.id, ConflictRow.checksum == received.checksum
        )
    ).one_or_none()
    if conflict is not None:
        if conflict.spool_path == received.spool_path:
            return StoreOutcome.CONFLICT
        is_present = conflict.bytes_state is BytesState.PRESENT
        likeness = compare(conflict.spool_path, received.spool_path) if is_present else Likeness.GONE
        if likeness is Likeness.SAME:
            return StoreOutcome.DUPLICATE
        if likeness is Likeness.OTHER:
            raise PermanentError(
                f"instance {received.header.sop_instance_uid}: its checksum is that of other bytes that came before; "
                "somebody made it so; look at its sender"
            )
        session.execute(
            update(ConflictRow)
            .where(ConflictRow.id == conflict.id)
            .values(_new_bytes(received))
        )
        return StoreOutcome.CONFLICT
    header = received.header
    is_new = insert_if_new(
        session,
        ConflictRow,
        (ConflictRow.instance_id, ConflictRow.checksum),
        instance_id=standing.id,
        study_instance_uid=header.study_instance_uid,
        series_instance_uid=header.series_instance_uid,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        spool_path=received.spool_path,
        checksum=received.checksum,
        size_bytes=received.size_bytes,
        calling_ae_title=received.calling_ae_title,
        source_address=received.source_address,
        received_at=received.received_at,
    )
    return StoreOutcome.CONFLICT if is_new else StoreOutcome.DUPLICATE


def _restore(session: Session, standing: _Standing, received: ReceivedInstance) -> None:
    """Give an instance whose bytes are gone the bytes that came now; its series' age begins anew."""
    # the series before its instance, as retention locks them
    series = SeriesRow.last_received_at < received.received_at, SeriesRow.id == standing.series_id
    session.execute(update(SeriesRow).where(*series).values(last_received_at=received.received_at))
    session.execute(
        update(InstanceRow)
        .where(InstanceRow.id == standing.id)
        .values({**_new_bytes(received), "bytes_gone_at": None})
    )


def _new_bytes(received: ReceivedInstance) -> dict[str, Any]:
    return {
        "spool_path": received.spool_path,
        "size_bytes": received.size_bytes,
        "bytes_state": BytesState.PRESENT,
    }


def _locked_series(session: Session, arrival: Arrival) -> _LockedSeries:
    """The instance's series, kept from others until the transaction ends."""
    received, header = arrival.received, arrival.received.header
    uids = {
        "study_instance_uid": header.study_instance_uid,
        "series_instance_uid": header.series_instance_uid,
    }
    series = session.connection().execute(_SERIES_TO_LOCK, uids).one_or_none()
    if series is not None:
        return series
    _insert_series(session, received, _study_id(session, received, arrival.patient_hash))
    return session.connection().execute(_SERIES_TO_LOCK, uids).one()


def _open_revision(session: Session, series_id: int, revision: int, now: datetime) -> None:
    session.execute(
        update(SeriesRow)
        .where(SeriesRow.id == series_id)
        .values(revision=revision, state=SeriesState.RECEIVING, completed_at=None, not_analysed_reason=None)
    )
    supersede(session, series_id, JobKind.INFER, revision, now)


def _study_id(session: Session, received: ReceivedInstance, patient_hash: str) -> int:
    header = received.header
    query = select(StudyRow.id).where(StudyRow.study_instance_uid == header.study_instance_uid)
    study_id = session.scalar(query)
    if study_id is None:
        insert_if_new(
            session,
            PatientRow,
            (PatientRow.patient_hash,),
            patient_hash=patient_hash,
            received_at=received.received_at,
        )
        patient_id = session.scalars(
            select(PatientRow.id).where(PatientRow.patient_hash == patient_hash)
        ).one()
        insert_if_new(
            session,
            StudyRow,
            (StudyRow.study_instance_uid,),
            patient_id=patient_id,
            study_instance_uid=header.study_instance_uid,
            study_date=header.study_date,
            received_at=received.received_at,
        )
        study_id = session.scalars(query).one()
    return study_id


def _insert_series(session: Session, received: ReceivedInstance, study_id: int) -> None:
    header = received.header
    insert_if_new(
        session,
        SeriesRow,
        (SeriesRow.study_id, SeriesRow.series_instance_uid),
        study_id=study_id,
        series_instance_uid=header.series_instance_uid,
        modality=header.modality,
        series_number=header.series_number,
        series_description=header.series_description,
        protocol_name=header.protocol_name,
        body_part_examined=header.body_part_examined,
        manufacturer=header.manufacturer,
        manufacturer_model_name=header.manufacturer_model_name,
        device_serial_number=header.device_serial_number,
        software_versions=header.software_versions,
        calling_ae_title=received.calling_ae_title,
        revision=1,
        state=SeriesState.RECEIVING,
        first_received_at=received.received_at,
        last_received_at=received.received_at,
    )


def _instance(received: ReceivedInstance, series_id: int, revision: int) -> dict[str, Any]:
    header: InstanceHeader = received.header
    return {
        "series_id": series_id,
        "revision": revision,
        "sop_instance_uid": header.sop_instance_uid,
        "sop_class_uid": header.sop_class_uid,
        "transfer_syntax_uid": header.transfer_syntax_uid,
        "spool_path": received.spool_path,
        "checksum": received.checksum,
        "size_bytes": received.size_bytes,
        "instance_number": header.instance_number,
        "rows": header.rows,
        "columns": header.columns,
        "number_of_frames": header.number_of_frames,
        "image_type": header.image_type,
        "not_analysed_reason": received.not_analysed_reason,
        "calling_ae_title": received.calling_ae_title,
        "source_address": received.source_address,
        "received_at": received.received_at,
    }
