"""`findings`, `findings list`, `show`, `export`: what the witnesses have against headers, and what became of it.

What people decide about them stands in `decisions`.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import typer
from rich.text import Text

from iap_node.cli import decisions
from iap_node.cli.exits import Exit
from iap_node.cli.finding_options import CHECK, ELEMENT, KIND, OF_SERIES, SCANNER, SEVERITY, SINCE, WITNESS, Asked
from iap_node.cli.options import CONFIG, JSON, open_node
from iap_node.cli.output import as_json as to_json
from iap_node.cli.output import complain, console, print_json, print_models, print_table, printable
from iap_node.cli.series_report import SEVERITY_STYLE, STATE_STYLE
from iap_node.records import FindingKind, FindingState, Severity, Witness

if TYPE_CHECKING:
    from iap_node.database.findings import ArchivedFinding, FindingEvent

EXPORTED = (
    "id", "state", "series_instance_uid", "study_instance_uid", "series_description", "manufacturer",
    "manufacturer_model_name", "device_serial_number", "accepted_value", "rule_id", "first_revision", "last_revision",
    "found_at", "updated_at", "model_id", "training_data",
)  # fmt: skip


class Order(StrEnum):
    """What comes first."""

    WORST = "worst"
    NEWEST = "newest"
    OLDEST = "oldest"


class Format(StrEnum):
    """How findings are exported."""

    CSV = "csv"
    JSON = "json"


STATE = typer.Option([], "--state", "-s", help="Only in this state, instead of the open ones; repeatable.")
ANY_STATE = typer.Option(False, "--any-state", help="In whatever state.")
ORDER = typer.Option(Order.WORST, "--order", help="The worst, the newest or the oldest first.")


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module and of `decisions`."""
    group = typer.Typer(
        invoke_without_command=True,
        callback=list_findings,
        help="""What is wrong with headers, by the word of three witnesses: the standard and physics, the pixels, and
        what the scanner usually writes. Alone it lists what is open, the worst first; `show ID` tells all about one.

        A person then says `accept` (the header is wrong, this is right), `dismiss` (no fault, and why) or `reopen`;
        `dismiss --rule` also dismisses what the check finds on the scanner from then on, and `rules` lists such rules.
        Findings whose series changes are updated, and open again when the value does.""",
    )
    group.command("list")(list_findings)
    group.command("show")(show)
    group.command("export")(export)
    decisions.add_to(group)
    app.add_typer(group, name="findings")


def list_findings(
    context: typer.Context,
    config_path: Path = CONFIG,
    state: list[FindingState] = STATE,
    any_state: bool = ANY_STATE,
    severity: list[Severity] = SEVERITY,
    kind: list[FindingKind] = KIND,
    witness: list[Witness] = WITNESS,
    check: list[str] = CHECK,
    element: list[str] = ELEMENT,
    scanner: str | None = SCANNER,
    series: str | None = OF_SERIES,
    since: datetime | None = SINCE,
    order: Order = ORDER,
    limit: int = typer.Option(50, "--limit", "-n", min=1, help="At most so many."),
    after: int | None = typer.Option(None, "--after", metavar="ID", help="The page behind the one that ends with it."),
    as_json: bool = JSON,
) -> None:
    """One line per finding: what is wrong with which element, what it says, and what is suggested instead."""
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    from iap_node.database.findings import FindingOrder, UnknownFinding, count_findings
    from iap_node.database.findings import list_findings as page_of

    asked = Asked(severity, kind, witness, check, element, scanner, series, since)
    _, database = open_node(config_path)
    with database.reading() as session:
        which = asked.filter(session, _states(state, any_state))
        try:
            found = page_of(session, which, FindingOrder(order), limit, after)
        except UnknownFinding as error:
            raise _not_found(error) from error
        counts = {} if as_json else count_findings(session, which)
    if as_json:
        print_json(found)
        return
    print_table(
        "Findings",
        ("ID", "severity", "element", "header says", "suggested", "why", "check", "state", "series", "scanner"),
        [_row(one) for one in found],
        empty="no findings" if sum(counts.values()) == 0 else "no more findings",
    )
    if found:
        by_severity = ", ".join(f"{n} {severity.value}{'' if n == 1 else 's'}" for severity, n in counts.items())
        more = f"; for more: --after {found[-1].id}" if len(found) == limit < sum(counts.values()) else ""
        console().print(Text(f"{len(found)} shown of {by_severity}{more}"))
    print_models((one.model_id, one.training_data) for one in found)


def show(
    finding_id: int = typer.Argument(..., metavar="ID", help="Its number in `iap-node findings`."),
    config_path: Path = CONFIG,
    as_json: bool = JSON,
) -> None:
    """All about one finding: what each witness says for and against the value, with numbers, and who decided what."""
    from iap_node.database.findings import UnknownFinding, finding, finding_events

    _, database = open_node(config_path)
    with database.reading() as session:
        try:
            found = finding(session, finding_id)
        except UnknownFinding as error:
            raise _not_found(error) from error
        events = finding_events(session, finding_id)
    if as_json:
        print_json({"finding": found, "events": events})
    else:
        _print(found, events)


