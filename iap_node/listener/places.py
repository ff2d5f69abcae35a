"""How many associations there may be, in all and for one peer, counted over all processes of a listener.

`associations` takes a place before an association is accepted and gives it back when it has ended.

The table is an anonymous file in memory that the processes share. A place is taken while a process holds a lock
on its byte (open file description locks, fcntl(2)): the system drops the locks of a process that dies, however it
dies, so that no place is ever lost. What stands in the table only says to which peer a locked place belongs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto

_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, process (0, as these locks demand)
_SETLKW, _GETLK = fcntl.F_OFD_SETLKW, fcntl.F_OFD_GETLK
_PEER_BYTES = 16


class Full(Enum):
    """Which limit leaves no place."""

    LISTENER = auto()
    PEER = auto()


class Places:
    """The places of a listener.

    Parameters
    ----------
    total, per_peer
        How many there are, and how many of them one peer may have; the same in every process.
    handle
        `handle` of the process that made the table, inherited; closed by this. None: make one.

    Raises
    ------
    OSError
        The system has no memory or file handles left.
    """

    def __init__(self, total: int, per_peer: int, handle: int | None = None) -> None:
        self._total = total
        self._per_peer = per_peer
        self._turn = threading.Lock()  # threads share the process's locks, which say nothing between them
        self._held: set[int] = set()
        if handle is None:
            self.handle = os.memfd_create("places", os.MFD_CLOEXEC)
            os.ftruncate(self.handle, total * _PEER_BYTES)
        else:  # opened anew: locks belong to the opening, and an inherited one would be the parent's as well
            self.handle = os.open(f"/proc/self/fd/{handle}", os.O_RDWR | os.O_CLOEXEC)
            os.close(handle)
        self.close = weakref.finalize(self, os.close, self.handle)
        """Give all places back; the table is gone when the last process has done so."""

    def take(self, peer: str) -> int | Full:
        """A place for an association of this peer, or which limit leaves none."""
        name = hashlib.blake2b(peer.encode(), digest_size=_PEER_BYTES).digest()
        with self._turn, self._between_processes():
            free, n_of_peer = None, 0
            for place in range(self._total):
                if place in self._held or self._is_taken_elsewhere(place):
                    n_of_peer += os.pread(self.handle, _PEER_BYTES, place * _PEER_BYTES) == name
                elif free is None:
                    free = place
            if free is None:
                return Full.LISTENER
            if n_of_peer >= self._per_peer:
                return Full.PEER
            os.pwrite(self.handle, name, free * _PEER_BYTES)
            self._lock(fcntl.F_WRLCK, free)
            self._held.add(free)
            return free

    def give_back(self, place: int) -> None:
        """The association that had it has ended."""
        with self._turn:
            if place in self._held and self.close.alive:
                self._held.remove(place)
                self._lock(fcntl.F_UNLCK, place)

    def _is_taken_elsewhere(self, place: int) -> bool:
        request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
        return bool(_FLOCK.unpack(fcntl.fcntl(self.handle, _GETLK, request))[0] != fcntl.F_UNLCK)

    @contextmanager
    def _between_processes(self) -> Iterator[None]:
        self._lock(fcntl.F_WRLCK, self._total)
        try:
            yield
        finally:
            self._lock(fcntl.F_UNLCK, self._total)

    def _lock(self, kind: int, byte: int) -> None:
        fcntl.fcntl(self.handle, _SETLKW, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
