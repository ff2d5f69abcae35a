"""Series that a model trained on simulated breasts must call novel.

Other anatomy, noise, objects, real series. Called by evaluation. Real series are read only where a folder of
them is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iap_node.dicom.pixels import read_series_slices
from iap_node.errors import NodeError
from training.simulation.other_anatomy import simulate_head_series

Slices = Sequence[NDArray[np.generic]]

N_SLICES = 8
_MAX_PIXELS = 4096 * 4096
_MAX_BYTES = 512 * 1024**2


def made_up(n_series: int, seed: int = 0) -> dict[str, list[Slices]]:
    """Series of images that no scanner made of a breast, by name."""
    rng = np.random.default_rng(seed)
    return {
        "simulated head": [list(simulate_head_series(rng, N_SLICES).pixels) for _ in range(n_series)],
        "noise": [_noise(rng) for _ in range(n_series)],
        "disc": [_disc(rng) for _ in range(n_series)],
        "grey": [[np.full((256, 256), 100, np.uint16)] * N_SLICES for _ in range(1)],
    }


def _noise(rng: np.random.Generator) -> Slices:
    size = int(rng.choice([256, 384, 512]))
    return [np.hypot(*rng.normal(0, 100, (2, size, size))).astype(np.uint16) for _ in range(N_SLICES)]


def _disc(rng: np.random.Generator) -> Slices:
    """A uniform cylinder in noise: the phantom of daily quality assurance."""
    size = int(rng.choice([256, 384, 512]))
    y, x = np.mgrid[:size, :size] / size - 0.5
    inside = np.hypot(x, y) < rng.uniform(0.25, 0.4)
    noise = rng.normal(0, rng.uniform(5, 40), (N_SLICES, 2, size, size))
    return [np.hypot(1000.0 * inside + noise[k, 0], noise[k, 1]).astype(np.uint16) for k in range(N_SLICES)]


def real_series(folder: Path) -> Mapping[str, list[Slices]]:
    """Series under a folder, one per sub-folder; what holds no readable pixels is left out."""
    series = list(_read_all(folder))
    return {f"real series of other anatomy ({folder.name})": series} if series else {}


def _read_all(folder: Path) -> Iterator[Slices]:
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in part.rglob("*") if path.is_file())
        try:
            pixels = read_series_slices(
                files, max_slices=24, max_pixels_per_slice=_MAX_PIXELS, max_bytes_per_instance=_MAX_BYTES
            )
        except NodeError:
            continue
        if pixels.slices:
            yield pixels.slices
