"""Fitting the network by a recipe: losses, schedule, averaged weights, checkpoints that a killed run resumes
from.

Order of the batches and jitter depend on (seed, epoch) and (seed, step) only, so that a resumed run ends with
the weights of an uninterrupted one. Under `torchrun` every process fits its part of each batch: n processes of one part
end with the weights of one process of n parts, to the rounding of a sum. Called by the command line and by
`training.reference`.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from iap_node.inference.engines.on_torch import channels_last
from iap_node.inference.heads import Head, n_outputs
from iap_node.inference.network import ResNet18
from iap_node.inference.preprocess import Preprocessing
from iap_node.records import ParameterKind
from training import processes
from training.dataset import SeriesSet
from training.losses import HeadLosses, class_weights, distances_of, weight_bias
from training.recipes import Recipe, encode_targets

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_STEPS = 200


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is: for progress bars and logs."""

    step: int
    n_steps: int
    epoch: float
    share: float  # of the run, 0..1
    loss: float
    elapsed_s: float
    learning_rate: float = 0.0


@dataclass(frozen=True, slots=True)
class FittedNetwork:
    """Weights of a finished run and what it took."""

    weights: dict[str, NDArray[Any]]
    steps: int
    epochs: float
    elapsed_s: float
    device: str


def fit(
    recipe: Recipe,
    heads: Sequence[Head],
    training: SeriesSet,
    folder: Path,
    *,
    seed: int = 0,
    epochs: int | None = None,
    images_seen: int | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    start: Mapping[str, NDArray[Any]] | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    checkpoint_steps: int = CHECKPOINT_STEPS,
) -> FittedNetwork:
    """Train, or go on training, the network of a recipe.

    Parameters
    ----------
    folder
        Holds the checkpoint; a run that was killed goes on from it.
    epochs
        Instead of the recipe's.
    images_seen
        Instead of epochs: how many images the network is shown, to the nearest batch.
    minutes
        Ends the run, schedule included, after this time if the epochs have not ended it before. The result
        then depends on the machine; without it, on a CPU, on the seed alone.
    start
        Weights that the network begins with, all of them; None: random ones.

    Raises
    ------
    ValueError
        The checkpoint in `folder` belongs to another run, or there are more processes than images in a batch.
    """
    group = processes.current()
    torch.manual_seed(seed)
    inputs = training.inputs.reshape(-1, *training.inputs.shape[2:])
    n_slices = training.inputs.shape[1]
    encoded = encode_targets(heads, training.labels)
    targets = torch.from_numpy(encoded).repeat_interleave(n_slices, dim=0)
    length = _Length(len(inputs), epochs or recipe.epochs, images_seen, minutes)
    run = _Run(recipe, heads, seed, length, encoded, torch.device(device), group)
    if start is not None:
        run.begin_with(start)
    checkpoint = folder / CHECKPOINT
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        run.resume(torch.load(checkpoint, map_location=device, weights_only=True))
    while not run.finished:
        chosen = run.batch()
        images = torch.from_numpy(inputs[chosen].astype(np.float32, copy=False))
        loss = run.advance(images, targets[chosen])
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {run.step}; lower the recipe's learning rate")
        if group.is_first and (run.step % checkpoint_steps == 0 or run.finished):
            partial = checkpoint.with_suffix(".partial")
            torch.save(run.state(), partial)
            partial.replace(checkpoint)
        report(run.progress(loss))
    group.wait()
    return FittedNetwork(run.final_weights(), run.step, run.step / run.steps_per_epoch, run.elapsed_s, device)


@dataclass(frozen=True, slots=True)
class _Length:
    """How many images there are, and how long they are shown."""

    n_images: int
    epochs: int
    images_seen: int | None
    minutes: float | None

    def n_steps(self, batch_size: int, steps_per_epoch: int) -> int:
        if self.images_seen is None:
            return self.epochs * steps_per_epoch
        return max(1, round(self.images_seen / batch_size))


