"""`retrain`: train the node's model anew on its own archive: now, how far it is, not any more."""

from __future__ import annotations

import getpass
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from iap_node.cli.exits import Exit
from iap_node.cli.options import CONFIG, JSON, open_node
from iap_node.cli.output import console, print_json, print_table, printable

if TYPE_CHECKING:
    from iap_node.database.engine import Database
    from iap_node.database.retraining import RetrainingRun

FOLLOW_S = 1.0
NOBODY_BEGINS_S = 20.0  # a scheduler begins a run within seconds
RUNS_SHOWN = 10

retrain = typer.Typer(no_args_is_help=True, help="Train the node's model anew on its own archive.")

WAIT = typer.Option(True, "--wait/--no-wait", help="Follow the run until it is over.")
RUN = typer.Argument(None, metavar="[RUN]", help="Number of a run; without it the newest ones.")


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.add_typer(retrain, name="retrain")


@retrain.command("now")
def now_command(config_path: Path = CONFIG, wait: bool = WAIT, as_json: bool = JSON) -> None:
    """Ask for a training; the scheduler of `serve` or `schedule` begins it within seconds, at the lowest priority.

    Ctrl-C ends only the following; `retrain cancel` ends the training. Exit code 1 when it failed or was interrupted,
    5 when a gate refused what came out of it.
    """
    from iap_node.database import retraining
    from iap_node.database.tables import RetrainingState

    _, database = open_node(config_path)
    with database.transaction() as session:
        run = retraining.request_run(session, getpass.getuser(), datetime.now(UTC))
    if wait:
        run = _follow(database, run)
    if as_json:
        print_json(run)
    else:
        console().print(Text(_sentence(run)), soft_wrap=True)
    if run.state in (RetrainingState.FAILED, RetrainingState.INTERRUPTED):
        raise typer.Exit(Exit.FAILED)
    if run.state is RetrainingState.REFUSED:
        raise typer.Exit(Exit.ATTENTION)


@retrain.command("status")
def status_command(config_path: Path = CONFIG, run_id: int | None = RUN, as_json: bool = JSON) -> None:
    """What trainings there were, how far the one is that runs, and what one of them found out."""
    from iap_node.database import retraining
    from iap_node.database.retraining import NotRunning

    _, database = open_node(config_path)
    with database.reading() as session:
        if run_id is None:
            runs = retraining.list_runs(session, RUNS_SHOWN)
        else:
            one = retraining.retraining_run(session, run_id)
            if one is None:
                raise NotRunning(f"there is no retraining {run_id}; `iap-node retrain status` lists them")
            runs = [one]
    if as_json:
        print_json(runs if run_id is None else runs[0])
        return
    print_table(
        "Trainings",
        ("run", "state", "asked for by", "asked for", "ended", "done", "stage", "model", "what of it"),
        [
            (
                run.id,
                run.state,
                run.requested_by,
                run.requested_at,
                run.ended_at,
                f"{run.progress:.0%}",
                run.stage,
                run.candidate_model_id,
                run.message,
            )
            for run in runs
        ],
        empty="nobody has asked for a training; `iap-node retrain now` does, or retraining.cron",
    )
    if run_id is not None:
        _print_gates(runs[0])


@retrain.command("cancel")
def cancel_command(config_path: Path = CONFIG, as_json: bool = JSON) -> None:
    """End the training that is asked for or runs; nothing of it is registered, and nothing goes on with it."""
    from iap_node.database import retraining

    _, database = open_node(config_path)
    with database.transaction() as session:
        run = retraining.cancel_run(session, getpass.getuser(), datetime.now(UTC))
    if as_json:
        print_json(run)
    else:
        console().print(Text(_sentence(run) if not run.under_way else f"retraining {run.id} is told to end"))


def _follow(database: Database, run: RetrainingRun) -> RetrainingRun:
    """Show how far a run is until it is over."""
    from iap_node.database import retraining
    from iap_node.database.tables import RetrainingState

    begun, warned = time.monotonic(), False
    told = console()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[message]}", markup=False), console=told, disable=not told.is_terminal, transient=True,
    ) as progress:  # fmt: skip
        task = progress.add_task("requested", total=1.0, message="")
        while run.under_way:
            time.sleep(FOLLOW_S)
            with database.reading() as session:
                run = retraining.retraining_run(session, run.id) or run
            progress.update(task, completed=run.progress, description=printable(run.stage), message=run.message)
            waiting = run.state is RetrainingState.REQUESTED and time.monotonic() - begun > NOBODY_BEGINS_S
            if waiting and not warned:
                warned = True
                told.print("nobody has begun it yet: does `iap-node serve` or `iap-node schedule` run?")
    return run


def _sentence(run: RetrainingRun) -> str:
    return printable(f"retraining {run.id}: {run.state}" + (f": {run.message}" if run.message else ""))


def _print_gates(run: RetrainingRun) -> None:
    report = run.report or {}
    gates = [gate for part in ("labels", "gates") for gate in report.get(part, ())]
    if gates:
        print_table(
            "Gates",
            ("gate", "passed", "what was measured"),
            [(gate["name"], "yes" if gate["passed"] else "NO", gate["says"]) for gate in gates],
            empty="",
        )
