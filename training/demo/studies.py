"""What the demo sends, and what must come out: simulated studies of four scanners, with known truth.

Called by `training.demo.__main__`. Each study is one series; what its header says may differ from how it was made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iap_node.records import Verdict
from training.simulation.dicom_series import make_study, write_series
from training.simulation.other_anatomy import simulate_head_series
from training.simulation.protocols import Protocol, sample_protocol
from training.simulation.series import simulate_series

GE_DOMAIN = "ge_1t5"
SIEMENS_DOMAIN = "siemens_3t"
SLICES = 12


@dataclass(frozen=True)
class DemoStudy:
    """One simulated study on disk and what the node must say of it."""

    title: str
    files: tuple[Path, ...]
    truth: dict[str, str | float]  # how it was simulated; empty for what is not breast MR
    expected_verdicts: dict[str, Verdict]  # by the pixels; every other parameter contradicts nothing and is there
    expected_findings: dict[str, bool]  # elements that must have one, and whether it must suggest the true value
    expected_domain: str | None  # None: the default route
    expected_novel: bool = False


@dataclass(frozen=True)
class _Plan:
    title: str
    manufacturer: str
    model_name: str
    field_t: float
    domain: str | None
    header_changes: dict[str, str | float | None]  # DICOM keyword to value; None takes the element away
    verdicts: dict[str, Verdict]
    findings: dict[str, bool]


PLANS = (
    _Plan("GE Signa HDxt, as it should be", "GE MEDICAL SYSTEMS", "Signa HDxt", 1.5, GE_DOMAIN, {}, {}, {}),
    _Plan(
        "GE Signa HDxt, Manufacturer missing",
        "GE MEDICAL SYSTEMS",
        "Signa HDxt",
        1.5,
        GE_DOMAIN,
        {"Manufacturer": None},
        {"Manufacturer": Verdict.MISSING},
        {"Manufacturer": True},
    ),
    _Plan("GE Optima MR450w, as it should be", "GE MEDICAL SYSTEMS", "Optima MR450w", 1.5, GE_DOMAIN, {}, {}, {}),
    _Plan(
        "GE Optima MR450w, Repetition Time ten times too long",
        "GE MEDICAL SYSTEMS",
        "Optima MR450w",
        1.5,
        GE_DOMAIN,
        {"RepetitionTime": 51.0},
        {"RepetitionTime": Verdict.CONTRADICTS},
        {"RepetitionTime": False},
    ),
    _Plan("Siemens Skyra, as it should be", "SIEMENS", "Skyra", 3.0, SIEMENS_DOMAIN, {}, {}, {}),
    _Plan(
        "Siemens Skyra whose header says GE",
        "SIEMENS",
        "Skyra",
        3.0,
        SIEMENS_DOMAIN,
        {"Manufacturer": "GE MEDICAL SYSTEMS"},
        {"Manufacturer": Verdict.CONTRADICTS},
        {"Manufacturer": True, "ManufacturerModelName": False},
    ),
    _Plan("Siemens Avanto, as it should be: no model wants it", "SIEMENS", "Avanto", 1.5, None, {}, {}, {}),
    _Plan(
        "Siemens Avanto, Magnetic Field Strength missing",
        "SIEMENS",
        "Avanto",
        1.5,
        None,
        {"MagneticFieldStrength": None},
        {"MagneticFieldStrength": Verdict.MISSING},
        {"MagneticFieldStrength": True},
    ),
)


def count() -> int:
    """How many studies `make_studies` yields."""
    return len(PLANS) + 1


def make_studies(folder: Path, seed: int) -> Iterator[DemoStudy]:
    """Simulate and write the studies, one after the other; the last is a head, not a breast."""
    for number, plan in enumerate(PLANS):
        rng = np.random.default_rng([seed, number])
        protocol = _protocol_of(plan, rng)
        series = simulate_series(rng, SLICES, protocol=protocol, slice_positions="even")
        study = make_study(rng, number + 1)
        files = write_series(series, folder / f"{number:02d}", rng=rng, study=study, overrides=plan.header_changes)
        yield DemoStudy(plan.title, tuple(files), series.labels, plan.verdicts, plan.findings, plan.domain)
    rng = np.random.default_rng([seed, len(PLANS)])
    head = simulate_head_series(rng, SLICES)
    files = write_series(head, folder / f"{len(PLANS):02d}", rng=rng, study=make_study(rng, count()))
    yield DemoStudy("A head: not what the model knows", tuple(files), {}, {}, {}, None, expected_novel=True)


def _protocol_of(plan: _Plan, rng: np.random.Generator) -> Protocol:
    """A protocol of the planned scanner, as the simulator's prior makes them."""
    while True:
        protocol = sample_protocol(rng)
        same_scanner = (protocol.manufacturer, protocol.model_name) == (plan.manufacturer, plan.model_name)
        if same_scanner and abs(protocol.field_strength_t - plan.field_t) < 0.2:
            return protocol
