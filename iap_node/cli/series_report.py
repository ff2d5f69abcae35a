"""`iap-node show`: one series on a terminal, header against pixels, and the route with its reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from iap_node.cli.output import console, print_table, printable
from iap_node.cli.route_report import route_tree
from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.records import FindingState, Severity, Verdict

if TYPE_CHECKING:
    from iap_node.database.archive import ArchivedInstance, SeriesSummary
    from iap_node.database.findings import ArchivedFinding
    from iap_node.database.results import InstanceAnswer, Judgement
    from iap_node.database.series import Delivery

GONE = {  # by BytesState
    "deleting": "bytes are being deleted by retention",
    "deleted": "bytes deleted by retention; sent again, they are stored again",
    "lost": "bytes lost on the disk; send them again to restore them",
}
SEVERITY_STYLE = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}
STATE_STYLE = {FindingState.OPEN: "bold", FindingState.GONE: "dim", FindingState.DISMISSED: "dim"}
VERDICT_STYLE = {
    Verdict.AGREES: "green",
    Verdict.CONTRADICTS: "bold red",
    Verdict.MISSING: "bold yellow",
    Verdict.NOT_JUDGED: "dim",
}


def print_series(
    series: SeriesSummary,
    judgement: Judgement | None,
    findings: Sequence[ArchivedFinding],
    instances: Sequence[ArchivedInstance],
    answers: Sequence[InstanceAnswer],
) -> None:
    """Everything that is known of a series, in the order in which it was found out."""
    out = console()
    out.print(Text(f"Series {series.series_instance_uid}", style="bold"))
    facts = (
        ("study", series.study_instance_uid),
        ("what", " ".join(part for part in (series.modality, series.series_description) if part)),
        ("scanner", " ".join(part for part in (series.manufacturer, series.manufacturer_model_name) if part)),
        ("sent by", series.calling_ae_title),
        ("instances", f"{series.n_instances}, {series.size_bytes / 1e6:.1f} MB, revision {series.revision}"),
        ("state", series.state),
    )
    for name, value in facts:
        out.print(Text(f"  {name:10} {printable(value)}"))
    _print_gone(instances)
    if judgement is None:
        out.print(Text("not judged yet"))
        return
    _print_pixels(judgement)
    rows = [
        (
            BY_KEYWORD[comparison.keyword].title,
            comparison.header_value,
            comparison.predicted_value,
            "" if comparison.header_probability is None else f"{comparison.header_probability:.3f}",
            Text(comparison.verdict, style=VERDICT_STYLE[comparison.verdict]),
            comparison.suggested_value,
            comparison.reason,
        )
        for comparison in judgement.comparisons
    ]
    columns = ("parameter", "header says", "pixels say", "p(header)", "verdict", "suggested", "reason")
    print_table("Header against pixels", columns, rows, empty="nothing was compared")
    print_findings(findings)
    reasons = dict(judgement.problems)
    for instance in instances:
        if instance.id in reasons:
            out.print(Text(f"  {instance.sop_instance_uid} could not be used: {printable(reasons[instance.id])}"))
    out.print(route_tree(judgement.decision))
    for delivery in series.deliveries:
        _print_delivery(delivery, answers)


def print_findings(findings: Sequence[ArchivedFinding]) -> None:
    """The findings of one series and what became of them: the open ones first, in the order that they came in."""
    rank = {state: rank for rank, state in enumerate(FindingState)}
    rows = [
        (
            one.id,
            Text(one.severity, style=SEVERITY_STYLE[one.severity]),
            one.element,
            one.raw,
            one.suggested_value,
            one.conclusion or one.evidence,
            Text(one.state, style=STATE_STYLE.get(one.state, "")),
            one.accepted_value,
        )
        for one in sorted(findings, key=lambda one: rank[one.state])
    ]
    columns = ("ID", "severity", "element", "header says", "suggested", "so", "state", "accepted")
    print_table("Findings", columns, rows, empty="no findings")


def _print_gone(instances: Sequence[ArchivedInstance]) -> None:
    counted = Counter(instance.bytes_state.value for instance in instances)
    for state, what in GONE.items():
        if counted[state]:
            console().print(Text(f"  {counted[state]} of {len(instances)} instances: {what}", style="bold"))


def _print_delivery(delivery: Delivery, answers: Sequence[InstanceAnswer]) -> None:
    out = console()
    mine = [answer for answer in answers if answer.destination == delivery.destination]
    accepted = sum(answer.accepted for answer in mine)
    out.print(Text(f"  {printable(delivery.text)}: {accepted} of {len(mine)} instances accepted"))
    for answer in mine:
        if not answer.accepted:
            status = "no answer" if answer.status is None else f"status {answer.status:04X}H"
            out.print(Text(f"    {answer.sop_instance_uid}: {status} {printable(answer.comment)}"))


def _print_pixels(judgement: Judgement) -> None:
    out = console()
    prediction = judgement.prediction
    if prediction is None:
        out.print(Text(f"pixels not analysed: {printable(judgement.not_analysed_reason)}"))
        return
    novelty = f"novelty {prediction.novelty_score:.3g}, limit {prediction.novelty_threshold:.3g}"
    novelty = novelty if prediction.calibrated else "novelty unknown"
    out.print(
        Text(
            f"model {printable(prediction.model_id)}, {prediction.training_data}; "
            f"{prediction.n_slices} slices; {novelty}"
        )
    )
    if prediction.novel:
        out.print(Text("novel: unlike anything the model was trained on, so it gives no verdict", style="bold"))
    fit = prediction.header_fit
    if fit is not None:
        share = f"{100 * fit.p_value:.2g} % of right headers fit no better"
        out.print(Text(f"header as a whole, {len(fit.terms)} values: {share}"))
