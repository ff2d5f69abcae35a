"""`iap-train evaluate`: what a package is worth on the test split of a data set, and two recipes side by side."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from iap_node.inference.package import ModelPackage, load_package, package_folder
from training import compare as comparing
from training import dataset, evaluate, recipes, reference, report, report_html, unlike
from training.cli.fitting import fit_to_package
from training.cli.options import (
    SEED,
    DataFolder,
    EpochsOption,
    LayoutName,
    LayoutOption,
    RealOption,
    RecipeName,
    SeedOption,
    recipe_named,
)
from training.cli.simulate import simulate_into
from training.dataset import DataSetError
from training.figures import Evaluation
from training.intervals import patients_of

commands = typer.Typer()

MADE_UP_SERIES = 20


@commands.command(name="evaluate")
def evaluate_command(
    data: DataFolder,
    package: Annotated[str, typer.Option(help="Name of a shipped model, or folder of a package.")] = "reference",
    out: Annotated[Path | None, typer.Option("--out", help="Also write FILE.json, FILE.md and FILE.html.")] = None,
    real: RealOption = None,
    compare: Annotated[
        RecipeName | None,
        typer.Option(
            help="Instead: train this recipe and the data set's own, on the same series, and set them beside."
        ),
    ] = None,
    compared_data: Annotated[
        Path | None,
        typer.Option(help="The same series prepared for the other recipe; simulated ones are made where it is absent."),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Where both recipes are trained, and resumed; with --compare.")
    ] = None,
    layout: LayoutOption = LayoutName.ALL_CLASSES,
    epochs: EpochsOption = None,
    seed: SeedOption = SEED,
) -> None:
    """Evaluate a package on the test split of a data set: tables here, with --out also a page with plots.

    `--compare paper` trains both recipes on the same series, the same number of images each, and sets their figures
    beside each other.
    """
    if compare is None:
        evaluate_and_write(load_package(package_folder(package)), data, out, real)
        return
    if work is None:
        raise DataSetError("--compare trains: say where with --work FOLDER")
    own, other = recipes.REFERENCE, recipe_named(compare, layout)
    if other is own:
        raise DataSetError("--compare names the recipe that DATA is prepared for; name the other one")
    other_data = _compared_data(data, compared_data or work / f"data-{other.name}", other, compared_data is None)
    n_images = _n_images(data)
    both = math.lcm(*(min(recipe.batch_size, n_images) for recipe in (own, other)))
    images_seen = max(1, (epochs or own.epochs) * n_images // both) * both
    sides = [
        _trained(recipe, folder, work / recipe.name, images_seen, seed)
        for recipe, folder in ((own, data), (other, other_data))
    ]
    table = comparing.side_by_side(*sides)
    text = report.table_as_markdown(table)
    typer.echo(text)
    if out is not None:
        _write(out, ".md", text)
        _write(out, ".json", _json(comparing.as_json(*sides)))


def _compared_data(data: Path, folder: Path, recipe: recipes.Recipe, may_simulate: bool) -> Path:
    """The same series, prepared for another recipe."""
    description = dataset.describe(data)
    if may_simulate and description["images"] == dataset.SIMULATED:
        splits = {name: dataset.SplitPlan(**part) for name, part in description["splits"].items()}
        plan = dataset.DataPlan(int(description["seed"]), recipe.preprocessing, splits)
        simulate_into(folder, plan, processes=2)
    for split in dataset.SPLITS:
        if dataset.load(folder, split).labels != dataset.load(data, split).labels:
            raise DataSetError(f"{folder} and {data} hold different series in the split {split!r}; prepare both alike")
    return folder


def _n_images(data: Path) -> int:
    part = dataset.describe(data)["splits"]["training"]
    return int(part["n_series"]) * int(part["n_slices"])


def _trained(recipe: recipes.Recipe, data: Path, run: Path, images_seen: int, seed: int) -> comparing.Side:
    naming = reference.Naming(recipe.name, "compared")
    package = fit_to_package(data, run, run / "package", naming, recipe, None, None, seed, images_seen=images_seen)
    seen = int(package.manifest.provenance["steps"]) * min(recipe.batch_size, _n_images(data))
    figures = _evaluated(package, data, ())
    return comparing.Side(recipe.name, seen, float(package.manifest.provenance["minutes"]), figures)


def _evaluated(package: ModelPackage, data: Path, kinds: tuple[unlike.Kind, ...]) -> Evaluation:
    return evaluate.evaluate(
        package,
        dataset.load(data, "test"),
        kinds,
        images=str(dataset.describe(data)["images"]),
        patients=patients_of(data, "test"),
    )


def evaluate_and_write(package: ModelPackage, data: Path, out: Path | None, real: Path | None) -> None:
    """Evaluate, print the tables, and write `out`.md, `out`.json and `out`.html where it is given.

    Raises
    ------
    DataSetError
        The data set is incomplete, or was not prepared for the package's network.
    """
    if dataset.preprocessing_of(data) != package.manifest.preprocessing:
        raise DataSetError(f"{data} was not prepared as {package.model_id} needs it; make a data set for its recipe")
    kinds = [*unlike.made_up(MADE_UP_SERIES), unlike.ct_images()]
    kinds += [unlike.real_series(real)] if real else []
    figures = _evaluated(package, data, tuple(kinds))
    command = "iap-train evaluate DATA --out FILE" + (" --real FOLDER" if real else "")
    described = report.described(dataset.describe(data))
    text = report.as_markdown(figures, command, described)
    typer.echo(text)
    if out is not None:
        _write(out, ".md", text)
        _write(out, ".json", _json(figures.as_json()))
        _write(out, ".html", report_html.as_html(figures, command, described))


def _write(out: Path, suffix: str, text: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_name(out.name + suffix).write_text(text, encoding="utf-8")


def _json(plain: dict[str, Any]) -> str:
    return json.dumps(plain, indent=1) + "\n"
