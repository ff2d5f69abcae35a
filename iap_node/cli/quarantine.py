"""`quarantine list`, `show`, `retry`, `delete`: what could not be filed, and what a person does about it.

Shows reasons, UIDs and senders; nothing of the patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import Progress
from rich.text import Text

from iap_node.cli.exits import Exit
from iap_node.cli.options import CONFIG, JSON, open_node
from iap_node.cli.output import complain, console, print_json, print_table, printable

if TYPE_CHECKING:
    from iap_node.database.engine import Database
    from iap_node.database.quarantine import QuarantineEntry

ENTRIES = typer.Argument(None, metavar="[ID]...", help="Entries, by their number in `iap-node quarantine list`.")
IDS_AT_ONCE = 500  # each is a bound parameter


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    group = typer.Typer(
        no_args_is_help=True,
        help="""What could not be filed, each with its reason. `list` shows all, `show ID` one, `retry` files them
        again after the cause is gone, `delete` gives them up.""",
    )
    group.command("list")(list_quarantine)
    for command in (show, retry, delete):
        group.command(command.__name__)(command)
    app.add_typer(group, name="quarantine")


def list_quarantine(
    config_path: Path = CONFIG,
    limit: int = typer.Option(50, "--limit", "-n", min=1, help="At most so many, the newest first."),
    as_json: bool = JSON,
) -> None:
    """One line per quarantined instance: why it could not be filed, and who sent it."""
    from iap_node.database.quarantine import list_entries

    _, database = open_node(config_path)
    with database.reading() as session:
        found = list_entries(session, limit)
    if as_json:
        print_json(found)
        return
    print_table(
        "Quarantine",
        ("ID", "since", "sent by", "from", "bytes", "SOP Instance UID", "why"),
        [
            (
                one.id,
                one.received_at,
                one.calling_ae_title,
                one.source_address,
                one.size_bytes if one.bytes_state == "present" else one.bytes_state,
                one.sop_instance_uid,
                one.reason,
            )
            for one in found
        ],
        empty="the quarantine is empty",
    )


def show(
    entry_id: int = typer.Argument(..., metavar="ID", help="Its number in `iap-node quarantine list`."),
    config_path: Path = CONFIG,
    as_json: bool = JSON,
) -> None:
    """All about one quarantined instance, where its bytes are, and what `quarantine retry` would make of it now."""
    from iap_node.listener.readmission import examine
    from iap_node.spool import Quarantine, Spool

    config, database = open_node(config_path)
    (entry,) = _named(database, [entry_id])
    spool = Spool(config.spool_dir)
    facts = Quarantine(spool).facts(entry.spool_path)
    examined = examine(entry, spool)
    would = "be filed" if examined.obstacle is None else f"stay {examined.obstacle}: {examined.reason}"
    if as_json:
        print_json(
            {
                "entry": entry,
                "path": str(spool.path(entry.spool_path)),
                "facts": facts,
                "retry": {"obstacle": examined.obstacle, "reason": examined.reason},
            }
        )
        return
    out = console()
    out.print(Text(f"Quarantine entry {entry.id}", style="bold"))
    rows: list[tuple[str, object]] = [
        ("why", entry.reason),
        ("since", entry.received_at),
        ("sent by", f"{entry.calling_ae_title} from {entry.source_address}"),
        ("bytes", f"{entry.size_bytes}, {entry.bytes_state}"),
        ("path", spool.path(entry.spool_path)),
    ]
    shown = {"reason", "received_at", "calling_ae_title", "source_address"}
    rows += [(name.replace("_", " "), value) for name, value in facts.items() if name not in shown]
    rows.append(("a retry now", f"it would {would}"))
    for name, value in rows:
        out.print(Text(f"  {name:20} {printable(value)}"))


def retry(
    entry_ids: list[int] = ENTRIES,
    config_path: Path = CONFIG,
    every: bool = typer.Option(False, "--all", help="Every entry of the quarantine."),
    trust_data_set: bool = typer.Option(
        False, "--trust-data-set", help="Where the sender named another instance than the data set, go by the data set."
    ),
    as_json: bool = JSON,
) -> None:
    """File quarantined instances as if they came anew: after an upgrade, or once the cause is gone.

    What is filed leaves the quarantine; the rest stays with its reason. Exit code 1 when something stays, 4 when an
    entry is not there.
    """
    from iap_node.database.quarantine import all_entries
    from iap_node.listener.intake import Intake
    from iap_node.listener.patients import load_or_create_patient_key
    from iap_node.listener.readmission import Readmission, readmit
    from iap_node.spool import Spool

    _want_some(entry_ids, every)
    config, database = open_node(config_path)
    entries: Iterable[QuarantineEntry] = all_entries(database) if every else _named(database, entry_ids)
    spool = Spool(config.spool_dir)
    intake = Intake(spool, database, load_or_create_patient_key(config.patient_key_path))
    counts = Counter(dict.fromkeys(Readmission, 0))
    stays = []
    out = console()
    bar = Progress(console=out, transient=True, disable=as_json or not out.is_terminal)
    with closing(intake), bar as progress:
        task = progress.add_task("filing again", total=None if every else len(entry_ids))
        for entry in entries:
            readmitted = readmit(entry, intake, spool, database, trust_data_set=trust_data_set)
            counts[readmitted.outcome] += 1
            progress.advance(task)
            if readmitted.filed:
                continue
            stays.append(readmitted)
            if not as_json:
                out.print(Text(f"{entry.id} stays, {readmitted.outcome}: {printable(readmitted.reason)}"))
    if as_json:
        print_json({**{outcome.value: number for outcome, number in counts.items()}, "stays": stays})
    else:
        out.print(", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number) or "nothing to file")
    if stays:
        raise typer.Exit(Exit.FAILED)


def delete(
    entry_ids: list[int] = ENTRIES,
    config_path: Path = CONFIG,
    every: bool = typer.Option(False, "--all", help="Every entry of the quarantine."),
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."),
    as_json: bool = JSON,
) -> None:
    """Delete quarantined instances for good, with their bytes. Asks first, unless --yes. Exit code 4: no such entry."""
    from iap_node.database.quarantine import all_entries
    from iap_node.database.status import status_counts
    from iap_node.spool import Spool
    from iap_node.upkeep.quarantine import discard

    _want_some(entry_ids, every)
    config, database = open_node(config_path)
    if every:
        with database.reading() as session:
            number = status_counts(session).n_quarantined
        entries: Iterable[QuarantineEntry] = all_entries(database)
    else:
        entries = _named(database, entry_ids)
        number = len(entries)
    if not yes:
        typer.confirm(f"Delete {number} quarantined instances for good?", abort=True, err=True)
    spool = Spool(config.spool_dir)
    deleted = 0
    for entry in entries:
        discard(entry, spool, database)
        deleted += 1
    if as_json:
        print_json({"deleted": deleted})
    else:
        console().print(f"{deleted} deleted")


def _want_some(entry_ids: list[int] | None, every: bool) -> None:
    if bool(entry_ids) == every:
        raise typer.BadParameter("name entries (see `iap-node quarantine list`), or say --all")


def _named(database: Database, entry_ids: list[int]) -> list[QuarantineEntry]:
    """The entries with these numbers; ends the command where one is not there."""
    from iap_node.database.quarantine import find_entries

    wanted = sorted(set(entry_ids))
    found: list[QuarantineEntry] = []
    with database.reading() as session:
        for start in range(0, len(wanted), IDS_AT_ONCE):
            found += find_entries(session, wanted[start : start + IDS_AT_ONCE])
    missing = sorted(set(wanted) - {entry.id for entry in found})
    if missing:
        numbers = ", ".join(str(number) for number in missing)
        complain(f"no entry {numbers} in the quarantine; `iap-node quarantine list` shows them")
        raise typer.Exit(Exit.NOT_FOUND)
    return found
