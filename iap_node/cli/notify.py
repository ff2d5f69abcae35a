"""`notify`: what is wrong now and who was told of it; a test message to each channel."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import typer
from rich.text import Text

from iap_node.cli.exits import Exit
from iap_node.cli.options import CONFIG, JSON, open_node
from iap_node.cli.output import console, print_json, print_table, printable
from iap_node.errors import PermanentError


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("notify")(notify)


def notify(
    config_path: Path = CONFIG,
    test: bool = typer.Option(False, "--test", help="Send a test message by every channel."),
    as_json: bool = JSON,
) -> None:
    """What people are told of by `notifications` in the configuration: what is wrong now, and what was told when.

    The scheduler tells; this only shows, or sends a test. Exit code 1 when a channel did not take the test.
    """
    from iap_node.config.notifications import HAPPENS_ONCE
    from iap_node.notify.message import Event
    from iap_node.notify.watch import Watch, channels_of
    from iap_node.upkeep.capacity import capacity

    config, database = open_node(config_path)
    reserve_bytes = config.spool.disk_reserve_mb * 1024**2
    watch = Watch(
        config, database, lambda now: capacity(database, config.spool_dir, reserve_bytes, config.retention, now)
    )
    now = datetime.now(UTC)
    if test:
        if not config.notifications.enabled:
            raise PermanentError("nobody is told: set notifications.email or notifications.webhook")
        text = "this is a test: messages of this node arrive"
        message = watch.message("test", Event.TEST, text, "Nothing needs to be done.", now)
        answers = {name: None if error is None else str(error) for name, error in watch.tell(message).items()}
        if as_json:
            print_json({"not_taken": answers})
        else:
            for name, error in answers.items():
                console().print(Text(f"{name}: {'taken' if error is None else printable(error)}"), soft_wrap=True)
        if any(answers.values()):
            raise typer.Exit(Exit.FAILED)
        return
    from iap_node.database.notifications import told

    troubles = watch.troubles(now)
    once = [kind for kind in config.notifications.kinds if kind in HAPPENS_ONCE]
    with database.reading() as session:
        last = {channel.name: told(session, channel.name) for channel in channels_of(config)}
    if as_json:
        times = {
            name: {kind: {"amounts": amounts, "at": at} for kind, (amounts, at, _) in kinds.items()}
            for name, kinds in last.items()
        }
        print_json({"enabled": config.notifications.enabled, "troubles": troubles, "told": times})
        return
    if not config.notifications.enabled:
        console().print("nobody is told: set notifications.email or notifications.webhook")
    print_table(
        "What people are told of",
        ("kind", "now", *(f"told by {name}" for name in last)),
        [
            (
                kind,
                "" if trouble is None else trouble.summary,
                *(kinds[kind][1] if kind in kinds else None for kinds in last.values()),
            )
            for kind, trouble in {**troubles, **dict.fromkeys(once)}.items()
        ],
        empty="notifications.kinds names nothing",
    )
