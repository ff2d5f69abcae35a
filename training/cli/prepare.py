"""`iap-train prepare`: a data set of real series, from a folder, the node's archive or the Duke collection."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from iap_node.cli.options import open_node
from iap_node.dicom.folder import list_files
from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.inference.preprocess import Preprocessing
from iap_node.listener.patients import load_or_create_patient_key
from iap_node.spool import Spool
from training.cli.options import LayoutName, ProcessesOption, RecipeName, RecipeOption, recipe_named
from training.cli.progress import bar
from training.manifest import SHARES, check_shares
from training.prepare import PrepareOptions, Summary, prepare
from training.sources import ArchiveSource, FolderSource, Source, duke

commands = typer.Typer()

_console = Console()

_AGO = re.compile(r"(\d+)([dwh])")
_HOURS = {"h": 1, "d": 24, "w": 168}


@commands.command(name="prepare")
def prepare_command(
    out: Annotated[Path, typer.Argument(help="Folder of the data set; a run that was killed goes on in it.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Learn from the DICOM files below this folder.")
    ] = None,
    archive: Annotated[
        Path | None, typer.Option("--archive", metavar="CONFIG", help="Learn from the archive of this node.")
    ] = None,
    judged_since: Annotated[
        str | None,
        typer.Option("--since", metavar="30d", help="Of the archive: what was judged since; 12h, 4w or a date."),
    ] = None,
    duke_collection: Annotated[
        bool, typer.Option("--duke", help="Learn from the collection Duke-Breast-Cancer-MRI; downloads it.")
    ] = False,
    downloads: Annotated[
        Path | None, typer.Option("--downloads", help="Of --duke: where the files go; resumed. Default: OUT/downloads.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Of --duke: say what would be downloaded, and end.")
    ] = False,
    recipe: RecipeOption = RecipeName.REFERENCE,
    slices: Annotated[int, typer.Option(min=1, help="Evenly spaced slices of each series.")] = 8,
    share: Annotated[
        list[str] | None,
        typer.Option(metavar="SPLIT=SHARE", help="Of the patients; repeatable, all four. Default: .7, .1, .1, .1."),
    ] = None,
    patient_key: Annotated[
        Path | None,
        typer.Option(
            "--patient-key",
            help="Keys the patients' hashes, which decide on splits; made when absent. Default: patient.key beside "
            "OUT. Name the archive's (data_dir/patient.key) to give its patients the same splits.",
        ),
    ] = None,
    keep_findings: Annotated[
        bool, typer.Option("--keep-findings", help="Values with open findings are labels, too.")
    ] = False,
    keep_novel: Annotated[
        bool, typer.Option("--keep-novel", help="Of the archive: series that the model calls novel, too.")
    ] = False,
    images: Annotated[
        str | None, typer.Option(help="Where the images come from, in plain words; shown with every answer.")
    ] = None,
    processes: ProcessesOption = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Make a data set of real series: labels from headers, splits by patient, and what was dropped and why."""
    if (folder is not None) + (archive is not None) + duke_collection != 1:
        raise typer.BadParameter("name one of --folder DIR, --archive CONFIG and --duke")
    if archive is None and (judged_since is not None or keep_novel):
        raise typer.BadParameter("--since and --keep-novel are of --archive")
    options = PrepareOptions(shares=shares(share), training_slices=slices, held_out_slices=slices, processes=processes)
    preprocessing = recipe_named(recipe, LayoutName.ALL_CLASSES).preprocessing
    if archive is not None:
        config, database = open_node(archive)
        try:
            learned = ArchiveSource(
                database, Spool(config.spool_dir), since(judged_since), not keep_findings, keep_novel, **_said(images)
            )
            summary = _prepare(learned, out, preprocessing, options)
        finally:
            database.dispose()
    else:
        if folder is None:
            folder = downloads or out / "downloads"
            if not _download(folder, dry_run):
                return
            images = images or duke.IMAGES
        key = load_or_create_patient_key(patient_key or out.absolute().parent / "patient.key")
        with bar("reading headers", 2 * len(list_files(folder)), "files") as read:
            source = FolderSource(
                folder,
                key,
                processes=processes,
                keep_out_open_findings=not keep_findings,
                read=read,
                **_said(images),
            )
            source.count()
        summary = _prepare(source, out, preprocessing, options)
        for reason, number in source.unread().items():
            typer.echo(f"{number} files not read: {reason}", err=True)
    if as_json:
        typer.echo(json.dumps(summary.as_json(), indent=1))
    else:
        show_summary(summary)


def _said(images: str | None) -> dict[str, str]:
    return {} if images is None else {"images": images}


def _prepare(source: Source, out: Path, preprocessing: Preprocessing, options: PrepareOptions) -> Summary:
    with bar("preparing", source.count() or 0) as advance:
        return prepare(source, out, preprocessing, options, advance)


def _download(folder: Path, dry_run: bool) -> bool:
    """Fetch the chosen series of the Duke collection; whether they are there."""
    chosen, without = duke.select_pre_contrast(duke.read_index())
    table = Table("series description", "patients", title="Duke-Breast-Cancer-MRI: fat-saturated, pre-contrast")
    for description, number in duke.described(chosen):
        table.add_row(description, str(number))
    _console.print(table)
    size_gb = sum(one.size_mb for one in duke.missing(chosen, folder)) / 1000
    typer.echo(f"{len(chosen)} series, {len(without)} patients without one, {size_gb:.1f} GB to fetch", err=True)
    if dry_run:
        return False
    with bar("downloading", len(chosen)) as advance:
        duke.download(chosen, folder, duke.idc_fetch(), advance)
    return True


def shares(texts: list[str] | None) -> dict[str, float]:
    """Shares of the patients by split, from SPLIT=SHARE.

    Raises
    ------
    BadParameter
        They do not name every split once, or do not sum to 1.
    """
    if not texts:
        return dict(SHARES)
    try:
        found = {name: float(value) for name, value in (text.split("=") for text in texts)}
        check_shares(found)
    except ValueError as error:
        raise typer.BadParameter(f"--share takes each split once, as in training=0.7; {error}") from error
    return found


def since(text: str | None) -> datetime | None:
    """A point in time from 12h, 30d, 4w (ago), or a date.

    Raises
    ------
    BadParameter
        It is neither.
    """
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return datetime.now(UTC) - timedelta(hours=int(ago[1]) * _HOURS[ago[2]])
    try:
        then = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"--since takes 12h, 30d, 4w or a date like 2026-01-31, not {text!r}") from error
    return then if then.tzinfo is not None else then.astimezone()


def show_summary(summary: Summary) -> None:
    """What became of the series of a source, as tables for people."""
    splits = Table("split", "series", "patients", title=f"Data set of {summary.images}")
    for split in summary.series:
        splits.add_row(split, str(summary.series[split]), str(summary.patients[split]))
    _console.print(splits)
    labels = Table("parameter", "labels", "none", "left out: open findings", title="Labels")
    for keyword, number in summary.labels.items():
        against = ", ".join(f"{check} ({n})" for key, check, n in summary.left_out if key == keyword)
        labels.add_row(BY_KEYWORD[keyword].title, str(number), str(summary.n_series - number), against)
    _console.print(labels)
    if summary.dropped:
        dropped = Table("dropped, because", "series", title="Not learned from")
        for reason, number in summary.dropped.items():
            dropped.add_row(escape(reason), str(number))
        _console.print(dropped)
    for warning in summary.warnings:
        typer.echo(f"too few: {warning}", err=True)
    typer.echo(f"manifest {summary.manifest_sha256}")
