"""An evaluation as people read it: Markdown tables that name command and data, and say "simulated".

Called by the command line and by `training.reference`.
"""

from __future__ import annotations

from collections.abc import Iterable

from iap_node.dicom.parameters import BY_KEYWORD, Nature
from training.evaluate import Evaluation

_HEADING = """\
# What a model is worth on simulated images

Model `{model_id}`, **trained and evaluated on simulated images**:
nothing here says how it does on real ones. Written by

    {command}

Data: {data}.
Judged: {n_series} simulated series of {n_slices} evenly spaced slices, each of another simulated patient, none of them
seen in training or calibration. Novel series are left out of no table but the last, which is about abstention.
Real series are read for the abstention table only, and differ from the training data both by being real and by their
anatomy.
"""

_CLASSES = """
## Classes (simulated)

Top-1 / top-2 accuracy. *Majority*: share of the commonest class. *Within tolerance*: a number counts as right
where a physicist would say so (1.494 T for 1.5 T).

| parameter | classes | majority | slice | series | series, within tolerance |
|---|---|---|---|---|---|"""

_NUMBERS = """
## Numbers (simulated)

| parameter | slice MAE | slice R2 | series MAE | series R2 |
|---|---|---|---|---|"""

_AUDIT = """
## Header audit (simulated)

Conformal sets per series. *Size*: mean number of classes, or mean width of the interval in the parameter's
unit. *False*: true headers that the set contradicts. *Power*: wrong headers (the value of another series, different
beyond tolerance) that it contradicts.

| parameter | {columns} |
|---|{rule}"""

_SWAPS = """
## Swapped headers (simulated)

A header as a whole against the pixels. *False*: right headers that are doubted. *Swapped*: headers of another series,
all values at once, that are doubted; *same model*: of another series of the same scanner model, which is harder.
*Half stated*: half of the values, chosen at random, are missing. *Finding*: the series gets the finding pixels-joint;
some doubts are told as single values instead. *Any value*: at least one value is outside its conformal set, at the
alpha named: right headers are doubted once per parameter then.

| what doubts | at alpha | false | swapped | same model |
|---|---|---|---|---|"""

_ABSTENTION = """
## Abstention

| series | called novel |
|---|---|"""


def as_markdown(evaluation: Evaluation, command: str, data: str) -> str:
    """The figures of one model as a Markdown page."""
    heading = _HEADING.format(
        model_id=evaluation.model_id,
        command=command,
        data=data,
        n_series=evaluation.n_series,
        n_slices=evaluation.n_slices_per_series,
    )
    lines = [heading.rstrip(), _CLASSES, *_class_rows(evaluation), _NUMBERS, *_number_rows(evaluation)]
    alphas = [figures.alpha for figures in evaluation.heads[0].audit]
    columns = " | ".join(f"{name} at {alpha:g}" for alpha in alphas for name in ("coverage", "size", "false", "power"))
    lines += [_AUDIT.format(columns=columns, rule="---|" * 4 * len(alphas)), *_audit_rows(evaluation)]
    if evaluation.swaps:
        lines += [_SWAPS, *_swap_rows(evaluation)]
    lines += [_ABSTENTION, *_abstention_rows(evaluation)]
    return "\n".join(lines) + "\n"


def _class_rows(evaluation: Evaluation) -> Iterable[str]:
    for head in evaluation.heads:
        if not head.n_classes:
            continue
        parameter = BY_KEYWORD[head.keyword]
        within = f"{head.series_top1_within_tolerance:.3f}" if parameter.nature is Nature.NUMBER else ""
        slices = f"{head.slice_top1:.3f} / {head.slice_top2:.3f}"
        series = f"{head.series_top1:.3f} / {head.series_top2:.3f}"
        majority = f"{head.majority:.3f}"
        yield f"| {parameter.title} | {head.n_classes} | {majority} | {slices} | {series} | {within} |"


def _number_rows(evaluation: Evaluation) -> Iterable[str]:
    for head in evaluation.heads:
        if not head.n_classes:
            parameter = BY_KEYWORD[head.keyword]
            yield (
                f"| {parameter.title} | {head.slice_mae:.3f} {parameter.unit} | {head.slice_r2:.3f} "
                f"| {head.series_mae:.3f} {parameter.unit} | {head.series_r2:.3f} |"
            )


def _audit_rows(evaluation: Evaluation) -> Iterable[str]:
    for head in evaluation.heads:
        cells = [
            cell
            for figures in head.audit
            for cell in (
                f"{figures.coverage:.3f}",
                f"{figures.set_size:.2f}",
                f"{figures.false_contradictions:.3f}",
                f"{figures.power:.3f}",
            )
        ]
        yield f"| {BY_KEYWORD[head.keyword].title} | " + " | ".join(cells) + " |"


def _swap_rows(evaluation: Evaluation) -> Iterable[str]:
    for one in evaluation.swaps:
        strict = one.alpha / 10
        rows = (
            ("whole header", one.alpha, one.whole),
            ("whole header, half stated", one.alpha, one.half_stated),
            ("whole header, as a finding", one.alpha, one.found_against),
            ("any value", one.alpha, one.any_value),
            ("any value", strict, one.any_value_strict),
            (f"whole header, where no value is outside its set at {one.alpha:g}", one.alpha, one.whole_unsuspected),
            (f"whole header, where no value is outside its set at {strict:g}", one.alpha, one.whole_unsuspected_strict),
        )
        for what, alpha, shares in rows:
            cells = " | ".join("" if share is None else f"{share:.3f}" for share in shares)
            yield f"| {what} | {alpha:g} | {cells} |"


def _abstention_rows(evaluation: Evaluation) -> Iterable[str]:
    for count, share in evaluation.false_novel.items():
        yield f"| unseen simulated breast, {count} slices (should not be novel) | {share:.1%} |"
    for name, (flagged, n) in evaluation.novel.items():
        yield f"| {name} (should be novel) | {flagged} of {n} |"
