"""Series that a model of breast MR must call novel, and one kind that it must not.

Other anatomy, noise, objects, breasts turned round and blurred, CT, real series. Called by evaluation. Real MR series
are read only where a folder of them is given; the CT images are those that pydicom brings for its own tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom.data
import scipy.ndimage
from numpy.typing import NDArray

from iap_node.dicom.part10 import read_instance_header
from iap_node.dicom.pixels import read_series_slices
from iap_node.errors import NodeError
from training.simulation import simulate_series
from training.simulation.other_anatomy import simulate_head_series

Slices = Sequence[NDArray[np.generic]]

N_SLICES = 8
BLUR_PX = 3.0  # standard deviation of the blur, pixels of the stored image
_MAX_PIXELS = 4096 * 4096
_MAX_BYTES = 512 * 1024**2


@dataclass(frozen=True, slots=True)
class Kind:
    """Series of one kind, each a sequence of slices (rows, columns)."""

    name: str
    series: Sequence[Slices]
    should_be_novel: bool = True


def made_up(n_series: int, seed: int = 0) -> list[Kind]:
    """Kinds of images that no scanner made of a breast, and simulated breasts as they are, turned and blurred."""
    rng = np.random.default_rng(seed)
    heads = [list(simulate_head_series(rng, N_SLICES).pixels) for _ in range(n_series)]
    kinds = [
        Kind("simulated head", heads),
        Kind("noise", [_noise(rng) for _ in range(n_series)]),
        Kind("disc phantom", [_disc(rng) for _ in range(n_series)]),
        Kind("grey", [[np.full((256, 256), 100, np.uint16)] * N_SLICES]),
    ]
    breasts = [list(simulate_series(rng, N_SLICES, slice_positions="even").pixels) for _ in range(n_series)]
    kinds.append(Kind("simulated breast, as it is", breasts, should_be_novel=False))
    changes: tuple[tuple[str, Callable[[NDArray[np.generic]], NDArray[np.generic]]], ...] = (
        ("simulated breast, rotated by 90 degrees", np.rot90),
        # not by 180 degrees: scanners store breasts that way up too
        ("simulated breast, rotated by 30 degrees", _turned),
        ("simulated breast, blurred", _blurred),
    )
    return kinds + [Kind(name, [[change(image) for image in one] for one in breasts]) for name, change in changes]


def _turned(image: NDArray[np.generic]) -> NDArray[np.generic]:
    turned: NDArray[np.generic] = scipy.ndimage.rotate(image.astype(np.float32), 30.0, reshape=False, order=1)
    return turned


def _blurred(image: NDArray[np.generic]) -> NDArray[np.generic]:
    blurred: NDArray[np.generic] = scipy.ndimage.gaussian_filter(image.astype(np.float32), BLUR_PX)
    return blurred


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


def ct_images() -> Kind:
    """The CT images in pydicom's own test files, one series each."""
    folder = Path(str(pydicom.data.__file__)).parent / "test_files"
    series = []
    for path in sorted(folder.rglob("*.dcm")):
        try:
            if read_instance_header(path).modality == "CT":
                series += [slices for slices in (_read([path]),) if slices]
        except NodeError:
            continue
    return Kind("CT (pydicom's test files)", series)


def real_series(folder: Path) -> Kind:
    """Series under a folder, one per sub-folder; what holds no readable pixels is left out."""
    return Kind(f"real series of other anatomy ({folder.name})", list(_read_all(folder)))


def _read_all(folder: Path) -> Iterator[Slices]:
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        slices = _read(sorted(path for path in part.rglob("*") if path.is_file()))
        if slices:
            yield slices


def _read(files: Sequence[Path]) -> Slices:
    try:
        return read_series_slices(
            files, max_slices=24, max_pixels_per_slice=_MAX_PIXELS, max_bytes_per_instance=_MAX_BYTES
        ).slices
    except NodeError:
        return ()
