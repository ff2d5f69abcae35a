"""An evaluation as one self-contained HTML page: the tables of `training.report`, and plots of `training.plots`.

Nothing is loaded from anywhere: a page opens on a machine without a network, and can be printed. Called by the command
line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup

from iap_node.dicom.parameters import BY_KEYWORD
from training import plots, report
from training.figures import AuditFigures, Evaluation, HeadFigures
from training.plots import Mark
from training.report import Table

_KEY_AUDIT = (("one", "coverage"), ("other", "power: wrong values found"))


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    notes: tuple[str, ...] = ()
    table: Table | None = None
    plots: tuple[tuple[str, Markup], ...] = ()
    layout: str = "wide"
    key: tuple[tuple[str, str], ...] = ()


def as_html(evaluation: Evaluation, command: str, data: str) -> str:
    """The figures of one model as a page."""
    simulated = report.is_simulated(evaluation)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("training", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    page: str = environment.get_template("report.html").render(
        title=f"What a model is worth on {'simulated' if simulated else 'unseen'} images",
        evaluation=evaluation,
        simulated=simulated,
        command=command,
        data=data,
        sections=list(_sections(evaluation)),
    )
    return page


def _sections(evaluation: Evaluation) -> Iterator[_Section]:
    of = f" ({'simulated' if report.is_simulated(evaluation) else 'held-out patients'})"
    for table in report.tables(evaluation):
        notes = tuple(" ".join(part.split()).replace("*", "") for part in table.note.split("\n\n") if part)
        drawn = tuple(_drawn(evaluation, table))
        key = _KEY_AUDIT if table.title.startswith("Header audit") else ()
        if table.title.startswith("Classes"):
            key = (("one", "top-1, series"), ("other", "top-2, series"))
        yield _Section(table.title, notes, table, drawn, key=key)
        if table.title.startswith("Classes"):
            yield from _calibration_sections(evaluation, of)


def _calibration_sections(evaluation: Evaluation, of: str) -> Iterator[_Section]:
    heads = [head for head in evaluation.heads if head.n_classes and head.n_series]
    if not heads:
        return
    note = (
        "How often the most probable class of a series is right, against its probability. On the dashed line a "
        "probability means what it says; the area of a dot is the number of series."
    )
    drawn = tuple((_caption(head), Markup(plots.reliability(head))) for head in heads)
    yield _Section(f"Reliability{of}", (note,), plots=drawn, layout="plots")
    note = "Rows are true classes, columns the most probable ones of the series; darkness is the share of the row."
    drawn = tuple((report.title_of(head), Markup(plots.confusion(head))) for head in heads)
    yield _Section(f"Confusion{of}", (note,), plots=drawn, layout="matrices")


def _caption(head: HeadFigures) -> str:
    return f"{report.title_of(head)}: ECE {report.figure(head.ece, head.intervals.get('ece'))}"


def _drawn(evaluation: Evaluation, table: Table) -> Iterator[tuple[str, Markup]]:
    if table.title.startswith("Classes"):
        rows = [(_name(head), _marks(head)) for head in evaluation.heads if head.n_classes and head.n_series]
        yield _plot(rows, "Top-1 and top-2 accuracy of series", 0.0, None)
    elif table.title.startswith("Header audit"):
        alpha = float(table.title.split("alpha ")[1].split(" ")[0])
        rows = [
            (_name(head), _audit_marks(one)) for head in evaluation.heads for one in head.audit if one.alpha == alpha
        ]
        yield _plot(rows, f"Coverage and power at alpha {alpha:g}", 0.0, 1 - alpha)
    elif table.title == "Abstention":
        rows = [
            (one.name, [Mark(one.area, one.interval, "one" if one.should_be_novel else "other", one.name)])
            for one in evaluation.novelty
        ]
        if rows:
            yield _plot(rows, "AUROC of the novelty score against the test split", 0.0, 0.5)


def _plot(
    rows: Sequence[tuple[str, Sequence[Mark]]], label: str, low: float, target: float | None
) -> tuple[str, Markup]:
    return "", Markup(plots.intervals(rows, label, low, 1.0, target))


def _marks(head: HeadFigures) -> list[Mark]:
    found = (("series_top1", "one"), ("series_top2", "other"))
    return [
        Mark(value, head.intervals.get(name), style, f"{name}: {report.figure(value, head.intervals.get(name))}")
        for name, style in found
        if (value := getattr(head, name)) is not None
    ]


def _audit_marks(one: AuditFigures) -> list[Mark]:
    found = (("coverage", "one"), ("power", "other"))
    return [
        Mark(value, one.intervals.get(name), style, f"{name}: {report.figure(value, one.intervals.get(name))}")
        for name, style in found
        if (value := getattr(one, name)) == value
    ]


def _name(head: HeadFigures) -> str:
    """As plots show it: what is known by association has a mark, which the table below explains in words."""
    return BY_KEYWORD[head.keyword].title + (" (assoc.)" if head.by_association else "")
