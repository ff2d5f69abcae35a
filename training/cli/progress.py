"""Progress with the time left on a terminal, lines of text elsewhere. Called by the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:  # who shows a bar over series needs no torch
    from training import fit

_console = Console(stderr=True)


@contextmanager
def bar(what: str, total: int, of: str = "series") -> Iterator[Callable[[int], None]]:
    """A bar over a known number of series, or of something else; lines of text where there is no terminal."""
    done = 0
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), console=_console, disable=not _console.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task(what, total=total)

        def advance(number: int) -> None:
            nonlocal done
            before, done = done, done + number
            progress.advance(task, number)
            if progress.disable and total and (before * 20 // total != done * 20 // total):
                typer.echo(f"{what}: {done} of {total} {of}", err=True)

        yield advance


@contextmanager
def fitting_bar() -> Iterator[Callable[[fit.Progress], None]]:
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
