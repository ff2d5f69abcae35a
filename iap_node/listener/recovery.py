"""What a crash left in the spool, put in order when the listener starts. Called by `iap-node listen` before
`start`.

- Segments whose process ended before the rows of their records were written: those records were acknowledged, or were
  about to be. Their rows are written now. What is torn does not count as a record, and is cut off.
- Temporary files: torn, and never acknowledged. They are removed.
- Files without a row, of which no segment tells: a crash came between their name and the note of them, so that their
  sender was not told. They are filed now rather than removed: should the database have been restored from a backup,
  then these are all that is left of instances that *were* acknowledged. (`iap-node fsck` looks for more of that.)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

import structlog

from iap_node.database.engine import Database
from iap_node.database.spooled import paths_without_row
from iap_node.dicom.part10 import read_file_meta, read_instance_header, read_source_ae_title
from iap_node.dicom.sop_classes import why_not_analysed
from iap_node.errors import UnreadableInstance
from iap_node.listener.intake import Intake
from iap_node.records import ReceivedInstance, StoreOutcome
from iap_node.spool import Facts, Spool, content_checksum, disk_errors_are_retriable

# A file younger than this may belong to another process that is between its name and the note of it. No store takes so
# long: a silent peer is gone after `idle_timeout_s`.
SETTLED_AFTER_S = 3600.0

PATHS_AT_ONCE = 500
_READ_AT_ONCE = 1024**2

Item = TypeVar("Item")

log = structlog.get_logger("recovery")


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found and done."""

    torn: int  # temporary files removed
    filed: int  # instances without a row, filed now or found to be copies
    unreadable: int  # files without a row that cannot be filed; left where they are


def recover(spool: Spool, database: Database, intake: Intake, *, settled_after_s: float = SETTLED_AFTER_S) -> Recovered:
    """Write the rows that are missing; remove what is torn.

    Only series whose directory changed since the last recovery (less `settled_after_s`) are looked at, so
    that a start does not walk the whole archive.

    Raises
    ------
    RetriableError
        The disk or the database does not work.
    """
    started_at_s = time.time()
    filed = unreadable = 0
    for segment in spool.abandoned_segments():
        for batch in _batches(spool.records(segment)):
            with database.reading() as session:
                unnamed = set(paths_without_row(session, [spool_path for spool_path, _ in batch]))
            for spool_path, record in batch:
                if spool_path in unnamed:
                    if adopt(spool, intake, spool_path, record.facts) is None:
                        unreadable += 1
                    else:
                        filed += 1
    torn = spool.sweep(older_than_s=settled_after_s)
    settled = (
        file
        for file in spool.instances(changed_since_s=spool.looked_through_at_s() - settled_after_s)
        if file.modified_at_s < started_at_s - settled_after_s
    )
    for files in _batches(settled):
        with database.reading() as session:
            unnamed_paths = paths_without_row(session, [file.spool_path for file in files])
        for spool_path in unnamed_paths:
            if adopt(spool, intake, spool_path) is None:
                unreadable += 1
            else:
                filed += 1
    spool.note_looked_through(started_at_s)
    recovered = Recovered(len(torn), filed, unreadable)
    if torn or filed or unreadable:
        log.warning("spool recovered", torn=recovered.torn, filed=filed, unreadable=unreadable)
    return recovered


def adopt(spool: Spool, intake: Intake, spool_path: str, facts: Facts | None = None) -> StoreOutcome | None:
    """File an instance whose bytes lie in the spool without a row.

    Parameters
    ----------
    facts
        Of its record, or of the note of it; None: it is read anew.

    Returns
    -------
    StoreOutcome | None
        None: it cannot be filed. It stays where it is.

    Raises
    ------
    RetriableError
        The disk or the database does not work.
    """
    if not spool.exists(spool_path):  # another process did it, or removed it
        return StoreOutcome.DUPLICATE
    where = spool.locate(spool_path)
    try:
        with disk_errors_are_retriable(spool.root):
            header = read_instance_header(where)
            size_bytes = spool.size_bytes(spool_path)
            received = ReceivedInstance(
                header=header,
                spool_path=spool_path,
                checksum=(facts.checksum if facts is not None else _checksum_of(spool, spool_path)).hex(),
                size_bytes=size_bytes,
                calling_ae_title=read_source_ae_title(where),
                source_address=facts.source_address if facts is not None else "",
                received_at=facts.received_at if facts is not None else datetime.now(UTC),
                not_analysed_reason=why_not_analysed(header),
            )
        outcome = intake.adopt(received)
    except UnreadableInstance as error:
        log.error("instance without a row cannot be filed; look at it", spool_path=spool_path, error=str(error))
        return None
    log.warning("instance without a row filed", sop_instance_uid=header.sop_instance_uid, outcome=outcome)
    return outcome


def _checksum_of(spool: Spool, spool_path: str) -> bytes:
    where = spool.locate(spool_path)
    with where.open("rb") as stream:
        checksum = content_checksum(read_file_meta(stream))
        while piece := stream.read(_READ_AT_ONCE):
            checksum.update(piece)
    return checksum.digest()


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    while batch := list(islice(items, PATHS_AT_ONCE)):
        yield batch
