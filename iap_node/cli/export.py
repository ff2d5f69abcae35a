"""`export`: the instances of a series as DICOM files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import typer
from rich.progress import Progress

from iap_node.cli.exits import Exit
from iap_node.cli.options import CONFIG, SERIES, named_series, open_node
from iap_node.cli.output import complain, console


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("export")(export)


def export(
    series_uid: str = SERIES,
    folder: Path = typer.Argument(..., metavar="DIR", help="Where to; made if it is not there."),
    config_path: Path = CONFIG,
) -> None:
    """Write the instances of a series into a folder: DICOM files, as they were received.

    Files are named by SOP Instance UID; one that is there already is an error, not overwritten. Exit code 1 when the
    bytes of an instance are gone.
    """
    from iap_node.database import archive
    from iap_node.spool import PREAMBLE_BYTES, Spool

    config, database = open_node(config_path)
    spool = Spool(config.spool_dir)
    with database.reading() as session:
        series = named_series(session, series_uid)
        instances = archive.current_instances(session, series.id)
    out = console()
    n_gone = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with Progress(console=out, transient=True, disable=not out.is_terminal) as progress:
            for instance in progress.track(instances, description="exporting"):
                if not spool.exists(instance.spool_path):
                    n_gone += 1
                    continue
                with (
                    spool.locate(instance.spool_path).open("rb") as source,
                    (folder / f"{instance.sop_instance_uid}.dcm").open("xb") as target,
                ):
                    source.seek(PREAMBLE_BYTES, os.SEEK_SET)
                    target.write(bytes(PREAMBLE_BYTES))  # what stands there in the spool is ours alone
                    shutil.copyfileobj(source, target)
    except OSError as error:
        complain(f"cannot write to {folder}: {error.strerror}: {error.filename or ''}")
        raise typer.Exit(Exit.FAILED) from error
    out.print(f"{len(instances) - n_gone} instances in {folder}")
    if n_gone:
        complain(f"the bytes of {n_gone} instances are gone; `iap-node show` says why")
        raise typer.Exit(Exit.FAILED)
