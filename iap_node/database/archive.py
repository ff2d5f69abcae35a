"""Study, series, instance: what came in, and when a series is complete. What could not be filed is here too.

`record_instance` is called by the listener and by the import for every instance whose bytes are durable,
`complete_quiet_series` by the scheduler, `complete_series` when an association is released.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import ColumnElement, Row, Table, bindparam, delete, select, update
from sqlalchemy.orm import Session

from iap_node.database.insertion import insert_if_new
from iap_node.database.jobs import open_job, supersede
from iap_node.database.series import SeriesSummary, UnknownSeries, find_series, list_series
from iap_node.database.tables import (
    BytesState,
    ConflictRow,
    InstanceRow,
    PatientRow,
    QuarantineRow,
    SeriesRow,
    StudyRow,
)
from iap_node.records import (
    InstanceHeader,
    JobKind,
    QuarantinedInstance,
    ReceivedInstance,
    SeriesState,
    StoreOutcome,
)

__all__ = [
    "ArchivedInstance",
    "Conflict",
    "SeriesSummary",
    "UnknownSeries",
    "complete_quiet_series",
    "complete_series",
    "current_instances",
    "find_series",
    "list_conflicts",
    "list_quarantine",
    "list_series",
    "record_instance",
    "record_quarantine",
]


@dataclass(frozen=True, slots=True)
class ArchivedInstance:
    """An instance of a series, and where its file is."""

    id: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    spool_path: str  # relative to the spool's root
    instance_number: int | None
    size_bytes: int
    revision: int  # of the series, with which it came
    not_analysed_reason: str | None  # None: its pixels go to the model
    bytes_state: BytesState  # whether its file is still there


@dataclass(frozen=True, slots=True)
class Conflict:
    """Other bytes under a SOP Instance UID that is already here."""

    sop_instance_uid: str
    series_instance_uid: str  # as the newcomer claims
    study_instance_uid: str
    spool_path: str  # of the newcomer
    standing_spool_path: str
    size_bytes: int
    calling_ae_title: str
    source_address: str
    received_at: datetime


def record_instance(session: Session, received: ReceivedInstance, patient_hash: str) -> StoreOutcome:
    """File a received instance; several associations may file instances of one series at once.

    An instance for a series that is complete opens the series' next revision, and ends INFER jobs of earlier
    ones.

    Parameters
    ----------
    session
        Of one `Database.transaction()` per instance: PostgreSQL could break a deadlock between two
        transactions that file several.
    patient_hash
        Keyed hash of Patient ID and its issuer; it is kept with a study when the study is new.

    Returns
    -------
    StoreOutcome
        DUPLICATE leaves no trace: the caller removes the new file. That holds for a conflicting instance that
        came before with the same bytes, too. Where the row has lost its bytes (`BytesState`), to retention or to
        the disk, the same bytes are STORED under it anew: the series opens no revision, since nothing was learned,
        and its age begins anew.
    """
    known = _known_instance(session, received.header.sop_instance_uid)
    if known is not None:
        return _same_or_conflict(session, known, received)
    series, is_new = _locked_series(session, received, patient_hash)
    late = series.state is not SeriesState.RECEIVING
    revision = series.revision + 1 if late else series.revision
    if not _insert_instance(session, received, series.id, revision):
        # Filed by another association since the look above, under another series, whose row does not keep it
        # out.
        if is_new:
            session.execute(delete(SeriesRow).where(SeriesRow.id == series.id))
        known = _known_instance(session, received.header.sop_instance_uid)
        assert known is not None  # instances are not deleted while they come in
        return _same_or_conflict(session, known, received)
    if late:
        _open_revision(session, series.id, revision, received.received_at)
    last_received_at = max(received.received_at, series.last_received_at)
    session.connection().execute(_RECEIVED_BY_SERIES, {"series_id": series.id, "received_at": last_received_at})
    return StoreOutcome.STORED


def complete_quiet_series(session: Session, now: datetime, quiet_period_s: float) -> list[str]:
    """Complete the series that got no instance for `quiet_period_s` and open their INFER jobs; their UIDs."""
    quiet = SeriesRow.last_received_at <= now - timedelta(seconds=quiet_period_s)
    return _complete(session, quiet, now, skip_locked=True)  # a locked one is receiving right now


def complete_series(session: Session, series_instance_uids: Collection[str], now: datetime) -> list[str]:
    """Complete those of the named series that are receiving and open their INFER jobs; their UIDs."""
    named = SeriesRow.series_instance_uid.in_(series_instance_uids)
    return _complete(session, named, now, skip_locked=False)


def current_instances(session: Session, series_id: int) -> list[ArchivedInstance]:
    """All instances of a series, by Instance Number (0020,0013), those without one last."""
    query = select(
        InstanceRow.id,
        InstanceRow.sop_class_uid,
        InstanceRow.sop_instance_uid,
        InstanceRow.transfer_syntax_uid,
        InstanceRow.spool_path,
        InstanceRow.instance_number,
        InstanceRow.size_bytes,
        InstanceRow.revision,
        InstanceRow.not_analysed_reason,
        InstanceRow.bytes_state,
    ).where(InstanceRow.series_id == series_id)
    in_order = query.order_by(InstanceRow.instance_number.nulls_last(), InstanceRow.id)
    return [ArchivedInstance(**row._asdict()) for row in session.execute(in_order)]


def record_quarantine(session: Session, quarantined: QuarantinedInstance) -> None:
    """Keep a note of bytes that could not be filed."""
    insert_if_new(session, QuarantineRow, (QuarantineRow.spool_path,), **asdict(quarantined))


def list_quarantine(session: Session, limit: int = 100) -> list[QuarantinedInstance]:
    """What could not be filed, newest first."""
    query = select(
        QuarantineRow.spool_path,
        QuarantineRow.reason,
        QuarantineRow.sop_instance_uid,
        QuarantineRow.calling_ae_title,
        QuarantineRow.source_address,
        QuarantineRow.size_bytes,
        QuarantineRow.received_at,
    )
    newest_first = query.order_by(QuarantineRow.id.desc()).limit(limit)
    return [QuarantinedInstance(*row) for row in session.execute(newest_first)]


def list_conflicts(session: Session, limit: int = 100) -> list[Conflict]:
    """Instances kept aside because other bytes stand under their UID, newest first."""
    query = (
        select(
            InstanceRow.sop_instance_uid,
            ConflictRow.series_instance_uid,
            ConflictRow.study_instance_uid,
            ConflictRow.spool_path,
            InstanceRow.spool_path.label("standing_spool_path"),
            ConflictRow.size_bytes,
            ConflictRow.calling_ae_title,
            ConflictRow.source_address,
            ConflictRow.received_at,
        )
        .join(InstanceRow, InstanceRow.id == ConflictRow.instance_id)
        .order_by(ConflictRow.id.desc())
        .limit(limit)
    )
    return [Conflict(*row) for row in session.execute(query)]


# Run for every instance: built once and executed by the connection, because building them, and a session's own
# bookkeeping, take longer than SQLite takes to run them.
_KNOWN_INSTANCE = select(
    InstanceRow.id, InstanceRow.series_id, InstanceRow.sha256, InstanceRow.bytes_state
).where(
    InstanceRow.sop_instance_uid == bindparam("sop_instance_uid")
)
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


_KnownInstance = Row[int, int, str, BytesState]


def _known_instance(session: Session, sop_instance_uid: str) -> _KnownInstance | None:
    return session.connection().execute(_KNOWN_INSTANCE, {"sop_instance_uid": sop_instance_uid}).one_or_none()


def _same_or_conflict(session: Session, known: _KnownInstance, received: ReceivedInstance) -> StoreOutcome:
    if known.sha256 == received.sha256:
        if known.bytes_state is BytesState.PRESENT:
            return StoreOutcome.DUPLICATE
        return _restore(session, known, received)
    header = received.header
    is_new = insert_if_new(
        session,
        ConflictRow,
        (ConflictRow.instance_id, ConflictRow.sha256),
        instance_id=known.id,
        study_instance_uid=header.study_instance_uid,
        series_instance_uid=header.series_instance_uid,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        spool_path=received.spool_path,
        sha256=received.sha256,
        size_bytes=received.size_bytes,
        calling_ae_title=received.calling_ae_title,
        source_address=received.source_address,
        received_at=received.received_at,
    )
    restored = not is_new and session.scalar(
        update(ConflictRow)
        .where(
            ConflictRow.instance_id == known.id,
            ConflictRow.sha256 == received.sha256,
            ConflictRow.bytes_state != BytesState.PRESENT,
        )
        .values(_new_bytes(received))
        .returning(ConflictRow.id)
    )
    return StoreOutcome.CONFLICT if is_new or restored else StoreOutcome.DUPLICATE


def _restore(session: Session, known: _KnownInstance, received: ReceivedInstance) -> StoreOutcome:
    """Give an instance whose bytes are gone the bytes that came now; one of several who do so at once is first."""
    # the series before its instance, as retention locks them
    series = SeriesRow.last_received_at < received.received_at, SeriesRow.id == known.series_id
    session.execute(update(SeriesRow).where(*series).values(last_received_at=received.received_at))
    restored = session.scalar(
        update(InstanceRow)
        .where(InstanceRow.id == known.id, InstanceRow.bytes_state != BytesState.PRESENT)
        .values({**_new_bytes(received), "bytes_gone_at": None})
        .returning(InstanceRow.id)
    )
    return StoreOutcome.DUPLICATE if restored is None else StoreOutcome.STORED


def _new_bytes(received: ReceivedInstance) -> dict[str, Any]:
    return {
        "spool_path": received.spool_path,
        "size_bytes": received.size_bytes,
        "bytes_state": BytesState.PRESENT,
    }


_LockedSeries = Row[int, int, SeriesState, datetime]


def _locked_series(
    session: Session, received: ReceivedInstance, patient_hash: str
) -> tuple[_LockedSeries, bool]:
    """The instance's series, kept from others until the transaction ends; whether it was made here."""
    header = received.header
    uids = {
        "study_instance_uid": header.study_instance_uid,
        "series_instance_uid": header.series_instance_uid,
    }
    series = session.connection().execute(_SERIES_TO_LOCK, uids).one_or_none()
    if series is not None:
        return series, False
    is_new = _insert_series(session, received, _study_id(session, received, patient_hash))
    return session.connection().execute(_SERIES_TO_LOCK, uids).one(), is_new


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


