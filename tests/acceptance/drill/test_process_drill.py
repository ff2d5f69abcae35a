"""kill -9 of the listener, of the database, of the workers and of the whole node, while senders are at work.

Does not cover what a power cut takes: test_power_cut_drill.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.drill.count import Count
from tests.acceptance.drill.process_drill import kill_database, kill_listener, kill_listener_processes, kill_node
from tests.conftest import running_postgresql

SEED = 20240  # `make soak` takes others

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("drill")]


def test_a_listener_killed_again_and_again_loses_nothing(tmp_path: Path, report: Callable[[Count], None]) -> None:
    count = kill_listener(tmp_path, SEED, n_kills=16)
    report(count)
    assert sum(count.kills.values()) >= 16


def test_a_process_of_a_listener_killed_beside_others_loses_nothing(
    tmp_path: Path, report: Callable[[Count], None]
) -> None:
    count = kill_listener_processes(tmp_path, SEED, n_kills=6)
    report(count)
    assert sum(count.kills.values()) == 6


def test_a_killed_postgresql_server_takes_nothing_with_it(tmp_path: Path, report: Callable[[Count], None]) -> None:
    with running_postgresql(durable=True) as server:
        count = kill_database(tmp_path, SEED, 6, server)
    report(count)
    assert sum(count.kills.values()) >= 6


def test_a_killed_node_finishes_every_series_to_the_bit(tmp_path: Path, report: Callable[[Count], None]) -> None:
    targets = ["node", "node", "listen", "infer", "deliver", "deliver", "schedule"]
    count = kill_node(tmp_path, SEED, targets)
    report(count)
    assert sum(count.kills.values()) == len(targets)
