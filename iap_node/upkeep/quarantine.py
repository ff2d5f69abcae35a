"""Bytes that cannot be filed: into the quarantine with their entry, and out of it again.

The spool keeps the bytes with their facts beside them, the archive one entry for each; here both come and go together.
Called by the listener's intake, registrar and readmission, by retention and by fsck.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime

from iap_node.database.engine import Database
from iap_node.database.quarantine import QuarantineEntry, record_quarantine, remove_entry
from iap_node.records import QuarantinedInstance
from iap_node.spool import Quarantine, Spool, SpooledFile, disk_errors_are_retriable
from iap_node.spool.files import NewFile

COPY_BYTES = 1024**2

Facts = Mapping[str, str | int]  # of the quarantine; nothing of the patient


def put_aside(
    spool: Spool, database: Database, file: NewFile, facts: Facts, received_at: datetime
) -> tuple[str, bool]:
    """Take over a file that has no name yet, and enter it.

    Parameters
    ----------
    file
        From the spool; the caller discards it after an error.
    facts
        `reason`, `sop_instance_uid`, `calling_ae_title` and `source_address` stand in the entry, the rest only beside
        the bytes.

    Returns
    -------
    spool_path
        Where it lies.
    new
        False: the same bytes came earlier that day.

    Raises
    ------
    RetriableError
        The disk or the database does not work; nothing is left behind.
    """
    taken = Quarantine(spool).take(file, _dated(facts, received_at), received_at)
    _enter_or_undo(spool, database, taken, facts, file.size_bytes, received_at)
    return taken


def put_aside_copy(
    spool: Spool, database: Database, spool_path: str, facts: Facts, received_at: datetime
) -> tuple[str, bool]:
    """As `put_aside`, of bytes that lie in the spool; they stay there too, for the caller to remove."""
    with disk_errors_are_retriable(spool.root), spool.locate(spool_path).open("rb") as stream:
        parts = iter(lambda: stream.read(COPY_BYTES), b"")
        taken = Quarantine(spool).put(parts, _dated(facts, received_at), received_at)
    _enter_or_undo(spool, database, taken, facts, spool.size_bytes(taken[0]) or 0, received_at)
    return taken


def enter_again(spool: Spool, database: Database, file: SpooledFile) -> None:
    """Make the entry that a crash prevented, from the facts beside the bytes.

    Raises
    ------
    RetriableError
        The disk or the database does not work.
    """
    facts = {"reason": "its notes were lost; fsck found it", **Quarantine(spool).facts(file.spool_path)}
    _enter(database, file.spool_path, facts, file.size_bytes, datetime.fromtimestamp(file.modified_at_s, UTC))


def discard(entry: QuarantineEntry, spool: Spool, database: Database) -> None:
    """Remove an entry with its bytes, the bytes first: what is left by a crash is still listed.

    Raises
    ------
    RetriableError
        The disk or the database does not work; try again.
    """
    Quarantine(spool).remove(entry.spool_path)
    with database.transaction() as session:
        remove_entry(session, entry.id)


def _dated(facts: Facts, received_at: datetime) -> Facts:
    return {**facts, "received_at": received_at.isoformat()}


def _enter_or_undo(
    spool: Spool, database: Database, taken: tuple[str, bool], facts: Facts, size_bytes: int, received_at: datetime
) -> None:
    """Enter what was taken. Bytes that came before are entered too: a crash may have come before their entry."""
    spool_path, new = taken
    with contextlib.ExitStack() as undo:
        if new:
            undo.callback(Quarantine(spool).remove, spool_path)
        _enter(database, spool_path, facts, size_bytes, received_at)
        undo.pop_all()


def _enter(database: Database, spool_path: str, facts: Facts, size_bytes: int, received_at: datetime) -> None:
    entry = QuarantinedInstance(
        spool_path=spool_path,
        reason=str(facts["reason"]),
        sop_instance_uid=str(facts.get("sop_instance_uid", "")),
        calling_ae_title=str(facts.get("calling_ae_title", "")),
        source_address=str(facts.get("source_address", "")),
        size_bytes=size_bytes,
        received_at=received_at,
    )
    with database.transaction() as session:
        record_quarantine(session, entry)
