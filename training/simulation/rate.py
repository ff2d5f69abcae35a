"""How fast the simulator is: measured by `python -m training.simulation`, in one process or several."""

from __future__ import annotations

import time

import numpy as np

from training.simulation.series import simulate_series


def measure(seed: int, n_slices: int, n_series: int) -> tuple[float, float]:
    """Slices per second and per CPU second of this process, after one series that is not counted."""
    rng = np.random.default_rng(seed)
    simulate_series(rng, n_slices)
    wall, cpu = time.perf_counter(), time.process_time()
    slices = sum(len(simulate_series(rng, n_slices).pixels) for _ in range(n_series))
    return slices / (time.perf_counter() - wall), slices / (time.process_time() - cpu)
