"""`iap-train`: the commands, and where training is wired together.

One module per kind of command: `simulate`, `prepare`, `analysis` (analyze, crossvalidate), `fitting` (fit,
recalibrate), `evaluation` (evaluate), `shipped` (reference), `checkpoint` (import-checkpoint). Progress with the time
left is shown on a terminal; elsewhere one line per epoch is logged. Nothing here runs inside the node.
"""

from __future__ import annotations

import sys

import typer

from iap_node.errors import NodeError
from training import dataset
from training.cli import analysis, checkpoint, evaluation, fitting, prepare, shipped, simulate

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Trains, calibrates and evaluates model packages; nothing here runs inside the node.",
)

for module in (simulate, prepare, analysis, fitting, evaluation, shipped, checkpoint):
    app.registered_commands += module.commands.registered_commands


def main() -> None:
    """Entry point of `iap-train`: errors that say what to do are printed without a traceback."""
    try:
        app()
    except (NodeError, dataset.DataSetError) as error:
        typer.echo(str(error), err=True)
        sys.exit(1)
