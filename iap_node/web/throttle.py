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

    def attempt(self, name: str, address: str) -> float:
        """Take a try, before the password is looked at: how long it has to wait; 0: it may go on.

        A try counts as a failure until `succeeded` says otherwise, so that many at once are no more than one by one.
        """
        with self._turn:
            now = self._clock()
            wait_s = max(
                self._wait(("account", name), PER_ACCOUNT, now), self._wait(("address", address), PER_ADDRESS, now)
            )
            if wait_s > 0:
                return wait_s
            self._count(now, ("account", name), ("address", address))
            return 0.0

    def wait_s(self, address: str) -> float:
        """How long an address has to wait, whose tries are counted by `failed`."""
        with self._turn:
            return self._wait(("address", address), PER_ADDRESS, self._clock())

    def failed(self, address: str) -> None:
        """Count a try that named no account."""
        with self._turn:
            self._count(self._clock(), ("address", address))

    def succeeded(self, name: str, address: str) -> None:
        """Forget an account's failures, and the try that was none of its address."""
        with self._turn:
            self._failures.pop(("account", name), None)
            times = self._failures.get(("address", address))
            if times:
                times.pop()

    def _count(self, now: float, *keys: tuple[str, str]) -> None:
        for key in keys:
            self._failures.setdefault(key, deque(maxlen=PER_ADDRESS)).append(now)
            self._failures.move_to_end(key)
        while len(self._failures) > _MOST_KEYS:
            self._failures.popitem(last=False)

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
