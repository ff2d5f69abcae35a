"""Shares with their intervals, so that one conspicuous series of one is no 100 %."""

from __future__ import annotations

import math
from dataclasses import dataclass

from iap_node.audit.reports.drawing import Drawing, rate

Z = 1.959964  # of a normal distribution: 95 % lie within


@dataclass(frozen=True, slots=True)
class Rate:
    """`n` of `of`, with Wilson's score interval at 95 %.

    References
    ----------
    Wilson: Probable inference, the law of succession, and statistical inference. J. Am. Stat. Assoc. 22, 1927, 209-212.
    """

    n: int
    of: int

    @property
    def share(self) -> float | None:
        """None where there was nothing to count."""
        return self.n / self.of if self.of else None

    @property
    def low(self) -> float:
        """Lower end of the interval; 0 where there was nothing to count."""
        return max(0.0, self._middle - self._half) if self.n else 0.0

    @property
    def high(self) -> float:
        """Upper end of the interval; 1 where there was nothing to count."""
        return min(1.0, self._middle + self._half) if self.n < self.of or not self.of else 1.0

    @property
    def drawing(self) -> Drawing:
        """Share and interval on an axis from 0 to 1."""
        label = f"{self.n} of {self.of}, between {self.low:.3f} and {self.high:.3f}"
        return rate(self.n / self.of if self.of else 0.5, self.low, self.high, label)

    def as_object(self) -> dict[str, float | int | None]:
        """For programs."""
        return {"n": self.n, "of": self.of, "share": self.share, "low": self.low, "high": self.high}

    def differs(self, other: Rate) -> bool:
        """Whether the intervals of both are apart."""
        return self.low > other.high or other.low > self.high

    @property
    def _middle(self) -> float:
        return (self.n + Z**2 / 2) / (self.of + Z**2)

    @property
    def _half(self) -> float:
        return Z / (self.of + Z**2) * math.sqrt((self.n * (self.of - self.n) / self.of if self.of else 0) + Z**2 / 4)
