"""Memory in which instances are put together, aligned to pages so that the disk takes them from there without a copy.

Each instance on its way in has one piece (`new_instance`); the pieces of those that are through are used again, because
pages that were touched before cost nothing.
"""

from __future__ import annotations

import mmap
from collections import deque

STAGING_BYTES = 640 * 1024  # of one piece: an image of 512 x 512 with a large header
MOST_SPARE = 16  # kept; there are more only while more instances come in at once


class StagingPool:
    """The pieces of one process; any thread may ask."""

    def __init__(self) -> None:
        self._spare: deque[memoryview] = deque(maxlen=MOST_SPARE)

    def take(self) -> memoryview:
        """A piece that nobody else has. What lay in it lies there still."""
        try:
            return self._spare.pop()
        except IndexError:
            return memoryview(mmap.mmap(-1, STAGING_BYTES))

    def give_back(self, piece: memoryview) -> None:
        """Nobody looks at it any more."""
        self._spare.append(piece)
