"""Files of their own in a spool, for tests that need some."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from iap_node.spool import Spool


def write_file(spool: Spool, spool_path: str, parts: Sequence[bytes | memoryview]) -> int:
    """Keep a file under a name from `Spool.new_name`; its size. On an error nothing is left behind."""
    file = spool.new_file()
    with contextlib.ExitStack() as undo:
        undo.callback(file.discard)
        for part in parts:
            file.write(part)
        spool.keep_file(file, spool_path)
        undo.pop_all()
    return file.size_bytes
