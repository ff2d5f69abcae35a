"""What a campaign of the drill did and found. Made by `process_drill` and `power_cut`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.acceptance.drill.driver import Ledger


@dataclass
class Count:
    """What a campaign did; without `faults` all was well."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)  # by what was killed
    n_sent: int = 0  # contents
    n_acknowledged: int = 0  # answers: a re-send counts again
    faults: list[str] = field(default_factory=list)

    def add(self, ledger: Ledger) -> None:
        """What the senders did."""
        self.n_sent += sum(map(len, ledger.sent.values()))
        self.n_acknowledged += ledger.n_acknowledged

    def __str__(self) -> str:
        kills = ", ".join(f"{n} x {target}" for target, n in sorted(self.kills.items()))
        return f"seed {self.seed}: {kills}; {self.n_sent} contents sent, {self.n_acknowledged} acknowledgements"
