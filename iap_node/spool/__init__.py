"""Instance files on disk: write, fsync, find, retire. Knows no table; the archive's rows say which file
counts.

The listener writes; workers, deliverers and the command line read by the relative path that a row names.
"""

from iap_node.spool.files import SpooledFile, disk_error, disk_errors_are_retriable
from iap_node.spool.new_instance import MAX_RECORD_BYTES
from iap_node.spool.quarantine import Quarantine
from iap_node.spool.segments import PREAMBLE_BYTES, Facts, Record, RecordKind, content_checksum
from iap_node.spool.spool import Spool

__all__ = [
    "MAX_RECORD_BYTES",
    "PREAMBLE_BYTES",
    "Facts",
    "Quarantine",
    "Record",
    "RecordKind",
    "Spool",
    "SpooledFile",
    "content_checksum",
    "disk_error",
    "disk_errors_are_retriable",
]