def _insert_series(session: Session, received: ReceivedInstance, study_id: int) -> bool:
    header = received.header
    return insert_if_new(
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


def _insert_instance(session: Session, received: ReceivedInstance, series_id: int, revision: int) -> bool:
    header: InstanceHeader = received.header
    return insert_if_new(
        session,
        InstanceRow,
        (InstanceRow.sop_instance_uid,),
        series_id=series_id,
        revision=revision,
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        spool_path=received.spool_path,
        sha256=received.sha256,
        size_bytes=received.size_bytes,
        instance_number=header.instance_number,
        rows=header.rows,
        columns=header.columns,
        number_of_frames=header.number_of_frames,
        image_type=header.image_type,
        not_analysed_reason=received.not_analysed_reason,
        calling_ae_title=received.calling_ae_title,
        source_address=received.source_address,
        received_at=received.received_at,
    )


def _complete(session: Session, which: ColumnElement[bool], now: datetime, *, skip_locked: bool) -> list[str]:
    found = session.execute(
        select(SeriesRow.id, SeriesRow.series_instance_uid, SeriesRow.revision)
        .where(SeriesRow.state == SeriesState.RECEIVING, which)
        .order_by(SeriesRow.id)
        .with_for_update(skip_locked=skip_locked)
    ).all()
    for series in found:
        session.execute(
            update(SeriesRow)
            .where(SeriesRow.id == series.id)
            .values(state=SeriesState.COMPLETE, completed_at=now)
        )
        open_job(session, JobKind.INFER, series.id, series.revision, now)
    return [series.series_instance_uid for series in found]
