"""`iap-train reference`: the shipped model end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import iap_node
from training import dataset, recipes, reference
from training.cli.evaluation import evaluate_and_write
from training.cli.fitting import fit_to_package
from training.cli.options import (
    HELD_OUT_SERIES,
    SEED,
    TRAINING_SERIES,
    EpochsOption,
    HeldOutOption,
    MinutesOption,
    ProcessesOption,
    RealOption,
    SeedOption,
    SeriesOption,
)
from training.cli.simulate import simulate_into

commands = typer.Typer()


@commands.command(name="reference")
def reference_command(
    out: Annotated[Path, typer.Argument(help="Folder of the package to write.")],
    work: Annotated[Path, typer.Option("--work", help="Data set, checkpoint and evaluation; resumable.")],
    series: SeriesOption = TRAINING_SERIES,
    held_out: HeldOutOption = HELD_OUT_SERIES,
    epochs: EpochsOption = None,
    minutes: MinutesOption = None,
    processes: ProcessesOption = 2,
    seed: SeedOption = SEED,
    real: RealOption = None,
) -> None:
    """Make the reference model end to end: simulate, fit, calibrate, write, evaluate."""
    recipe, data = recipes.REFERENCE, work / "data"
    simulate_into(
        data, dataset.plan(recipe.preprocessing, seed=seed, n_training=series, n_held_out=held_out), processes
    )
    naming = reference.Naming("reference", iap_node.__version__)
    package = fit_to_package(data, work / "run", out, naming, recipe, epochs, minutes, seed)
    evaluate_and_write(package, data, work / "evaluation", real)
    typer.echo(f"{package.folder}: {package.model_id}, {package.training_data}")
