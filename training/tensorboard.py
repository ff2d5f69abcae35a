"""Loss and learning rate of a run for TensorBoard, where a folder is named. Called by the command line.

Written by tensorboardX (extra `tensorboard`): the event files alone need no TensorBoard; who looks at them does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from iap_node.errors import ConfigError
from training.fit import Progress


@contextmanager
def logged(folder: Path | None, report: Callable[[Progress], None]) -> Iterator[Callable[[Progress], None]]:
    """`report`, and beside it event files in `folder`; `report` alone where no folder is named.

    Raises
    ------
    ConfigError
        tensorboardX is not installed.
    """
    if folder is None:
        yield report
        return
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ConfigError("--tensorboard needs tensorboardX; pip install 'iap-node[tensorboard]'") from error
    with SummaryWriter(logdir=str(folder)) as writer:

        def show(state: Progress) -> None:
            report(state)
            writer.add_scalar("loss", state.loss, state.step)
            writer.add_scalar("learning_rate", state.learning_rate, state.step)
            writer.add_scalar("epoch", state.epoch, state.step)

        yield show
