"""What the node made of a study, checked against how it was simulated, and shown; for `training.demo.__main__`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pydicom
from rich.console import Console
from rich.table import Table
from rich.text import Text

from iap_node.cli.output import printable
from iap_node.cli.series_report import SEVERITY_STYLE, VERDICT_STYLE
from iap_node.config import NodeConfig
from iap_node.database import archive, findings, results
from iap_node.database.engine import Database
from iap_node.database.findings import ArchivedFinding, FindingFilter
from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.dicom.part10 import read_instance
from iap_node.records import FindingKind, HeaderComparison, SeriesState, Verdict
from training.demo.studies import DemoStudy

AGAINST = (Verdict.CONTRADICTS, Verdict.MISSING)


@dataclass(frozen=True)
class Check:
    """One thing that must be so."""

    what: str
    holds: bool


@dataclass(frozen=True)
class Outcome:
    """What the node made of one study. `truth` is how it was simulated, as text by DICOM keyword."""

    title: str
    series_instance_uid: str
    novel: bool
    truth: dict[str, str]
    comparisons: tuple[HeaderComparison, ...]
    findings: tuple[ArchivedFinding, ...]
    destinations: tuple[str, ...]
    why: str
    checks: tuple[Check, ...]


def outcome_of(database: Database, config: NodeConfig, study: DemoStudy, received: Path) -> Outcome:
    """Read back everything about a study and check it.

    Parameters
    ----------
    received
        Folder with one folder per downstream model, each with the data sets that it was sent.
    """
    sent = {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in study.files}
    series_uid = str(pydicom.dcmread(study.files[0], stop_before_pixels=True).SeriesInstanceUID)
    with database.reading() as session:
        series = archive.find_series(session, series_uid)
        judgement = results.judgement(session, series.id)
        found = findings.list_findings(session, FindingFilter(series_id=series.id))
        archived = {one.sop_instance_uid for one in archive.current_instances(session, series.id)}
    assert judgement is not None  # the demo has waited for it
    model = next(
        (one for one in config.routing.downstream_models.values() if one.domain == study.expected_domain), None
    )
    expected_destinations = model.destinations if model is not None else ()
    checks = [
        Check("every instance is in the archive", archived == set(sent)),
        Check("the series is judged", series.state is SeriesState.JUDGED),
        _novelty_check(judgement.prediction is not None and judgement.prediction.novel, study.expected_novel),
        _verdicts_check(judgement.comparisons, study),
        _findings_check(found, study),
        *_suggestion_checks(found, study),
        Check(f"it is routed to {_named(expected_destinations)}", series.destinations == expected_destinations),
        *(
            Check(f"{name} received {'it whole, byte for byte' if name in expected_destinations else 'nothing of it'}",
                  _arrived(received / name, sent) == (len(sent) if name in expected_destinations else 0))
            for name in config.destinations
        ),
    ]  # fmt: skip
    return Outcome(
        title=study.title,
        series_instance_uid=series_uid,
        novel=judgement.prediction is not None and judgement.prediction.novel,
        truth={keyword: BY_KEYWORD[keyword].text(value) for keyword, value in study.truth.items()},
        comparisons=judgement.comparisons,
        findings=tuple(found),
        destinations=series.destinations,
        why=judgement.decision.reason,
        checks=tuple(checks),
    )


def _novelty_check(novel: bool, expected: bool) -> Check:
    return Check("it is novel: the model abstains" if expected else "the model knows such images", novel == expected)


def _verdicts_check(comparisons: tuple[HeaderComparison, ...], study: DemoStudy) -> Check:
    against = {one.keyword: one.verdict for one in comparisons if one.verdict in AGAINST}
    expected = ", ".join(f"{keyword} {verdict}" for keyword, verdict in study.expected_verdicts.items())
    return Check(f"by the pixels: {expected or 'no fault'}, and no other", against == study.expected_verdicts)


def _findings_check(found: list[ArchivedFinding], study: DemoStudy) -> Check:
    """Questions are none: what is known by association accuses nobody, and asks about one right value in a hundred."""
    elements = {one.element for one in found if one.kind is not FindingKind.QUESTION}
    expected = " and ".join(study.expected_findings)
    return Check(f"findings about {expected or 'nothing'}, and nothing else", elements == set(study.expected_findings))


def _suggestion_checks(found: list[ArchivedFinding], study: DemoStudy) -> list[Check]:
    """What the witnesses must know is suggested as it was simulated."""
    checks = []
    for element in (element for element, suggests in study.expected_findings.items() if suggests):
        parameter = BY_KEYWORD[element]
        truth = study.truth[element]
        suggested = {one.suggested_value for one in found if one.element == element and one.suggested_value}
        held = bool(suggested) and all(parameter.match(truth, [one]) is not None for one in suggested)
        checks.append(Check(f"{element} {parameter.text(truth)} is suggested", held))
    return checks


def _arrived(folder: Path, sent: dict[str, Path]) -> int:
    """How many of the sent instances lie in a downstream model's folder with the same data set."""
    paths = {uid: folder / f"{uid}.dataset" for uid in sent}
    return sum(paths[uid].exists() and paths[uid].read_bytes() == read_instance(path)[1] for uid, path in sent.items())


def _named(destinations: tuple[str, ...]) -> str:
    return ", ".join(destinations) or "no model: it stays here"


def show(out: Console, outcome: Outcome) -> None:
    """One study: header, pixels and truth side by side, then where it went and why."""
    table = Table(title=outcome.title, title_justify="left", title_style="bold", header_style="bold")
    for column in ("parameter", "header says", "pixels say", "simulated as", "verdict"):
        table.add_column(column)
    if outcome.novel:
        out.print(Text(outcome.title, style="bold"))
        out.print("  novel: unlike anything the model was trained on, so it gives no verdict on the header")
    else:
        for one in outcome.comparisons:
            verdict = Text(one.verdict, style=VERDICT_STYLE[one.verdict])
            if one.verdict is Verdict.MISSING and one.suggested_value:
                verdict.append(f": {one.suggested_value} is suggested")
            truth = outcome.truth.get(one.keyword, "")
            table.add_row(BY_KEYWORD[one.keyword].title, one.header_value, one.predicted_value, truth, verdict)
        out.print(table)
    for finding in outcome.findings:
        line = Text("  ")
        line.append(finding.severity, style=SEVERITY_STYLE[finding.severity])
        line.append(f" {finding.element}: {printable(finding.evidence)} -> {printable(finding.conclusion)}")
        out.print(line)
    out.print(Text(f"  went to: {_named(outcome.destinations)}"))
    out.print(Text(f"  why: {outcome.why}"))
    failed = [check for check in outcome.checks if not check.holds]
    for check in failed:
        out.print(Text(f"  NOT AS IT SHOULD BE: {check.what}", style="bold red"))
    if not failed:
        out.print(Text(f"  as it should be ({len(outcome.checks)} checks)", style="green"))
    out.print()


def conclude(out: Console, outcomes: list[Outcome], seconds: float, written_to: Path) -> None:
    """The last lines: how much of it was as it should be."""
    checks = [check for outcome in outcomes for check in outcome.checks]
    held = sum(check.holds for check in checks)
    style = "bold green" if held == len(checks) else "bold red"
    summary = (
        f"{len(outcomes)} simulated studies, {held} of {len(checks)} checks hold, {seconds:.0f} s; also in {written_to}"
    )
    out.print(Text(summary, style=style))
