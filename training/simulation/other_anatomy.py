"""An axial head: simulated MR that is clearly not a breast, for demonstrations and for tests of novelty.

Sizes are own choices within adult anatomy. Uses the scanners of `protocols` set for a spin echo of the brain, the
same acquisition and the same DICOM writer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from iap_node.dicom.parameters import CONTRAST_ABSENT
from training.simulation.acquisition import Scanner, sample_acquisition
from training.simulation.phantom import Canvas, Ellipse, FloatImage, Grid
from training.simulation.protocols import Protocol, sample_protocol
from training.simulation.sequences import at_field, true_field
from training.simulation.series import (
    GRID_SIZE,
    SimulatedSeries,
    SlicePositions,
    choose_slices,
    labels_of,
    store,
)
from training.simulation.texture import Texture, make_texture

# T1 and T2 in ms at (1.5 T, 3 T). White and grey matter: Stanisz et al. 2005, Magn Reson Med 54:507,
# doi 10.1002/mrm.20605; the others are own choices of the usual order. Third: proton density.
HEAD_TISSUES: Mapping[str, tuple[tuple[float, float], tuple[float, float], float]] = {
    "white": ((884.0, 1084.0), (72.0, 69.0), 0.70),
    "grey": ((1124.0, 1820.0), (95.0, 99.0), 0.82),
    "fluid": ((4000.0, 4200.0), (1800.0, 1600.0), 1.00),
    "scalp": ((300.0, 380.0), (60.0, 55.0), 0.85),
    "skull": ((500.0, 600.0), (6.0, 5.0), 0.12),
    "air": ((1000.0, 1000.0), (1000.0, 1000.0), 0.0),
}

SLICE_GAP_MM = 1.0
VOLUME_SLICES = 22


@dataclass(frozen=True, kw_only=True)
class Head:
    """One head. Lengths in mm; `seed` draws the cortex."""

    seed: int
    half_width: float
    half_length: float
    skull: float
    ventricle_scale: float
    fold_amount: float

    def slice(
        self, z_mm: float, grid: Grid, amplitudes: Mapping[str, tuple[float, float]], texture: Texture
    ) -> tuple[FloatImage, FloatImage]:
        """Draw water and fat amplitude of one slice; parameters as in `Phantom.slice`."""
        canvas = Canvas(grid)
        size = math.sqrt(max(1.0 - (z_mm / 95.0) ** 2, 0.05))
        scalp = Ellipse(0.0, 0.0, self.half_width * size, self.half_length * size)
        field = texture.at(z_mm)
        brain = scalp.shrunk(7.0 + self.skull)
        canvas.ellipse(scalp, amplitudes["scalp"])
        canvas.ellipse(scalp.shrunk(6.0), amplitudes["skull"])
        canvas.ellipse(brain, amplitudes["fluid"])
        self._cortex(canvas, brain.shrunk(2.0), field, amplitudes)
        for sign in (-1.0, 1.0):
            ventricle = self.ventricle_scale * size
            canvas.ellipse(
                Ellipse(sign * 11.0, 4.0, 7.0 * ventricle, 30.0 * ventricle, sign * 0.25), amplitudes["fluid"]
            )
            nuclei = Ellipse(sign * 24.0, 6.0, 8.0 * size, 14.0 * size, sign * 0.3)
            canvas.ellipse(nuclei, amplitudes["grey"], 0.9)
        canvas.ellipse(Ellipse(0.0, 0.0, 1.2, brain.b), amplitudes["fluid"], 0.8)
        if z_mm < -30.0:
            for sign in (-1.0, 1.0):
                canvas.ellipse(Ellipse(sign * 32.0, -62.0 * size, 13.0, 12.0), amplitudes["fluid"])
            canvas.ellipse(Ellipse(0.0, -66.0 * size, 15.0, 22.0), amplitudes["air"])
        return canvas.water, canvas.fat

    def _cortex(
        self, canvas: Canvas, brain: Ellipse, field: FloatImage, amplitudes: Mapping[str, tuple[float, float]]
    ) -> None:
        """White matter with a folded grey rim."""
        box = canvas.box(brain)
        radius = canvas.distance(brain, box)
        whole = np.clip((np.float32(1.0) - radius) * np.float32(40.0), 0.0, 1.0)
        canvas.blend(box, whole, amplitudes["grey"])
        folds = np.float32(0.80) + np.float32(0.10 * self.fold_amount) * field[box]
        canvas.blend(box, np.clip((folds - radius) * np.float32(18.0), 0.0, 1.0), amplitudes["white"])
        sulci = np.clip(np.float32(0.35) - np.abs(field[box]) * np.float32(2.5), 0.0, 0.35) * np.float32(2.0)
        canvas.blend(box, sulci * whole * (radius > 0.72), amplitudes["fluid"])


def sample_head(rng: np.random.Generator) -> Head:
    """Draw one head."""
    return Head(
        seed=int(rng.integers(2**31)),
        half_width=float(rng.normal(76.0, 3.0)),
        half_length=float(rng.normal(96.0, 4.0)),
        skull=float(rng.uniform(4.0, 8.0)),
        ventricle_scale=float(rng.uniform(0.6, 1.4)),
        fold_amount=float(rng.uniform(0.7, 1.4)),
    )


def sample_head_protocol(rng: np.random.Generator) -> Protocol:
    """Draw a scanner of the breast prior, set for a T1- or T2-weighted spin echo of the brain (own
    choices)."""
    scanner = sample_protocol(rng)
    t2_weighted = bool(rng.random() < 0.5)
    frequency, phase = ((256, 192), (320, 240), (320, 256), (256, 256))[int(rng.integers(4))]
    return dataclasses.replace(
        scanner,
        cluster="head-t2" if t2_weighted else "head-t1",
        scan_options="",
        patient_position="HFS",
        contrast_agent=CONTRAST_ABSENT,
        matrix_frequency=frequency,
        matrix_phase=phase,
        slice_thickness_mm=float(rng.choice([4.0, 5.0])),
        flip_angle_deg=90.0,
        fov_mm=float(rng.choice([220.0, 230.0, 240.0])),
        echo_time_ms=round(float(rng.uniform(82.0, 110.0) if t2_weighted else rng.uniform(8.0, 15.0)), 1),
        repetition_time_ms=float(rng.integers(3200, 5600) if t2_weighted else rng.integers(420, 650)),
        phase_direction="ROW",
        pixel_bandwidth_hz=130.0,
        partial_fourier=1.0,
        acceleration=1.0,
    )


def spin_echo_amplitudes(protocol: Protocol) -> dict[str, tuple[float, float]]:
    """Spin-echo signal of every tissue, ``rho (1 - exp(-TR / T1)) exp(-TE / T2)``, as (water, fat)."""
    field = true_field(protocol.field_strength_t)
    amplitudes = {}
    for name, (t1, t2, density) in HEAD_TISSUES.items():
        recovery = 1.0 - math.exp(-protocol.repetition_time_ms / at_field(t1, field))
        signal = 0.1 * density * recovery * math.exp(-protocol.echo_time_ms / at_field(t2, field))
        amplitudes[name] = (0.0, signal) if name == "scalp" else (signal, 0.0)
    return amplitudes


def simulate_head_series(
    rng: np.random.Generator, n_slices: int = 8, *, slice_positions: SlicePositions = "even"
) -> SimulatedSeries:
    """Sample and acquire one series of a head; parameters as in `simulate_series`."""
    protocol = sample_head_protocol(rng)
    head = sample_head(rng)
    drawn = sample_acquisition(rng, protocol)
    directions = ((-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0))
    elements = tuple((110.0 * x, 110.0 * y, 120.0) for x, y in directions)
    acquisition = dataclasses.replace(drawn, coil_elements=elements, fat_residual=1.0, ghost_fraction=0.0)
    slice_index = choose_slices(rng, n_slices, VOLUME_SLICES, slice_positions)
    grid = Grid(GRID_SIZE, protocol.fov_mm, 0.0)
    texture = make_texture(
        np.random.default_rng([head.seed, 1]),
        size=grid.size,
        pixel_mm=grid.pixel_mm,
        exponent=2.8,
        thickness_mm=protocol.slice_thickness_mm,
    )
    scanner = Scanner(protocol, acquisition, grid)
    amplitudes = spin_echo_amplitudes(protocol)
    spacing = protocol.slice_thickness_mm + SLICE_GAP_MM
    z_mm = tuple((index - (VOLUME_SLICES - 1) / 2.0) * spacing for index in slice_index)
    images = np.stack([scanner.image(*head.slice(z, grid, amplitudes, texture)) for z in z_mm])
    return SimulatedSeries(
        pixels=store(images, acquisition, scanner),
        labels={keyword: value for keyword, value in labels_of(protocol).items() if value != ""},
        slice_index=slice_index,
        volume_slices=VOLUME_SLICES,
        z_mm=z_mm,
        slice_spacing_mm=spacing,
        image_orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        centre_y_mm=0.0,
        body_part="HEAD",
        scanning_sequence="SE",
        description=f"SIMULATED Ax {'T2' if protocol.cluster == 'head-t2' else 'T1'} SE",
        protocol=protocol,
        phantom=head,
        acquisition=acquisition,
    )
