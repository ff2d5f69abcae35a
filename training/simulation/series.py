"""One simulated series: patient, protocol and circumstances put together, with everything that was sampled.

Called by the data set of `training`, by `dicom_series` and by tests and demonstrations.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from training.simulation.acquisition import Acquisition, Scanner, sample_acquisition
from training.simulation.phantom import FloatImage, Grid, Phantom, sample_phantom
from training.simulation.protocols import Protocol, sample_protocol
from training.simulation.sequences import tissue_amplitudes, true_field

if TYPE_CHECKING:
    from training.simulation.other_anatomy import Head

GRID_SIZE = 512
"""Edge of the object's grid: the largest acquired matrix of the vocabulary."""

VOLUME_MARGIN_MM = 12.0
"""How far the volume reaches beyond the breasts, head and feet; own choice."""

Orientation = tuple[float, float, float, float, float, float]
SlicePositions = Literal["random", "even", "contiguous"] | Sequence[float]


@dataclass(frozen=True, kw_only=True)
class SimulatedSeries:
    """A simulated breast MR series.

    Attributes
    ----------
    pixels
        (n_slices, rows, columns), uint16, rows and columns along `image_orientation`.
    labels
        Canonical value (see `iap_node.dicom.parameters`) by DICOM keyword, FieldOfView included.
    slice_index
        Index of each slice in its volume, ascending along the normal of `image_orientation`; Instance Number
        less 1.
    volume_slices
        Slices of the whole volume, of which `pixels` holds some.
    z_mm
        Position of each slice towards the patient's head, mm.
    slice_spacing_mm
        Spacing Between Slices (0018,0088) of the volume, mm.
    image_orientation
        Image Orientation (Patient) (0020,0037).
    centre_y_mm
        Anterior-posterior position of the image centre, mm (+ posterior).
    protocol, phantom, acquisition
        What was sampled.
    body_part, scanning_sequence, description
        Body Part Examined (0018,0015), Scanning Sequence (0018,0020), Series Description (0008,103E).
    """

    pixels: NDArray[np.uint16]
    labels: dict[str, str | float]
    slice_index: tuple[int, ...]
    volume_slices: int
    z_mm: tuple[float, ...]
    slice_spacing_mm: float
    image_orientation: Orientation
    centre_y_mm: float
    protocol: Protocol
    phantom: Phantom | Head
    acquisition: Acquisition
    body_part: str = "BREAST"
    scanning_sequence: str = "GR"
    description: str = "SIMULATED Ax 3D GRE FS pre"

    @property
    def history(self) -> dict[str, Any]:
        """Everything sampled, as JSON values: enough to make the series again."""
        history: dict[str, Any] = json.loads(
            json.dumps(
                {
                    "simulated": True,
                    "protocol": dataclasses.asdict(self.protocol),
                    "phantom": dataclasses.asdict(self.phantom),
                    "acquisition": dataclasses.asdict(self.acquisition),
                    "slice_index": self.slice_index,
                    "volume_slices": self.volume_slices,
                }
            )
        )
        return history


def labels_of(protocol: Protocol) -> dict[str, str | float]:
    """The protocol's canonical values by DICOM keyword."""
    return {
        "Manufacturer": protocol.manufacturer,
        "ManufacturerModelName": protocol.model_name,
        "ScanOptions": protocol.scan_options,
        "PatientPosition": protocol.patient_position,
        "MagneticFieldStrength": protocol.field_strength_t,
        "ContrastBolusAgent": protocol.contrast_agent,
        "AcquisitionMatrix": protocol.acquisition_matrix,
        "SliceThickness": protocol.slice_thickness_mm,
        "FlipAngle": protocol.flip_angle_deg,
        "FieldOfView": protocol.fov_mm,
        "EchoTime": protocol.echo_time_ms,
        "RepetitionTime": protocol.repetition_time_ms,
    }


def simulate_series(
    rng: np.random.Generator,
    n_slices: int = 8,
    *,
    protocol: Protocol | None = None,
    phantom_seed: int | None = None,
    slice_positions: SlicePositions = "random",
) -> SimulatedSeries:
    """Sample and acquire one series.

    Parameters
    ----------
    rng
        Source of all randomness: the same state gives the same series.
    n_slices
        How many slices of the volume to make; ignored where `slice_positions` is a sequence.
    protocol
        How the scanner is set; None draws one, its field of view fitted to the patient.
    phantom_seed
        Names the patient; None draws a new one. Equal seeds are the same patient whatever the protocol.
    slice_positions
        `random` (sorted, without repetition), `even`, `contiguous` (around the middle), or positions in the
        volume from 0 (first slice) to 1 (last).

    Returns
    -------
    SimulatedSeries
    """
    seed = int(rng.integers(2**31)) if phantom_seed is None else phantom_seed
    phantom = sample_phantom(np.random.default_rng([seed, 0]))
    if protocol is None:
        protocol = sample_protocol(rng, body_width_mm=phantom.body_width_mm)
    acquisition = sample_acquisition(rng, protocol)
    extent_mm = 2.0 * (phantom.breast_half_height + VOLUME_MARGIN_MM)
    volume_slices = 2 * round(extent_mm / protocol.slice_thickness_mm / 2.0)
    slice_index = choose_slices(rng, n_slices, volume_slices, slice_positions)
    return acquire_series(phantom, protocol, acquisition, slice_index, volume_slices)


