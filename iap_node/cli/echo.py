"""`echo`: whether a destination can be reached and would take something."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import typer

from iap_node.cli.exits import Exit
from iap_node.cli.logs import start_logging
from iap_node.cli.options import CONFIG, JSON, open_database
from iap_node.cli.output import print_json, print_table
from iap_node.config import LogConfig, NodeConfig, load_config
from iap_node.config.section import did_you_mean
from iap_node.errors import NodeError, PermanentError


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("echo")(echo)


def echo(
    names: list[str] = typer.Argument(None, metavar="[DESTINATION]...", help="Which; all without a name."),
    config_path: Path = CONFIG,
    as_json: bool = JSON,
) -> None:
    """Try destinations without sending a series: C-ECHO, a file that is removed again, a question, a test message.

    Says too which ones the node leaves alone for now because they failed again and again. Exit code 1 when one of them
    does not answer as it should.
    """
    from iap_node.routing.destinations.destination import open_destination

    config = load_config(config_path)
    start_logging(LogConfig(level="warning", format=config.log.format))
    for name in names or ():
        if name not in config.destinations:
            raise typer.BadParameter(f"{name!r} is not under destinations{did_you_mean(name, config.destinations)}")
    paused_until = _paused(config)
    tried = []
    for name in names or sorted(config.destinations):
        destination = config.destinations[name]
        began = time.monotonic()
        try:
            open_destination(destination).echo()
            error = None
        except NodeError as problem:
            error = str(problem)
        took_ms = round(1000 * (time.monotonic() - began), 1)
        tried.append((name, destination, took_ms, error))
    if as_json:
        print_json(
            [
                {
                    "destination": name,
                    "kind": one.kind,
                    "address": one.address,
                    "took_ms": took_ms,
                    "error": error,
                    "left_alone_until": paused_until.get(name),
                }
                for name, one, took_ms, error in tried
            ]
        )
    else:
        print_table(
            "Destinations",
            ("destination", "kind", "where", "answer", "left alone until"),
            [
                (name, one.kind, one.address, error or f"answers in {took_ms:.0f} ms", paused_until.get(name, ""))
                for name, one, took_ms, error in tried
            ],
            empty="no destination in the configuration",
        )
    if any(error is not None for *_, error in tried):
        raise typer.Exit(Exit.FAILED)


def _paused(config: NodeConfig) -> dict[str, datetime]:
    """Until when destinations are left alone; none where there is no node yet, which an echo does not need."""
    from iap_node.database.destination_health import pauses

    try:
        database = open_database(config)
    except PermanentError:
        return {}
    with database.reading() as session:
        return {one.destination: one.paused_until for one in pauses(session)}
