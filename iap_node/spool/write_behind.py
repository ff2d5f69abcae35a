"""A file that grows while its bytes come in: one piece of memory is written while the next one fills.

Used by `new_instance` for instances that are large.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class PieceOnItsWay:
    """Appends a piece of memory to a file, in a thread that ends with it.

    Parameters
    ----------
    write
        Of the file.
    give_back
        Called when nobody looks at the memory any more, whatever became of it.
    """

    def __init__(self, write: Callable[[memoryview], None], piece: memoryview, give_back: Callable[[], None]) -> None:
        self._write = write
        self._piece = piece
        self._give_back = give_back
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._write(self._piece)
        except BaseException as error:  # noqa: BLE001 - whatever it is: who waits must not take this for written
            self._error = error
        finally:
            self._give_back()

    def finish(self) -> None:
        """Return when it is written.

        Raises
        ------
        OSError
            The disk is full or fails.
        BaseException
            Whatever else ended the writing.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error