def choose_slices(
    rng: np.random.Generator, n_slices: int, volume_slices: int, positions: SlicePositions
) -> tuple[int, ...]:
    """Indices of the slices to make; `positions` as in `simulate_series`."""
    if not isinstance(positions, str):
        last = volume_slices - 1
        return tuple(min(max(round(position * last), 0), last) for position in positions)
    count = min(n_slices, volume_slices)
    if positions == "even":
        return tuple(int((i + 0.5) * volume_slices / count) for i in range(count))
    if positions == "contiguous":
        first = (volume_slices - count) // 2
        return tuple(range(first, first + count))
    return tuple(sorted(int(i) for i in rng.choice(volume_slices, size=count, replace=False)))


def orientation_of(protocol: Protocol, acquisition: Acquisition) -> Orientation:
    """Image Orientation (Patient) (0020,0037) of a prone patient.

    Stored by the gradients' directions, a prone patient lies breasts down in the image; feet first, left and
    right (and the slice order) turn with the patient. Turned to the patient, all look alike and only the
    coil's frame differs.
    """
    if not acquisition.by_gradients:
        return (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    if protocol.patient_position == "HFP":
        return (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    return (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


def acquire_series(
    phantom: Phantom,
    protocol: Protocol,
    acquisition: Acquisition,
    slice_index: Sequence[int],
    volume_slices: int,
) -> SimulatedSeries:
    """Apply what was sampled: draw the slices, acquire them, store them as the scanner would."""
    grid = phantom.grid(protocol.fov_mm, size=GRID_SIZE)
    texture = phantom.texture(grid, protocol.slice_thickness_mm)
    amplitudes = tissue_amplitudes(
        field_t=true_field(protocol.field_strength_t),
        flip_angle_deg=protocol.flip_angle_deg,
        repetition_time_ms=protocol.repetition_time_ms,
        echo_time_ms=protocol.echo_time_ms,
        t1_scale=phantom.t1_scale,
    )
    scanner = Scanner(protocol, acquisition, grid)
    orientation = orientation_of(protocol, acquisition)
    towards_head = orientation[0] * orientation[4]  # third component of row x column direction
    z_mm = tuple(
        towards_head * (index - (volume_slices - 1) / 2.0) * protocol.slice_thickness_mm for index in
        slice_index
    )
    images = np.empty((len(slice_index), acquisition.rows, acquisition.rows), dtype=np.float32)
    for position, z in enumerate(z_mm):
        water, fat = phantom.slice(z, grid, amplitudes, texture)
        _add_heart_ghosts(water, phantom, grid, z, scanner.phase_axis, acquisition.ghost_fraction)
        images[position] = scanner.image(water, fat)[:: int(orientation[4]), :: int(orientation[0])]
    return SimulatedSeries(
        pixels=store(images, acquisition, scanner),
        labels=labels_of(protocol),
        slice_index=tuple(slice_index),
        volume_slices=volume_slices,
        z_mm=z_mm,
        slice_spacing_mm=protocol.slice_thickness_mm,
        image_orientation=orientation,
        centre_y_mm=grid.centre_y_mm,
        protocol=protocol,
        phantom=phantom,
        acquisition=acquisition,
    )


def _add_heart_ghosts(
    water: FloatImage, phantom: Phantom, grid: Grid, z_mm: float, phase_axis: int, fraction: float
) -> None:
    """Two copies of the beating heart, displaced along phase encoding."""
    heart = phantom.heart_region(z_mm)
    if heart is None:
        return
    x, y = grid.axes()
    reach = heart.a
    rows = np.flatnonzero(np.abs(y - heart.y) < reach)
    columns = np.flatnonzero(np.abs(x - heart.x) < reach)
    if not len(rows) or not len(columns):
        return
    patch = water[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] * np.float32(fraction)
    # A quarter of the field of view: the pulse is not in step with the phase lines (own choice).
    shift = round(0.23 * grid.size)
    for sign in (-1, 1):
        row = (rows + sign * shift) % grid.size if phase_axis == 0 else rows
        column = (columns + sign * shift) % grid.size if phase_axis == 1 else columns
        water[np.ix_(row, column)] += patch


def store(images: FloatImage, acquisition: Acquisition, scanner: Scanner) -> NDArray[np.uint16]:
    """Blank what the reconstruction blanks, scale the series by one factor, round to stored values."""
    if acquisition.background_cut > 0.0:
        images[images < acquisition.background_cut * scanner.noise_deviation] = 0.0
    if scanner.border is not None:
        images *= scanner.border
    # Every third pixel is enough for a quantile, and three times faster.
    reference = float(np.quantile(images[:, ::3, ::3], 0.999))
    images *= np.float32(acquisition.brightest / max(reference, 1e-12))
    largest = 4095.0 if acquisition.brightest < 3000.0 else 65535.0
    return np.clip(np.rint(images), 0.0, largest).astype(np.uint16)
