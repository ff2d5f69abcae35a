"""An instance on its way in: who sends it, its bytes in the spool, and what makes two receptions the same.

Made and kept by `intake`; written by whoever has the bytes.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import structlog

from iap_node.dicom.part10 import HeaderScanner, scan_instance_header
from iap_node.errors import UnreadableInstance
from iap_node.records import InstanceHeader
from iap_node.spool import Spool, content_checksum, disk_error, disk_errors_are_retriable

EARLY_BYTES = 8192  # of an instance: holds most headers as far as they are scanned

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
    scanner
        Of the association.
    """

    def __init__(self, request: Request, spool: Spool, head: bytes, scanner: HeaderScanner) -> None:
        self.request = request
        self.instance = spool.begin(head)
        self._root = spool.root
        self._n_head = self.instance.size_bytes
        self.checksum = content_checksum(request.transfer_syntax_uid)
        self._room: memoryview | None = None
        self._scanner = scanner
        self._header: InstanceHeader | None = None
        self._look_at = EARLY_BYTES

    @property
    def is_part_10(self) -> bool:
        """Whether it has file meta."""
        return self._n_head > 0

    @property
    def size_bytes(self) -> int:
        """Of the data set so far."""
        return self.instance.size_bytes - self._n_head

    def room(self, at_most: int) -> memoryview:
        """Memory for the next part of the data set, at least a byte; tell how much of it came (`came`).

        Raises
        ------
        RetriableError
            The disk does not work; `drop` it.
        """
        try:
            self._room = self.instance.room(at_most)
        except OSError as error:
            raise disk_error(self._root, error) from error
        return self._room

    def came(self, n_bytes: int) -> None:
        """So much lies in what `room` gave last."""
        assert self._room is not None
        self.checksum.update(self._room[:n_bytes])
        self.instance.came(n_bytes)

    def write(self, part: bytes | memoryview) -> None:
        """Append a part of the data set; raises as `room`."""
        self.checksum.update(part)
        try:
            self.instance.write(part)
        except OSError as error:
            raise disk_error(self._root, error) from error
        if self._look_at and self.instance.size_bytes >= self._look_at:
            self._look_at = 0
            self._look_early()

    def _look_early(self) -> None:
        """Scan what is here: the sender is busy with the rest, and would wait for the scan at the end."""
        data_set = self.instance.data_set
        if data_set is not None:
            with contextlib.suppress(UnreadableInstance):  # said when all of it is here
                self._header = self._scanner.scan_first_bytes(data_set, self.request.transfer_syntax_uid)

    def scan(self) -> InstanceHeader:
        """The header of the data set, once it is written.

        Raises
        ------
        UnreadableInstance
            See `scan_instance_header`.
        RetriableError
            The disk does not work.
        """
        if self._header is not None:
            return self._header
        transfer_syntax_uid = self.request.transfer_syntax_uid
        data_set = self.instance.data_set
        if data_set is not None:
            return scan_instance_header(data_set, transfer_syntax_uid)
        with disk_errors_are_retriable(self._root), self.instance.reader() as file:
            file.seek(self._n_head)
            return scan_instance_header(file, transfer_syntax_uid)

    def drop(self) -> None:
        """Leave nothing of it behind but what was kept, here or in the quarantine."""
        try:
            self.instance.discard()
        except OSError as error:  # it has no row and no name: swept away at the next start
            log.error("unfinished file not removed", sop_instance_uid=self.request.sop_instance_uid, error=str(error))
