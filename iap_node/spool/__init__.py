"""Instance files on disk: write, fsync, find, retire. Knows no table; the archive's rows say which file
counts.

The listener writes; workers, deliverers and the command line read by the relative path that a row names.
"""

from iap_node.spool.files import NewFile, SpooledFile
from iap_node.spool.quarantine import Quarantine
from iap_node.spool.spool import Spool

__all__ = ["NewFile", "Quarantine", "Spool", "SpooledFile"]
