"""An instance on its way in: a file in the spool that has no name yet, and what makes two receptions the same.

Made and filed by `intake`; written by whoever has the bytes.
"""

from __future__ import annotations

import hashlib

import structlog

from iap_node.spool import Spool, disk_errors_are_retriable

log = structlog.get_logger("intake")


class Reception:
    """An instance on its way in, from `Intake.open`: its request, and a file in the spool that has no name yet.

    Parameters
    ----------
    preamble
        What precedes the data set in `file`: preamble and file meta, or nothing where the UIDs allow none.
    """

    def __init__(
        self,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        calling_ae_title: str,
        source_address: str,
        preamble: bytes,
        spool: Spool,
    ) -> None:
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self.calling_ae_title = calling_ae_title
        self.source_address = source_address
        self.preamble = preamble
        self.file = spool.begin()
        self.digest = _digest_for(transfer_syntax_uid)
        self._root = spool.root
        self.is_kept = False  # the file has its name: it is the archive's, or the quarantine's

    def write(self, fragment: bytes | memoryview) -> None:
        """Append a piece of the data set; it is written as it is, to the bit, and not kept in memory.

        Raises
        ------
        RetriableError
            The disk does not work; `drop` it.
        """
        with disk_errors_are_retriable(self._root):
            self.file.write(fragment)
        self.digest.update(fragment)

    def drop(self) -> None:
        """Leave nothing of it behind, unless it is filed or in the quarantine."""
        if self.is_kept:
            return
        try:
            self.file.discard()
        except OSError as error:  # it has no row and no name: swept away at the next start
            log.error("unfinished file not removed", sop_instance_uid=self.sop_instance_uid, error=str(error))


def content_hash(dataset: bytes, transfer_syntax_uid: str) -> str:
    """SHA-256, in hexadecimal, that makes two receptions the same instance: of transfer syntax UID and data
    set."""
    digest = _digest_for(transfer_syntax_uid)
    digest.update(dataset)
    return digest.hexdigest()


def _digest_for(transfer_syntax_uid: str) -> hashlib._Hash:
    return hashlib.sha256(transfer_syntax_uid.encode("ascii", "replace"))
