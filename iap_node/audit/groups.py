"""Parameter groups of a protocol: the dominant one and its variants, as CuBIDS has them.

The series of one scanner, software and protocol fall into groups whose fixed elements are equal within tolerances. The
largest is dominant, others are variants of it. What people adapt to the patient, and what varies freely, divides no
groups. Called by `habit` for one series against the archive, by the audit of a folder and by `iap-node protocols`.

References
----------
Covitz et al. 2022, NeuroImage, doi 10.1016/j.neuroimage.2022.119609 (CuBIDS: entity and parameter groups).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Difference:
    """One element in which a variant differs from the dominant group; canonical text without unit."""

    element: str  # DICOM keyword
    usual: str  # of the dominant group
    here: str  # of the variant


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Series of one protocol with equal fixed elements."""

    rank: int  # 1: the dominant group
    n_series: int
    n_studies: int
    values: tuple[tuple[str, str], ...]  # DICOM keyword and commonest canonical text, of what divides groups
    differences: tuple[Difference, ...]  # from the dominant group; none for itself
    series: tuple[str, ...]  # `PastSeries.series` of its members
    since: datetime | None  # of its oldest member whose time is known
    until: datetime | None


@dataclass(frozen=True, slots=True)
class ProtocolGroups:
    """One protocol on one scanner with one software: its groups, the dominant one first."""

    manufacturer: str
    model: str
    serial_number: str
    software_versions: str
    protocol: str
    n_series: int
    groups: tuple[ParameterGroup, ...]
    free: tuple[str, ...]  # keywords of elements that vary from series to series: no habit, they divide no groups

    @property
    def dominant(self) -> ParameterGroup:
        return self.groups[0]

    @property
    def variants(self) -> tuple[ParameterGroup, ...]:
        return self.groups[1:]
