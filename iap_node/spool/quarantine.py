"""The quarantine: instances that could not be filed, each with its reason beside it, kept for a person to
look at.

Layout: ``quarantine/<YYYY-MM-DD>/<hash>.dcm`` and ``.json``. The hash is that of the contents: a sender that
repeats a broken instance all day fills one file, not the disk. The listener writes; the command line, retention and
fsck go by the rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from iap_node.spool.files import NewFile, SpooledFile, disk_errors_are_retriable, make_directory, write_durably
from iap_node.spool.spool import INCOMING, Spool

QUARANTINE = "quarantine"
DIGITS_OF_HASH = 40


class Quarantine:
    """The quarantine of a spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def put(
        self, parts: Iterable[bytes | memoryview], facts: Mapping[str, str | int], received_at: datetime
    ) -> tuple[str, bool]:
        """As `take`, of bytes that are no file of their own; on an error nothing is left behind."""
        file = self._spool.new_file()
        with contextlib.ExitStack() as undo, disk_errors_are_retriable(self._spool.root):
            undo.callback(file.discard)
            for part in parts:
                file.write(part)
            taken = self.take(file, facts, received_at)
            undo.pop_all()
        return taken

    def take(self, file: NewFile, facts: Mapping[str, str | int], received_at: datetime) -> tuple[str, bool]:
        """Keep an instance that lies in the spool without a name and, as JSON beside it, the facts about it.

        Parameters
        ----------
        file
            From `Spool.new_file`: a Part 10 file where that could be made.
        facts
            Reason, UIDs, sender; nothing of the patient.
        received_at
            Names the day.

        Returns
        -------
        spool_path
            Relative to the spool's root.
        new
            False: the same bytes lie there since earlier that day, and `file` is discarded.

        Raises
        ------
        RetriableError
            The disk is full, failing or not writable; the caller discards the file.
        """
        incoming = self._spool.root / INCOMING
        text = json.dumps(dict(facts), ensure_ascii=False, indent=1, sort_keys=True).encode()
        with disk_errors_are_retriable(self._spool.root):
            with file.reader() as stream:
                digest = hashlib.file_digest(stream, "sha256")
            spool_path = f"{QUARANTINE}/{received_at:%Y-%m-%d}/{digest.hexdigest()[:DIGITS_OF_HASH]}.dcm"
            path = self._spool.path(spool_path)
            sidecar = path.with_suffix(".json")
            if sidecar.exists():
                file.discard()
                return spool_path, False
            make_directory(path.parent, below=self._spool.root)
            file.name(path)
            write_durably(sidecar, text, temporary_in=incoming)
        return spool_path, True

    def facts(self, spool_path: str) -> dict[str, str | int]:
        """What `take` was told about an instance; empty where a crash left none, or they cannot be read.

        Raises
        ------
        RetriableError
            The disk fails or may not be read.
        """
        with disk_errors_are_retriable(self._spool.root):
            try:
                content = json.loads(self._spool.path(spool_path).with_suffix(".json").read_bytes())
            except (FileNotFoundError, ValueError):
                return {}
        if not isinstance(content, dict):
            return {}
        return {str(name): value for name, value in content.items() if isinstance(value, str | int)}

    def files(self) -> Iterator[SpooledFile]:
        """Everything that lies in the quarantine, day by day, the facts beside it left out."""
        for day in sorted((self._spool.root / QUARANTINE).glob("*")):
            for path in sorted(day.glob("*.dcm")):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    spool_path = path.relative_to(self._spool.root).as_posix()
                    yield SpooledFile(spool_path, status.st_size, status.st_mtime)

    def remove(self, spool_path: str) -> None:
        """Remove an instance from the quarantine, with its sidecar; missing ones are no error.

        Raises
        ------
        RetriableError
            The disk fails or is not writable.
        """
        path = self._spool.path(spool_path)
        with disk_errors_are_retriable(self._spool.root):
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
