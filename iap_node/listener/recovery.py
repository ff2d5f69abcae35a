"""What a crash left in the spool, put in order when the listener starts. Called by `iap-node listen` before
`start`.

Two things can be left. A temporary file is torn and was never acknowledged: it is removed. An instance file
without a row is complete, since it was synced before it got its name; its sender was not told so. It is filed
now rather than removed: should the database have been restored from a backup, then these files are all that
is left of instances that *were* acknowledged.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import structlog
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from iap_node.database.engine import Database
from iap_node.database.spooled import paths_without_row
from iap_node.dicom.part10 import read_instance
from iap_node.errors import UnreadableInstance
from iap_node.listener.intake import Intake
from iap_node.listener.reception import content_hash
from iap_node.spool import Spool, SpooledFile

# A file younger than this may belong to another process that is between its rename and its commit. No store
# takes so long: the database gives up after a minute (its busy timeout), a silent peer after
# `idle_timeout_s`.
SETTLED_AFTER_S = 3600.0

PATHS_AT_ONCE = 500

log = structlog.get_logger("recovery")


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found and done."""

    torn: int  # temporary files removed
    filed: int  # instance files without a row, filed now or found to be copies
    unreadable: int  # instance files without a row that cannot be filed; left where they are


def recover(spool: Spool, database: Database, intake: Intake, *, settled_after_s: float = SETTLED_AFTER_S) -> Recovered:
    """Remove torn files, file instances that have no row.

    Only series whose directory changed since the last recovery (less `settled_after_s`) are looked at, so
    that a start does not walk the whole archive.

    Raises
    ------
    RetriableError
        The disk or the database does not work.
    """
    started_at_s = time.time()
    torn = spool.sweep(older_than_s=settled_after_s)
    settled = (
        file
        for file in spool.instances(changed_since_s=spool.looked_through_at_s() - settled_after_s)
        if file.modified_at_s < started_at_s - settled_after_s
    )
    filed = unreadable = 0
    for batch in _batches(settled):
        with database.reading() as session:
            unnamed = paths_without_row(session, [file.spool_path for file in batch])
        for spool_path in unnamed:
            if adopt(spool, intake, spool_path):
                filed += 1
            else:
                unreadable += 1
    spool.note_looked_through(started_at_s)
    recovered = Recovered(len(torn), filed, unreadable)
    if torn or filed or unreadable:
        log.warning("spool recovered", torn=recovered.torn, filed=filed, unreadable=unreadable)
    return recovered


def _batches(files: Iterator[SpooledFile]) -> Iterator[list[SpooledFile]]:
    while batch := list(islice(files, PATHS_AT_ONCE)):
        yield batch


def adopt(spool: Spool, intake: Intake, spool_path: str) -> bool:
    """File an instance that lies in the spool without a row; False when it cannot be read. For fsck, too.

    Raises
    ------
    RetriableError
        The database does not work; the file stays where it is.
    """
    path = spool.path(spool_path)
    try:
        meta = read_file_meta_info(path)
        header, dataset = read_instance(path)
        size_bytes = path.stat().st_size
    except FileNotFoundError:  # another process did it, or removed it
        return True
    except (UnreadableInstance, InvalidDicomError, EOFError, OSError) as error:
        log.error("file without a row cannot be read; look at it", spool_path=spool_path, error=str(error))
        return False
    calling_ae_title = str(meta.get("SourceApplicationEntityTitle", "") or "")
    filed = intake.adopt(header, dataset, spool_path, size_bytes, calling_ae_title)
    log.warning("file without a row filed", sop_instance_uid=header.sop_instance_uid, outcome=filed.outcome)
    return True


def checksum_of(spool: Spool, spool_path: str) -> str:
    """The checksum that a row has for the instance that lies at a spool path. For fsck.

    Raises
    ------
    UnreadableInstance
        It is no instance any more.
    OSError
        It is gone, or the disk cannot read it.
    """
    header, dataset = read_instance(spool.locate(spool_path))
    return content_hash(dataset, header.transfer_syntax_uid)
