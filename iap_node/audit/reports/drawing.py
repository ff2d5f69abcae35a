"""What reports draw: rectangles in a box of 100 by 100, stretched to where they stand. The templates make SVG of them.

Text stands beside a drawing, never in it, so that it keeps its size on a telephone and on paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from iap_node.records import ParameterPrediction

TICK = 0.7  # width of a mark for one value
GAP = 0.2  # of a column's room that stays free


@dataclass(frozen=True, slots=True)
class Rectangle:
    """In percent of the drawing's box, from its upper left; `style` is a CSS class, `title` shows when pointed at."""

    x: float
    y: float
    width: float
    height: float
    style: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """Rectangles, the last above the others; `label` is what those read who do not see it."""

    label: str
    rectangles: tuple[Rectangle, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """From a number to its place between 0 and 100; what lies beyond the ends is put there."""

    low: float
    high: float

    def at(self, value: float) -> float:
        if math.isnan(value) or not self.high > self.low:
            return 50.0
        return 100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    @classmethod
    def around(cls, values: Iterable[float]) -> Axis:
        """An axis on which all finite values are, with a little room at both ends."""
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        room = 0.05 * (high - low) or 0.05 * abs(low) or 1.0
        return cls(low - room, high + room)


def bar(share: float, label: str, style: str = "series") -> Drawing:
    """One bar from the left, `share` of the box long."""
    return Drawing(label, (Rectangle(0, 0, 100 * min(1.0, max(0.0, share)), 100, style),))


def columns(stacks: Sequence[Sequence[tuple[str, float, str]]], label: str, least_top: float = 0.0) -> Drawing:
    """Columns beside each other, each stacked from (style, value, title), the first at the bottom.

    Parameters
    ----------
    least_top
        What the box is high at least; higher where a column is.
    """
    top = max([least_top, *(sum(value for _, value, _ in stack) for stack in stacks)])
    room = 100 / max(1, len(stacks))
    rectangles = []
    for place, stack in enumerate(stacks):
        foot = 100.0
        for style, value, title in stack:
            if value <= 0:
                continue
            height = 100 * value / top
            foot -= height
            rectangles.append(Rectangle(room * (place + GAP / 2), foot, room * (1 - GAP), height, style, title))
    return Drawing(label, tuple(rectangles))


def band(axis: Axis, low: float, high: float, style: str, *, thick: float = 0.6, title: str = "") -> Rectangle:
    """From one value to another along an axis; `thick` is its share of the box's height."""
    left, right = axis.at(low), axis.at(high)
    return Rectangle(left, 50 * (1 - thick), max(TICK / 2, right - left), 100 * thick, style, title)


def tick(axis: Axis, value: float, style: str, *, title: str = "") -> Rectangle:
    """One value on an axis, over the whole height."""
    return Rectangle(min(100 - TICK, max(0.0, axis.at(value) - TICK / 2)), 0, TICK, 100, style, title)


def rate(share: float, low: float, high: float, label: str) -> Drawing:
    """A share with its interval, on an axis from 0 to 1."""
    axis = Axis(0.0, 1.0)
    line = band(axis, 0, 1, "axis", thick=0.06)
    return Drawing(label, (line, band(axis, low, high, "range"), tick(axis, share, "mark")))


def box(axis: Axis, quantiles: tuple[float, float, float, float, float], label: str) -> Drawing:
    """Quantiles (5, 25, 50, 75 and 95 %) on an axis that shows where zero is."""
    least, lower, middle, upper, most = quantiles
    return Drawing(
        label,
        (
            band(axis, axis.low, axis.high, "axis", thick=0.06),
            tick(axis, 0.0, "axis"),
            band(axis, least, most, "range", thick=0.3),
            band(axis, lower, upper, "range"),
            tick(axis, middle, "mark"),
        ),
    )


def interval(prediction: ParameterPrediction, axis: Axis, stated: float | None, label: str) -> Drawing:
    """What a model allows for a number, at all its levels, its best value, and what the header states."""
    levels = sorted({*prediction.intervals}, key=lambda level: level[0])
    rectangles = [band(axis, axis.low, axis.high, "axis", thick=0.06)]
    rectangles += [
        band(axis, low, high, "likely", title=f"alpha {alpha:g}: {low:.4g} to {high:.4g}")
        for alpha, low, high in levels
    ]
    if prediction.value is not None:
        rectangles.append(tick(axis, prediction.value, "mark", title=f"predicted {prediction.value:.4g}"))
    if stated is not None:
        rectangles.append(tick(axis, stated, "stated", title=f"header {stated:.4g}"))
    return Drawing(label, tuple(rectangles))
