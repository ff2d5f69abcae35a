"""`report`: what the audit found, as pages, tables and JSON: of a series, a study, a scanner, a month."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer
from rich.text import Text

from iap_node.cli.exits import Exit
from iap_node.cli.options import CONFIG, SERIES, named_series, open_node
from iap_node.cli.output import complain, console

if TYPE_CHECKING:
    from iap_node.audit.reports.files import Report

Figures = TypeVar("Figures")

DAYS = 90  # of a scanner's report, unless a period is given

OUT = typer.Option(
    Path(),
    "--out",
    "-o",
    metavar="DIR or FILE",
    help="A folder gets the report as HTML, CSV and JSON; a file that ends so gets one of them.",
)
JSON = typer.Option(False, "--json", help="Print the JSON report and write nothing.")
DATE = typer.Option(None, metavar="YYYY-MM-DD", formats=["%Y-%m-%d"], help="In UTC.")

app = typer.Typer(no_args_is_help=True, help="Write a report for people and programs.")


def add_to(commands: typer.Typer) -> None:
    """Register the commands of this module."""
    commands.add_typer(app, name="report")


@app.command("series")
def report_series(series_uid: str = SERIES, config_path: Path = CONFIG, out: Path = OUT, as_json: bool = JSON) -> None:
    """One series: header against pixels with the distributions drawn, findings with their witnesses and history."""
    from iap_node.audit.reports import series as report
    from iap_node.database import report_series

    _, database = open_node(config_path)
    with database.reading() as session:
        found = report_series.series(session, named_series(session, series_uid).id)
    _give(report, found, report.name(found), out, as_json)


@app.command("study")
def report_study(
    study_uid: str = typer.Argument(..., metavar="STUDY", help="Study Instance UID, or its beginning or end."),
    config_path: Path = CONFIG,
    out: Path = OUT,
    as_json: bool = JSON,
) -> None:
    """One study: its series with their findings, and what differs between them."""
    from iap_node.audit.reports import study as report
    from iap_node.database.report_series import UnknownStudy, study

    _, database = open_node(config_path)
    try:
        with database.reading() as session:
            found = study(session, study_uid)
    except UnknownStudy as error:
        complain(error)
        raise typer.Exit(Exit.NOT_FOUND) from error
    _give(report, found, report.name(found), out, as_json)


@app.command("scanner")
def report_scanner(
    serial: str | None = typer.Option(None, "--serial", help="Device Serial Number, as its headers write it."),
    model: str | None = typer.Option(None, "--model", help="Manufacturer's Model Name, as its headers write it."),
    since: datetime | None = DATE,
    until: datetime | None = DATE,
    config_path: Path = CONFIG,
    out: Path = OUT,
    as_json: bool = JSON,
) -> None:
    """A scanner, all of one model, or all: findings over time, deviating protocols, software versions.

    Without a period it is the last 90 days; --until names the first day that is left out.
    """
    from iap_node.audit.reports import scanner as report
    from iap_node.database.report_figures import Scope

    end = datetime.now(UTC) if until is None else until.replace(tzinfo=UTC)
    begin = end - timedelta(days=DAYS) if since is None else since.replace(tzinfo=UTC)
    if begin >= end:
        raise typer.BadParameter("the period ends before it begins", param_hint="--until")
    _, database = open_node(config_path)
    with database.reading() as session:
        found = report.gather(session, Scope(begin, end, serial, model))
        others = [] if found.n_series else report.gather(session, Scope(begin, end)).scanners
    if not found.n_series and (serial or model):
        known = "; ".join(str(one.scanner) for one in others[:10]) or "none"
        complain(f"no series of it came in this period; those that sent some: {known}")
        raise typer.Exit(Exit.NOT_FOUND)
    _give(report, found, report.name(found), out, as_json)


@app.command("month")
def report_month(
    named: str | None = typer.Argument(None, metavar="[YYYY-MM]", help="Which; the one before this without it."),
    config_path: Path = CONFIG,
    out: Path = OUT,
    as_json: bool = JSON,
) -> None:
    """The physicist's report: trends, scanners, drift, what people decided, and the model at work.

    The scheduler writes it by itself where `audit.reports.folder` in the configuration says so.
    """
    from iap_node.audit.reports import month as report
    from iap_node.audit.reports.period import Month

    at = datetime.now(UTC)
    try:
        about = Month.of(at).plus(-1) if named is None else Month.parse(named)
    except ValueError as error:
        raise typer.BadParameter(f"{named!r} is not a month such as 2026-02", param_hint="YYYY-MM") from error
    config, database = open_node(config_path)
    with database.reading() as session:
        found = report.gather(session, about, config.audit.joint_alpha)
    _give(report, found, report.name(about), out, as_json)


def _give(report: Report[Figures], found: Figures, name: str, out: Path, as_json: bool) -> None:
    """Print the JSON report, or write what is asked for: one form into a file, all into a folder."""
    from iap_node.audit.reports import files

    at = datetime.now(UTC)
    if as_json:
        print(report.as_json(found, at))
        return
    forms = files.forms(report, found, at)
    folder, suffix = out, out.suffix.removeprefix(".").lower()
    if suffix in forms and not out.is_dir():
        folder, name, forms = out.parent, out.stem, {suffix: forms[suffix]}
    try:
        written = files.write(folder, name, forms)
    except OSError as error:
        complain(f"cannot write to {folder}: {error.strerror}")
        raise typer.Exit(Exit.FAILED) from error
    console().print(Text(", ".join(str(path) for path in written)))
