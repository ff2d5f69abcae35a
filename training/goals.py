"""What the shipped model is to reach on simulated patients, and whether it does.

Shown for simulated images only: for real ones nobody has set any. Called by `training.report`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from iap_node.dicom.parameters import BY_KEYWORD
from training.figures import Evaluation, HeadFigures
from training.intervals import Interval

Found = tuple[float, Interval | None]

_TOP1 = {
    "Manufacturer": 0.98,
    "AcquisitionMatrix": 0.98,
    "ManufacturerModelName": 0.92,
    "ScanOptions": 0.92,
    "FlipAngle": 0.93,
}
_FIELD = 0.97  # within tolerance: 1.494 T is 1.5 T
_TOP2, _NO_TOP2 = 0.95, ("SliceThickness", "FieldOfView")
_NEAR = 0.80  # share of fields of view within 10 mm
_R2 = {"EchoTime": 0.97, "RepetitionTime": 0.95}
_ECE, _LOOSE_ECE = 0.03, 0.06
_LOOSE = ("FieldOfView", "SliceThickness", "ContrastBolusAgent")
_COVERAGE = (0.93, 0.97)
_SWAPS_FOUND = 0.90  # of swapped headers, where 1 % of right ones are doubted
_AREA = {"real series of other anatomy": 0.99, "noise": 0.90, "disc phantom": 0.90, "simulated breast, rotated": 0.90}


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal and what was found; `reached` by the figure itself, whatever its interval."""

    text: str
    wanted: str
    value: float
    interval: Interval | None
    reached: bool


def goals_of(evaluation: Evaluation) -> Iterator[Goal]:
    """All goals of what the evaluation has figures for."""
    for head in evaluation.heads:
        if head.n_series:
            yield from _of_head(head)
    for one in evaluation.swaps:
        if abs(one.alpha - 0.01) < 1e-9 and one.whole[1] is not None:
            interval = one.intervals.get("whole", (None, None))[1]
            yield _at_least("whole header swapped, found at alpha 0.01", _SWAPS_FOUND, (one.whole[1], interval))
    for kind in evaluation.novelty:
        least = next((least for name, least in _AREA.items() if kind.name.startswith(name)), None)
        if least is not None:
            yield _at_least(f"novelty AUROC, {kind.name}", least, (kind.area, kind.interval))


def _of_head(head: HeadFigures) -> Iterator[Goal]:
    title = BY_KEYWORD[head.keyword].title

    def found(name: str) -> Found:
        return getattr(head, name), head.intervals.get(name)

    if head.keyword in _TOP1:
        yield _at_least(f"{title}, top-1", _TOP1[head.keyword], found("series_top1"))
    if head.keyword == "MagneticFieldStrength":
        yield _at_least(f"{title}, top-1 within tolerance", _FIELD, found("series_top1_within_tolerance"))
    if head.n_classes and head.keyword not in _NO_TOP2:
        yield _at_least(f"{title}, top-2", _TOP2, found("series_top2"))
    if head.series_near is not None:
        yield _at_least(f"{title}, within 10 mm", _NEAR, found("series_near"))
    if head.keyword in _R2:
        yield _at_least(f"{title}, R2", _R2[head.keyword], found("series_r2"))
    if head.ece is not None:
        most = _LOOSE_ECE if head.keyword in _LOOSE else _ECE
        yield _goal(f"{title}, ECE", f"at most {most:.2f}", found("ece"), lambda value: value <= most)
    for audit in head.audit:
        if abs(audit.alpha - 0.05) < 1e-9:
            coverage = audit.coverage, audit.intervals.get("coverage")
            wanted = f"{_COVERAGE[0]:.2f} to {_COVERAGE[1]:.2f}"
            yield _goal(f"{title}, coverage at alpha 0.05", wanted, coverage, _is_covered)


def _is_covered(share: float) -> bool:
    return _COVERAGE[0] <= share <= _COVERAGE[1]


def _at_least(text: str, least: float, found: Found) -> Goal:
    return _goal(text, f"at least {least:.2f}", found, lambda value: value >= least)


def _goal(text: str, wanted: str, found: Found, reaches: Callable[[float], bool]) -> Goal:
    value, interval = found
    return Goal(text, wanted, value, interval, reaches(value))
