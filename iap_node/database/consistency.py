"""Rows as fsck reads them: which bytes each one stands for, and what fsck notes about them. For `iap_node.upkeep.fsck`.

Rows are walked by their `spool_path`, in batches with no transaction open in between: files that lie together are
looked at together, and a node that goes on working is not held up. What looks wrong is asked for again (`unchanged`)
before it is believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from iap_node.database.engine import Database
from iap_node.database.tables import BytesState, ConflictRow, InstanceRow

ROWS_AT_ONCE = 1000

Holder = type[InstanceRow] | type[ConflictRow]


@dataclass(frozen=True, slots=True)
class HeldBytes:
    """A row that stands for bytes in the spool."""

    table: Holder
    id: int
    spool_path: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    checksum: str
    size_bytes: int
    bytes_state: BytesState
    calling_ae_title: str
    source_address: str


def count_holders(session: Session) -> int:
    """Number of rows that stand, or stood, for bytes in the spool."""
    return sum(session.scalar(select(func.count()).select_from(table)) or 0 for table in (InstanceRow, ConflictRow))


def all_held_bytes(database: Database) -> Iterator[HeldBytes]:
    """Every instance by its `spool_path`, then every conflict as they came."""
    yield from _walk(database, InstanceRow, InstanceRow.spool_path, "")
    yield from _walk(database, ConflictRow, ConflictRow.id, 0)


def unchanged(session: Session, held: HeldBytes) -> bool:
    """Whether a row still says the same of its bytes; False also when it is gone."""
    table = held.table
    query = select(table.id).where(
        table.id == held.id, table.spool_path == held.spool_path, table.bytes_state == held.bytes_state
    )
    return session.scalar(query) is not None


def note_bytes(session: Session, held: HeldBytes, state: BytesState, now: datetime) -> bool:
    """Note that a row's bytes are lost, or there again; whether the row still said what it did."""
    values: dict[str, object] = {"bytes_state": state}
    if held.table is InstanceRow:
        values["bytes_gone_at"] = None if state is BytesState.PRESENT else now
    table = held.table
    noted = session.scalar(
        update(table)
        .where(table.id == held.id, table.spool_path == held.spool_path, table.bytes_state == held.bytes_state)
        .values(values)
        .returning(table.id)
    )
    return noted is not None


def _walk(database: Database, table: Holder, key: InstrumentedAttribute[Any], last: str | int) -> Iterator[HeldBytes]:
    """All rows of a table along a unique column."""
    query = select(
        table.id,
        table.spool_path,
        InstanceRow.sop_instance_uid,
        table.transfer_syntax_uid,
        table.checksum,
        table.size_bytes,
        table.bytes_state,
        table.calling_ae_title,
        table.source_address,
    )
    if table is ConflictRow:
        query = query.join(InstanceRow, InstanceRow.id == ConflictRow.instance_id)
    while True:
        with database.reading() as session:
            rows = session.execute(query.where(key > last).order_by(key).limit(ROWS_AT_ONCE)).all()
        for row in rows:
            yield HeldBytes(table, *row)
        if len(rows) < ROWS_AT_ONCE:
            return
        last = rows[-1].spool_path if key is InstanceRow.spool_path else rows[-1].id
