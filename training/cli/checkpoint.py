"""`iap-train import-checkpoint`: a checkpoint of the published code becomes a model package."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from training import checkpoint_import
from training.checkpoint_file import CheckpointError
from training.checkpoint_import import CheckpointLayout

commands = typer.Typer()


class ImportLayout(StrEnum):
    """Layout of a published checkpoint, named by its number of outputs."""

    AUTO = "auto"
    TEN_MATRICES = "96"
    ELEVEN_MATRICES = "97"
    REGRESSED = "47"


_LAYOUTS: dict[ImportLayout, CheckpointLayout | None] = {
    ImportLayout.AUTO: None,
    ImportLayout.TEN_MATRICES: "96",
    ImportLayout.ELEVEN_MATRICES: "97",
    ImportLayout.REGRESSED: "47",
}


@commands.command(name="import-checkpoint")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="What the published code saved: {'net': state_dict, 'epoch': n}.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the package to write.")],
    layout: Annotated[
        ImportLayout, typer.Option(help="Number of outputs; auto takes what the last layer has.")
    ] = ImportLayout.AUTO,
    name: Annotated[str, typer.Option(help="Name of the package.")] = "published",
    version: Annotated[str, typer.Option(help="Version of the package.")] = "1",
    training_data: Annotated[
        str, typer.Option(help="What the network learned from: one sentence, shown with every answer.")
    ] = checkpoint_import.TRAINING_DATA,
    vocabulary: Annotated[
        Path | None, typer.Option(help="YAML with the classes in output order, where they are not the published ones.")
    ] = None,
) -> None:
    """Make a model package of a checkpoint of the published code (arXiv 2303.04911), its pickle never executed.

    The package is not calibrated: the node shows its answers, and rests no verdict and no route on them, until
    `iap-train recalibrate DATA OUT --package FOLDER` has seen series with right headers.
    """
    try:
        classes = None if vocabulary is None else checkpoint_import.read_vocabulary(vocabulary.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read the vocabulary {vocabulary}: {error}") from error
    package = checkpoint_import.import_checkpoint(
        file,
        out,
        layout=_LAYOUTS[layout],
        name=name,
        version=version,
        training_data=training_data,
        vocabulary=classes,
    )
    found = package.manifest.provenance["imported"]["layout"]
    typer.echo(f"{package.folder}: {package.model_id}, {found} outputs, {package.training_data}")
    typer.echo(f"calibrate it: iap-train recalibrate DATA OUT --package {package.folder}")
