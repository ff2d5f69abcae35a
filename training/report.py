"""An evaluation as people read it: Markdown tables that name command and data, with intervals, and say where the images
come from.

Rows are made once and shown twice: here as Markdown, in `training.report_html` as a page with plots. Called by the
command line and by `training.reference`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iap_node.dicom.parameters import BY_KEYWORD, Nature
from training.dataset import SIMULATED
from training.figures import AuditFigures, Evaluation, HeadFigures
from training.goals import goals_of
from training.intervals import Interval
from training.swaps import SwapFigures

BY_ASSOCIATION = "inferred by association"


@dataclass(frozen=True, slots=True)
class Table:
    """One table: `note` explains the columns; the first column names the row."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


_WHERE_SIMULATED = """\
Judged on **simulated images**: nothing here says how the model does on real ones."""

_HEADING = """\
# What a model is worth on {whose} images

Model `{model_id}`, {trained_on}. {where} Written by

    {command}

Data: {data}.
Judged: {n_series} series of {n_slices} evenly spaced slices, of {n_patients} patients, none of them seen in training or
calibration. Novel series are left out of no table but the last, which is about abstention.
Brackets hold 95 % intervals: percentiles of 1,000 draws of the patients, with replacement.
"""

_CLASSES_NOTE = """\
Top-1 / top-2 accuracy. *Majority*: share of the commonest class. *Within tolerance*: a number counts as right where a
physicist would say so (1.494 T for 1.5 T); for the field of view also the share within 10 mm. *ECE*: expected
calibration error of the series' most probable class."""

_AUDIT_NOTE = """\
Conformal sets per series at alpha {alpha:g}. *Size*: mean number of classes, or mean width of the interval in the
parameter's unit. *False*: true headers that the set contradicts. *Power*: headers with this one value corrupted (the
value of another series, different beyond tolerance) that it contradicts."""

_SWAP_NOTE = """\
A header as a whole against the pixels. *False*: right headers that are doubted. *Swapped*: headers of another series,
all values at once, that are doubted; *same model*: of another series of the same scanner model, which is harder.
*Half stated*: half of the values, chosen at random, are missing. *Finding*: the series gets the finding pixels-joint;
some doubts are told as single values instead. *Any value*: at least one value is outside its conformal set, at the
alpha named: right headers are doubted once per parameter then."""

_ABSTENTION_NOTE = """\
*AUROC*: probability that a series of this kind is further from the training data than one of the test split. Series
that are not of the test split differ from it by where they come from too: real ones by being real, turned and blurred
ones by what was done to them, which the row above them shows."""


def as_markdown(evaluation: Evaluation, command: str, data: str) -> str:
    """The figures of one model as a Markdown page."""
    parts = [heading(evaluation, command, data), *(table_as_markdown(table) for table in tables(evaluation))]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def table_as_markdown(table: Table) -> str:
    """A table under its title."""
    rows = _markdown(table) if table.rows else ""
    return "\n\n".join(part for part in (f"## {table.title}", table.note, rows) if part) + "\n"


def heading(evaluation: Evaluation, command: str, data: str) -> str:
    """Title, model, command, data: Markdown."""
    simulated = is_simulated(evaluation)
    return _HEADING.format(
        whose="simulated" if simulated else "unseen",
        where=_WHERE_SIMULATED if simulated else f"Judged on images from: {evaluation.images}.",
        model_id=evaluation.model_id,
        trained_on=evaluation.trained_on,
        command=command,
        data=data,
        n_series=f"{evaluation.n_series:,}",
        n_patients=f"{evaluation.n_patients:,}",
        n_slices=evaluation.n_slices_per_series,
    )


def is_simulated(evaluation: Evaluation) -> bool:
    """Whether the images that were judged are simulated."""
    return evaluation.images.startswith(SIMULATED)


def described(description: Mapping[str, Any]) -> str:
    """A data set in one clause, from its dataset.json."""
    splits = ", ".join(f"{part['n_series']} {split}" for split, part in description["splits"].items())
    if description["images"] == SIMULATED:
        return f"simulated breast MR of training/simulation, seed {description['seed']}; series: {splits}"
    return f"{description['images']}; series: {splits}"


