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
from collections.abc import Iterable, Iterator, Mapping
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
from iap_node.records import ReceivedInstance
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

    def without_row(spool_paths: Iterable[str]) -> list[str]:
        with database.reading() as session:
            return paths_without_row(session, list(spool_paths))

    def adopt_all(found: Mapping[str, Facts | None]) -> None:
        nonlocal filed, unreadable
        adopted = _adopt(spool, intake, found)
        filed += adopted
        unreadable += len(found) - adopted

    with spool.abandoned_segments() as segments:
        left: dict[str, Facts] = {}
        for segment in segments:
            whole: set[str] = set()
            for records in _batches(spool.records(segment)):
                facts = {spool_path: record.facts for spool_path, record in records}
                left |= {spool_path: facts[spool_path] for spool_path in without_row(facts)}
                whole |= facts.keys()
            # What claims to be a record, is not whole and has no row was never acknowledged, or is on its way out.
            torn_records = [name for name, _ in spool.records(segment, verify=False) if name not in whole]
            if torn_records:
                spool.remove(*without_row(torn_records))
        # as they came: of several receptions of one instance the first one stands
        in_order = iter(sorted(left.items(), key=lambda item: item[1].received_at))
        for items in _batches(in_order):
            adopt_all(dict(items))
    torn = spool.sweep(older_than_s=settled_after_s)
    settled = (
        file
        for file in spool.instances(changed_since_s=spool.looked_through_at_s() - settled_after_s)
        if file.modified_at_s < started_at_s - settled_after_s
    )
    for files in _batches(settled):
        adopt_all(dict.fromkeys(without_row(file.spool_path for file in files)))
    spool.note_looked_through(started_at_s)
    recovered = Recovered(len(torn), filed, unreadable)
    if torn or filed or unreadable:
        log.warning("spool recovered", torn=recovered.torn, filed=filed, unreadable=unreadable)
    return recovered


def adopt(spool: Spool, intake: Intake, spool_path: str, facts: Facts | None = None) -> bool:
    """File an instance that lies in the spool without a row; False when it cannot be read. For fsck.

    Parameters
    ----------
    facts
        Of its record, or of the note of it; None: it is read anew.

    Raises
    ------
    RetriableError
        The disk or the database does not work; the bytes stay where they are.
    """
    return _adopt(spool, intake, {spool_path: facts}) == 1


def checksum_of(spool: Spool, spool_path: str) -> str:
    """The checksum that a row has for the instance that lies at a spool path. For fsck.

    Raises
    ------
    UnreadableInstance
        It is no instance any more.
    OSError
        It is gone, or the disk cannot read it.
    """
    with spool.locate(spool_path).open("rb") as stream:
        checksum = content_checksum(read_file_meta(stream))
        while piece := stream.read(_READ_AT_ONCE):
            checksum.update(piece)
    return checksum.hexdigest()


def _adopt(spool: Spool, intake: Intake, found: Mapping[str, Facts | None]) -> int:
    """How many were filed, or were found to be copies, or are gone meanwhile."""
    received, n_unreadable = [], 0
    for spool_path, facts in found.items():
        size_bytes = spool.size_bytes(spool_path)
        if size_bytes is None:  # another process did it, or removed it
            continue
        try:
            received.append(_received(spool, spool_path, size_bytes, facts))
        except UnreadableInstance as error:
            n_unreadable += 1
            log.error("instance without a row cannot be filed; look at it", spool_path=spool_path, error=str(error))
    for one, outcome in zip(received, intake.adopt(received), strict=True):
        if outcome is None:
            n_unreadable += 1
        uid = one.header.sop_instance_uid
        log.warning("instance without a row filed", sop_instance_uid=uid, outcome=outcome or "quarantined")
    return len(found) - n_unreadable


def _received(spool: Spool, spool_path: str, size_bytes: int, facts: Facts | None) -> ReceivedInstance:
    where = spool.locate(spool_path)
    with disk_errors_are_retriable(spool.root):
        header = read_instance_header(where)
        return ReceivedInstance(
            header=header,
            spool_path=spool_path,
            checksum=facts.checksum.hex() if facts is not None else checksum_of(spool, spool_path),
            size_bytes=size_bytes,
            calling_ae_title=read_source_ae_title(where),
            source_address=facts.source_address if facts is not None else "",
            received_at=facts.received_at if facts is not None else datetime.now(UTC),
            not_analysed_reason=why_not_analysed(header),
        )


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    while batch := list(islice(items, PATHS_AT_ONCE)):
        yield batch
