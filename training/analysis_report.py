"""An analysis of labels for people: Markdown tables, and one HTML page that needs nothing beside it.

Called by `iap-train analyze`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from iap_node.dicom.parameters import BY_KEYWORD
from training.analyze import Analysis, Distribution

_MOST_CLASSES = 12
_MOST_LETTERS = 21  # of capitals, beside a bar
_STYLE = """\
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #667; --bar: #3a6ea5; --line: #d5d9e0; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaee; --soft: #9aa3b2; --bar: #7fb0e6; --line: #333a45; --page: #14171c; }
}
body { margin: 2rem auto; max-width: 68rem; padding: 0 1rem; color: var(--ink); background: var(--page);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin-bottom: .2rem; }
p, figcaption { color: var(--soft); max-width: 46rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem 2rem; }
figure { margin: 0; } svg { width: 100%; height: auto; } text { fill: var(--ink); font-size: 11px; }
.bar { fill: var(--bar); } .end { text-anchor: end; } .mid { text-anchor: middle; }
.scroll { overflow-x: auto; } .matrix svg { max-width: 44rem; } table { border-collapse: collapse; }
td, th { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; }
"""


def as_markdown(analysis: Analysis) -> str:
    """All tables."""
    return "\n".join(_markdown(analysis)) + "\n"


def _markdown(analysis: Analysis) -> Iterator[str]:
    yield "# Labels of a data set\n"
    yield f"Images: {analysis.images}. Printed by\n\n    iap-train analyze DATA --out DIR\n"
    yield from _table(
        ["split", "series", "patients"],
        [[split, str(n), str(analysis.n_patients[split])] for split, n in analysis.n_series.items()],
    )
    yield "\n## Distributions\n"
    yield (
        "*Commonest*: the share of each split that is right with the commonest label of the training split: what any "
        "model must beat.\n"
    )
    splits = list(analysis.n_series)
    yield from _table(
        ["parameter", "labels", "none", "values", "range, or most common", *(f"commonest, {one}" for one in splits)],
        [
            [
                _title(one.keyword), str(one.n_labelled), str(one.n_missing), str(len(one.classes)), _span(one),
                *(f"{one.majority[split]:.3f}" if split in one.majority else "" for split in splits),
            ]
            for one in analysis.distributions
        ],
    )  # fmt: skip
    for one in analysis.distributions:
        if one.classes:
            yield f"\n### {_title(one.keyword)}\n"
            shown = one.classes[:_MOST_CLASSES]
            rows = [[_cell(name), str(n), f"{n / one.n_labelled:.1%}", str(patients)] for name, n, patients in shown]
            left = one.classes[_MOST_CLASSES:]
            if left:
                n = sum(number for _, number, _ in left)
                rows.append([f"{len(left)} more", str(n), f"{n / one.n_labelled:.1%}", ""])
            yield from _table([f"value{_unit(one.keyword)}", "series", "share", "patients"], rows)
    yield "\n## Spearman correlations\n"
    yield (
        "Over the series that state both. Numbers rank by size, matrices by area, other text by how common it is: "
        "there the sign says nothing.\n"
    )
    yield from _table(
        ["", *(str(place + 1) for place in range(len(analysis.correlated)))],
        [
            [f"{place + 1} {_title(keyword)}", *("" if value is None else f"{value:.2f}" for value in row)]
            for place, (keyword, row) in enumerate(zip(analysis.correlated, analysis.correlations, strict=True))
        ],
    )
    yield "\n## What the splits share\n"
    yield (
        "Distinct combinations by split; of each other split, how many of its combinations the training split has, and "
        "what share of its series have one of these.\n"
    )
    others = [split for split in splits if split != "training"]
    yield from _table(
        ["combination of", *(f"in {split}" for split in splits), *(f"shared by {split}" for split in others)],
        [
            [
                ", ".join(map(_title, one.keywords)),
                *(str(one.distinct.get(split, 0)) for split in splits),
                *(
                    f"{one.shared_combinations[split]} ({one.shared_series[split]:.0%} of series)"
                    if split in one.shared_series
                    else ""
                    for split in others
                ),
            ]
            for one in analysis.sharing
        ],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _title(keyword: str) -> str:
    return BY_KEYWORD[keyword].title


def _unit(keyword: str) -> str:
    unit = BY_KEYWORD[keyword].unit
    return f", {unit}" if unit else ""


def _span(one: Distribution) -> str:
    if one.summary:
        low, _, middle, _, high = one.summary
        return f"{low:g} to {high:g}{_unit(one.keyword).replace(',', '')}, median {middle:g}"
    return _cell(one.classes[0][0]) if one.classes else ""


# ---------------------------------------------------------------- HTML


def as_html(analysis: Analysis) -> str:
    """One page: distributions and correlations drawn, all else in tables; no script, no address."""
    plots = "\n".join(
        f"<figure><h3>{escape(_title(one.keyword))}</h3>{_bars(one)}<figcaption>{one.n_labelled} series with a label, "
        f"{one.n_missing} without</figcaption></figure>"
        for one in analysis.distributions
        if one.classes
    )
    patients = analysis.n_patients
    counts = ", ".join(f"{split} {n} of {patients[split]} patients" for split, n in analysis.n_series.items())
    tables = _html_tables(as_markdown(analysis))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>Labels of a data set</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>Labels of a data set</h1>\n"
        f"<p>Images: {escape(analysis.images)}. Series: {escape(counts)}.</p>\n"
        f'<h2>Distributions</h2>\n<div class="plots">\n{plots}\n</div>\n'
        f"<h2>Spearman correlations</h2>\n<p>Darker is stronger; hover for the number. Where text ranks by "
        f"how common it is, the sign says nothing.</p>\n{_matrix(analysis)}\n"
        f"<h2>All tables</h2>\n{tables}\n</body></html>\n"
    )


def _bars(one: Distribution) -> str:
    """Horizontal bars of the commonest values, or a histogram of a number with many."""
    if one.histogram and len(one.classes) > _MOST_CLASSES:
        return _histogram(one)
    shown = one.classes[:_MOST_CLASSES]
    most = max(n for _, n, _ in shown)
    parts = []
    for row, (name, n, patients) in enumerate(shown):
        y, width = 4 + 18 * row, 130 * n / most
        short = name if len(name) <= _MOST_LETTERS else name[: _MOST_LETTERS - 1] + "…"
        parts.append(
            f'<text class="end" x="165" y="{y + 11}">{escape(short)}</text>'
            f'<rect class="bar" x="170" y="{y}" width="{max(1.0, width):.1f}" height="14">'
            f"<title>{escape(name)}: {n} series of {patients} patients</title></rect>"
            f'<text x="{174 + width:.1f}" y="{y + 11}">{n}</text>'
        )
    return _svg(f"0 0 340 {8 + 18 * len(shown)}", f"Series by {_title(one.keyword)}", parts)


def _histogram(one: Distribution) -> str:
    most = max(n for _, _, n in one.histogram)
    width = 320 / len(one.histogram)
    parts = []
    for place, (low, high, n) in enumerate(one.histogram):
        height = 90 * n / most
        parts.append(
            f'<rect class="bar" x="{10 + width * place:.1f}" y="{100 - height:.1f}" width="{max(0.5, width - 1):.1f}" '
            f'height="{height:.1f}"><title>{low:g} to {high:g}{_unit(one.keyword)}: {n} series</title></rect>'
        )
    low, high = one.histogram[0][0], one.histogram[-1][1]
    unit = escape(BY_KEYWORD[one.keyword].unit)
    parts.append(f'<text x="10" y="116">{low:g}</text><text class="end" x="330" y="116">{high:g} {unit}</text>')
    return _svg("0 0 340 120", f"Series by {_title(one.keyword)}", parts)


def _matrix(analysis: Analysis) -> str:
    n, cell, left = len(analysis.correlated), 30, 170
    parts = []
    for row, (keyword, values) in enumerate(zip(analysis.correlated, analysis.correlations, strict=True)):
        y = 20 + row * cell
        parts.append(f'<text class="end" x="{left - 6}" y="{y + 19}">{row + 1} {escape(_title(keyword))}</text>')
        parts.append(f'<text class="mid" x="{left + row * cell + 14}" y="14">{row + 1}</text>')
        for column, value in enumerate(values):
            if value is not None:
                both = f"{_title(keyword)}, {_title(analysis.correlated[column])}: {value:.2f}"
                parts.append(
                    f'<rect class="bar" x="{left + column * cell}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
                    f'style="fill-opacity:{0.03 + 0.97 * abs(value):.2f}"><title>{escape(both)}</title></rect>'
                )
    drawn = _svg(f"0 0 {left + n * cell + 4} {24 + n * cell}", "Spearman correlations of the parameters", parts)
    return f'<div class="scroll matrix">{drawn}</div>'


def _svg(box: str, label: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _html_tables(markdown: str) -> str:
    """The tables of our own Markdown, with their headings."""
    found: list[str] = []
    rows: list[str] = []
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("|---"):
            continue
        if line.startswith("| "):
            tag = "td" if rows else "th"
            cells = line[2:-2].replace("\\|", "\0").split(" | ")
            rows.append(
                "<tr>" + "".join(f"<{tag}>{escape(one.replace(chr(0), '|'))}</{tag}>" for one in cells) + "</tr>"
            )
            continue
        if rows:
            found.append(f'<div class="scroll"><table>{"".join(rows)}</table></div>')
            rows = []
        if line.startswith("#") and not line.startswith("# "):
            found.append(f"<h3>{escape(line.lstrip('# '))}</h3>")
    return "\n".join(found)
