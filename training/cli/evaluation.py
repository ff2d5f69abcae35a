"""`iap-train evaluate`: what a package is worth on the test split of a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from iap_node.inference.package import ModelPackage, load_package, package_folder
from training import dataset, evaluate, report, unlike
from training.cli.options import DataFolder, RealOption

commands = typer.Typer()


@commands.command(name="evaluate")
def evaluate_command(
    data: DataFolder,
    package: Annotated[str, typer.Option(help="Name of a shipped model, or folder of a package.")] = "reference",
    out: Annotated[Path | None, typer.Option("--out", help="Also write FILE.json and FILE.md.")] = None,
    real: RealOption = None,
) -> None:
    """Evaluate a package on the test split of a data set (simulated images) and print the tables."""
    evaluate_and_write(load_package(package_folder(package)), data, out, real)


def evaluate_and_write(package: ModelPackage, data: Path, out: Path | None, real: Path | None) -> None:
    """Evaluate, print the tables, and write them to `out`.md and `out`.json where it is given."""
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
