"""On which port the listener, or the console, of this machine serves: noted in the data directory, for whoever
configured port 0.

Written by `iap-node listen` and `iap-node web`, read by `iap-node status`, the demo and the tests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE_NAME = "listener.json"
WEB_FILE_NAME = "web.json"  # the console's


@contextmanager
def noted_port(data_dir: Path, port: int, file_name: str = FILE_NAME) -> Iterator[None]:
    """Keep the note while the listener serves; it names this process, so that a stale one is seen through."""
    path = data_dir / file_name
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"port": port, "pid": os.getpid()}), encoding="utf-8")
    partial.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def read_port(data_dir: Path, file_name: str = FILE_NAME) -> int | None:
    """The port of the listener, or of the console, that serves this data directory; None: none runs here."""
    try:
        note = json.loads((data_dir / file_name).read_text(encoding="utf-8"))
        os.kill(note["pid"], 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except (ValueError, KeyError, TypeError):  # it was not flushed: a power cut may leave an empty file
        return None
    except PermissionError:  # it runs, as another user
        pass
    return int(note["port"])
