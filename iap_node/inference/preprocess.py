"""Slices as the network sees them: the one preparation that training and the node share.

NumPy and scipy.fft only. Two channels exist. `image` is the paper's path (arXiv 2303.04911): the slice scaled
by its own maximum to 0..255 in whole numbers, then resized bilinearly without antialiasing. `spectrum` is the
log power spectrum of the slice at its native resolution on a fixed grid of cycles per field of view: what
resizing would throw away. The edge of the acquired matrix, partial Fourier and reconstruction filters are
there in absolute terms, whatever size the scanner reconstructed. Called by the predictor and by
`training.dataset`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Channel = Literal["image", "spectrum"]
FloatArray = NDArray[np.float32]

_POWER_FLOOR = 1e-14  # of the slice's energy, in one bin: below what single precision resolves


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a slice becomes network input; stands in model.json.

    Attributes
    ----------
    size
        Edge of the square network input, pixels.
    channels
        Which channels, in the order of the network's input.
    rounded
        Whether channels are rounded to whole numbers 0..255, as a training set on disk holds them.
    offset, scale
        Per channel: the network sees (channel - offset) / scale.
    spectrum_extent
        Largest spatial frequency of the spectrum channel, cycles per field of view.
    spectrum_floor_db, spectrum_ceiling_db
        Share of the slice's energy in one frequency bin, dB, shown as 0 and 255.
    """

    size: int = 224
    channels: tuple[Channel, ...] = ("image",)
    rounded: bool = False
    offset: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    spectrum_extent: int = 256
    spectrum_floor_db: float = -120.0
    spectrum_ceiling_db: float = -20.0

    def __post_init__(self) -> None:
        if not self.channels or not (len(self.channels) == len(self.offset) == len(self.scale)):
            raise ValueError("channels, offset and scale need one entry per channel")
        if min(self.scale) <= 0 or self.size < 32 or self.spectrum_extent < self.size:
            raise ValueError("scale must be positive, size at least 32, spectrum_extent at least size")


PAPER = Preprocessing()
"""Input of arXiv 2303.04911: 224 x 224, one channel, 0..255, not standardised."""


def prepare_series(slices: Sequence[NDArray[np.generic]], spec: Preprocessing) -> FloatArray:
    """All slices of a series as (n_slices, channels, size, size), 0..255; sizes may differ between slices."""
    return np.stack([prepare_slice(pixels, spec) for pixels in slices])


def prepare_slice(pixels: NDArray[np.generic], spec: Preprocessing) -> FloatArray:
    """One slice as (channels, size, size), float32 0..255.

    Parameters
    ----------
    pixels
        (rows, columns), any numeric type and scale, bright is signal. Values that are not finite or negative
        count as zero.

    Raises
    ------
    ValueError
        `pixels` is not two-dimensional or empty.
    """
    if pixels.ndim != 2 or not pixels.size:
        raise ValueError(f"a slice is (rows, columns) and not empty, not of shape {pixels.shape}")
    signal: FloatArray = np.maximum(np.nan_to_num(pixels.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0), 0.0)
    planes = {"image": _image, "spectrum": _spectrum}
    prepared = np.stack([planes[channel](signal, spec) for channel in spec.channels])
    return np.rint(prepared) if spec.rounded else prepared


def standardise(prepared: NDArray[np.generic], spec: Preprocessing) -> FloatArray:
    """(n, channels, size, size) as the network takes it."""
    shape = (1, len(spec.channels), 1, 1)
    offset = np.asarray(spec.offset, np.float32).reshape(shape)
    scale = np.asarray(spec.scale, np.float32).reshape(shape)
    standardised: FloatArray = (prepared.astype(np.float32) - offset) / scale
    return standardised


def _image(signal: FloatArray, spec: Preprocessing) -> FloatArray:
    largest = float(signal.max())
    if largest <= 0:
        return np.zeros((spec.size, spec.size), np.float32)
    scaled = (signal / np.float32(largest) * np.float32(255.0)).astype(np.uint8)
    return resize_bilinear(scaled.astype(np.float32), spec.size)


def resize_bilinear(image: FloatArray, size: int) -> FloatArray:
    """(rows, columns) to (size, size): pixel centres aligned by area, edges repeated, no antialiasing.

    The same as torch's `interpolate(mode="bilinear", align_corners=False, antialias=False)`.
    """
    top, bottom, down = _neighbours(image.shape[0], size)
    left, right, across = _neighbours(image.shape[1], size)
    upper, lower = image[top], image[bottom]
    upper = upper[:, left] * (1 - across) + upper[:, right] * across
    lower = lower[:, left] * (1 - across) + lower[:, right] * across
    resized: FloatArray = upper * (1 - down[:, None]) + lower * down[:, None]
    return resized


@functools.lru_cache(maxsize=64)
def _neighbours(n_source: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
    """Index before, index after and weight of the one after, for each target pixel."""
    position = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(n_source / size) - np.float32(0.5)
    position = np.maximum(position, 0)
    before = np.minimum(position.astype(np.intp), n_source - 1)
    after = np.minimum(before + 1, n_source - 1)
    return before, after, (position - before).astype(np.float32)


def _spectrum(signal: FloatArray, spec: Preprocessing) -> FloatArray:
    """Log power spectrum, quadrants folded onto one: zero frequency at the corner, `extent` at the far edges.

    A magnitude image has P(u, v) = P(-u, -v), so that the half plane holds everything; the mean of +u and -u
    halves the speckle and doubles the resolution that `size` pixels give.
    """
    extent = spec.spectrum_extent
    energy = float(np.sum(signal.astype(np.float64) ** 2))
    if energy <= 0:
        return np.zeros((spec.size, spec.size), np.float32)
    rows, columns = signal.shape
    half_plane = scipy.fft.rfft2(signal)[:, :extent]
    power = (half_plane.real**2 + half_plane.imag**2) / np.float32(rows * columns * energy)
    decibel = 10 * np.log10(power + np.float32(_POWER_FLOOR))
    n_rows = min(rows // 2 + 1, extent)
    folded = (decibel[:n_rows] + decibel[-np.arange(n_rows)]) / 2
    grid = np.full((extent, extent), spec.spectrum_floor_db, np.float32)
    grid[:n_rows, : folded.shape[1]] = folded
    shown = np.clip((grid - spec.spectrum_floor_db) / (spec.spectrum_ceiling_db - spec.spectrum_floor_db), 0, 1)
    area = _area_weights(extent, spec.size)
    averaged: FloatArray = (area @ shown.astype(np.float32) @ area.T) * np.float32(255.0)
    return averaged


@functools.lru_cache(maxsize=8)
def _area_weights(n_source: int, size: int) -> FloatArray:
    """(size, n_source): share of each source pixel in each target pixel, rows sum to one."""
    edges = np.arange(size + 1) * (n_source / size)
    lower = np.maximum(edges[:-1, None], np.arange(n_source)[None])
    upper = np.minimum(edges[1:, None], np.arange(1, n_source + 1)[None])
    overlap = np.maximum(upper - lower, 0)
    shares: FloatArray = (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares
