"""Several processes that fit one network, as `torchrun` starts them: who is first, and how gradients become one.

The first process writes what is written. Called by `training.fit` and the command line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

LONGEST_WAIT = timedelta(hours=24)
"""Others wait for the first while it calibrates and writes the package."""


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of one run."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process reports and writes."""
        return self.rank == 0

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same in each."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def of_first(self, value: float, device: torch.device) -> float:
        """What the first process says, in all of them."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=device)
        dist.broadcast(shared, src=0)
        return float(shared[0])

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter], loss: float) -> float:
        """Add up gradients, and a loss, over all processes in one exchange; a process without a gradient adds zeros."""
        if self.size == 1:
            return loss
        device = parameters[0].device
        parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        flat = torch.cat([*(part.reshape(-1) for part in parts), torch.tensor([loss], device=device)])
        self.summed(flat)
        place = 0
        for one in parameters:
            one.grad = flat[place : place + one.numel()].view_as(one).clone()
            place += one.numel()
        return float(flat[-1])


def current() -> Group:
    """The group that this process is in; alone where none was joined."""
    if not (dist.is_available() and dist.is_initialized()):
        return Group()
    return Group(dist.get_rank(), dist.get_world_size())


@contextmanager
def joined() -> Iterator[Group]:
    """Join the group that `torchrun` made, where it did; leave it at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield Group()
        return
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_cuda else "gloo", timeout=LONGEST_WAIT)
    try:
        yield current()
    finally:
        dist.destroy_process_group()
