"""How a scanner was set: the joint prior over protocols, and one draw from it.

`protocols.yaml` holds the habits (clusters) and vocabularies; `sample_protocol` picks a cluster and lets each
parameter leave its habit independently. Numbers are own choices, here and there. Called by
`training.simulation.series`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import numpy as np
import yaml

TIME_RANGES_MS = {"echo_time_ms": (1.20, 2.80), "repetition_time_ms": (3.50, 7.50)}
"""Range of echo and repetition times in the Duke data, ms; a deviating value is clipped to it."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One setting of one scanner.

    Attributes
    ----------
    cluster
        Name of the habit in `protocols.yaml` that it was drawn from.
    scan_options
        Scan Options (0018,0022), backslash-joined.
    field_strength_t
        Magnetic Field Strength (0018,0087) as the header says it, T.
    contrast_agent
        Contrast/Bolus Agent (0018,0010) in canonical form, `absent` and `present but not named` included.
    matrix_frequency, matrix_phase
        Acquired samples along frequency and phase encoding, (0018,1310).
    fov_mm
        Edge of the square field of view, Rows x Pixel Spacing, mm.
    phase_direction
        In-plane Phase Encoding Direction (0018,1312): ROW runs left-right.
    pixel_bandwidth_hz
        Pixel Bandwidth (0018,0095), Hz per acquired pixel.
    partial_fourier
        Share of the phase lines that was acquired; 1 without PFP in the Scan Options.
    acceleration
        Parallel imaging factor along phase.
    fill
        What becomes of the lines that partial Fourier left out.
    filter_kind, filter_strength
        k-space window of the reconstruction.
    intensity_correction
        Share of the receive profile that the scanner divides out.
    smoothing
        Side weight of a three-tap smoothing after the magnitude (processed copies only).
    """

    cluster: str
    manufacturer: str
    model_name: str
    scan_options: str
    patient_position: str
    field_strength_t: float
    contrast_agent: str
    matrix_frequency: int
    matrix_phase: int
    slice_thickness_mm: float
    flip_angle_deg: float
    fov_mm: float
    echo_time_ms: float
    repetition_time_ms: float
    phase_direction: Literal["ROW", "COL"]
    pixel_bandwidth_hz: float
    partial_fourier: float
    acceleration: float
    fill: Literal["homodyne", "zero"]
    filter_kind: Literal["fermi", "hann"]
    filter_strength: float
    intensity_correction: float
    smoothing: float
    software_version: str
    device_serial_number: str

    @property
    def acquisition_matrix(self) -> str:
        """Acquisition Matrix (0018,1310) in canonical form, frequency x phase."""
        return f"{self.matrix_frequency}x{self.matrix_phase}"


@functools.cache
def load_prior() -> Mapping[str, Any]:
    """Read `protocols.yaml`, once."""
    text = resources.files("training.simulation").joinpath("protocols.yaml").read_text(encoding="utf-8")
    prior: Mapping[str, Any] = yaml.safe_load(text)
    return prior


def _choose(rng: np.random.Generator, weights: Mapping[Any, float]) -> Any:
    names = list(weights)
    shares = np.asarray([weights[name] for name in names], dtype=float)
    return names[int(rng.choice(len(names), p=shares / shares.sum()))]


def _nearest(values: Sequence[float], wanted: float) -> float:
    return float(min(values, key=lambda value: abs(value - wanted)))


def sample_protocol(rng: np.random.Generator, *, body_width_mm: float | None = None) -> Protocol:
    """Draw one protocol from the joint prior.

    Parameters
    ----------
    rng
        Source of all randomness.
    body_width_mm
        Width of the patient, to whom the field of view is fitted; None draws one from the population.

    Returns
    -------
    Protocol
        A cluster's habit with 4 to 12 % independent deviations per parameter (`deviation` in the YAML).
    """
    prior = load_prior()
    vocabulary, deviation = prior["vocabulary"], prior["deviation"]
    name = _choose(rng, {key: cluster["weight"] for key, cluster in prior["clusters"].items()})
    cluster = prior["clusters"][name]
    vendor = prior["vendors"][cluster["manufacturer"]]

    def deviates(parameter: str) -> bool:
        return bool(rng.random() < deviation[parameter])

    options = cluster["options"]
    if deviates("scan_options"):
        options = str(rng.choice(vendor["scan_options"]))
    position = "HFP" if rng.random() < cluster["hfp"] else "FFP"
    if deviates("patient_position"):
        position = str(rng.choice(vocabulary["patient_position"]))
    field = float(cluster["field"])
    if deviates("field_strength"):
        # The same magnet under its other label: a scanner does not change its field.
        field = {1.494: 1.5, 1.5: 1.494, 2.8936: 3.0, 3.0: 2.8936}[field]
    agent = _choose(rng, cluster["agent"])
    if deviates("contrast_agent"):
        agent = str(rng.choice(vocabulary["contrast_agent"]))
    matrix = _choose(rng, cluster["matrix"])
    if deviates("matrix"):
        matrix = str(rng.choice(vocabulary["matrix"]))
    thickness = float(_choose(rng, cluster["thickness"]))
    if deviates("slice_thickness_mm"):
        thickness = float(rng.choice(vocabulary["slice_thickness_mm"]))
    flip = float(_choose(rng, cluster["flip"]))
    if deviates("flip_angle_deg"):
        flip = float(rng.choice(vocabulary["flip_angle_deg"]))
    width = float(rng.normal(345.0, 26.0)) if body_width_mm is None else body_width_mm
    fov = _nearest(cluster["fov"], width + float(rng.normal(0.0, 14.0)))
    if deviates("fov_mm"):
        fov = _nearest(vocabulary["fov_mm"], width + float(rng.normal(5.0, 55.0)))
    times: dict[str, float] = {}
    for parameter, key in (("echo_time_ms", "te"), ("repetition_time_ms", "tr")):
        mean, spread = cluster[key]
        value = float(rng.normal(mean, spread))
        if deviates(parameter):
            value = float(rng.normal(mean, 0.12 * mean))
        low, high = TIME_RANGES_MS[parameter]
        times[parameter] = round(min(max(value, low), high), 3)
    frequency, phase = (int(count) for count in matrix.split("x"))
    words = options.split("\\")
    kind, weakest, strongest = vendor["filter"]
    serial_index = int(rng.integers(1, 4))
    return Protocol(
        cluster=name,
        manufacturer=cluster["manufacturer"],
        model_name=cluster["model"],
        scan_options=options,
        patient_position=position,
        field_strength_t=field,
        contrast_agent=agent,
        matrix_frequency=frequency,
        matrix_phase=phase,
        slice_thickness_mm=thickness,
        flip_angle_deg=flip,
        fov_mm=fov,
        echo_time_ms=times["echo_time_ms"],
        repetition_time_ms=times["repetition_time_ms"],
        phase_direction="ROW" if rng.random() < vendor["phase_row"] else "COL",
        pixel_bandwidth_hz=round(float(cluster["bandwidth"]) * float(rng.normal(1.0, 0.02)), 1),
        partial_fourier=float(rng.choice([0.625, 0.75, 0.875], p=[0.2, 0.6, 0.2])) if "PFP" in words else 1.0,
        acceleration=_acceleration(words, float(cluster["acceleration"]), cluster["manufacturer"]),
        fill=vendor["fill"],
        filter_kind=kind,
        filter_strength=float(rng.uniform(weakest, strongest)),
        intensity_correction=float(rng.uniform(*vendor["intensity"])),
        smoothing=float(vendor["smoothing"]),
        software_version=str(cluster["software"]),
        device_serial_number=f"SIM-{name.upper()}-{serial_index}",
    )


def _acceleration(words: Sequence[str], habitual: float, manufacturer: str) -> float:
    """Parallel imaging factor: ACC_GEMS says it on GE; elsewhere Scan Options is silent about it."""
    if manufacturer != "GE MEDICAL SYSTEMS":
        return habitual
    return max(habitual, 2.0) if "ACC_GEMS" in words else 1.0
