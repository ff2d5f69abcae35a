"""`iap-train fit` and `recalibrate`: a model package from a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

import iap_node
from iap_node.inference.package import ModelPackage, load_package, package_folder
from training import dataset, fit, recipes, reference
from training.cli.options import (
    SEED,
    DataFolder,
    EpochsOption,
    LayoutName,
    LayoutOption,
    MinutesOption,
    RecipeName,
    RecipeOption,
    SeedOption,
    recipe_named,
)
from training.cli.progress import fitting_bar

commands = typer.Typer()


@commands.command(name="fit")
def fit_command(
    data: DataFolder,
    out: Annotated[Path, typer.Argument(help="Folder of the run; the package is written to its sub-folder 'package'.")],
    recipe: RecipeOption = RecipeName.REFERENCE,
    layout: LayoutOption = LayoutName.ALL_CLASSES,
    epochs: EpochsOption = None,
    minutes: MinutesOption = None,
    seed: SeedOption = SEED,
    name: Annotated[str, typer.Option(help="Name of the package.")] = "trained",
    version: Annotated[str, typer.Option(help="Version of the package.")] = iap_node.__version__,
) -> None:
    """Train a recipe on a data set, calibrate it and write a model package; resumes a run that was killed."""
    naming = reference.Naming(name, version)
    package = fit_to_package(data, out, out / "package", naming, recipe_named(recipe, layout), epochs, minutes, seed)
    typer.echo(f"{package.folder}: {package.model_id}, {package.training_data}")


def fit_to_package(
    data: Path,
    run: Path,
    out: Path,
    naming: reference.Naming,
    recipe: recipes.Recipe,
    epochs: int | None,
    minutes: float | None,
    seed: int,
) -> ModelPackage:
    """Fit a recipe on a data set, with progress, and write its package to `out`.

    Raises
    ------
    DataSetError
        The data set is incomplete, or was not prepared for the recipe.
    """
    training = dataset.load(data, "training")
    if dataset.preprocessing_of(data) != recipe.preprocessing:
        raise dataset.DataSetError(f"{data} was not prepared for recipe {recipe.name}; run iap-train simulate --recipe")
    heads = recipes.heads_for(recipe, training.labels)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with fitting_bar() as show:
        fitted = fit.fit(
            recipe,
            heads,
            training,
            run,
            seed=seed,
            epochs=epochs,
            minutes=minutes,
            device=device,
            report=show,
        )
    return reference.package_from(out, naming, recipe, heads, fitted, data, seed)


@commands.command()
def recalibrate(
    data: DataFolder,
    out: Annotated[Path, typer.Argument(help="Folder of the package to write; another one than it is read from.")],
    package: Annotated[str, typer.Option(help="Name of a shipped model, or folder of a package.")] = "reference",
    seed: SeedOption = SEED,
) -> None:
    """Calibrate a package anew, its weights unchanged, on the temperature and conformal splits of a data set."""
    written = reference.recalibrated(load_package(package_folder(package)), out, data, seed)
    typer.echo(f"{written.folder}: {written.model_id}, {written.training_data}")
