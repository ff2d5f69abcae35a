"""`iap-train fit` and `recalibrate`: a model package from a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

import iap_node
from iap_node.inference.package import ModelPackage, load_package, package_folder
from training import dataset, fit, processes, recipes, reference
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
from training.tensorboard import logged

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
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard's event files; needs the extra 'tensorboard'.")
    ] = None,
) -> None:
    """Train a recipe on a data set, calibrate it and write a model package; resumes a run that was killed.

    Several GPUs, or several processes on a CPU: torchrun --nproc-per-node N -m training fit ...
    """
    naming = reference.Naming(name, version)
    with processes.joined() as group:
        package = fit_to_package(
            data,
            out,
            out / "package",
            naming,
            recipe_named(recipe, layout),
            epochs,
            minutes,
            seed,
            tensorboard=tensorboard,
        )
        if group.is_first:
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
    *,
    images_seen: int | None = None,
    tensorboard: Path | None = None,
) -> ModelPackage:
    """Fit a recipe on a data set, with progress, and write its package to `out`.

    Of several processes the first reports, calibrates and writes; the others wait for it.

    Raises
    ------
    DataSetError
        The data set is incomplete, or was not prepared for the recipe.
    """
    training = dataset.load(data, "training")
    if dataset.preprocessing_of(data) != recipe.preprocessing:
        raise dataset.DataSetError(
            f"{data} was not prepared for recipe {recipe.name}; run iap-train simulate or prepare with --recipe"
        )
    heads = recipes.heads_for(recipe, training.labels)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    group = processes.current()
    with fitting_bar() as bar, logged(tensorboard if group.is_first else None, bar) as show:
        fitted = fit.fit(
            recipe,
            heads,
            training,
            run,
            seed=seed,
            epochs=epochs,
            images_seen=images_seen,
            minutes=minutes,
            device=device,
            report=show if group.is_first else lambda state: None,
        )
    if group.is_first:
        reference.package_from(out, naming, recipe, heads, fitted, data, seed)
    group.wait()
    return load_package(out)


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
