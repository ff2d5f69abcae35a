"""`backup` and `restore`: a node's database, key, configuration and instances, away from its disk and back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import Progress
from rich.text import Text

from iap_node.cli.exits import Exit
from iap_node.cli.logs import start_logging
from iap_node.cli.options import CONFIG, JSON, open_database, open_node
from iap_node.cli.output import console, print_json, printable
from iap_node.config import LogConfig, load_config

if TYPE_CHECKING:
    from iap_node.upkeep.fsck import Summary
    from iap_node.upkeep.spool_copy import Copied

FOLDER = typer.Argument(..., metavar="DIR", help="Folder of the backup.")


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(
    folder: Path = FOLDER,
    config_path: Path = CONFIG,
    with_spool: bool = typer.Option(False, "--spool", help="Copy the instances too; again: only those that are new."),
    as_json: bool = JSON,
) -> None:
    """Back up a node that may go on working: database, patient key, configuration; with --spool the instances too.

    Of PostgreSQL by pg_dump, where that is installed. DIR is made for its owner only; a backup that is there is brought
    up to date, one that was cut off goes on. Exit code 5 when bytes were missing or damaged: `iap-node fsck --deep`.
    """
    from iap_node.upkeep.backup import back_up

    config, database = open_node(config_path)
    with _showing_progress(as_json) as progress:
        made = back_up(
            config, config_path, database, folder, datetime.now(UTC), with_spool=with_spool, progress=progress
        )
    if as_json:
        print_json(made)
    else:
        out = console()
        out.print(Text(f"backed up {sum(made.rows.values())} rows to {printable(folder)}"), soft_wrap=True)
        if made.spool is None:
            out.print("the instances are not in it: add --spool, or have the storage copy the spool")
        else:
            out.print("{instances} instances are in it, {copied} of them new".format(**made.spool))
            _say_problems(made.spool["missing"], made.spool["damaged"], made.spool["named"])
        for path in made.not_copied:
            out.print(Text(f"not in it, keep it elsewhere: {printable(path)}"), soft_wrap=True)
    if made.spool is not None and not made.spool["is_whole"]:
        raise typer.Exit(Exit.ATTENTION)


def restore(folder: Path = FOLDER, config_path: Path = CONFIG, as_json: bool = JSON) -> None:
    """Restore a backup into an empty data directory, then check every row against its bytes, as `fsck` does.

    Takes the configuration that --config names, or, where there is none, the one in the backup, which it puts there. A
    backup of an older version is migrated. Exit code 5 when rows have no bytes, or the spool was not in the backup.
    """
    from iap_node.upkeep import restore as restoring
    from iap_node.upkeep.backup import CONFIG as CONFIG_FILE
    from iap_node.upkeep.backup import read_manifest

    read_manifest(folder)
    if not config_path.exists():
        config_path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / CONFIG_FILE, config_path)
    config = load_config(config_path)
    start_logging(LogConfig(level="warning", format=config.log.format))
    with _showing_progress(as_json) as progress:
        restored = restoring.restore(config, config_path, folder, progress)
    summary = _looked_through(config_path) if config.spool_dir.is_dir() else None
    is_well = summary is not None and summary.is_well
    if as_json:
        print_json({"restored": restored, "fsck": summary, "is_well": is_well})
    else:
        out = console()
        of = f"{restored.manifest.made_at}{', migrated' if restored.migrated else ''}"
        out.print(Text(f"restored {restored.rows} rows of {printable(of)}"))
        if restored.spool is not None:
            out.print(f"restored {restored.spool.instances} instances")
            _say_problems(restored.spool.missing, restored.spool.damaged, restored.spool.named)
        if summary is None:
            where = printable(config.spool_dir)
            remedy = f"the instances are not in this backup: put the spool back to {where}, then run `iap-node fsck`"
            out.print(Text(remedy), soft_wrap=True)
        else:
            out.print("rows and bytes agree" if is_well else "rows and bytes do not agree: `iap-node fsck` says where")
    if not is_well:
        raise typer.Exit(Exit.ATTENTION)


def _looked_through(config_path: Path) -> Summary:
    from iap_node.listener.recovery import checksum_of
    from iap_node.spool import Spool
    from iap_node.upkeep.fsck import check

    config = load_config(config_path)
    database = open_database(config)
    spool = Spool(config.spool_dir)
    try:
        return check(spool, database, lambda spool_path: checksum_of(spool, spool_path))
    finally:
        database.dispose()


@contextmanager
def _showing_progress(as_json: bool) -> Iterator[Callable[[Copied], None]]:
    out = console()
    with Progress(console=out, transient=True, disable=as_json or not out.is_terminal) as bar:
        task = bar.add_task("instances", total=None)
        yield lambda copied: bar.update(task, completed=copied.instances, description=f"{copied.instances} instances")


def _say_problems(missing: int, damaged: int, named: list[str]) -> None:
    if missing or damaged:
        console().print(f"{missing} were missing, {damaged} damaged:")
        for spool_path in named:
            console().print(Text(f"  {printable(spool_path)}"), soft_wrap=True)
