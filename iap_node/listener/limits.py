"""What one instance, one peer and the disk may cost: size, pace, room.

`receiver` asks `Pace` and `SizeLimit` while a data set comes in, `handlers` asks `DiskReserve` before it takes one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from iap_node.config import ListenerConfig
from iap_node.errors import NodeError, PermanentError, RetriableError
from iap_node.spool import disk_errors_are_retriable

MIB = 1024**2
FAR_BEYOND = 2  # times the largest instance; read so far for the sake of an answer, and no further
LOOK_AGAIN_S = 0.25  # how old what we know about the disk may be
# A running store may use half of the reserve: it was taken when there was room, and ends soon.
RESERVE_OF_RUNNING = 0.5
ROOM_AGAIN_BYTES = 64 * MIB  # beyond the reserve: a disk that is about full is one change in the log, not hundreds

log = structlog.get_logger("listener")


class InstanceTooLarge(PermanentError):
    """Larger than listener.max_instance_mb; nothing of it is kept."""


class DiskLow(RetriableError):
    """The disk has less room than the reserve; told once in the log, not per instance."""


class PeerOutOfBounds(NodeError):
    """The peer costs more than it may, and cannot be told in an answer: the association is aborted."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one association of a listener may cost."""

    size: SizeLimit
    min_bytes_per_s: float
    window_s: float

    @classmethod
    def of(cls, config: ListenerConfig) -> Limits:
        """The limits that a configuration sets."""
        return cls(SizeLimit(config.max_instance_mb * MIB), config.min_bytes_per_s, config.idle_timeout_s)

    def new_pace(self) -> Pace:
        """For a new association."""
        return Pace(self.min_bytes_per_s, self.window_s)


class SizeLimit:
    """How large an instance may be, watched while its data set comes in.

    The status for one that is too large is Cxxx (Error: Cannot understand) of PS3.4 Table B.2-1: the others are
    wrong. A7xx (Out of resources) asks to be sent the same again, for ever; A9xx says that data set and SOP Class
    differ. Cxxx is a failure that is final, and its comment says why.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    def check(self, n_bytes: int) -> None:
        """A data set has `n_bytes` so far.

        Raises
        ------
        InstanceTooLarge
            It cannot be stored; read it to its end, then tell.
        PeerOutOfBounds
            It is too large even to be read to its end.
        """
        if n_bytes <= self._max_bytes:
            return
        limit = f"{self._max_bytes // MIB} MB (listener.max_instance_mb)"
        if n_bytes > FAR_BEYOND * self._max_bytes:
            raise PeerOutOfBounds(f"it sends an instance of more than {FAR_BEYOND} times {limit}")
        raise InstanceTooLarge(f"it is larger than {limit}; raise that if this instance is wanted")


class Pace:
    """How fast a peer sends, while something that it began is not complete.

    Only time in which we wait for the peer counts. What we take for disk, archive or other associations is not its
    fault: then its bytes are there when we come for them.

    Parameters
    ----------
    window_s
        Over how much waiting the bytes are counted.
    """

    def __init__(self, min_bytes_per_s: float, window_s: float) -> None:
        self._min_bytes_per_s = min_bytes_per_s
        self._window_s = window_s
        self._waited_s = 0.0
        self._n_bytes = 0

    def begin(self) -> None:
        """Something new begins."""
        self._waited_s = 0.0
        self._n_bytes = 0

    def received(self, n_bytes: int) -> None:
        """So much came."""
        self._n_bytes += n_bytes

    def waited(self, seconds: float) -> None:
        """So long nothing came.

        Raises
        ------
        PeerOutOfBounds
            Too little came in the last window.
        """
        self._waited_s += seconds
        if self._waited_s < self._window_s:
            return
        if self._n_bytes < self._min_bytes_per_s * self._waited_s:
            raise PeerOutOfBounds(
                f"it sent {self._n_bytes} bytes while we waited for {self._waited_s:.0f} s, less than "
                f"{self._min_bytes_per_s:.0f} per second (listener.min_bytes_per_s)"
            )
        self.begin()


class DiskReserve:
    """Whether the disk has room for more than what is on its way; any number of threads may ask.

    Parameters
    ----------
    root
        A directory on the disk.
    reserve_bytes
        Room that new stores leave to what runs and to everything else on the disk: archive, logs, other programs.
    now
        The clock, in seconds.
    """

    def __init__(self, root: Path, reserve_bytes: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._reserve_bytes = reserve_bytes
        self._now = now
        self._turn = threading.Lock()
        self._free_bytes = 0
        self._looked_at = float("-inf")
        self._is_low = False

    def refusal(self, expected_bytes: int = 0) -> str | None:
        """Why no new store is taken; None: it is.

        Parameters
        ----------
        expected_bytes
            What is being received and may need room that it does not have on the disk yet.

        Raises
        ------
        RetriableError
            The disk cannot even be asked.
        """
        with self._turn:
            self._look()
            room_bytes = self._free_bytes - expected_bytes
            was_low = self._is_low
            self._is_low = room_bytes < self._reserve_bytes + (ROOM_AGAIN_BYTES if was_low else 0)
            if self._is_low and not was_low:
                log.error(
                    "disk low: new stores are refused until there is room", root=str(self._root),
                    free_mb=self._free_bytes // MIB, reserve_mb=self._reserve_bytes // MIB,
                    remedy="make room on it, or lower spool.disk_reserve_mb",
                )  # fmt: skip
            elif was_low and not self._is_low:
                log.warning("disk has room again: stores are taken", root=str(self._root))
            return self._why() if self._is_low else None

    def refusal_of_running(self) -> str | None:
        """Why a store that was taken cannot go on; None: it can. Raises as `refusal`."""
        with self._turn:
            self._look()
            return self._why() if self._free_bytes < self._reserve_bytes * RESERVE_OF_RUNNING else None

    def _look(self) -> None:
        if self._now() - self._looked_at >= LOOK_AGAIN_S:
            with disk_errors_are_retriable(self._root):
                found = os.statvfs(self._root)
            self._free_bytes = found.f_bavail * found.f_frsize
            self._looked_at = self._now()

    def _why(self) -> str:
        return (
            f"the disk below {self._root} has {self._free_bytes // MIB} MB left, and {self._reserve_bytes // MIB} are "
            "its reserve: make room, or lower spool.disk_reserve_mb"
        )
