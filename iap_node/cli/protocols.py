"""`protocols`: what each scanner usually writes for each protocol, its variants, and spellings that mean the same."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from iap_node.cli.options import CONFIG, JSON, open_node
from iap_node.cli.output import print_json, print_table

if TYPE_CHECKING:
    from iap_node.audit.groups import ParameterGroup, ProtocolGroups

MOST_DIFFERENCES = 6  # shown of a variant; JSON has all


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("protocols")(protocols)


def protocols(
    name: str = typer.Argument("", metavar="[TEXT]", help="Only protocols, makers and serial numbers that hold this."),
    config_path: Path = CONFIG,
    limit: int = typer.Option(50, "--limit", "-n", min=1, help="At most so many, those with the most series first."),
    variants: bool = typer.Option(False, "--variants", help="Only protocols of which there are variants."),
    vocabulary: bool = typer.Option(
        False, "--vocabulary", help="Print the spellings that mean the same, as audit.habit.vocabulary takes them."
    ),
    as_json: bool = JSON,
) -> None:
    """What each scanner usually writes for a protocol: the dominant group of its series, and how variants differ.

    A scanner's newest series are looked at, as many as audit.habit.series says; those of one software version are
    compared. Nothing is said of findings here: they are in `findings` and `report`.
    """
    from iap_node.audit.groups import by_software, describe, populate
    from iap_node.audit.vocabulary import as_file, learn_vocabulary, load_vocabulary
    from iap_node.database import protocols as kept

    config, database = open_node(config_path)
    habit = config.audit.habit
    pinned = load_vocabulary(habit.vocabulary)
    with database.reading() as session:
        devices, options = kept.device_spellings(session), kept.scan_options(session)
        learned = learn_vocabulary(pinned, devices, options)
        if vocabulary:
            print(as_file(learned, devices, options), end="")
            return
        found: list[ProtocolGroups] = []
        for known in kept.list_protocols(session, limit, containing=name):
            series = kept.newest_series(session, known.device, known.protocol, habit.series)
            found += [describe(populate(same, habit.tolerances, learned)) for same in by_software(series).values()]
    if variants:
        found = [one for one in found if one.variants]
    if as_json:
        print_json(found)
        return
    print_table(
        "Protocols",
        ("scanner", "software", "protocol", "group", "series", "studies", "from", "to", "differs in"),
        [_row(one, group) for one in found for group in one.groups],
        empty="no series of a named protocol was judged yet",
    )


def _row(one: ProtocolGroups, group: ParameterGroup) -> tuple[object, ...]:
    is_first = group is one.dominant
    scanner = " ".join(part for part in (one.manufacturer, one.model, one.serial_number) if part)
    return (
        scanner if is_first else "",
        one.software_versions if is_first else "",
        ", ".join(one.protocol.split("\\")) if is_first else "",
        "dominant" if is_first else f"variant {group.rank}",
        group.n_series,
        group.n_studies,
        _month(group.since),
        _month(group.until),
        _free(one) if is_first else _differences(group),
    )


def _free(one: ProtocolGroups) -> str:
    return f"free: {', '.join(one.free)}" if one.free else ""


def _differences(group: ParameterGroup) -> str:
    shown = [f"{one.element} {one.here} (usually {one.usual})" for one in group.differences[:MOST_DIFFERENCES]]
    more = len(group.differences) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _month(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m}"
