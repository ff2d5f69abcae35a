"""`iap-train simulate`: a data set of simulated series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from training import dataset
from training.cli.options import (
    HELD_OUT_SERIES,
    SEED,
    TRAINING_SERIES,
    DataFolder,
    HeldOutOption,
    LayoutName,
    ProcessesOption,
    RecipeName,
    RecipeOption,
    SeedOption,
    SeriesOption,
    SplitName,
    recipe_named,
)
from training.cli.progress import bar

commands = typer.Typer()


@commands.command()
def simulate(
    data: DataFolder,
    recipe: RecipeOption = RecipeName.REFERENCE,
    series: SeriesOption = TRAINING_SERIES,
    held_out: HeldOutOption = HELD_OUT_SERIES,
    processes: ProcessesOption = 2,
    seed: SeedOption = SEED,
    split: Annotated[
        list[SplitName] | None,
        typer.Option(help="Only this split; repeatable. Recalibration and evaluation need no training series."),
    ] = None,
) -> None:
    """Make a data set of simulated breast MR, prepared for a recipe; goes on where it stopped."""
    preprocessing = recipe_named(recipe, LayoutName.ALL_CLASSES).preprocessing
    plan = dataset.plan(preprocessing, seed=seed, n_training=series, n_held_out=held_out)
    simulate_into(data, plan, processes, [one.value for one in split or SplitName])


def simulate_into(folder: Path, plan: dataset.DataPlan, processes: int, splits: Sequence[str] = dataset.SPLITS) -> None:
    """Make what is missing of a data set, with progress."""
    total = sum(part.n_series for name, part in plan.splits.items() if name in splits)
    with bar("simulating", total) as advance:
        dataset.simulate(folder, plan, processes=processes, splits=splits, advance=advance)
