"""`iap-train analyze` and `crossvalidate`: what stands in a data set, and what can be learned from a small one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from training import analysis_report, analyze, crossvalidate, dataset
from training.cli.options import SEED, DataFolder, LayoutName, RecipeName, RecipeOption, SeedOption, recipe_named
from training.cli.progress import bar

commands = typer.Typer()


@commands.command(name="analyze")
def analyze_command(
    data: Annotated[Path, typer.Argument(help="Folder of a data set, simulated or prepared, or a manifest.parquet.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for labels.md, labels.json and labels.html.")],
) -> None:
    """Distributions of the labels, correlations, what the splits share, and what the commonest label reaches."""
    found = analyze.analyze(*analyze.read_labelled(data))
    out.mkdir(parents=True, exist_ok=True)
    (out / "labels.md").write_text(analysis_report.as_markdown(found), encoding="utf-8")
    (out / "labels.json").write_text(json.dumps(found.as_json(), indent=1) + "\n", encoding="utf-8")
    (out / "labels.html").write_text(analysis_report.as_html(found), encoding="utf-8")
    n_series, n_patients = sum(found.n_series.values()), sum(found.n_patients.values())
    typer.echo(f"{n_series} series of {n_patients} patients, {found.images}: {out / 'labels.html'}, .md and .json")


@commands.command(name="crossvalidate")
def crossvalidate_command(
    data: DataFolder,
    recipe: RecipeOption = RecipeName.SMALL,
    apart: Annotated[
        list[crossvalidate.Apart] | None, typer.Option(help="What is left out together; repeatable. Default: both.")
    ] = None,
    parameter: Annotated[list[str] | None, typer.Option(help="To learn, as classes; repeatable.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="At most so many networks for each of the two.")] = 8,
    seed: SeedOption = SEED,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict every series of a small data set by a network fitted without it, beside the commonest label."""
    chosen = recipe_named(recipe, LayoutName.ALL_CLASSES)
    if dataset.preprocessing_of(data) != chosen.preprocessing:
        raise dataset.DataSetError(f"{data} was not prepared for recipe {chosen.name}; run iap-train prepare --recipe")
    series, patients = crossvalidate.whole(data)
    found = {}
    for which in apart or list(crossvalidate.Apart):
        with bar(f"{which} apart", len(patients)) as done:
            found[which] = crossvalidate.of_vendors(
                series,
                patients,
                which,
                chosen,
                parameter or crossvalidate.PROOF,
                n_folds=folds,
                seed=seed,
                done=done,
            )
    if as_json:
        typer.echo(json.dumps({str(which): crossvalidate.as_json(scores) for which, scores in found.items()}, indent=1))
    else:
        typer.echo(f"Trained and judged on {dataset.describe(data)['images']}\n")
        typer.echo("\n\n".join(crossvalidate.as_markdown(scores, str(which)) for which, scores in found.items()))
