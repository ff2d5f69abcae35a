"""Plots of an evaluation as SVG text: no script, no font, no address; colours come from the page's CSS.

Coordinates are in units of the drawing's own box, which keeps its proportions; text inside is large enough to be read
on a telephone. Called by `training.report_html`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from training.figures import HeadFigures
from training.intervals import Interval

_SIDE = 200  # of a square plot's field
_LEFT, _TOP, _RIGHT, _BELOW = 38, 8, 10, 34
_WIDE = 460.0  # of an interval plot: narrow, so that a telephone shows its text large enough
_LABEL_WIDTH = 185
_ROW = 22
_MOST_CLASSES_WITH_NUMBERS = 11
_MOST_LETTERS = 38


@dataclass(frozen=True, slots=True)
class Mark:
    """One figure with its interval on an axis, `style` a CSS class."""

    value: float
    interval: Interval | None
    style: str
    title: str


def reliability(head: HeadFigures) -> str:
    """How often right against how probable; the area of a dot is the number of series."""
    most = max((one.n for one in head.reliability), default=1)
    parts = [f'<line class="ideal" x1="{_across(0):.1f}" y1="{_up(0):.1f}" x2="{_across(1):.1f}" y2="{_up(1):.1f}"/>']
    points = " ".join(f"{_across(one.confidence):.1f},{_up(one.accuracy):.1f}" for one in head.reliability)
    parts.append(f'<polyline class="path" points="{points}"/>')
    for one in head.reliability:
        radius = 2.0 + 7.0 * (one.n / most) ** 0.5
        title = f"{one.n} series: probability {one.confidence:.3f}, right {one.accuracy:.3f}"
        parts.append(
            f'<circle class="dot" cx="{_across(one.confidence):.1f}" cy="{_up(one.accuracy):.1f}" r="{radius:.1f}">'
            f"<title>{escape(title)}</title></circle>"
        )
    label = f"Reliability of {head.keyword}: share right against probability"
    return _square(label, "probability of the most probable class", "share right", parts)


def confusion(head: HeadFigures) -> str:
    """Rows are true classes, columns the most probable ones; darkness is the share of the row."""
    n = len(head.classes)
    cell = max(14, min(34, 340 // n))
    left = 12 + 6.9 * min(_MOST_LETTERS, max(len(name) for name in head.classes))
    height = left + n * cell + 8
    parts = []
    for row, counts in enumerate(head.confusion):
        total = sum(counts)
        y = 4 + row * cell
        name = escape(_short(head.classes[row]))
        parts.append(f'<text class="name end" x="{left - 6:.0f}" y="{y + cell / 2 + 4:.0f}">{name}</text>')
        for column, count in enumerate(counts):
            share = count / total if total else 0.0
            x = left + column * cell
            title = f"true {head.classes[row]}, found {head.classes[column]}: {count} of {total}"
            parts.append(
                f'<rect class="cell" x="{x:.0f}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
                f'style="fill-opacity:{0.04 + 0.96 * share:.2f}"><title>{escape(title)}</title></rect>'
            )
            if count and n <= _MOST_CLASSES_WITH_NUMBERS:
                style = "on" if share > 0.5 else "off"
                parts.append(
                    f'<text class="count {style}" x="{x + cell / 2 - 0.5:.1f}" y="{y + cell / 2 + 3.5:.1f}">'
                    f"{count}</text>"
                )
    foot = 4 + n * cell + 6
    for column, class_name in enumerate(head.classes):
        x = left + column * cell + cell / 2 + 3
        parts.append(
            f'<text class="name end" transform="translate({x:.0f},{foot}) rotate(-90)">'
            f"{escape(_short(class_name))}</text>"
        )
    width = left + n * cell + 8
    label = f"Confusion of {head.keyword}: rows are true classes, columns the most probable"
    return _svg(width, height, label, parts, style=f"max-width:{width:.0f}px")


def intervals(
    rows: Sequence[tuple[str, Sequence[Mark]]], label: str, low: float, high: float, target: float | None
) -> str:
    """One line per row, its marks with their intervals on one axis; `target` is a line through all of them."""
    width, span = _WIDE, _WIDE - _LABEL_WIDTH - 14.0
    height = _ROW * len(rows) + 30

    def at(value: float) -> float:
        return _LABEL_WIDTH + span * min(1.0, max(0.0, (value - low) / (high - low)))

    foot = _ROW * len(rows) + 4
    parts = []
    for step in range(6):
        value = low + (high - low) * step / 5
        parts.append(f'<line class="grid" x1="{at(value):.1f}" y1="0" x2="{at(value):.1f}" y2="{foot}"/>')
        parts.append(f'<text class="tick" x="{at(value):.1f}" y="{foot + 16}">{value:.3g}</text>')
    if target is not None:
        parts.append(f'<line class="ideal" x1="{at(target):.1f}" y1="0" x2="{at(target):.1f}" y2="{foot}"/>')
    for number, (name, marks) in enumerate(rows):
        middle = _ROW * number + _ROW / 2
        parts.append(
            f'<text class="name end" x="{_LABEL_WIDTH - 10}" y="{middle + 4:.0f}">{escape(_short(name, 30))}</text>'
        )
        for place, mark in enumerate(marks):
            y = middle + (place - (len(marks) - 1) / 2) * 8
            if mark.interval is not None and all(end == end for end in mark.interval):
                start, end = (at(value) for value in mark.interval)
                parts.append(
                    f'<line class="range {mark.style}" x1="{start:.1f}" y1="{y:.1f}" x2="{end:.1f}" y2="{y:.1f}"/>'
                )
            parts.append(
                f'<circle class="{mark.style}" cx="{at(mark.value):.1f}" cy="{y:.1f}" r="3.2">'
                f"<title>{escape(mark.title)}</title></circle>"
            )
    return _svg(width, height, label, parts)


def _across(value: float) -> float:
    return _LEFT + _SIDE * value


def _up(value: float) -> float:
    return _TOP + _SIDE * (1 - value)


def _square(label: str, across: str, up: str, parts: Sequence[str]) -> str:
    frame = [f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}"/>']
    for step in range(5):
        value = step / 4
        frame.append(f'<text class="tick" x="{_across(value):.1f}" y="{_TOP + _SIDE + 14}">{value:g}</text>')
        frame.append(f'<text class="tick end" x="{_LEFT - 5}" y="{_up(value) + 4:.1f}">{value:g}</text>')
    frame.append(f'<text class="tick" x="{_LEFT + _SIDE / 2}" y="{_TOP + _SIDE + 28}">{across}</text>')
    middle = _TOP + _SIDE / 2
    frame.append(f'<text class="tick" transform="translate(9,{middle}) rotate(-90)">{up}</text>')
    return _svg(_LEFT + _SIDE + _RIGHT, _TOP + _SIDE + _BELOW, label, [*frame, *parts])


def _svg(width: float, height: float, label: str, parts: Sequence[str], style: str = "") -> str:
    styled = f' style="{style}"' if style else ""
    box = f'viewBox="0 0 {width:.0f} {height:.0f}"'
    return f'<svg {box} role="img" aria-label="{escape(label)}"{styled}>{"".join(parts)}</svg>'


def _short(name: str, most: int = _MOST_LETTERS) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
