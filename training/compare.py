"""Two models on the same series, figure by figure, with what is clearly different marked.

Called by `iap-train evaluate --compare`, which trains both recipes on the same series and the same number of images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from iap_node.dicom.parameters import BY_KEYWORD
from training.figures import Evaluation, HeadFigures
from training.intervals import Interval
from training.report import Table, figure, is_simulated, title_of

_FIGURES = (
    ("series_top1", "top-1", True),
    ("series_top2", "top-2", True),
    ("series_near", "within 10 mm", True),
    ("series_mae", "MAE", False),
    ("series_r2", "R2", True),
    ("ece", "ECE", False),
)
"""Name, title, and whether more is better."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: what it is called, how much it was shown, and what came of it."""

    name: str
    images_seen: int
    minutes: float
    evaluation: Evaluation


def side_by_side(left: Side, right: Side) -> Table:
    """One row per parameter and figure; the last column names who is better where the intervals are apart."""
    of = "simulated" if is_simulated(left.evaluation) else "held-out patients"
    shown = " and ".join(
        f"{one.name} ({one.evaluation.model_id}): {one.images_seen:,} images seen in {one.minutes:.1f} min"
        for one in (left, right)
    )
    note = (
        f"Series of the same {left.evaluation.n_patients:,} patients, whom neither has seen. {shown}.\n"
        "The last column names the better one where the 95 % intervals over patients do not overlap."
    )
    return Table(
        f"{left.name} beside {right.name} ({of})",
        note,
        ("parameter", "figure, series", left.name, right.name, "apart"),
        tuple(_rows(left, right)),
    )


def as_json(left: Side, right: Side) -> dict[str, Any]:
    """Both evaluations whole."""
    return {
        side.name: {"images_seen": side.images_seen, "minutes": round(side.minutes, 2)} | side.evaluation.as_json()
        for side in (left, right)
    }


def _rows(left: Side, right: Side) -> Iterator[tuple[str, ...]]:
    others = {head.keyword: head for head in right.evaluation.heads}
    for head in left.evaluation.heads:
        other = others.get(head.keyword)
        if other is None:
            continue
        for name, title, more_is_better in _FIGURES:
            values = getattr(head, name), getattr(other, name)
            if None in values:
                continue
            unit = BY_KEYWORD[head.keyword].unit if name == "series_mae" else ""
            ends = head.intervals.get(name), other.intervals.get(name)
            cells = (f"{figure(*pair)} {unit}".rstrip() for pair in zip(values, ends, strict=True))
            better = _better(*ends)
            names = (left.name, right.name) if more_is_better else (right.name, left.name)
            yield (title_of(head), title, *cells, "" if better is None else names[better])
        yield from _power(head, other, (left.name, right.name))


def _power(head: HeadFigures, other: HeadFigures, names: tuple[str, str]) -> Iterator[tuple[str, ...]]:
    for mine, theirs in zip(head.audit, other.audit, strict=False):
        ends = mine.intervals.get("power"), theirs.intervals.get("power")
        better = _better(*ends)
        yield (
            title_of(head),
            f"power at {mine.alpha:g}",
            figure(mine.power, ends[0]),
            figure(theirs.power, ends[1]),
            "" if better is None else names[better],
        )


def _better(left: Interval | None, right: Interval | None) -> int | None:
    """Which of two is larger, 0 or 1; None where their intervals overlap or nobody knows them."""
    if left is None or right is None or not all(map(math.isfinite, (*left, *right))):
        return None
    return 0 if left[0] > right[1] else 1 if right[0] > left[1] else None
