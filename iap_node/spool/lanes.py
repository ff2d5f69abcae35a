"""Lanes: the segments that this process writes to, each by one reception at a time.

A segment goes through this: *made* (its name is durable, and so is a mark in `segments/unsettled/`), *prepared* (its
blocks were written with zeros: no block is allocated while a sender waits), *in use*, *full*, and *settled* once the
archive has a row for each of its records: what was not used of it is given back, and the mark goes. Whoever writes to a
segment holds a lock on it, which ends with the process: a marked segment without a lock is what a crash left, and
recovery's to read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import threading
import time
from pathlib import Path

import structlog

from iap_node.dicom.file_slice import FileSlice
from iap_node.spool.files import DIRECTORY_MODE, FILE_MODE, make_directory, set_direct, sync_directory
from iap_node.spool.segments import ALIGNMENT, SEGMENT_BYTES, SUFFIX, ZERO_PAGE, aligned, erase
from iap_node.spool.settling import SEGMENTS, mark_of, remove, settle
from iap_node.spool.staging import STAGING_BYTES

_ZEROS_AT_ONCE = 1024**2
IDLE_S = 1.0  # without a store: the burst is over

log = structlog.get_logger("spool")


class Lane:
    """A segment that this process writes to. Not for several threads at once; `Lanes` sees to that.

    Errors are those of the file system (OSError).

    Parameters
    ----------
    handle
        Of the segment, which is locked with it.
    durable
        Whether what is written is to be on the disk at once. It goes past the page cache then: the disk takes it out of
        the caller's memory, and nothing is copied.
    """

    def __init__(self, path: Path, handle: int, *, durable: bool) -> None:
        self.path = path
        self.handle = handle
        self._durable = durable
        self.segment_id = path.name.removesuffix(SUFFIX)  # 16 hexadecimal digits, random
        self.spool_path = f"{SEGMENTS}/{path.parent.name}/{path.name}"
        self.position = 0  # where the next record begins; a multiple of ALIGNMENT
        self.n_unregistered = 0  # records without a row yet; guarded by `Lanes`
        self.is_full = False

    @property
    def room(self) -> int:
        """Bytes that the next record may have."""
        return SEGMENT_BYTES - self.position

    def write(self, pages: memoryview) -> None:
        """Write whole pages of aligned memory at `position`; on the disk when this returns, where the spool is durable.

        One call does both: a flush of its own would cost a second one.
        """
        flags = os.RWF_DSYNC if self._durable else 0
        position = self.position
        while pages:
            written = os.pwritev(self.handle, (pages,), position, flags) // ALIGNMENT * ALIGNMENT
            if not written:
                raise OSError(errno.ENOSPC, "the disk took a part of a page")
            pages, position = pages[written:], position + written


class Lanes:
    """The lanes of one process; every method may be called from any thread.

    Parameters
    ----------
    root
        Of the spool.
    n_prepared
        How many segments are to lie ready; 0: none, each is made when it is needed.
    reserve_bytes
        Room on the disk that preparing leaves alone.
    durable
        See `Lane`.
    """

    def __init__(self, root: Path, n_prepared: int = 0, reserve_bytes: int = 0, *, durable: bool = True) -> None:
        self._root = root
        self._durable = durable
        self._reserve_bytes = reserve_bytes
        self._folder = root / SEGMENTS
        self._n_prepared = n_prepared
        self._turn = threading.Lock()
        self._changed = threading.Condition(self._turn)
        self._free: list[Lane] = []  # the last one used is used next, so that few are in use
        self._ready: list[Lane] = []  # prepared and never used
        self._in_use: dict[str, Lane] = {}  # by spool path: used and not settled, free or taken
        self._preparing: threading.Thread | None = None
        self._closed = False
        self._last_used_s = -IDLE_S

    # ------------------------------------------------------------ writing

    def take(self) -> Lane:
        """A lane with room for a record of `STAGING_BYTES`; give it back.

        Raises
        ------
        OSError
            The disk is full or fails.
        """
        with self._turn:
            if self._free:
                return self._free.pop()
            lane = self._ready.pop() if self._ready else None
            self._prepare()
        lane = lane or self._make()
        with self._turn:
            self._in_use[lane.spool_path] = lane
        return lane

    def give_back(self, lane: Lane, *, record_bytes: int = 0, suspect: bool = False) -> None:
        """A reception is through.

        Parameters
        ----------
        record_bytes
            Of the record that now stands at the lane's position; 0: none does.
        suspect
            A write failed: what the disk holds is not known, and nothing more is to be written there.
        """
        with self._turn:
            self._last_used_s = time.monotonic()
            if record_bytes:
                lane.position += aligned(record_bytes)
                lane.n_unregistered += 1
            lane.is_full = suspect or self._closed or lane.room < STAGING_BYTES
            if not lane.is_full:
                self._free.append(lane)
                return
        self._settle_if_done(lane)

    def registered(self, segment: str) -> None:
        """The archive has a row, durably, for one more record of a segment, or needs none."""
        with self._turn:
            lane = self._in_use.get(segment)
            if lane is None:
                return
            lane.n_unregistered -= 1
        self._settle_if_done(lane)

    def erase(self, where: FileSlice) -> None:
        """Remove a record of a segment that is in use; where a crash brings it back, nobody minds."""
        with self._turn:
            lane = self._in_use.get(where.path.relative_to(self._root).as_posix())
        if lane is not None:
            with contextlib.suppress(OSError):
                erase(lane.handle, where.offset, where.length)

    def _settle_if_done(self, lane: Lane) -> None:
        with self._turn:
            if lane.n_unregistered or not lane.is_full:
                return
            if self._in_use.pop(lane.spool_path, None) is None:
                return
        try:
            settle(lane.path, lane.handle, lane.position)
        except OSError as error:  # nothing is lost: recovery settles it at the next start
            log.error("segment not settled", segment=lane.segment_id, error=str(error))
        os.close(lane.handle)

    # ------------------------------------------------------------ life

    def start_preparing(self) -> None:
        """Have segments lie ready from now on; returns at once."""
        with self._turn:
            self._prepare()

    def wait_until_prepared(self) -> None:
        """Return when as many segments lie ready as are to, or the disk refused."""
        with self._turn:
            thread = self._preparing
        if thread is not None:
            thread.join()

    def adopt(self, path: Path, handle: int) -> bool:
        """Take over a segment that a process prepared and never used; False: it was not wanted, and is removed.

        Parameters
        ----------
        handle
            Holds its lock; stays the caller's when this returns False.
        """
        status = os.fstat(handle)
        is_prepared = status.st_size == SEGMENT_BYTES and status.st_blocks * 512 >= SEGMENT_BYTES
        with self._turn:
            if is_prepared and not self._closed and len(self._ready) < self._n_prepared:
                self._ready.append(self._lane(path, handle))
                return True
        remove(path)
        return False

    def close(self) -> None:
        """Write no more; settle what can be settled. What was prepared stays for the next start."""
        with self._turn:
            self._closed = True
            self._changed.notify_all()
            thread = self._preparing
        if thread is not None:
            thread.join()
        with self._turn:
            ready, self._ready = self._ready, []
            idle, self._free = self._free, []
            for lane in idle:
                lane.is_full = True
        for lane in ready:
            os.close(lane.handle)
        for lane in idle:
            self._settle_if_done(lane)

    # ------------------------------------------------------------ making

    def _make(self) -> Lane:
        """A segment of our own, marked, not prepared."""
        segment_id = secrets.token_hex(8)
        path = self._folder / segment_id[:2] / f"{segment_id}{SUFFIX}"
        mark = mark_of(path)
        make_directory(path.parent, below=self._root)
        make_directory(mark.parent, below=self._root)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, handle)
            undo.callback(path.unlink, missing_ok=True)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(handle, SEGMENT_BYTES)
            os.fsync(handle)
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
            undo.callback(mark.unlink, missing_ok=True)
            sync_directory(path.parent)
            sync_directory(mark.parent)
            undo.pop_all()
        return self._lane(path, handle)

    def _lane(self, path: Path, handle: int) -> Lane:
        if self._durable:
            go_past_page_cache(handle)
        return Lane(path, handle, durable=self._durable)

    def _unmake(self, lane: Lane) -> None:
        with contextlib.suppress(OSError):
            remove(lane.path)
        os.close(lane.handle)

    def _prepare(self) -> None:
        """See to it that segments lie ready; called with the lock held."""
        if self._preparing is None and not self._closed and len(self._ready) < self._n_prepared:
            self._preparing = threading.Thread(target=self._prepare_all, name="prepare-segments", daemon=True)
            self._preparing.start()

    def _prepare_all(self) -> None:
        while True:
            with self._turn:
                while self._is_busy():
                    self._changed.wait(IDLE_S)
                if self._closed or len(self._ready) >= self._n_prepared:
                    self._preparing = None
                    return
            try:
                if not self._has_room():
                    raise OSError(errno.ENOSPC, "preparing would use up the disk's reserve")
                lane = self._make()
                try:
                    write_zeros(lane.path, lane.handle)
                except OSError:
                    self._unmake(lane)
                    raise
            except OSError as error:  # without prepared segments stores are slower, and fail with their own reason
                log.warning("segment not prepared", error=str(error))
                with self._turn:
                    self._preparing = None
                return
            with self._turn:
                self._ready.append(lane)

    def _is_busy(self) -> bool:
        """Whether zeros would only keep senders waiting: a burst goes on, and what lies ready suffices for a while."""
        goes_on = time.monotonic() - self._last_used_s < IDLE_S
        return goes_on and not self._closed and len(self._ready) > self._n_prepared // 4

    def _has_room(self) -> bool:
        self._root.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        found = os.statvfs(self._root)
        return found.f_bavail * found.f_frsize >= self._reserve_bytes + SEGMENT_BYTES


def write_zeros(path: Path, handle: int) -> None:
    """Have the blocks of a new segment written, past the page cache where the file system can.

    Raises
    ------
    OSError
        The disk is full or fails.
    """
    direct = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        go_past_page_cache(direct)
        with mmap.mmap(-1, _ZEROS_AT_ONCE) as zeros:  # page-aligned, as O_DIRECT asks for
            for position in range(0, SEGMENT_BYTES, _ZEROS_AT_ONCE):
                os.pwrite(direct, zeros, position)
    finally:
        os.close(direct)
    os.fsync(handle)


def go_past_page_cache(handle: int) -> None:
    """Have what is written to a new segment go to the disk at once (O_DIRECT), where the file system can do that.

    Raises
    ------
    OSError
        The disk is full or fails.
    """
    if set_direct(handle, True):
        try:
            os.pwrite(handle, ZERO_PAGE, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:  # said yes, and meant no
                raise
            set_direct(handle, False)
