"""`init`, `check-config`, `config-schema`, `migrate`: everything before the first series."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.text import Text

from iap_node.cli.options import CONFIG, JSON
from iap_node.cli.output import console, print_json, printable
from iap_node.config import NodeConfig, load_config
from iap_node.config.section import did_you_mean


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("init")(init)
    app.command("check-config")(check_config)
    app.command("config-schema")(show_config_schema)
    app.command("migrate")(migrate)


def prepare(config: NodeConfig) -> None:
    """Make the data directory, the patient key and the tables; changes nothing that is there already."""
    from iap_node.database.engine import Database
    from iap_node.database.engine import migrate as migrate_database
    from iap_node.listener.patients import load_or_create_patient_key

    config.spool_dir.mkdir(parents=True, exist_ok=True)
    load_or_create_patient_key(config.patient_key_path)
    database = Database(config.database_url)
    try:
        migrate_database(database)
    finally:
        database.dispose()


def init(config_path: Path = CONFIG) -> None:
    """Make the data directory, the key for patient hashes and the database tables. Safe to run again."""
    config = load_config(config_path)
    prepare(config)
    console().print(f"ready: data in {config.data_dir}; start with `iap-node serve`")


def check_config(config_path: Path = CONFIG, as_json: bool = JSON) -> None:
    """Check the configuration and show it as the node understands it. Exit code 3 when it is not valid."""
    config = load_config(config_path)
    if as_json:
        print_json(config.model_dump(mode="json"))
        return
    listener = config.listener
    out = console()
    out.print(f"{config_path} is valid")
    out.print(
        f"  listens as {listener.ae_title} on {listener.bind}:{listener.port}" + (" with TLS" * listener.tls.enabled)
    )
    out.print(f"  accepts {', '.join(listener.calling_ae_titles)} from {', '.join(listener.addresses)}", markup=False)
    rules = config.routing
    out.print(f"  routes by {len(rules.rules)} rules and {len(rules.domains)} domains ", end="")
    out.print(f"to {len(rules.downstream_models)} models, {len(config.destinations)} destinations")
    known = _check_names() if rules.check_names() else set()
    for name in sorted(rules.check_names() - known):
        doubt = f"a rule asks for findings of {printable(name)!r}, which no check has{did_you_mean(name, known)}"
        out.print(Text(f"  {doubt}", style="bold"))
    if not config.routing.default.destinations:
        out.print("  series that no domain claims stay here (routing.default.destinations is empty)")


def _check_names() -> set[str]:
    """The checks that findings can come from."""
    from iap_node.audit import habit, pixels
    from iap_node.audit.checks.registry import CHECKS

    witnesses = {pixels.CONTRADICT, pixels.MISSING, pixels.QUESTION, pixels.JOINT}
    habits = {habit.DEVIATES, habit.SOFTWARE_CHANGED, habit.STUDY}
    return {check.name for check in CHECKS} | witnesses | habits


def show_config_schema() -> None:
    """Print the JSON Schema of config.yaml, from which editors complete and check it.

    The published one is docs/config.schema.json; config.yaml names it in its first line, for the YAML language server.
    """
    from iap_node.config.schema import config_schema_text

    typer.echo(config_schema_text(), nl=False)


def migrate(config_path: Path = CONFIG) -> None:
    """Bring the database to the schema of this version. Stop the node first."""
    from iap_node.database.engine import Database
    from iap_node.database.engine import migrate as migrate_database

    config = load_config(config_path)
    config.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(config.database_url)
    try:
        migrate_database(database)
    finally:
        database.dispose()
    console().print("the database is at the schema of this version")
