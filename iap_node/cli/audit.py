"""`audit`: the headers of the files in a folder, without a node."""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from iap_node.cli.exits import Exit
from iap_node.cli.output import complain, console, print_table, printable
from iap_node.config import NodeConfig, load_config

if TYPE_CHECKING:
    from iap_node.audit.folder import FolderAudit

STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("audit")(audit)


def audit(
    folder: Path = typer.Argument(..., metavar="DIR", exists=True, file_okay=False, help="All files below it."),
    out: Path | None = typer.Option(None, "--out", "-o", metavar="DIR", help="Where to write the reports."),
    pixels: bool = typer.Option(False, "--pixels", help="Let a model judge the pixels of each series, too: slower."),
    model: str | None = typer.Option(
        None, "--model", metavar="PACKAGE", help="The model for --pixels: 'reference', or a package's folder."
    ),
    processes: int = typer.Option(0, "--processes", "-p", min=0, help="How many read at once; 0: one per processor."),
    config_path: Path | None = typer.Option(
        None, "--config", "-c", metavar="FILE", help="Take audit and inference from a configuration; it is not needed."
    ),
    check: bool = typer.Option(False, "--check", help="Exit code 5 when there is an error or a warning."),
    as_json: bool = typer.Option(False, "--json", help="Print the JSON report instead of tables."),
) -> None:
    """Check the headers of the DICOM files in a folder, series by series; no node and no configuration is needed.

    Says what is missing, badly written, in the wrong unit or contradicts something else, and what the series of one
    protocol have against each other; with the evidence and, where something tells it, the right value. With --out it
    writes audit.html, audit.csv, audit.json and audit.groups.csv, the protocols with their variants.
    """
    from iap_node.audit.folder import audit_files
    from iap_node.audit.folder_witnesses import heard
    from iap_node.audit.reports import files
    from iap_node.audit.reports import folder as report
    from iap_node.dicom.folder import list_files

    config = NodeConfig() if config_path is None else load_config(config_path)
    screen = console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        paths = list_files(folder)
        with Progress(*columns, console=screen, transient=True, disable=as_json or not screen.is_terminal) as progress:
            task = progress.add_task("reading headers", total=2 * len(paths))  # each is identified, then checked
            found = audit_files(
                folder,
                paths,
                processes=processes or os.cpu_count() or 1,
                read=lambda n: progress.advance(task, n),
                habit=config.audit.habit,
            )
            if pixels or model is not None:
                found = _judge_pixels(found, model, config, progress)
            found = heard(found)
        at = datetime.now(UTC)
        if out is not None:
            forms = {**files.forms(report, found, at), "groups.csv": report.groups_as_csv(found)}
            files.write(out, "audit", forms)
    except OSError as error:
        complain(f"{error.strerror}: {error.filename or folder}")
        raise typer.Exit(Exit.FAILED) from error
    if as_json:
        print(report.as_json(found, at))
    else:
        _print(found, out)
    severities = {finding.severity.value for series in found.series for finding in series.findings}
    if check and severities & {"error", "warning"}:
        raise typer.Exit(Exit.ATTENTION)


def _judge_pixels(found: FolderAudit, model: str | None, config: NodeConfig, progress: Progress) -> FolderAudit:
    """The audit with the pixels heard; here, and nowhere before, an engine is loaded."""
    from iap_node.audit.folder_witnesses import with_pixels
    from iap_node.inference.package import load_package, package_folder

    package = load_package(package_folder(model or config.inference.model))
    from iap_node.inference.predictor import predictor_of  # with an engine: for nothing where the package is not usable

    task = progress.add_task("reading pixels", total=len(found.series))
    predictor = predictor_of(package, config.inference)
    return with_pixels(found, predictor, config.audit, config.inference, lambda: progress.advance(task))


def _print(found: FolderAudit, out: Path | None) -> None:
    from iap_node.audit.reports.findings import conclusion
    from iap_node.audit.reports.folder import models

    screen = console()
    for series in found.series:
        if not series.findings:
            continue
        name = series.series_description or series.protocol_name or series.series_instance_uid
        where = ", ".join(str(folder) for folder in series.folders)
        rows = [
            (
                Text(finding.severity.value, style=STYLES[finding.severity.value]),
                finding.element,
                finding.raw,
                finding.suggested_value,
                ". ".join(text for text in (finding.evidence.rstrip("."), conclusion(finding)) if text),
            )
            for finding in series.findings
        ]
        print_table(printable(f"{name}, {where}"), ("severity", "element", "as written", "suggested", "why"), rows, "")
    counted = Counter(finding.severity.value for series in found.series for finding in series.findings)
    findings = ", ".join(f"{counted[name]} {name}{'' if counted[name] == 1 else 's'}" for name in STYLES)
    screen.print(Text(f"{len(found.series)} series, {found.n_instances} instances: {findings}"))
    for one in models(found):
        novel = f"{one.n_novel} unlike its training data, of which it says nothing"
        screen.print(Text(printable(f"pixels judged by {one.model_id}, {one.training_data}: {one.n_judged}; {novel}")))
    varied = [one for one in found.protocols if one.variants]
    if varied:
        screen.print(
            Text(
                f"{len(varied)} of {len(found.protocols)} protocols have variants, the first: "
                f"{printable(varied[0].protocol)}"
            )
        )
    if found.unread:
        screen.print(Text(f"{len(found.unread)} files were not read, the first: {printable(found.unread[0].reason)}"))
    if out is not None:
        screen.print(Text(f"reports: {out / 'audit.html'}, audit.csv, audit.json, audit.groups.csv"))
