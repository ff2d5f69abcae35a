"""Files instances that lie in files through the same intake as C-STORE. Called by `iap-node import` and the web.

They are read piece by piece, so that an instance may be larger than the memory.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO

from iap_node.dicom.media import MediaFile, RefusedMember
from iap_node.dicom.part10 import read_file_meta, scan_instance_header
from iap_node.errors import UnreadableInstance
from iap_node.listener.intake import Intake
from iap_node.listener.limits import DiskLow, DiskReserve
from iap_node.listener.reception import Request
from iap_node.records import StoreOutcome

PIECE_BYTES = 1024**2
CALLING_AE_TITLE = "IMPORT"  # who the instance came from, in the archive


class ImportOutcome(StrEnum):
    """What became of one file."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    QUARANTINED = "quarantined"
    NOT_DICOM = "not_dicom"
    REFUSED = "refused"  # of a zip or DICOMDIR: not to be had, or not to be believed


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """One file, with the reason where it could not be filed."""

    path: MediaFile
    outcome: ImportOutcome
    reason: str = ""


def import_files(paths: Sequence[MediaFile], intake: Intake, disk: DiskReserve | None = None) -> Iterator[ImportedFile]:
    """File one after the other; the originals stay where they are.

    Parameters
    ----------
    disk
        Asked before each. None: it may fill up.

    Raises
    ------
    RetriableError
        The disk is low, or it or the database does not work; what was yielded is filed.
    OSError
        A file cannot be read.
    """
    for path in paths:
        reason = None if disk is None else disk.refusal()
        if reason is not None:
            raise DiskLow(reason)
        try:
            yield _import(path, intake)
        except RefusedMember as error:
            yield ImportedFile(path, ImportOutcome.REFUSED, str(error))


def _import(path: MediaFile, intake: Intake) -> ImportedFile:
    try:
        with path.open("rb") as stream:
            header = scan_instance_header(stream, read_file_meta(stream))
    except UnreadableInstance as error:
        if not _claims_to_be_dicom(path):
            return ImportedFile(path, ImportOutcome.NOT_DICOM, str(error))
        return _quarantine(path, intake)
    request = _request(header.sop_class_uid, header.sop_instance_uid, header.transfer_syntax_uid)
    with path.open("rb") as stream:
        read_file_meta(stream)
        outcome = intake.file_pieces(_pieces(stream), request)
    return ImportedFile(path, _AS_IMPORTED[outcome])


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    while piece := stream.read(PIECE_BYTES):
        yield piece


_AS_IMPORTED = {
    StoreOutcome.STORED: ImportOutcome.STORED,
    StoreOutcome.DUPLICATE: ImportOutcome.DUPLICATE,
    StoreOutcome.CONFLICT: ImportOutcome.CONFLICT,
}


def _request(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Request:
    return Request(sop_class_uid, sop_instance_uid, transfer_syntax_uid, CALLING_AE_TITLE, socket.gethostname())


def _claims_to_be_dicom(path: MediaFile) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _quarantine(path: MediaFile, intake: Intake) -> ImportedFile:
    """Hand the whole file to the intake, which cannot identify it either and keeps it with the reason."""
    try:
        with path.open("rb") as stream:
            intake.file_pieces(_pieces(stream), _request("", "", ""))
    except UnreadableInstance as error:
        return ImportedFile(path, ImportOutcome.QUARANTINED, str(error))
    raise AssertionError("an instance without UIDs was filed")
