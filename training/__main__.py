"""The training commands: `iap-train simulate | fit | recalibrate | evaluate | reference`, also `python -m training`.

Progress with the time left is shown on a terminal; elsewhere one line per epoch is logged. Nothing here runs
inside the node.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import iap_node
from iap_node.errors import NodeError
from iap_node.inference.package import ModelPackage, load_package, package_folder
from training import dataset, evaluate, fit, recipes, reference, report, unlike

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
_console = Console(stderr=True)

SEED = 2026
TRAINING_SERIES = 8000
HELD_OUT_SERIES = 1000


class RecipeName(StrEnum):
    """Which recipe."""

    REFERENCE = "reference"
    PAPER = "paper"


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
RecipeOption = Annotated[RecipeName, typer.Option("--recipe", help="reference, or paper (arXiv 2303.04911).")]
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


def _recipe(name: RecipeName, layout: LayoutName) -> recipes.Recipe:
    if name is RecipeName.REFERENCE:
        return recipes.REFERENCE
    return recipes.paper("47" if layout is LayoutName.REGRESSED else "96")


@app.command()
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
    preprocessing = _recipe(recipe, LayoutName.ALL_CLASSES).preprocessing
    plan = dataset.plan(preprocessing, seed=seed, n_training=series, n_held_out=held_out)
    _simulate(data, plan, processes, [one.value for one in split or SplitName])


def _simulate(folder: Path, plan: dataset.DataPlan, processes: int, splits: Sequence[str] = dataset.SPLITS) -> None:
    total = sum(part.n_series for name, part in plan.splits.items() if name in splits)
    with _bar("simulating", total) as advance:
        dataset.simulate(folder, plan, processes=processes, splits=splits, advance=advance)


@app.command(name="fit")
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
    package = _fit(data, out, out / "package", naming, _recipe(recipe, layout), epochs, minutes, seed)
    typer.echo(f"{package.folder}: {package.model_id}, {package.training_data}")


def _fit(
    data: Path,
    run: Path,
    out: Path,
    naming: reference.Naming,
    recipe: recipes.Recipe,
    epochs: int | None,
    minutes: float | None,
    seed: int,
) -> ModelPackage:
    training = dataset.load(data, "training")
    if dataset.preprocessing_of(data) != recipe.preprocessing:
        raise dataset.DataSetError(f"{data} was not prepared for recipe {recipe.name}; run iap-train simulate --recipe")
    heads = recipes.heads_for(recipe, training.labels)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with _fitting_bar() as show:
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


@app.command()
def recalibrate(
    data: DataFolder,
    out: Annotated[Path, typer.Argument(help="Folder of the package to write; another one than it is read from.")],
    package: Annotated[str, typer.Option(help="Name of a shipped model, or folder of a package.")] = "reference",
    seed: SeedOption = SEED,
) -> None:
    """Calibrate a package anew, its weights unchanged, on the temperature and conformal splits of a data set."""
    written = reference.recalibrated(load_package(package_folder(package)), out, data, seed)
    typer.echo(f"{written.folder}: {written.model_id}, {written.training_data}")


@app.command(name="evaluate")
def evaluate_command(
    data: DataFolder,
    package: Annotated[str, typer.Option(help="Name of a shipped model, or folder of a package.")] = "reference",
    out: Annotated[Path | None, typer.Option("--out", help="Also write FILE.json and FILE.md.")] = None,
    real: RealOption = None,
) -> None:
    """Evaluate a package on the test split of a data set (simulated images) and print the tables."""
    _evaluate(load_package(package_folder(package)), data, out, real)


def _evaluate(package: ModelPackage, data: Path, out: Path | None, real: Path | None) -> None:
    series = unlike.made_up(20) | (dict(unlike.real_series(real)) if real else {})
    figures = evaluate.evaluate(package, dataset.load(data, "test"), series)
    description = dataset.describe(data)
    splits = ", ".join(f"{part['n_series']} {split}" for split, part in description["splits"].items())
    text = report.as_markdown(
        figures,
        command="iap-train evaluate DATA --out docs/reference-model" + (" --real FOLDER" if real else ""),
        data=f"simulated breast MR of training/simulation, seed {description['seed']}; series: {splits}",
    )
    typer.echo(text)
    if out is not None:
        out.with_suffix(".md").write_text(text, encoding="utf-8")
        out.with_suffix(".json").write_text(json.dumps(figures.as_json(), indent=1) + "\n", encoding="utf-8")


@app.command(name="reference")
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
    _simulate(data, dataset.plan(recipe.preprocessing, seed=seed, n_training=series, n_held_out=held_out), processes)
    naming = reference.Naming("reference", iap_node.__version__)
    package = _fit(data, work / "run", out, naming, recipe, epochs, minutes, seed)
    _evaluate(package, data, work / "evaluation", real)
    typer.echo(f"{package.folder}: {package.model_id}, {package.training_data}")


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over a known number of series; lines of text where there is no terminal."""
    done = 0
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), console=_console, disable=not _console.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task(what, total=total)

        def advance(n_series: int) -> None:
            nonlocal done
            before, done = done, done + n_series
            progress.advance(task, n_series)
            if progress.disable and (before * 20 // total != done * 20 // total):
                typer.echo(f"{what}: {done} of {total} series", err=True)

        yield advance


@contextmanager
def _fitting_bar() -> Iterator[Callable[[fit.Progress], None]]:
    """A bar over the run's share, with epoch and loss; one line per epoch where there is no terminal."""
    epoch, losses = 0, list[float]()
    with Progress(
        TextColumn("fitting, epoch {task.fields[epoch]:.1f}, loss {task.fields[loss]:.3f}"), BarColumn(),
        TimeElapsedColumn(), TimeRemainingColumn(), console=_console, disable=not _console.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task("fitting", total=1.0, epoch=0.0, loss=float("nan"))

        def show(state: fit.Progress) -> None:
            nonlocal epoch
            losses.append(state.loss)
            mean = sum(losses[-50:]) / len(losses[-50:])
            progress.update(task, completed=state.share, epoch=state.epoch, loss=mean)
            if progress.disable and (int(state.epoch) > epoch or state.share >= 1):
                epoch = int(state.epoch)
                typer.echo(
                    f"epoch {state.epoch:.2f}, step {state.step}, {state.share:.0%} of the run, "
                    f"loss {mean:.3f}, {state.elapsed_s / 60:.1f} min",
                    err=True,
                )

        yield show


def main() -> None:
    """Entry point of `iap-train`: errors that say what to do are printed without a traceback."""
    try:
        app()
    except (NodeError, dataset.DataSetError) as error:
        typer.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