def tables(evaluation: Evaluation) -> Iterator[Table]:
    """All tables in the order of the page; every title says what the images are."""
    of = f" ({'simulated' if is_simulated(evaluation) else 'held-out patients'})"
    yield Table(
        f"Classes{of}",
        _CLASSES_NOTE,
        ("parameter", "classes", "majority", "slice top-1", "slice top-2", "series top-1", "series top-2",
         "series, within tolerance", "ECE"),
        tuple(_class_rows(evaluation)),
    )  # fmt: skip
    numbers = tuple(_number_rows(evaluation))
    if numbers:
        yield Table(f"Numbers{of}", "", ("parameter", "slice MAE", "slice R2", "series MAE", "series R2"), numbers)
    for alpha in sorted({one.alpha for head in evaluation.heads for one in head.audit}):
        yield Table(
            f"Header audit at alpha {alpha:g}{of}",
            _AUDIT_NOTE.format(alpha=alpha),
            ("parameter", "coverage", "size", "false", "power"),
            tuple(_audit_rows(evaluation, alpha)),
        )
    if evaluation.swaps:
        yield Table(
            f"Swapped headers{of}",
            _SWAP_NOTE,
            ("what doubts", "at alpha", "false", "swapped", "same model"),
            tuple(_swap_rows(evaluation.swaps)),
        )
    if is_simulated(evaluation):
        goals = list(goals_of(evaluation))
        missed = sorted((one for one in goals if not one.reached), key=lambda one: one.text)
        if goals:
            yield Table(
                f"Goals{of}",
                f"What the shipped model is to reach; {len(goals) - len(missed)} of {len(goals)} are reached, "
                f"{len(missed)} missed{':' if missed else '.'}",
                ("goal, series", "wanted", "found"),
                tuple((one.text, one.wanted, figure(one.value, one.interval)) for one in missed),
            )
    if evaluation.false_novel:
        yield Table(
            "Abstention",
            _ABSTENTION_NOTE,
            ("series", "should be novel", "called novel", "AUROC"),
            tuple(_abstention_rows(evaluation)),
        )


def title_of(head: HeadFigures) -> str:
    """The parameter's name; says so where it is known by association only."""
    return BY_KEYWORD[head.keyword].title + (f" ({BY_ASSOCIATION})" if head.by_association else "")


def figure(value: float | None, interval: Interval | None = None, digits: int = 3) -> str:
    """A figure with its interval; "" where there is none."""
    if value is None or not math.isfinite(value):
        return "" if value is None else "open"
    text = f"{value:.{digits}f}"
    if interval is None or not all(map(math.isfinite, interval)):
        return text
    return f"{text} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _markdown(table: Table) -> str:
    lines = ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in table.rows)])


def _class_rows(evaluation: Evaluation) -> Iterable[tuple[str, ...]]:
    for head in evaluation.heads:
        if not head.n_classes or not head.n_series:
            continue
        within = ""
        if BY_KEYWORD[head.keyword].nature is Nature.NUMBER:
            within = _of(head, "series_top1_within_tolerance")
            within += f"; 10 mm: {_of(head, 'series_near')}" if head.series_near is not None else ""
        names = ("slice_top1", "slice_top2", "series_top1", "series_top2")
        shown = (_of(head, name) for name in names)
        yield (title_of(head), str(head.n_classes), figure(head.majority), *shown, within, _of(head, "ece"))


def _number_rows(evaluation: Evaluation) -> Iterable[tuple[str, ...]]:
    for head in evaluation.heads:
        if not head.n_classes and head.n_series:
            unit = BY_KEYWORD[head.keyword].unit
            yield (
                title_of(head), f"{_of(head, 'slice_mae')} {unit}", _of(head, "slice_r2"),
                f"{_of(head, 'series_mae')} {unit}", _of(head, "series_r2"),
            )  # fmt: skip


def _audit_rows(evaluation: Evaluation, alpha: float) -> Iterable[tuple[str, ...]]:
    for head in evaluation.heads:
        for one in head.audit:
            if one.alpha == alpha:
                yield (title_of(head), *audit_cells(one))


def audit_cells(one: AuditFigures) -> tuple[str, str, str, str]:
    """Coverage, size, false contradictions and power."""
    return (
        figure(one.coverage, one.intervals.get("coverage")),
        figure(one.set_size, one.intervals.get("set_size"), 2),
        figure(one.false_contradictions, one.intervals.get("false_contradictions")),
        figure(one.power, one.intervals.get("power")),
    )


def _swap_rows(swaps: Sequence[SwapFigures]) -> Iterable[tuple[str, ...]]:
    for one in swaps:
        strict = one.alpha / 10
        rows = (
            ("whole header", one.alpha, "whole"),
            ("whole header, half stated", one.alpha, "half_stated"),
            ("whole header, as a finding", one.alpha, "found_against"),
            ("any value", one.alpha, "any_value"),
            ("any value", strict, "any_value_strict"),
            (f"whole header, where no value is outside its set at {one.alpha:g}", one.alpha, "whole_unsuspected"),
            (f"whole header, where no value is outside its set at {strict:g}", one.alpha, "whole_unsuspected_strict"),
        )
        for what, alpha, name in rows:
            shares = getattr(one, name)
            intervals = one.intervals.get(name, (None,) * len(shares))
            yield (what, f"{alpha:g}", *(figure(*pair) for pair in zip(shares, intervals, strict=True)))


def _abstention_rows(evaluation: Evaluation) -> Iterable[tuple[str, ...]]:
    for count, share in evaluation.false_novel.items():
        yield (f"test split, {count} slice{'' if count == '1' else 's'}", "no", f"{share:.1%}", "")
    for one in evaluation.novelty:
        wanted = "yes" if one.should_be_novel else "no"
        yield (one.name, wanted, f"{one.n_novel} of {one.n_series}", figure(one.area, one.interval))


def _of(head: HeadFigures, name: str) -> str:
    return figure(getattr(head, name), head.intervals.get(name))
