"""Options and openings that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from iap_node.cli.exits import Exit
from iap_node.cli.logs import start_logging
from iap_node.cli.output import complain
from iap_node.config import LogConfig, NodeConfig, load_config
from iap_node.errors import PermanentError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from iap_node.database.engine import Database
    from iap_node.database.series import SeriesSummary

CONFIG = typer.Option(Path("config.yaml"), "--config", "-c", help="Configuration file.", envvar="IAP_NODE_CONFIG")
SERIES = typer.Argument(..., metavar="SERIES", help="Series Instance UID, or its beginning or end.")
JSON = typer.Option(False, "--json", help="Print JSON for programs instead of a table for people.")
SUPERVISED = typer.Option(False, "--supervised", hidden=True, help="Stop when standard input closes (set by serve).")


def open_database(config: NodeConfig) -> Database:
    """The node's database, at the schema that this code needs.

    Raises
    ------
    PermanentError
        The database was never initialised or is of another version; the text says which command mends it.
    """
    from iap_node.database.engine import Database, is_current

    if config.database.url is None and not (config.data_dir / "node.sqlite").exists():
        raise PermanentError(f"there is no node in {config.data_dir} yet; run `iap-node init`")
    database = Database(config.database_url)
    if not is_current(database):
        database.dispose()
        raise PermanentError("the database has another schema than this version needs; run `iap-node migrate`")
    return database


def open_node(config_path: Path) -> tuple[NodeConfig, Database]:
    """Configuration and database, as the commands begin that end by themselves; only warnings are logged."""
    config = load_config(config_path)
    start_logging(LogConfig(level="warning", format=config.log.format))
    return config, open_database(config)


def named_series(session: Session, series_uid: str) -> SeriesSummary:
    """The series that `SERIES` names; ends the command where there is none, or several."""
    from iap_node.database.series import UnknownSeries, find_series

    try:
        return find_series(session, series_uid)
    except UnknownSeries as error:
        complain(error)
        raise typer.Exit(Exit.NOT_FOUND) from error
