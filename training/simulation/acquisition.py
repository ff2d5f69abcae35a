"""What coils, k-space and reconstruction make of an object: first sampled, then applied.

`sample_acquisition` draws what differs from one series to the next although the protocol is the same;
`Scanner` prepares the maps of one series and turns slices into magnitude images. Called by
`training.simulation.series`. A number without a source beside it is an own choice. What must not tell the
manufacturer or the matrix (reconstructed size, border, intensity scale, background) is drawn here without looking at
the protocol.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from training.simulation.phantom import FloatImage, Grid
from training.simulation.protocols import Protocol
from training.simulation.sequences import (
    FAT_T1_MS,
    GYROMAGNETIC_RATIO_HZ_PER_T,
    TISSUES,
    at_field,
    b1_response,
    fat_offset_hz,
    true_field,
)

ComplexImage = NDArray[np.complex64]

# Every size is open to every protocol, or the size would name the matrix; the small ones only where they
# hold it.
LARGE_SIZES = (512, 560, 576, 640)
SMALL_SIZES = (384, 448)
SMALL_SIZE_SHARE = 0.15

# Noise of a signal-free pixel, own choice: fibroglandular tissue in the coil's focus has a signal-to-noise
# ratio of about 40 at 1.5 T with 1 x 1 x 2 mm.
NOISE_CONSTANT = 0.07


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """The circumstances of one series beside its protocol.

    Attributes
    ----------
    rows
        Rows and Columns of the reconstructed image.
    silent_elements
        Receive elements that add noise power but no signal to the sum of squares; raises the dark background
        and hides from the grey values which reconstruction filled k-space.
    noise_factor
        Noise relative to what the protocol predicts: coil, loading, receiver.
    b0_ppm
        Field offset as a quadratic of position, ppm: constant, x, y, xx, xy, yy (x, y in units of 150 mm).
    b1
        Transmit field relative to nominal: constant, x, xx, yy in the scanner's frame.
    coil_phase
        Smooth phase, rad, coefficients as for `b0_ppm`.
    coil_elements
        (x, y, reach) of the receive elements, mm.
    fat_residual
        Fat signal left by saturation where the field is right.
    saturation_half_width_hz
        Offset up to which the fat saturation works.
    readout_sign, partial_sign
        Direction of the readout gradient and which half of k-space is cut.
    alias_fraction
        Share of the signal that parallel imaging leaves at the wrong place.
    ghost_fraction
        Strength of the heart's motion ghosts along phase encoding.
    by_gradients
        Whether the image is stored in the gradients' directions (which follow the Patient Position
        (0018,5100)) or turned to the patient's.
    border_kind, border_fraction
        What the reconstruction blanks, and how much of the image.
    background_cut
        Pixels below this many noise standard deviations are set to zero; 0 keeps all.
    brightest
        Stored value of the 99.9th percentile of the series.
    noise_seed
        Seed of the noise.
    """

    rows: int
    silent_elements: float
    noise_factor: float
    b0_ppm: tuple[float, ...]
    b1: tuple[float, float, float, float]
    coil_phase: tuple[float, ...]
    coil_elements: tuple[tuple[float, float, float], ...]
    fat_residual: float
    saturation_half_width_hz: float
    readout_sign: int
    partial_sign: int
    alias_fraction: float
    ghost_fraction: float
    by_gradients: bool
    border_kind: Literal["none", "frame", "bands", "circle"]
    border_fraction: float
    background_cut: float
    brightest: float
    noise_seed: int


def sample_acquisition(rng: np.random.Generator, protocol: Protocol) -> Acquisition:
    """Draw the circumstances of one series."""
    rows = int(rng.choice(LARGE_SIZES))
    if rng.random() < SMALL_SIZE_SHARE:
        small = int(rng.choice(SMALL_SIZES))
        rows = small if small >= max(protocol.matrix_frequency, protocol.matrix_phase) else rows
    field = true_field(protocol.field_strength_t)
    # Transmit inhomogeneity, per 150 mm: a linear term of 10 % at 3 T makes the breasts differ as measured
    # (9 %, Rahbar et al. 2012, J Magn Reson Imaging 35:1222, doi 10.1002/jmri.23571); 1.5 T and bending are
    # own choices.
    unevenness = 0.03 if field < 2.0 else 0.10
    spectral = "SFS" in protocol.scan_options.split("\\")
    kind = str(rng.choice(["none", "frame", "bands", "circle"], p=[0.55, 0.15, 0.15, 0.15]))
    elements = tuple(
        (
            sign * float(rng.normal(95.0 - 45.0 * inner, 8.0)),
            float(rng.normal(-45.0, 12.0)),
            float(rng.normal(88.0, 9.0)),
        )
        for sign in (-1.0, 1.0)
        for inner in (0, 1)
    )
    return Acquisition(
        rows=rows,
        silent_elements=float(rng.uniform(0.5, 4.0)),
        noise_factor=float(rng.lognormal(0.0, 0.30)),
        b0_ppm=tuple(float(value) for value in rng.normal(0.0, [0.25, 0.25, 0.25, 0.35, 0.2, 0.35])),
        b1=(
            float(rng.normal(1.0 if field < 2.0 else 0.96, 0.03)),
            float(rng.normal(unevenness, 0.4 * unevenness)),
            float(rng.normal(-unevenness, 0.5 * unevenness)),
            float(rng.normal(-0.6 * unevenness, 0.4 * unevenness)),
        ),
        coil_phase=tuple(float(value) for value in rng.normal(0.0, [3.0, 0.8, 0.8, 0.5, 0.4, 0.5])),
        coil_elements=elements,
        # Adiabatic spectral saturation (SFS) leaves less and depends less on B1 than a plain pulse: own
        # choice.
        fat_residual=float(rng.uniform(0.06, 0.16) if spectral else rng.uniform(0.14, 0.34)),
        saturation_half_width_hz=float(rng.normal(130.0, 12.0) if spectral else rng.normal(95.0, 12.0)),
        readout_sign=int(rng.choice([-1, 1])),
        partial_sign=int(rng.choice([-1, 1])),
        alias_fraction=float(rng.uniform(0.005, 0.03)) if protocol.acceleration > 1.0 else 0.0,
        ghost_fraction=float(rng.uniform(0.01, 0.06)),
        by_gradients=bool(rng.random() < 0.88),
        border_kind=kind,  # type: ignore[arg-type]  # numpy's choice knows no literals
        border_fraction=float(rng.uniform(0.01, 0.05)),
        background_cut=float(rng.uniform(1.0, 2.5)) if rng.random() < 0.2 else 0.0,
        brightest=float(math.exp(rng.uniform(math.log(300.0), math.log(12000.0)))),
        noise_seed=int(rng.integers(2**31)),
    )


def _quadratic(coefficients: tuple[float, ...], x: FloatImage, y: FloatImage) -> FloatImage:
    c, cx, cy, cxx, cxy, cyy = coefficients
    u, v = x / np.float32(150.0), (y - np.float32(30.0)) / np.float32(150.0)
    along_x, along_y = c + cx * u + cxx * u * u, cy * v + cyy * v * v
    values: FloatImage = np.outer(v, np.float32(cxy) * u)
    values += along_x.astype(np.float32)[None, :]
    values += along_y.astype(np.float32)[:, None]
    return values


def noise_deviation(protocol: Protocol, factor: float) -> float:
    """Standard deviation of the noise per channel of one reconstructed pixel, in units of the amplitudes.

    Signal-to-noise ratio ~ B0 x voxel volume x sqrt(phase lines x readout time / acceleration); Edelstein et
    al. 1986, Magn Reson Med 3:604, doi 10.1002/mrm.1910030413.
    """
    voxel_mm3 = (
        protocol.fov_mm**2 / (protocol.matrix_frequency * protocol.matrix_phase) * protocol.slice_thickness_mm
    )
    readout_s = 1.0 / protocol.pixel_bandwidth_hz
    samples = protocol.matrix_phase * protocol.partial_fourier * readout_s / protocol.acceleration
    reference = 2.0 * math.sqrt(350.0 / 357.0)  # 1 x 1 x 2 mm, 350 lines, 357 Hz per pixel
    quality = true_field(protocol.field_strength_t) / 1.5 * voxel_mm3 * math.sqrt(samples) / reference
    return NOISE_CONSTANT * 0.01 * factor / quality


def _frequencies(count: int) -> NDArray[np.int64]:
    """Signed k-space indices of `count` centred samples, in FFT order."""
    indices: NDArray[np.int64] = np.fft.ifftshift(np.arange(count) - count // 2)
    return indices


def _quadrants(row_count: int, column_count: int) -> list[tuple[slice, slice]]:
    """The four corners that hold the low frequencies of any spectrum in FFT order."""
    halves = [
        (slice(0, (count + 1) // 2), slice(-(count // 2), None)) for count in (row_count, column_count)
    ]
    return [(row, column) for row in halves[0] for column in halves[1]]


def _centre(spectrum: ComplexImage, row_count: int, column_count: int) -> ComplexImage:
    """The lowest `row_count` x `column_count` frequencies, in FFT order."""
    centre = np.empty((row_count, column_count), dtype=np.complex64)
    for part in _quadrants(row_count, column_count):
        centre[part] = spectrum[part]
    return centre


def _magnitude(image: ComplexImage, floor: float = 0.0) -> FloatImage:
    """Absolute value over a floor of noise power; several times faster than the overflow-safe one of
    NumPy."""
    squared: FloatImage = image.real * image.real
    squared += image.imag * image.imag
    squared += np.float32(floor)
    return np.sqrt(squared, out=squared)


class Scanner:
    """One series' maps and filters, ready to turn slices into magnitude images."""

    def __init__(self, protocol: Protocol, acquisition: Acquisition, grid: Grid) -> None:
        self.protocol = protocol
        self.acquisition = acquisition
        self.grid = grid
        self.phase_axis = 1 if protocol.phase_direction == "ROW" else 0
        self._rng = np.random.default_rng(acquisition.noise_seed)
        self._prepare_object_maps()
        self._prepare_kspace()
        self._prepare_image_map()

    def _receive_profile(self, x: FloatImage, y: FloatImage) -> FloatImage:
        total = np.zeros((len(y), len(x)), dtype=np.float32)
        for element_x, element_y, reach in self.acquisition.coil_elements:
            distance = ((x - np.float32(element_x)) / np.float32(reach))[None, :] ** 2 + np.float32(1.0)
            distance = distance + ((y - np.float32(element_y)) / np.float32(reach))[:, None] ** 2
            distance *= distance
            total += np.reciprocal(distance, out=distance)
        profile: FloatImage = np.sqrt(total)
        return profile

    def _noise_amplification(self, x: FloatImage, y: FloatImage) -> FloatImage:
        """g-factor: parallel imaging loses most in the middle, along phase encoding (Pruessmann et al. 1999,
        Magn Reson Med 42:952; the shape is an own choice)."""
        excess = 0.22 * (self.protocol.acceleration - 1.0)
        along = x if self.phase_axis == 1 else y - np.float32(self.grid.centre_y_mm)
        g = (1.0 + excess * np.exp(-((along / (0.22 * self.protocol.fov_mm)) ** 2))).astype(np.float32)
        amplification: FloatImage = g[None, :] if self.phase_axis == 1 else g[:, None]
        return amplification

    def _prepare_object_maps(self) -> None:
        """Everything that multiplies the object before encoding: transmit, saturation, receive, phase."""
        protocol, acquisition = self.protocol, self.acquisition
        x, y = self.grid.axes()
        field = true_field(protocol.field_strength_t)
        offset_hz = _quadratic(acquisition.b0_ppm, x, y) * 1e-6 * GYROMAGNETIC_RATIO_HZ_PER_T * field
        # The transmit asymmetry belongs to the scanner: feet first mirrors it in the patient.
        scanner_x = x if protocol.patient_position == "HFP" else -x
        mean, slope, bend_x, bend_y = acquisition.b1
        b1 = _quadratic((mean - 1.0, slope, 0.0, bend_x, 0.0, bend_y), scanner_x, y)
        np.clip(b1, -0.4, 0.3, out=b1)

        def response(t1_ms: float) -> FloatImage:
            c0, c1, c2 = b1_response(protocol.flip_angle_deg, protocol.repetition_time_ms, t1_ms)
            values: FloatImage = np.asarray(c0 + b1 * (c1 + b1 * c2), dtype=np.float32)
            return values

        spectral = "SFS" in protocol.scan_options.split("\\")
        missed = np.clip((np.abs(offset_hz) - acquisition.saturation_half_width_hz) / 60.0, 0.0, 1.0)
        b1_leak = (0.3 if spectral else 1.5) * b1 * b1
        spared = acquisition.fat_residual
        residual = np.clip(spared + b1_leak + (1.0 - spared) * missed, 0.0, 1.0)
        weight = self._receive_profile(x, y) / self._noise_amplification(x, y)
        echo_s = protocol.echo_time_ms * 1e-3
        phase = 2.0 * np.pi * offset_hz * echo_s + _quadratic(acquisition.coil_phase, x, y)
        carrier = np.empty(weight.shape, dtype=np.complex64)
        carrier.real, carrier.imag = weight * np.cos(phase), weight * np.sin(phase)
        fat_phase = np.complex64(np.exp(2j * np.pi * fat_offset_hz(field) * echo_s))
        self.water_map: ComplexImage = carrier * response(at_field(TISSUES["fibroglandular"].t1_ms, field))
        self.fat_map: ComplexImage = carrier * (residual * response(at_field(FAT_T1_MS, field))) * fat_phase

    def _prepare_kspace(self) -> None:
        """Index tables, window, chemical-shift ramp and partial Fourier weights."""
        protocol, acquisition, size = self.protocol, self.acquisition, self.grid.size
        # Phase encoding along the rows (ROW) means that the columns of k-space are the phase lines.
        self.row_count, self.column_count = protocol.matrix_phase, protocol.matrix_frequency
        if self.phase_axis == 1:
            self.row_count, self.column_count = self.column_count, self.row_count
        rows, columns = _frequencies(self.row_count), _frequencies(self.column_count)
        relative_row = (rows / (self.row_count / 2.0))[:, None]
        relative_column = (columns / (self.column_count / 2.0))[None, :]
        if protocol.filter_kind == "fermi":
            radius = np.hypot(relative_row, relative_column)
            window = 1.0 / (1.0 + np.exp((radius - protocol.filter_strength) / 0.03))
        else:
            strength = protocol.filter_strength
            window = (1.0 - strength * np.sin(np.pi / 2.0 * relative_row) ** 2) * (
                1.0 - strength * np.sin(np.pi / 2.0 * relative_column) ** 2
            )
        phase_lines = columns if self.phase_axis == 1 else rows
        readout = rows if self.phase_axis == 1 else columns
        field = true_field(protocol.field_strength_t)
        shift = acquisition.readout_sign * fat_offset_hz(field) / protocol.pixel_bandwidth_hz
        ramp = np.exp(-2j * np.pi * readout * shift / protocol.matrix_frequency)
        self.fat_ramp = (ramp[:, None] if self.phase_axis == 1 else ramp[None, :]).astype(np.complex64)
        scale = (acquisition.rows / size) ** 2
        kept, doubled, centre = self._partial_fourier(phase_lines)

        def along_phase(values: NDArray[np.floating]) -> NDArray[np.floating]:
            return values[None, :] if self.phase_axis == 1 else values[:, None]

        self.homodyne = protocol.fill == "homodyne" and protocol.partial_fourier < 1.0
        weights = doubled if self.homodyne else kept
        self.window = (window * along_phase(weights) * scale).astype(np.float32)
        self.centre_window = (window * along_phase(centre) * scale).astype(np.float32)
        samples = self.row_count * self.column_count
        deviation = noise_deviation(protocol, acquisition.noise_factor)
        self.noise_scale = np.float32(deviation * size * size / math.sqrt(samples))
        self.noise_deviation = deviation
        self.floor = 2.0 * acquisition.silent_elements * deviation**2

    def _partial_fourier(
        self, lines: NDArray[np.int64]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
        """Weights along phase: kept lines, homodyne weights, symmetric centre.

        Noll et al. 1991, IEEE Trans Med Imaging 10:154, doi 10.1109/42.79473.
        """
        half = self.protocol.matrix_phase / 2.0
        position = self.acquisition.partial_sign * lines / half
        reach = 2.0 * self.protocol.partial_fourier - 1.0
        kept = (position >= -reach).astype(float)
        ramp = np.full(len(lines), 0.5)
        if reach < 1.0:
            ramp = np.clip((position + reach) / (2.0 * reach), 0.0, 1.0)
        taper = np.clip((reach - np.abs(position)) / (0.25 * reach), 0.0, 1.0)
        return kept, 2.0 * ramp, taper

    def _prepare_image_map(self) -> None:
        """What multiplies the magnitude: g-factor, intensity correction, border."""
        acquisition = self.acquisition
        image_grid = Grid(acquisition.rows, self.grid.fov_mm, self.grid.centre_y_mm)
        x, y = image_grid.axes()
        profile = np.maximum(self._receive_profile(x, y), 0.08)
        correction = profile ** np.float32(-self.protocol.intensity_correction)
        self.image_map = (self._noise_amplification(x, y) * correction).astype(np.float32)
        self.border = border_mask(acquisition)

    def image(self, water: FloatImage, fat: FloatImage) -> FloatImage:
        """Magnitude of one slice, (rows, rows), float32, patient-oriented, before border and scaling."""
        water_object = water * self.water_map
        fat_object = fat * self.fat_map
        if self.acquisition.alias_fraction > 0.0:
            shift = round(self.grid.size / self.protocol.acceleration)
            alias = np.roll(water_object, shift, self.phase_axis)
            alias *= np.float32(self.acquisition.alias_fraction)
            water_object += alias
        samples = self._acquire(fat_object)
        samples *= self.fat_ramp
        samples += self._acquire(water_object)
        noise = self._rng.standard_normal((self.row_count, 2 * self.column_count), dtype=np.float32)
        noise *= self.noise_scale
        samples += noise.view(np.complex64)
        if self.homodyne:
            low = self._reconstruct(samples * self.centre_window)
            full = self._reconstruct(samples * self.window)
            # Real part of the image after the phase of the symmetric centre is taken out.
            real = full.real * low.real + full.imag * low.imag
            real /= np.maximum(_magnitude(low), np.float32(1e-12))
            magnitude = np.sqrt(real * real + np.float32(self.floor))
        else:
            magnitude = _magnitude(self._reconstruct(samples * self.window), self.floor)
        magnitude *= self.image_map
        side = self.protocol.smoothing
        if side > 0.0:
            for axis in (0, 1):
                neighbours = np.roll(magnitude, 1, axis) + np.roll(magnitude, -1, axis)
                magnitude = magnitude * np.float32(1.0 - 2.0 * side) + neighbours * np.float32(side)
        return magnitude.astype(np.float32, copy=False)

    def _acquire(self, image: ComplexImage) -> ComplexImage:
        """Centre of the object's k-space, (row_count, column_count), in FFT order; uses the image up."""
        return _centre(scipy.fft.fft2(image, workers=1, overwrite_x=True), self.row_count, self.column_count)

    def _reconstruct(self, samples: ComplexImage) -> ComplexImage:
        """Zero-filled image, (rows, rows), of the acquired samples."""
        padded = np.zeros((self.acquisition.rows, self.acquisition.rows), dtype=np.complex64)
        for part in _quadrants(self.row_count, self.column_count):
            padded[part] = samples[part]
        image: ComplexImage = scipy.fft.ifft2(padded, workers=1, overwrite_x=True)
        return image


def border_mask(acquisition: Acquisition) -> FloatImage | None:
    """What the reconstruction blanks, 0 or 1, (rows, rows); None where it blanks nothing."""
    rows = acquisition.rows
    width = max(1, round(acquisition.border_fraction * rows))
    mask = np.ones((rows, rows), dtype=np.float32)
    if acquisition.border_kind == "none":
        return None
    if acquisition.border_kind == "circle":
        steps = np.abs(np.arange(rows) - (rows - 1) / 2.0) / (rows / 2.0)
        mask[np.hypot(steps[:, None], steps[None, :]) > 1.0 + 2.0 * acquisition.border_fraction] = 0.0
        return mask
    mask[:width] = mask[-width:] = 0.0
    if acquisition.border_kind == "frame":
        mask[:, :width] = mask[:, -width:] = 0.0
    return mask
