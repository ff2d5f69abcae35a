"""`correct`: accepted values written into copies of a series; the original stays as it came."""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import Progress
from rich.text import Text

from iap_node.cli.options import CONFIG, JSON, SERIES, named_series, open_node
from iap_node.cli.output import console, print_json, print_table, printable
from iap_node.errors import PermanentError

if TYPE_CHECKING:
    from iap_node.config import NodeConfig
    from iap_node.correction.series import SeriesCorrection
    from iap_node.database.corrections import Correction
    from iap_node.database.engine import Database


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("correct")(correct)


def correct(
    series_uid: str = SERIES,
    config_path: Path = CONFIG,
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would be written, and write nothing."),
    folder: Path = typer.Option(
        None, "--out", metavar="DIR", help="Where the copies go; made if it is not there. Without it: below data_dir."
    ),
    settings: list[str] = typer.Option(
        [],
        "--set",
        metavar="KEYWORD=VALUE",
        help="A value beside the accepted ones, or in place of one. KEYWORD[OLD]=VALUE only where OLD stands, "
        "KEYWORD[*]=VALUE whatever stands there. Repeatable.",
    ),
    keep_uids: bool = typer.Option(
        False, "--keep-uids", help="Copies with the UIDs of their originals: only where they take their place."
    ),
    destination: str = typer.Option(
        None, "--send", metavar="DESTINATION", help="Send copies to a destination with `send: corrected`, by the queue."
    ),
    list_copies: bool = typer.Option(False, "--list", help="List the copies that were made before, and make none."),
    who: str = typer.Option(None, "--as", metavar="NAME", help="Who corrects; your login without it."),
    as_json: bool = JSON,
) -> None:
    """Write copies of a series with the values that were accepted for its findings. The original is never changed.

    Copies get new Series and SOP Instance UIDs, the same whenever the same is corrected; pixel data stay to the byte.
    They tell of the old values (Original Attributes Sequence) and of this node (Contributing Equipment Sequence). The
    findings become corrected. Exit code 1 when a value cannot be written: nothing is written then.
    """
    from iap_node.correction.noted import default_folder
    from iap_node.correction.series import look
    from iap_node.database.corrections import list_corrections
    from iap_node.spool import Spool

    if destination is not None and (settings or keep_uids or folder is not None):
        raise typer.BadParameter("--send goes with accepted values alone, without --set, --keep-uids and --out")
    config, database = open_node(config_path)
    with database.reading() as session:
        series = named_series(session, series_uid)
        if list_copies:
            _list(list_corrections(session, series.id), as_json=as_json)
            return
    correction = look(
        database,
        Spool(config.spool_dir),
        series.id,
        max_inflated_bytes=config.inference.max_bytes_per_instance,
        settings=settings,
        keep_uids=keep_uids,
    )
    _show(correction, as_json=as_json, dry_run=dry_run)
    if dry_run or not correction.changes_something:
        return
    name = who or _login()
    if destination is not None:
        _send(config, database, correction, destination)
    else:
        _write(database, correction, folder or default_folder(config.data_dir, correction), name)


def _list(copies: Sequence[Correction], *, as_json: bool) -> None:
    if as_json:
        print_json(copies)
        return
    print_table(
        "Corrected copies",
        ("series of the copy", "elements", "instances", "to", "by", "as of", "finished"),
        [
            (
                one.series_instance_uid,
                ", ".join(f"{label}={'removed' if value is None else value}" for label, value in one.elements.items()),
                one.n_instances,
                one.target,
                one.made_by,
                one.made_at,
                one.finished_at or "not yet",
            )
            for one in copies
        ],
        empty="no corrected copy was made of this series",
    )


def _show(correction: SeriesCorrection, *, as_json: bool, dry_run: bool) -> None:
    from iap_node.correction.noted import as_object

    if as_json:
        print_json({"dry_run": dry_run, **as_object(correction)})
        return
    for left in correction.changes.left_out:
        typer.echo(f"not written: {left.keyword} of {left.reason}: {left.why}", err=True)
    if not correction.changes.changes:
        console().print("no value is accepted for this series; `iap-node findings` lists what was found")
        return
    for group in correction.survey.groups:
        instances = f"{len(group.sop_instance_uids)} instances, the first {group.sop_instance_uids[0]}"
        print_table(
            instances,
            ("tag", "element", "where", "old", "new", "from", "accepted by"),
            [
                (
                    f"({one.attribute.tag >> 16:04X},{one.attribute.tag & 0xFFFF:04X})",
                    one.attribute.keyword,
                    one.place,
                    "absent" if one.old is None else one.old or "empty",
                    "removed" if one.new is None else one.new or "empty",
                    one.change.reason,
                    one.change.who,
                )
                for one in group.writes
            ],
            empty=f"{instances}: everything stands there already",
        )
    if correction.changes_something:
        console().print(Text(f"copy: series {correction.copy_series_instance_uid}"))
    else:
        console().print("the headers say all of that already: there is nothing to correct")


def _send(config: NodeConfig, database: Database, correction: SeriesCorrection, destination: str) -> None:
    from iap_node.database.corrections import deliver_again

    wanted = config.destinations.get(destination)
    if wanted is None:
        raise PermanentError(f"there is no destination {destination!r} in the configuration")
    if wanted.send != "corrected":
        raise PermanentError(f"{destination} takes {wanted.send}s; write `send: corrected` into its section")
    with database.transaction() as session:
        deliver_again(session, correction.series, destination, datetime.now(UTC))
    typer.echo(f"the copy is in the queue for {destination}; `iap-node jobs` shows it", err=True)


def _write(database: Database, correction: SeriesCorrection, folder: Path, who: str) -> None:
    from iap_node.correction.folder import WrittenCopy
    from iap_node.correction.noted import write_noted

    progress = Progress(console=console(), transient=True, disable=not console().is_terminal)

    def track(copies: Iterable[WrittenCopy], n: int) -> Iterable[WrittenCopy]:
        return progress.track(copies, total=n, description="writing copies")

    with progress:
        done = write_noted(database, correction, folder, who, track)
    there = f", {done.n_there} of them there already" if done.n_there else ""
    numbers = ", ".join(str(number) for number in done.finding_ids)
    findings = f"; corrected: findings {numbers}" if numbers else ""
    typer.echo(printable(f"{done.n_copies} copies in {folder}{there}{findings}"), err=True)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
