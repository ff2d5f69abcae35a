"""Files quarantined instances again, through the same intake as C-STORE. Called by `iap-node quarantine`.

An instance is looked at before it goes to the intake, so that one that still cannot be filed stays where it is and
does not come back as a second entry. It leaves the quarantine after it is filed; a crash in between makes the next
try find a duplicate, which is taken out then.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from iap_node.database.engine import Database
from iap_node.database.quarantine import QuarantineEntry
from iap_node.dicom.part10 import is_safe_uid, read_instance, scan_instance_header
from iap_node.errors import UnreadableInstance
from iap_node.listener.intake import Intake
from iap_node.listener.reception import Request
from iap_node.records import InstanceHeader, StoreOutcome
from iap_node.spool import Quarantine, Spool, disk_errors_are_retriable
from iap_node.upkeep.quarantine import discard


class Readmission(StrEnum):
    """What became, or would become, of a quarantined instance."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    MISMATCHED = "mismatched"  # stays: the data set is of another instance than its sender said
    UNREADABLE = "unreadable"  # stays: it still cannot be identified
    LOST = "lost"  # its bytes are gone


@dataclass(frozen=True, slots=True)
class Readmitted:
    """One entry of the quarantine, and why it stays where it does."""

    entry_id: int
    outcome: Readmission
    sop_instance_uid: str  # by the data set where that is readable, else as the sender said
    reason: str = ""

    @property
    def filed(self) -> bool:
        """Whether it has left the quarantine."""
        return self.outcome in (Readmission.STORED, Readmission.DUPLICATE, Readmission.CONFLICT)


@dataclass(frozen=True, slots=True)
class Examined:
    """What a quarantined instance is by its own data set, or why it cannot be filed."""

    header: InstanceHeader | None
    dataset: bytes
    obstacle: Readmission | None  # None: it can be filed
    reason: str = ""


def examine(entry: QuarantineEntry, spool: Spool) -> Examined:
    """Look at a quarantined instance as the intake would; changes nothing.

    Raises
    ------
    RetriableError
        The disk fails or may not be read.
    """
    facts = Quarantine(spool).facts(entry.spool_path)
    path = spool.path(entry.spool_path)
    transfer_syntax_uid = str(facts.get("transfer_syntax_uid", ""))
    bare = str(facts.get("part_10", "yes")) != "yes" and is_safe_uid(transfer_syntax_uid)
    with disk_errors_are_retriable(spool.root):
        try:
            if bare:
                dataset = path.read_bytes()
                header = scan_instance_header(dataset, transfer_syntax_uid)
            else:
                header, dataset = read_instance(path)
        except UnreadableInstance as error:
            return Examined(None, b"", Readmission.UNREADABLE, str(error))
        except FileNotFoundError:
            return Examined(None, b"", Readmission.LOST, "its bytes are gone; delete the entry")
    for name, said, found in (
        ("SOP Class UID", str(facts.get("sop_class_uid", "")), header.sop_class_uid),
        ("SOP Instance UID", entry.sop_instance_uid, header.sop_instance_uid),
    ):
        if said not in ("", found):
            reason = f"{name}: its sender said {said[:64]!r}, the data set {found}; --trust-data-set files it as that"
            return Examined(header, dataset, Readmission.MISMATCHED, reason)
    return Examined(header, dataset, None)


def readmit(
    entry: QuarantineEntry, intake: Intake, spool: Spool, database: Database, *, trust_data_set: bool = False
) -> Readmitted:
    """File a quarantined instance as if it came anew, and take it out of the quarantine.

    Parameters
    ----------
    trust_data_set
        Where the sender named another SOP Class or Instance than the data set, go by the data set.

    Raises
    ------
    RetriableError
        The disk or the database does not work; the entry stays.
    """
    examined = examine(entry, spool)
    header = examined.header
    may_trust = trust_data_set and examined.obstacle is Readmission.MISMATCHED
    if header is None or (examined.obstacle is not None and not may_trust):
        uid = entry.sop_instance_uid if header is None else header.sop_instance_uid
        return Readmitted(entry.id, examined.obstacle or Readmission.UNREADABLE, uid, examined.reason)
    uids = (header.sop_class_uid, header.sop_instance_uid, header.transfer_syntax_uid)
    outcome = intake.file(examined.dataset, Request(*uids, entry.calling_ae_title, entry.source_address))
    discard(entry, spool, database)
    return Readmitted(entry.id, _AS_READMITTED[outcome], header.sop_instance_uid)


_AS_READMITTED = {
    StoreOutcome.STORED: Readmission.STORED,
    StoreOutcome.DUPLICATE: Readmission.DUPLICATE,
    StoreOutcome.CONFLICT: Readmission.CONFLICT,
}