def export(
    path: Path = typer.Argument(..., metavar="FILE", help="Where to: FILE.csv or FILE.json; - for standard output."),
    config_path: Path = CONFIG,
    form: Format | None = typer.Option(None, "--format", help="What the file's ending does not say."),
    state: list[FindingState] = STATE,
    any_state: bool = ANY_STATE,
    severity: list[Severity] = SEVERITY,
    kind: list[FindingKind] = KIND,
    witness: list[Witness] = WITNESS,
    check: list[str] = CHECK,
    element: list[str] = ELEMENT,
    scanner: str | None = SCANNER,
    series: str | None = OF_SERIES,
    since: datetime | None = SINCE,
    order: Order = ORDER,
) -> None:
    """Write findings into a table or as JSON, one line or object each, however many there are.

    No spreadsheet takes what headers say for a formula. A file that is there is replaced once the new one is whole.
    """
    from iap_node.database.findings import FindingOrder, every_finding

    chosen = form or next((one for one in Format if path.suffix.lower() == f".{one}"), None)
    if chosen is None:
        raise typer.BadParameter(f"{path}: say --format csv or --format json, or let the name end so")
    asked = Asked(severity, kind, witness, check, element, scanner, series, since)
    _, database = open_node(config_path)
    try:
        with database.reading() as session, _opened(path) as stream:
            which = asked.filter(session, _states(state, any_state))
            found = every_finding(session, which, FindingOrder(order))
            n = (_write_csv if chosen is Format.CSV else _write_json)(stream, found)
    except OSError as error:
        complain(f"cannot write {path}: {error.strerror or error}")
        raise typer.Exit(Exit.FAILED) from error
    if str(path) != "-":
        console().print(Text(f"{n} findings in {path}"))


# ---------------------------------------------------------------- which


def _states(state: list[FindingState], any_state: bool) -> tuple[FindingState, ...]:
    if state and any_state:
        raise typer.BadParameter("--state and --any-state exclude each other")
    return () if any_state else tuple(state) or (FindingState.OPEN,)


def _refuse_options(context: typer.Context) -> None:
    """Options of the list mean nothing to another command: `findings --check X dismiss` would dismiss everything."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"give options behind `{context.invoked_subcommand}`, not before it")


def _not_found(error: Exception) -> typer.Exit:
    complain(error)
    return typer.Exit(Exit.NOT_FOUND)


# ---------------------------------------------------------------- shown


def _row(one: ArchivedFinding) -> tuple[object, ...]:
    scanner = " ".join(part for part in (one.manufacturer_model_name, one.device_serial_number) if part)
    return (
        one.id,
        Text(one.severity, style=SEVERITY_STYLE[one.severity]),
        one.element,
        _shortened(one.raw),
        one.suggested_value,
        _shortened(one.evidence, 160),
        one.check,
        Text(one.state, style=STATE_STYLE.get(one.state, "")),
        one.series_description or one.series_instance_uid,
        scanner or one.manufacturer,
    )


def _print(found: ArchivedFinding, events: Iterable[FindingEvent]) -> None:
    from iap_node.audit.reports.findings import explanation
    from iap_node.audit.reports.rendering import tag_text, title

    out = console()
    about = explanation(found.check)
    name = f"{title(found.element)} {tag_text(found.element)}".strip()
    out.print(Text(f"Finding {found.id}: {printable(name)}, {found.state}", style="bold"))
    scanner = (found.manufacturer, found.manufacturer_model_name, found.device_serial_number)
    facts: tuple[tuple[str, object], ...] = (
        ("header says", found.raw or "nothing"),
        ("suggested", found.suggested_value or "nothing"),
        ("accepted", found.accepted_value),
        ("what", f"{found.severity}, {found.kind}; check {found.check}, raised by the {found.raised_by}"),
        ("why", found.evidence),
        ("so", found.conclusion),
        ("rule", about.rule),
        ("source", about.source),
        ("series", f"{found.series_instance_uid} {found.series_description}"),
        ("scanner", " / ".join(part for part in scanner if part)),
        ("revisions", f"{found.first_revision} to {found.last_revision}, found {printable(found.found_at)}"),
    )
    for label, value in facts:
        if value:
            out.print(Text(f"  {label:12} {printable(value)}"))
    print_table(
        "Witnesses",
        ("witness", "says", "p(header)", "takes for right", "with these numbers"),
        [
            (
                one.witness,
                Text("against" if one.against else "for", style="red" if one.against else "green"),
                "" if one.probability is None else f"{one.probability:.3g}",
                one.value,
                one.statement,
            )
            for one in found.testimonies
        ],
        empty="no witness said more than that",
    )
    print_table(
        "What happened",
        ("when", "who", "state", "value", "why"),
        [(one.at, one.who, one.state, one.value, one.reason) for one in events],
        empty="nothing",
    )
    print_models([(found.model_id, found.training_data)])


def _shortened(text: str, most: int = 48) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


# ---------------------------------------------------------------- exported


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A file that takes its place only when it is whole; standard output for "-"."""
    if str(path) == "-":
        yield sys.stdout
        return
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", errors="replace", newline="") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_csv(stream: TextIO, found: Iterable[ArchivedFinding]) -> int:
    from iap_node.audit.cells import harmless_cell
    from iap_node.audit.reports.findings import COLUMNS, cells

    lines = csv.writer(stream)
    lines.writerow((*EXPORTED, *COLUMNS))
    n = 0
    for one in found:
        own = (to_json(getattr(one, name)) for name in EXPORTED)
        lines.writerow([harmless_cell(cell) for cell in (*own, *cells(one))])
        n += 1
    return n


def _write_json(stream: TextIO, found: Iterable[ArchivedFinding]) -> int:
    from iap_node.audit.reports.findings import as_object

    n = 0
    stream.write("[")
    for one in found:
        stream.write((",\n" if n else "\n") + json.dumps(as_object(one), ensure_ascii=True))
        n += 1
    stream.write("\n]\n")
    return n
