"""Series by rules to ten destinations at fault, by workers that are killed: `make drill` does it with a thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.drill.delivery_drill import deliver_to_ten

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("drill")]


def test_every_series_is_at_each_of_its_destinations_once_or_a_dead_letter_says_why(tmp_path: Path) -> None:
    balance = deliver_to_ten(tmp_path, seed=20240, n_series=30, n_kills=6)
    print(f"\ndelivery drill:\n{balance}")
    assert not balance.faults, "\n".join(balance.faults[:20])
    assert sum(balance.kills.values()) == 6
    assert balance.n_dead == balance.n_requeued > 0 < balance.n_delivered
