"""An instance on its way into the spool: bytes come in, then it is kept, durably, or nothing is left of it.

Made by `Spool.begin`. What fits into a piece of staging memory is put together there and becomes a record of a segment,
with one write; what is larger becomes a file of its own with a note of it in a segment, so that after a crash the
segments tell everything that was acknowledged.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

from iap_node.spool.files import NewFile
from iap_node.spool.lanes import Lanes
from iap_node.spool.segments import PREAMBLE_BYTES, Facts, RecordKind, aligned, encode_preamble
from iap_node.spool.staging import STAGING_BYTES, StagingPool
from iap_node.spool.write_behind import PieceOnItsWay

MAX_RECORD_BYTES = STAGING_BYTES  # what is larger becomes a file of its own: there a flush is not what costs


class NewInstance:
    """Not for several threads at once. Errors are those of the file system (OSError); after one, `discard`.

    Parameters
    ----------
    head
        What stands between the preamble and the data set: DICM and file meta. Without it this is a bare data set,
        which can be written and taken over as a file, but not kept.
    new_file
        Makes a file without a name, for an instance that is large.
    durable
        Whether what is kept is flushed to the disk: a file goes past the page cache then, which it would only fill.
    """

    def __init__(
        self, lanes: Lanes, pool: StagingPool, head: bytes, new_file: Callable[[], NewFile], *, durable: bool
    ) -> None:
        self._durable = durable
        self._writing: PieceOnItsWay | None = None
        self._lanes = lanes
        self._pool = pool
        self._head = head
        self._new_file = new_file
        self._file: NewFile | None = None
        self._staging: memoryview | None = pool.take()
        self._n_prefix = self._n_staged = PREAMBLE_BYTES + len(head) if head else 0
        self.size_bytes = self._n_staged  # in all
        if head:
            self._staging[:PREAMBLE_BYTES] = bytes(PREAMBLE_BYTES)
            self._staging[PREAMBLE_BYTES : self._n_staged] = head

    @property
    def data_set(self) -> memoryview | None:
        """What came so far, good until more comes; None where it is not all in memory."""
        return self._memory()[self._n_prefix : self._n_staged] if self._file is None else None

    def room(self, at_most: int) -> memoryview:
        """Memory for what comes next, at least a byte; say how much came (`came`)."""
        if self._n_staged == STAGING_BYTES:
            self._spill()
        return self._memory()[self._n_staged : min(self._n_staged + at_most, STAGING_BYTES)]

    def came(self, n_bytes: int) -> None:
        """So much lies in what `room` gave last."""
        self._n_staged += n_bytes
        self.size_bytes += n_bytes

    def write(self, part: bytes | memoryview) -> None:
        """Append a part."""
        view = memoryview(part)
        while view:
            room = self.room(len(view))
            room[:] = view[: len(room)]
            self.came(len(room))
            view = view[len(room) :]

    def reader(self) -> BinaryIO:
        """What was written, as a Part 10 file; close it before more comes."""
        return self._as_file().reader()

    def take_file(self) -> NewFile:
        """All that was written, as a file that is the caller's from now on, to be named or discarded."""
        file, self._file = self._as_file(), None
        return file

    def keep(self, facts: Facts, file_name: Callable[[NewFile], str]) -> tuple[str, str]:
        """Make it durable.

        Parameters
        ----------
        file_name
            Gives a large instance's file its name, durably, and tells it.

        Returns
        -------
        spool_path
            Its name in the spool, for its row.
        record
            Name of the record that tells of it: the same, unless it is large.
        """
        if self._file is None:
            name = self._keep_record(RecordKind.INSTANCE, self._head, facts)
            return name, name
        spool_path = file_name(self._as_file())
        text = spool_path.encode()
        self._n_staged = PREAMBLE_BYTES + len(text)
        self._memory()[PREAMBLE_BYTES : self._n_staged] = text
        record = self._keep_record(RecordKind.NOTE, text, facts)
        self._file = None
        return spool_path, record

    def discard(self) -> None:
        """Leave nothing behind but what was kept."""
        with contextlib.suppress(OSError):
            self._finish_writing()
        staging, self._staging = self._staging, None
        if staging is not None:
            self._pool.give_back(staging)
        file, self._file = self._file, None
        if file is not None:
            file.discard()

    def _as_file(self) -> NewFile:
        self._finish_writing()
        if self._file is None:
            self._file = self._new_file()
        self._writer(self._file)(self._memory()[: self._n_staged])
        self._n_staged = 0
        return self._file

    def _spill(self) -> None:
        """Move what is staged into a file, while the next bytes come."""
        self._finish_writing()
        if self._file is None:
            self._file = self._new_file()
        memory, self._staging = self._memory(), self._pool.take()
        piece = memory[: self._n_staged]
        self._writing = PieceOnItsWay(self._writer(self._file), piece, partial(self._pool.give_back, memory))
        self._n_staged = 0

    def _writer(self, file: NewFile) -> Callable[[memoryview], None]:
        return file.write_from_pages if self._durable else file.write

    def _finish_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.finish()

    def _keep_record(self, kind: RecordKind, head: bytes, facts: Facts) -> str:
        memory, size = self._memory(), self._n_staged
        end = aligned(size)
        memory[size:end] = bytes(end - size)  # another instance may have left its bytes there
        lane = self._lanes.take()
        offset = lane.position
        try:
            memory[:PREAMBLE_BYTES] = encode_preamble(lane.segment_id, offset, size, kind, head, facts)
            lane.write(memory[:end])
        except OSError as error:
            self._lanes.give_back(lane, suspect=error.errno not in (errno.ENOSPC, errno.EDQUOT))
            raise
        self._lanes.give_back(lane, record_bytes=size)
        return f"{lane.spool_path}#{offset}+{size}"

    def _memory(self) -> memoryview:
        if self._staging is None:
            raise ValueError("the instance is kept already, or discarded")
        return self._staging
