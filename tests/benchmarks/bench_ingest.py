"""C-STORE ingest as `dcmsend` sees it: this node (durable), DCMTK storescp and pynetdicom's storescp (neither durable).

Ratios of one run on one machine; absolute figures drift. Run by `make bench`, which prints them.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from training.simulation.dicom_series import make_study, write_series
from training.simulation.series import simulate_series

SLICES_PER_SERIES, SERIES = 50, 4
ROUNDS = 3
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}  # DCMTK leaves Nagle's algorithm on otherwise


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")


@contextmanager
def receiver(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield
    finally:
        process.terminate()
        process.wait(30)


def node_command(folder: Path, port: int) -> list[str]:
    folder.mkdir()
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"listener": {"port": port}, "log": {"level": "warning"}}))
    node = [sys.executable, "-m", "iap_node"]
    subprocess.run([*node, "init", "--config", str(config)], check=True, stdout=subprocess.DEVNULL)
    return [*node, "listen", "--config", str(config)]


def test_ingest_beside_dcmtk_and_pynetdicom(tmp_path: Path, program: Callable[[str, str], str]) -> None:
    dcmsend, storescp = program("dcmsend", "dcmtk"), program("storescp", "dcmtk")
    rng = np.random.default_rng(5)
    for number in range(SERIES):
        series = simulate_series(rng, SLICES_PER_SERIES, slice_positions="even")
        write_series(series, tmp_path / "sent" / str(number), rng=rng, study=make_study(rng, number))
    size = sum(path.stat().st_size for path in (tmp_path / "sent").rglob("*.dcm"))

    def seconds(receiver_name: str, round_number: int) -> float:
        port, folder = free_port(), tmp_path / f"{receiver_name}{round_number}"
        if receiver_name == "node":
            command = node_command(folder, port)
        else:
            folder.mkdir()
            command = {
                "dcmtk": [storescp, "--bit-preserving", "-od", str(folder), str(port)],
                "pynetdicom": [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-q", "-od", str(folder)],
            }[receiver_name]
        with receiver(command, port):
            started = time.monotonic()
            subprocess.run(
                [dcmsend, "-aec", "ANY-SCP", "+sd", "+r", "127.0.0.1", str(port), str(tmp_path / "sent")],
                check=True,
                env=ENVIRONMENT,
                stdout=subprocess.DEVNULL,
            )
            return time.monotonic() - started

    names = ("node", "dcmtk", "pynetdicom")
    runs: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(ROUNDS):  # interleaved: the machine's speed drifts
        for name in names:
            runs[name].append(seconds(name, round_number))
    median = {name: statistics.median(values) for name, values in runs.items()}
    instances = SERIES * SLICES_PER_SERIES
    print(f"\n{instances} simulated MR instances, {size / 1e6:.0f} MB, one association, medians of {ROUNDS} runs")
    for name in names:
        rate = instances / median[name]
        print(f"{name:>11}: {rate:7.0f} instances/s, {median['node'] / median[name]:.2f} x the node")
    assert all(value > 0 for value in median.values())


if __name__ == "__main__":
    pytest.main([__file__, "-q", "-s"])