class _Run:
    """Everything that changes while a network is fitted."""

    def __init__(
        self,
        recipe: Recipe,
        heads: Sequence[Head],
        seed: int,
        length: _Length,
        targets: NDArray[np.float32],
        device: torch.device,
        group: processes.Group,
    ) -> None:
        self._recipe, self._seed, self._device, self._group = recipe, seed, device, group
        self._n_images = length.n_images
        self._batch_size = min(recipe.batch_size, length.n_images)
        self.steps_per_epoch = max(1, length.n_images // self._batch_size)
        self._n_steps = length.n_steps(self._batch_size, self.steps_per_epoch)
        self._budget_s = math.inf if length.minutes is None else length.minutes * 60
        self._identity = f"{recipe} {tuple(heads)} seed={seed} {length}"
        known = [head for head in heads if head.kind is ParameterKind.CATEGORICAL]
        columns = {head.keyword: targets[:, column] for column, head in enumerate(heads)}
        distances = {
            head.keyword: steps
            for head in known
            if head.keyword in dict(recipe.ordinal)
            and (steps := distances_of(head, dict(recipe.ordinal)[head.keyword])) is not None
        }
        weights = {
            head.keyword: class_weights(head, columns[head.keyword], recipe.rare_classes)
            for head in known
            if recipe.rare_classes > 0
        }
        self._weight_bias = torch.from_numpy(weight_bias(heads, weights))
        self._network = ResNet18(len(recipe.preprocessing.channels), n_outputs(heads), recipe.width).to(device)
        channels_last(self._network)
        self._losses = HeadLosses(heads, recipe.loss == "uncertainty", distances, weights).to(device)
        self._optimiser = _optimiser(recipe, self._network, self._losses)
        self._average = {name: value.detach().clone() for name, value in self._network.state_dict().items()}
        # Threads of our own: torch's wait for each other in busy loops, and crawl on a machine that others use.
        n_parts = recipe.parts if device.type == "cpu" and group.size == 1 else 1
        if group.size * n_parts > self._batch_size:
            raise ValueError(f"{group.size} processes for batches of {self._batch_size} images; start fewer")
        self._replicas = [(self._network, self._losses)]
        self._replicas += [_sharing(self._network, self._losses) for _ in range(1, n_parts)]
        self._pool = ThreadPoolExecutor(n_parts) if n_parts > 1 else None
        self._order: tuple[int, NDArray[np.intp]] = (-1, np.zeros(0, np.intp))
        self.step = 0
        self._before_s, self._started, self._agreed_s = 0.0, time.monotonic(), 0.0

    def begin_with(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Begin with these weights; a checkpoint of a run that began otherwise is another run's."""
        digest = hashlib.sha256()
        for name in sorted(weights):
            digest.update(name.encode() + np.ascontiguousarray(weights[name]).tobytes())
        self._identity += f" start={digest.hexdigest()}"
        self._network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        with torch.no_grad():  # as `final_weights` took it out
            self._network.fc.bias.add_(self._weight_bias.to(self._device))
        for name, value in self._network.state_dict().items():
            self._average[name].copy_(value)

    @property
    def elapsed_s(self) -> float:
        """Time spent fitting, earlier starts included; what the first of several processes says."""
        return self._agreed_s if self._group.size > 1 else self._own_elapsed_s

    @property
    def _own_elapsed_s(self) -> float:
        return self._before_s + time.monotonic() - self._started

    @property
    def share(self) -> float:
        """How much of the run is done, 0..1, by steps or by time, whichever is further."""
        return min(1.0, max(self.step / self._n_steps, self.elapsed_s / self._budget_s))

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.share >= 1.0

    def batch(self) -> NDArray[np.intp]:
        """Which images come next."""
        epoch, position = divmod(self.step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self._seed, epoch]).permutation(self._n_images))
        return self._order[1][position * self._batch_size : (position + 1) * self._batch_size]

    def advance(self, images: Tensor, targets: Tensor) -> float:
        """One optimiser step; returns the loss."""
        rate = self._recipe.learning_rate * _rate_factor(self._recipe, self.share)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        varied = varied_images(images, self._recipe, [self._seed, self.step])
        batch = _standardised(varied, self._recipe.preprocessing).to(self._device)
        n_parts = len(self._replicas) * self._group.size
        mine = slice(self._group.rank * len(self._replicas), (self._group.rank + 1) * len(self._replicas))
        parts = list(zip(self._replicas, batch.chunk(n_parts)[mine], targets.chunk(n_parts)[mine], strict=False))
        if self._pool is None:
            losses = [self._backward(*part) for part in parts]
        else:
            losses = list(self._pool.map(lambda part: self._backward(*part), parts))
        loss = self._gather_gradients(len(parts), sum(losses) / max(1, len(losses)))
        self._optimiser.step()
        self.step += 1
        self._update_average()
        self._agreed_s = self._group.of_first(self._own_elapsed_s, self._device)
        return loss

    def _backward(self, replica: tuple[ResNet18, HeadLosses], images: Tensor, targets: Tensor) -> float:
        """Gradients of one part of the batch, on the calling thread."""
        network, head_losses = replica
        if self._pool is not None:
            torch.set_num_threads(1)
        network.train()
        network.zero_grad(set_to_none=True)
        head_losses.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._recipe.bfloat16):
            outputs, _ = network(images.contiguous(memory_format=torch.channels_last))
        loss: Tensor = head_losses(outputs.float(), targets.to(self._device))
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _gather_gradients(self, n_parts: int, loss: float) -> float:
        """Mean gradient of the parts, summed in a fixed order, on the first replica; the mean loss."""
        if n_parts > 1:
            for shared in zip(*(_parameters_of(replica) for replica in self._replicas[:n_parts]), strict=True):
                gradients = [parameter.grad for parameter in shared if parameter.grad is not None]
                if gradients:
                    shared[0].grad = torch.stack(gradients).sum(dim=0) / n_parts
        if self._group.size == 1:
            return loss
        parameters = [one for one in _parameters_of(self._replicas[0]) if one.requires_grad]
        total = self._group.sum_gradients(parameters, loss)
        for one in parameters:
            assert one.grad is not None
            one.grad /= self._group.size
        return total / self._group.size

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self._recipe.average_decay, (1 + self.step) / (10 + self.step))
        for name, value in self._network.state_dict().items():
            mine = self._average[name]
            if value.is_floating_point() and self._recipe.average_decay > 0:
                mine.lerp_(value, 1 - decay)
            else:
                mine.copy_(value)

    def progress(self, loss: float) -> Progress:
        """Where the run is."""
        epoch = self.step / self.steps_per_epoch
        rate = float(self._optimiser.param_groups[0]["lr"])
        return Progress(self.step, self._n_steps, epoch, self.share, loss, self.elapsed_s, rate)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors and plain values."""
        return {
            "identity": self._identity,
            "step": self.step,
            "elapsed_s": self._own_elapsed_s,
            "network": self._network.state_dict(),
            "losses": self._losses.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "average": self._average,
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        if state["identity"] != self._identity:
            raise ValueError("the checkpoint belongs to another run; name an empty folder, or remove the checkpoint")
        self._network.load_state_dict(state["network"])
        self._losses.load_state_dict(state["losses"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._average = {name: value.clone() for name, value in state["average"].items()}
        self.step, self._before_s = int(state["step"]), float(state["elapsed_s"])
        self._agreed_s = self._before_s

    def final_weights(self) -> dict[str, NDArray[Any]]:
        """The averaged weights as arrays, parameter names of torchvision; what class weights did to the last layer's
        bias is taken out."""
        weights = {name: value.cpu().contiguous().numpy() for name, value in self._average.items()}
        return weights | {"fc.bias": weights["fc.bias"] - self._weight_bias.numpy()}


def _sharing(network: ResNet18, losses: HeadLosses) -> tuple[ResNet18, HeadLosses]:
    """A replica with the same parameters in memory, gradients and normalisation statistics of its own."""
    copies = copy.deepcopy(network), copy.deepcopy(losses)
    for mine, original in zip(_parameters_of(copies), _parameters_of((network, losses)), strict=True):
        mine.data = original.data
    return copies


def _parameters_of(replica: tuple[ResNet18, HeadLosses]) -> list[nn.Parameter]:
    return [*replica[0].parameters(), *replica[1].parameters()]


def _optimiser(recipe: Recipe, network: nn.Module, losses: nn.Module) -> torch.optim.Optimizer:
    """Weight decay on everything in Adam, as published; on matrices only in AdamW."""
    if recipe.optimiser == "Adam":
        return torch.optim.Adam(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1] + list(losses.parameters())
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        recipe.learning_rate,
    )


def _rate_factor(recipe: Recipe, share: float) -> float:
    if recipe.schedule == "constant":
        return 1.0
    if share < recipe.warm_up:
        return 0.05 + 0.95 * share / recipe.warm_up
    return 0.5 * (1 + math.cos(math.pi * (share - recipe.warm_up) / (1 - recipe.warm_up)))


def varied_images(images: Tensor, recipe: Recipe, seed: Sequence[int]) -> Tensor:
    """Prepared slices (n, channels, size, size) as another exposure of the same series would have them.

    The image channel gets another gain and exponent (another brightest pixel or window) and is shifted, edges
    repeated; the spectrum channel gets noise. Nothing moves in k-space.
    """
    rng = np.random.default_rng([*seed, 1])
    varied = images.clone()
    if "image" in recipe.preprocessing.channels:
        channel = recipe.preprocessing.channels.index("image")
        if recipe.intensity_jitter > 0:
            shape = (len(images), 1, 1)
            gain = rng.uniform(1 - recipe.intensity_jitter, 1.0, shape).astype(np.float32)
            exponent = np.exp(rng.uniform(-1, 1, shape) * recipe.intensity_jitter).astype(np.float32)
            powered = (images[:, channel] / 255.0) ** torch.from_numpy(exponent)
            varied[:, channel] = 255.0 * torch.from_numpy(gain) * powered
        if recipe.position_jitter > 0:
            size, reach = images.shape[-1], recipe.position_jitter
            shifts = rng.integers(-reach, reach + 1, (2, len(images), 1))
            rows, columns = torch.from_numpy(np.clip(np.arange(size) + shifts, 0, size - 1))
            each = torch.arange(len(images))[:, None, None]
            varied[:, channel] = varied[each, channel, rows[:, :, None], columns[:, None, :]]
    if "spectrum" in recipe.preprocessing.channels and recipe.spectrum_noise > 0:
        channel = recipe.preprocessing.channels.index("spectrum")
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        varied[:, channel] += recipe.spectrum_noise * torch.randn(images[:, channel].shape, generator=generator)
    return varied


def _standardised(images: Tensor, spec: Preprocessing) -> Tensor:
    offset = torch.tensor(spec.offset).view(1, -1, 1, 1)
    scale = torch.tensor(spec.scale).view(1, -1, 1, 1)
    return (images - offset) / scale
