"""An instance on its way into the spool: parts come in, then it is kept, durably, or nothing is left of it.

Made by `Spool.begin`. Small ones become a record of a segment, large ones a file of their own with a note of it in a
segment, so that after a crash the segments tell everything that was acknowledged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import BinaryIO

from iap_node.dicom.file_slice import FileSlice
from iap_node.spool.files import NewFile
from iap_node.spool.lanes import MAX_RECORD_BYTES, Lane, Lanes
from iap_node.spool.segments import PREAMBLE_BYTES, Facts, RecordKind, encode_preamble

MAX_PARTS = 512  # that wait to be written; the system takes 1024 at once


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
        Whether what is kept is flushed to the disk.
    """

    def __init__(self, lanes: Lanes, head: bytes, new_file: Callable[[], NewFile], *, durable: bool) -> None:
        self._lanes = lanes
        self._head = head
        self._new_file = new_file
        self._durable = durable
        self._lane: Lane | None = lanes.take()
        self._file: NewFile | None = None
        self._waiting: list[bytes | memoryview] = [bytes(PREAMBLE_BYTES), head] if head else []
        self._n_prefix = len(self._waiting)
        self._n_written = 0
        self.size_bytes = PREAMBLE_BYTES + len(head) if head else 0

    @property
    def is_large(self) -> bool:
        """Whether it becomes a file of its own."""
        return self.size_bytes > MAX_RECORD_BYTES

    @property
    def waiting(self) -> Sequence[bytes | memoryview] | None:
        """The parts of the data set so far, where all of them are still in memory."""
        return None if self._n_written else self._waiting[self._n_prefix :]

    def write(self, part: bytes | memoryview) -> None:
        """Append a part, which must stay as it is until `flush`, `keep` or `discard`."""
        self._waiting.append(part)
        self.size_bytes += len(part)
        if len(self._waiting) >= MAX_PARTS:
            self.flush()

    def flush(self) -> None:
        """Write the parts that wait; their memory is free again."""
        if self._file is None and self.is_large:
            self.as_file()
        if self._file is not None:
            for part in self._waiting:
                self._file.write(part)
        elif self._waiting:
            lane = self._open_lane()
            lane.write(self._waiting, lane.position + self._n_written)
        self._n_written = self.size_bytes
        self._waiting.clear()

    def reader(self) -> BinaryIO:
        """What was written, as a Part 10 file; close it."""
        self.flush()
        if self._file is not None:
            return self._file.reader()
        lane = self._open_lane()
        return FileSlice(lane.path, lane.position, self.size_bytes).open()

    def as_file(self) -> NewFile:
        """Go on as a file of its own; the caller may take it over, and then neither keeps nor discards this."""
        if self._file is None:
            lane, self._lane = self._open_lane(), None
            try:
                self._file = self._new_file()
                self._file.copy(lane.handle, lane.position, self._n_written)
            finally:
                self._lanes.give_back(lane)
        return self._file

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
        if self.is_large:
            self.flush()
        if self._file is None:
            return self._keep_record(facts)
        self.flush()
        spool_path = file_name(self._file)
        record = self._keep_note(spool_path, facts)
        self._file = None
        return spool_path, record

    def discard(self) -> None:
        """Leave nothing behind."""
        self._waiting.clear()
        lane, self._lane = self._lane, None
        if lane is not None:
            self._lanes.give_back(lane)
        file, self._file = self._file, None
        if file is not None:
            file.discard()

    def _keep_record(self, facts: Facts) -> tuple[str, str]:
        lane = self._open_lane()
        offset, size = lane.position, self.size_bytes
        preamble = encode_preamble(lane.segment_id, offset, size, RecordKind.INSTANCE, self._head, facts)
        if self._n_written:
            self.flush()
            lane.write([preamble], offset, fill_page=False)
        else:
            self._waiting[0] = preamble
            lane.write(self._waiting, offset)
        self._lane = None
        self._waiting.clear()
        self._finish(lane, size)
        return (name := _record_name(lane, offset, size)), name

    def _keep_note(self, spool_path: str, facts: Facts) -> str:
        text = spool_path.encode()
        lane = self._lanes.take()
        offset, size = lane.position, PREAMBLE_BYTES + len(text)
        try:
            lane.write([encode_preamble(lane.segment_id, offset, size, RecordKind.NOTE, text, facts), text], offset)
        except OSError:
            self._lanes.give_back(lane)
            raise
        self._finish(lane, size)
        return _record_name(lane, offset, size)

    def _finish(self, lane: Lane, size: int) -> None:
        if self._durable:
            try:
                os.fdatasync(lane.handle)
            except OSError:
                self._lanes.give_back(lane, suspect=True)
                raise
        self._lanes.give_back(lane, record_bytes=size)

    def _open_lane(self) -> Lane:
        if self._lane is None:
            raise ValueError("the instance is kept already, or discarded")
        return self._lane


def _record_name(lane: Lane, offset: int, size: int) -> str:
    return f"{lane.spool_path}#{offset}+{size}"
