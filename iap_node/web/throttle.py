"""Too many wrong passwords: a pause for the account and for the address, so that guessing takes years."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

WINDOW_S = 300.0
PER_ACCOUNT = 8  # wrong passwords in the window before the account's door is closed
PER_ADDRESS = 40
_MOST_KEYS = 10_000  # addresses and names in memory


class Throttle:
    """Counts failures per account name and per address; forgets them after `WINDOW_S`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turn = threading.Lock()
        self._failures: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def wait_s(self, name: str, address: str) -> float:
        """How long this account and address have to wait before the next try; 0: not at all."""
        with self._turn:
            now = self._clock()
            return max(
                self._wait(("account", name), PER_ACCOUNT, now), self._wait(("address", address), PER_ADDRESS, now)
            )

    def failed(self, name: str, address: str) -> None:
        """Count a wrong password."""
        with self._turn:
            now = self._clock()
            for key in (("account", name), ("address", address)):
                self._failures.setdefault(key, deque(maxlen=PER_ADDRESS)).append(now)
                self._failures.move_to_end(key)
            while len(self._failures) > _MOST_KEYS:
                self._failures.popitem(last=False)

    def succeeded(self, name: str) -> None:
        """Forget an account's failures."""
        with self._turn:
            self._failures.pop(("account", name), None)

    def _wait(self, key: tuple[str, str], most: int, now: float) -> float:
        times = self._failures.get(key)
        if times is None:
            return 0.0
        while times and now - times[0] >= WINDOW_S:
            times.popleft()
        if not times:
            del self._failures[key]
            return 0.0
        return 0.0 if len(times) < most else WINDOW_S - (now - times[-most])
