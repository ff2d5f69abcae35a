"""Power-law tissue texture of one patient, for any slice, from two complex Fourier transforms per series.

Called by `training.simulation.phantom`. A number without a source beside it is an own choice. Lengths in mm, spatial
frequencies in cycles/mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

# Where the spectrum is parted into a coarse and a fine band, cycles/mm, and how far along z each stays like
# itself, mm: own choice; coarse structures reach over many slices, fine ones over a few.
BAND_EDGE_PER_MM = 0.12
COARSE_PERIOD_MM = 55.0
FINE_PERIOD_MM = 9.0
FINE_DRIFT_PX_PER_MM = (1.3, 0.7)
LARGEST_STRUCTURE_MM = 60.0


@dataclass(frozen=True)
class Texture:
    """Gaussian field with a power-law spectrum; unit variance in an infinitely thin slice.

    Attributes
    ----------
    coarse, fine
        Complex fields, (size, size): real and imaginary part are independent and rotate into each other
        along z.
    """

    coarse: NDArray[np.complex64]
    fine: NDArray[np.complex64]

    def at(self, z_mm: float) -> NDArray[np.float32]:
        """Field at one slice position, (size, size), float32."""
        coarse_angle = 2.0 * np.pi * z_mm / COARSE_PERIOD_MM
        fine_angle = 2.0 * np.pi * z_mm / FINE_PERIOD_MM
        shift = (round(z_mm * FINE_DRIFT_PX_PER_MM[0]), round(z_mm * FINE_DRIFT_PX_PER_MM[1]))
        fine = self.fine.real * np.float32(np.cos(fine_angle))
        fine += self.fine.imag * np.float32(np.sin(fine_angle))
        field: NDArray[np.float32] = np.roll(fine, shift, axis=(0, 1))
        field += self.coarse.real * np.float32(np.cos(coarse_angle))
        field += self.coarse.imag * np.float32(np.sin(coarse_angle))
        return field


def slab_power(
    frequency_per_mm: NDArray[np.floating], exponent: float, thickness_mm: float
) -> NDArray[np.floating]:
    """Power spectrum of an isotropic power-law field after averaging over a slice.

    The three-dimensional spectrum falls as k^-(exponent + 1), so that a thin slice falls as k^-exponent:
    mammograms have exponents from 1.5 to 3.5, 2.8 on average (Burgess 2003, Proc SPIE 5034). Averaging over
    the slice weighs it with sinc^2(kz thickness) before the integration over kz.
    """
    knee = 1.0 / LARGEST_STRUCTURE_MM
    kz = np.concatenate([[0.0], np.geomspace(1e-3, 4.0, 120)])
    weight = np.sinc(kz * thickness_mm) ** 2
    power = (frequency_per_mm[:, None] ** 2 + kz[None, :] ** 2 + knee**2) ** (-(exponent + 1.0) / 2.0)
    integral: NDArray[np.floating] = np.trapezoid(power * weight, kz, axis=1)
    return integral


def make_texture(
    rng: np.random.Generator, *, size: int, pixel_mm: float, exponent: float, thickness_mm: float
) -> Texture:
    """Draw the texture of one patient on the grid of one field of view.

    Parameters
    ----------
    rng
        Generator seeded by the patient: the same patient on the same grid has the same texture.
    size, pixel_mm
        Edge of the grid in pixels and the size of a pixel, mm.
    exponent
        Exponent of the spectrum of a thin slice.
    thickness_mm
        Slice Thickness (0018,0050) over which the field is averaged, mm.
    """
    spacing = 1.0 / (size * pixel_mm)
    table = np.concatenate([[0.0], np.geomspace(0.5 * spacing, 0.75 / pixel_mm, 300)])
    thick = np.sqrt(slab_power(table, exponent, thickness_mm))
    thin = slab_power(table, exponent, 0.0)
    thin[:2] = 0.0
    # Sum over the grid from the radial table: the ring at r holds 2 pi r dr / spacing^2 samples.
    variance = float(np.trapezoid(thin * 2.0 * np.pi * table, table)) / spacing**2
    thick *= size * size / np.sqrt(variance)
    thick[0] = 0.0
    in_coarse = np.cos(0.5 * np.pi * np.clip(table / (2.0 * BAND_EDGE_PER_MM), 0.0, 1.0)) ** 2
    # The coarse band ends at twice the band edge: no noise need be drawn beyond.
    coarse_size = min(size, 2 * int(np.ceil(2.0 * BAND_EDGE_PER_MM / spacing)) + 2)

    def band(weight: NDArray[np.floating], count: int) -> NDArray[np.complex64]:
        positive = np.arange(count // 2 + 1) * spacing
        radius = np.sqrt(positive[:, None] ** 2 + positive[None, :] ** 2)
        quarter = np.interp(radius, table, thick * np.sqrt(weight)).astype(np.float32)
        fold = np.abs(np.fft.fftfreq(count, d=1.0 / count)).astype(np.int64)
        noise = rng.standard_normal((count, 2 * count), dtype=np.float32).view(np.complex64)
        noise *= quarter[fold][:, fold]
        if count < size:
            half = count // 2
            spectrum = np.zeros((size, size), dtype=np.complex64)
            for row in (slice(0, half), slice(-half, None)):
                for column in (slice(0, half), slice(-half, None)):
                    spectrum[row, column] = noise[row, column]
            noise = spectrum
        field: NDArray[np.complex64] = scipy.fft.ifft2(noise, workers=1, overwrite_x=True)
        return field

    return Texture(coarse=band(in_coarse, coarse_size), fine=band(1.0 - in_coarse, size))
