"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from training import recipes

SEED = 2026
TRAINING_SERIES = 8000
HELD_OUT_SERIES = 1000


class RecipeName(StrEnum):
    """Which recipe."""

    REFERENCE = "reference"
    PAPER = "paper"
    SMALL = "small"


class SplitName(StrEnum):
    """Which split of a data set."""

    TRAINING = "training"
    TEMPERATURE = "temperature"
    CONFORMAL = "conformal"
    TEST = "test"


class LayoutName(StrEnum):
    """Head layout of the published recipe, named by its number of outputs in the Duke data."""

    ALL_CLASSES = "96"
    REGRESSED = "47"


DataFolder = Annotated[Path, typer.Argument(help="Folder of the data set.")]
RecipeOption = Annotated[
    RecipeName, typer.Option("--recipe", help="reference, paper (arXiv 2303.04911), or small, for dozens of series.")
]
LayoutOption = Annotated[LayoutName, typer.Option("--layout", help="Head layout of the paper's recipe.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Everything random follows from it.")]
SeriesOption = Annotated[int, typer.Option("--series", min=1, help="Simulated series for training, one patient each.")]
HeldOutOption = Annotated[
    int, typer.Option("--held-out", min=1, help="Series for calibration, and as many for the test.")
]
ProcessesOption = Annotated[int, typer.Option("--processes", min=1, help="Processes that simulate.")]
EpochsOption = Annotated[int | None, typer.Option("--epochs", min=1, help="Instead of the recipe's.")]
MinutesOption = Annotated[
    float | None, typer.Option("--minutes", help="End fitting after this time, schedule included.")
]
RealOption = Annotated[
    Path | None, typer.Option("--real", help="Folder of real series (one per folder) that must be novel.")
]


def recipe_named(name: RecipeName, layout: LayoutName) -> recipes.Recipe:
    """The recipe that the options name."""
    if name is RecipeName.REFERENCE:
        return recipes.REFERENCE
    if name is RecipeName.SMALL:
        return recipes.SMALL
    return recipes.paper("47" if layout is LayoutName.REGRESSED else "96")
