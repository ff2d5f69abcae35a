"""The Storage Commitment Push Model as data: its UIDs, its failure reasons, its requests and reports.

Called by the listener, which is its SCP. Source: PS3.4 Annex J, PS3.3 C.14 (Storage Commitment Module).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID

STORAGE_COMMITMENT_PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE: Final = "1.2.840.10008.1.20.1.1"  # well-known SOP Instance, PS3.4 J.3.5
REQUEST_STORAGE_COMMITMENT: Final = 1  # Action Type ID, PS3.4 Table J.3-1
MAX_UID_LENGTH: Final = 64


class EventType(IntEnum):
    """Event Type ID of a report (PS3.4 Table J.3-2)."""

    ALL_COMMITTED = 1
    FAILURES_EXIST = 2


class FailureReason(IntEnum):
    """Failure Reason (0008,1197): PS3.3 C.14.1.1."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    DUPLICATE_TRANSACTION_UID = 0x0131


class ActionStatus(IntEnum):
    """Status of an N-ACTION-RSP (PS3.7 10.1.4.1.10)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_SOP_INSTANCE = 0x0112
    MISSING_ARGUMENT = 0x0114  # "No such argument" for N-ACTION: an element of the action's information is not there
    INVALID_ARGUMENT = 0x0115
    NO_SUCH_ACTION = 0x0123
    RESOURCE_LIMITATION = 0x0213


class InvalidRequest(ValueError):
    """The Action Information is none; the text says why and holds nothing of it."""

    def __init__(self, status: ActionStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Promise:
    """One instance of a request, and whether it is committed."""

    sop_class_uid: str
    sop_instance_uid: str
    failure: FailureReason | None  # None: committed


def read_request(ds: Dataset) -> tuple[str, list[tuple[str, str]]]:
    """Transaction UID and the pairs of SOP Class UID and SOP Instance UID of an Action Information.

    Raises
    ------
    InvalidRequest
        It lacks something, or something in it is no UID.
    """
    transaction_uid = str(ds.get("TransactionUID", "") or "")
    references = [
        (str(item.get("ReferencedSOPClassUID", "") or ""), str(item.get("ReferencedSOPInstanceUID", "") or ""))
        for item in ds.get("ReferencedSOPSequence", None) or ()
    ]
    if not transaction_uid or not references:
        raise InvalidRequest(ActionStatus.MISSING_ARGUMENT, "no Transaction UID, or no Referenced SOP Sequence")
    for uid in (transaction_uid, *(uid for reference in references for uid in reference)):
        if not uid or len(uid) > MAX_UID_LENGTH or not UID(uid).is_valid:
            raise InvalidRequest(ActionStatus.INVALID_ARGUMENT, "a UID that is none")
    return transaction_uid, references


def write_report(transaction_uid: str, promises: Sequence[Promise]) -> tuple[EventType, Dataset]:
    """Event Type and Event Information of the N-EVENT-REPORT that answers a request (PS3.4 Table J.3-2)."""
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    committed = [promise for promise in promises if promise.failure is None]
    failed = [promise for promise in promises if promise.failure is not None]
    if committed:
        ds.ReferencedSOPSequence = [_item(promise) for promise in committed]
    if failed:
        ds.FailedSOPSequence = [_item(promise) for promise in failed]
    return EventType.FAILURES_EXIST if failed else EventType.ALL_COMMITTED, ds


def _item(promise: Promise) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = promise.sop_class_uid
    item.ReferencedSOPInstanceUID = promise.sop_instance_uid
    if promise.failure is not None:
        item.FailureReason = int(promise.failure)
    return item
