"""What could not be filed, as rows: enter, list, find, walk through, take out.

Called by `iap-node quarantine`, by retention and by fsck. `iap_node.upkeep.quarantine` enters and takes out, together
with the bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import Session

from iap_node.database.engine import Database
from iap_node.database.insertion import insert_if_new
from iap_node.database.tables import BytesState, QuarantineRow
from iap_node.records import QuarantinedInstance

ENTRIES_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """Bytes that could not be filed, with the reason."""

    id: int
    spool_path: str  # relative to the spool's root
    reason: str
    sop_instance_uid: str  # as the sender said; "" where it said nothing
    calling_ae_title: str
    source_address: str
    size_bytes: int
    received_at: datetime
    bytes_state: BytesState


def record_quarantine(session: Session, quarantined: QuarantinedInstance) -> None:
    """Enter bytes that could not be filed; what is entered already stays as it is."""
    insert_if_new(session, QuarantineRow, (QuarantineRow.spool_path,), **asdict(quarantined))


def list_entries(session: Session, limit: int = 100, before: int | None = None) -> list[QuarantineEntry]:
    """What could not be filed, newest first; `before` is the last one of the page before."""
    query = _QUERY if before is None else _QUERY.where(QuarantineRow.id < before)
    return _entries(session, query.order_by(QuarantineRow.id.desc()).limit(limit))


def find_entries(session: Session, entry_ids: Collection[int]) -> list[QuarantineEntry]:
    """Those of the named entries that are there, oldest first; for some hundreds at once."""
    return _entries(session, _QUERY.where(QuarantineRow.id.in_(entry_ids)).order_by(QuarantineRow.id))


def all_entries(database: Database, received_before: datetime | None = None) -> Iterator[QuarantineEntry]:
    """Every entry, oldest first, in batches: no transaction is open while the caller works on one.

    Parameters
    ----------
    received_before
        Leave younger ones out.
    """
    last = 0
    while True:
        query = _QUERY.where(QuarantineRow.id > last).order_by(QuarantineRow.id).limit(ENTRIES_AT_ONCE)
        if received_before is not None:
            query = query.where(QuarantineRow.received_at < received_before)
        with database.reading() as session:
            batch = _entries(session, query)
        if not batch:
            return
        yield from batch
        last = batch[-1].id


def remove_entry(session: Session, entry_id: int) -> bool:
    """Take an entry out, after its bytes; whether it was there."""
    taken = delete(QuarantineRow).where(QuarantineRow.id == entry_id).returning(QuarantineRow.id)
    return session.scalar(taken) is not None


def mark_entry_lost(session: Session, entry_id: int) -> None:
    """Note that the bytes of an entry are gone."""
    session.execute(update(QuarantineRow).where(QuarantineRow.id == entry_id).values(bytes_state=BytesState.LOST))


def paths_without_entry(session: Session, spool_paths: Sequence[str]) -> list[str]:
    """Those of `spool_paths` that no entry names, in the order given; for some hundreds at once."""
    named = set(session.scalars(select(QuarantineRow.spool_path).where(QuarantineRow.spool_path.in_(spool_paths))))
    return [path for path in spool_paths if path not in named]


_QUERY = select(
    QuarantineRow.id,
    QuarantineRow.spool_path,
    QuarantineRow.reason,
    QuarantineRow.sop_instance_uid,
    QuarantineRow.calling_ae_title,
    QuarantineRow.source_address,
    QuarantineRow.size_bytes,
    QuarantineRow.received_at,
    QuarantineRow.bytes_state,
)
_Columns = Select[int, str, str, str, str, str, int, datetime, BytesState]


def _entries(session: Session, query: _Columns) -> list[QuarantineEntry]:
    return [QuarantineEntry(*row) for row in session.execute(query)]
