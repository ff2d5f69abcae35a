"""`python -m training.simulation`: how fast the simulator is here, and one example series as DICOM."""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from training.simulation.dicom_series import write_series
from training.simulation.other_anatomy import simulate_head_series
from training.simulation.rate import measure
from training.simulation.series import simulate_series


def main() -> None:
    """Measure slices per second; with a folder, write one series of breast or head."""
    parser = argparse.ArgumentParser(prog="python -m training.simulation", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where to write one example series")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything sampled (default 0)")
    parser.add_argument("--slices", type=int, default=8, help="slices per series (default 8)")
    parser.add_argument("--series", type=int, default=8, help="series to measure on (default 8)")
    parser.add_argument("--processes", type=int, default=1, help="that measure side by side (default 1)")
    parser.add_argument("--head", action="store_true", help="write a head instead of a breast")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    if arguments.folder is not None:
        make = simulate_head_series if arguments.head else simulate_series
        series = make(rng, arguments.slices, slice_positions="even")
        paths = write_series(series, arguments.folder, rng=rng)
        print(f"{len(paths)} simulated instances in {arguments.folder}")
        for keyword, value in series.labels.items():
            print(f"  {keyword}: {value}")
        return
    n = arguments.processes
    with ProcessPoolExecutor(n, mp_context=get_context("spawn")) as pool:
        each = [pool.submit(measure, arguments.seed + k, arguments.slices, arguments.series) for k in range(n)]
        rates = [one.result() for one in each]
    wall, cpu = sum(rate for rate, _ in rates), sum(rate for _, rate in rates) / n
    print(
        f"{wall:.1f} simulated slices/s in {n} process{'es' if n > 1 else ''} ({cpu:.1f} per CPU second), "
        f"{arguments.slices} slices per series"
    )


if __name__ == "__main__":
    main()
