"""An instance on its way in: who sends it, its bytes in the spool, and what makes two receptions the same.

Made and kept by `intake`; written by whoever has the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from iap_node.dicom.part10 import is_safe_uid, scan_first_bytes, scan_instance_header
from iap_node.records import InstanceHeader
from iap_node.spool import Spool, content_checksum, disk_error, disk_errors_are_retriable

# A header is read from memory where the first parts of a data set hold it: nearly always, and 100 times as fast.
HEAD_BYTES = 65_536

log = structlog.get_logger("intake")


@dataclass(frozen=True, slots=True)
class Request:
    """What a C-STORE-RQ says, its presentation context and its association."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    source_address: str


class Reception:
    """An instance on its way in, from `Intake.open`.

    Parameters
    ----------
    head
        DICM and file meta; nothing where the request's UIDs allow none.

    Raises
    ------
    RetriableError
        The disk does not work; nothing is left behind.
    """

    def __init__(self, request: Request, spool: Spool, head: bytes) -> None:
        self.request = request
        self.instance = spool.begin(head)
        self._root = spool.root
        self._n_head = self.instance.size_bytes
        self.checksum = content_checksum(request.transfer_syntax_uid)
        self.is_kept = False  # it is the archive's, or the quarantine's

    @property
    def is_part_10(self) -> bool:
        """Whether it has file meta."""
        return self._n_head > 0

    @property
    def size_bytes(self) -> int:
        """Of the data set so far."""
        return self.instance.size_bytes - self._n_head

    def write(self, part: bytes | memoryview) -> None:
        """Append a part of the data set, which must stay as it is until `flush` or the end.

        Raises
        ------
        RetriableError
            The disk does not work; `drop` it.
        """
        self.checksum.update(part)
        try:
            self.instance.write(part)
        except OSError as error:
            raise disk_error(self._root, error) from error

    def flush(self) -> None:
        """Write what is still in the caller's memory; raises as `write`."""
        with disk_errors_are_retriable(self._root):
            self.instance.flush()

    def scan(self) -> InstanceHeader:
        """The header of the data set, once it is written.

        Raises
        ------
        UnreadableInstance
            See `scan_instance_header`.
        RetriableError
            The disk does not work.
        """
        transfer_syntax_uid = self.request.transfer_syntax_uid
        waiting = self.instance.waiting
        if waiting is not None and is_safe_uid(transfer_syntax_uid):
            header = scan_first_bytes(_first_bytes(waiting), transfer_syntax_uid)
            if header is not None:
                return header
        with disk_errors_are_retriable(self._root), self.instance.reader() as file:
            file.seek(self._n_head)
            return scan_instance_header(file, transfer_syntax_uid)

    def drop(self) -> None:
        """Leave nothing of it behind, unless it is filed or in the quarantine."""
        if self.is_kept:
            return
        try:
            self.instance.discard()
        except OSError as error:  # it has no row and no name: swept away at the next start
            log.error("unfinished file not removed", sop_instance_uid=self.request.sop_instance_uid, error=str(error))


def _first_bytes(parts: Sequence[bytes | memoryview]) -> bytes | memoryview:
    if parts and len(parts[0]) >= HEAD_BYTES:  # of most senders
        return parts[0]
    first, n = [], 0
    for part in parts:
        first.append(part)
        n += len(part)
        if n >= HEAD_BYTES:
            break
    return b"".join(first)
