"""Data sets on disk: prepared slices as .npy shards, labels beside them as JSON; and those that are simulated.

A simulated shard is made by one process from seeds that depend on data-set seed, split and series number only: the
result is the same whatever the number of processes, and an interrupted run goes on where it stopped. Every
simulated series of every split is another patient. Real series come into the same form by `training.prepare`. Called
by the command line and by `training.reference`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from iap_node.dicom.parameters import CONTRAST_ABSENT, CONTRAST_NOT_NAMED, canonical_text
from iap_node.inference.preprocess import Preprocessing, prepare_series
from training.recipes import Labels

SPLITS = ("training", "temperature", "conformal", "test")
"""Fitting, temperatures, conformal quantiles and novelty thresholds, evaluation: other patients in each."""

SHARD_SERIES = 50
DESCRIPTION_FILE = "dataset.json"
SIMULATED = "simulated"
"""What a description says of the images of a simulated data set."""


class DataSetError(ValueError):
    """A data set on disk is not the one that was asked for, or is incomplete."""


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How many series, and how many slices of each: random, or evenly spaced as the node takes them."""

    n_series: int
    n_slices: int
    slice_positions: Literal["random", "even"]


@dataclass(frozen=True, slots=True)
class DataPlan:
    """What a data set consists of."""

    seed: int
    preprocessing: Preprocessing
    splits: Mapping[str, SplitPlan]

    def as_json(self) -> dict[str, Any]:
        """Plain values, as they stand in dataset.json."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain | {"images": SIMULATED}


@dataclass(frozen=True, slots=True)
class SeriesSet:
    """One split in memory.

    Attributes
    ----------
    inputs
        (n_series, n_slices, channels, size, size), 0..255, uint8 or float16.
    labels
        Canonical values by keyword, one mapping per series.
    """

    inputs: NDArray[np.generic]
    labels: tuple[Labels, ...]


def plan(
    preprocessing: Preprocessing,
    *,
    seed: int,
    n_training: int,
    n_held_out: int,
    slices: int = 4,
    held_out_slices: int = 8,
) -> DataPlan:
    """The usual plan: training series of random slices, held-out splits of evenly spaced ones.

    Temperatures need half of the series that conformal quantiles and the test need.
    """
    whole = SplitPlan(n_held_out, held_out_slices, "even")
    half = SplitPlan(max(1, n_held_out // 2), held_out_slices, "even")
    training = SplitPlan(n_training, slices, "random")
    return DataPlan(seed, preprocessing, {"training": training, "temperature": half, "conformal": whole, "test": whole})


def simulate(
    folder: Path,
    wanted: DataPlan,
    *,
    processes: int = 2,
    splits: Collection[str] = SPLITS,
    advance: Callable[[int], None] = lambda n_series: None,
) -> None:
    """Make what is missing of a data set.

    Parameters
    ----------
    splits
        Only these: calibration and evaluation need no training series.
    advance
        Called with a number of series whenever that many more are there (found or made).

    Raises
    ------
    DataSetError
        The folder holds another data set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    description = folder / DESCRIPTION_FILE
    if description.exists() and json.loads(description.read_text()) != wanted.as_json():
        raise DataSetError(f"{description} describes another data set; name an empty folder, or remove this one")
    description.write_text(json.dumps(wanted.as_json(), indent=1))
    missing = []
    for split, first, count in _shards(wanted):
        if split not in splits:
            continue
        if shard_path(folder, split, first).with_suffix(".json").exists():
            advance(count)
        else:
            missing.append((split, first, count))
    # One thread per process, said before the workers load NumPy.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=processes, mp_context=context, initializer=end_with_parent) as pool:
        running = [pool.submit(_make_shard, folder, wanted, *shard) for shard in missing]
        try:
            for done in as_completed(running):
                advance(done.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def end_with_parent() -> None:
    """End this worker when the run that started it is killed; otherwise it would simulate on for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def load(folder: Path, split: str) -> SeriesSet:
    """A whole split of a data set.

    Raises
    ------
    DataSetError
        It is not complete.
    """
    described = describe(folder)["splits"].get(split)
    if described is None:
        raise DataSetError(f"{folder} has no split {split!r}; make it with iap-train simulate")
    if int(described["n_series"]) < 1:
        raise DataSetError(f"the split {split!r} of {folder} is empty; prepare more patients, or with other shares")
    parts, labels = [], []
    # Shards of real series are not full where series were dropped: their number is told.
    n_shards = int(described.get("n_shards", -(-int(described["n_series"]) // SHARD_SERIES)))
    for first in range(0, n_shards * SHARD_SERIES, SHARD_SERIES):
        path = shard_path(folder, split, first)
        try:
            labels += json.loads(path.with_suffix(".json").read_text())
            parts.append(np.load(path, mmap_mode="r", allow_pickle=False))
        except OSError as error:
            how = "simulate" if describe(folder)["images"] == SIMULATED else "prepare"
            raise DataSetError(f"{path} is missing; finish the data set with iap-train {how}") from error
    return SeriesSet(np.concatenate(parts), tuple(labels))


def describe(folder: Path) -> dict[str, Any]:
    """What dataset.json says: seed, preparation, splits, and where the images come from.

    Raises
    ------
    DataSetError
        There is no data set in the folder.
    """
    try:
        description: dict[str, Any] = json.loads((folder / DESCRIPTION_FILE).read_text())
    except (OSError, ValueError) as error:
        raise DataSetError(f"{folder} holds no data set; make one with iap-train simulate or prepare") from error
    return description


def training_sentence(folder: Path) -> str:
    """What a model that learns from a data set says of itself, beside every answer.

    Raises
    ------
    DataSetError
        There is no data set in the folder.
    """
    images = describe(folder)["images"]
    return f"trained on {images}{' images' if images == SIMULATED else ''}"


def preprocessing_of(folder: Path) -> Preprocessing:
    """How the slices of a data set were prepared."""
    return TypeAdapter(Preprocessing).validate_python(describe(folder)["preprocessing"])


def series_seed(seed: int, split: str, number: int) -> tuple[np.random.Generator, int]:
    """Random state and patient of one series; both depend on nothing but these three."""
    sequence = np.random.SeedSequence([seed, SPLITS.index(split), number])
    patient, randomness = sequence.spawn(2)
    return np.random.default_rng(randomness), int(patient.generate_state(1, np.uint64)[0])


def canonical_labels(labels: Mapping[str, str | float]) -> dict[str, str | float]:
    """Labels of the simulator in the canonical forms of `iap_node.dicom.parameters`."""
    agent = str(labels["ContrastBolusAgent"])
    named = {"": CONTRAST_ABSENT, "UNNAMED": CONTRAST_NOT_NAMED}.get(agent, agent)
    texts = {key: canonical_text(value) or "" if isinstance(value, str) else value for key, value in labels.items()}
    return texts | {"ContrastBolusAgent": named}


def _shards(wanted: DataPlan) -> list[tuple[str, int, int]]:
    """(split, first series, number of series) of every shard."""
    return [
        (split, first, min(SHARD_SERIES, part.n_series - first))
        for split, part in wanted.splits.items()
        for first in range(0, part.n_series, SHARD_SERIES)
    ]


def shard_path(folder: Path, split: str, first: int) -> Path:
    """Where a shard's slices lie; its labels lie beside them and are written last."""
    return folder / split / f"{first:06d}.npy"


def _make_shard(folder: Path, wanted: DataPlan, split: str, first: int, count: int) -> int:
    """Simulate, prepare and store one shard; the label file comes last and says that it is complete."""
    from training.simulation import simulate_series  # here: a data set is read without the simulator

    part = wanted.splits[split]
    prepared, labels = [], []
    for number in range(first, first + count):
        rng, patient = series_seed(wanted.seed, split, number)
        series = simulate_series(rng, part.n_slices, phantom_seed=patient, slice_positions=part.slice_positions)
        prepared.append(full(prepare_series(list(series.pixels), wanted.preprocessing), part.n_slices))
        labels.append(canonical_labels(series.labels))
    write_shard(shard_path(folder, split, first), np.stack(prepared), labels, wanted.preprocessing)
    return count


def write_shard(
    path: Path, prepared: NDArray[np.float32], labels: Sequence[Labels], preprocessing: Preprocessing
) -> None:
    """Store series (n_series, n_slices, channels, size, size); their labels come last and say that it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, prepared.astype(np.uint8 if preprocessing.rounded else np.float16))
    partial.replace(path)
    partial.write_text(json.dumps([dict(one) for one in labels]))
    partial.replace(path.with_suffix(".json"))


def full(prepared: NDArray[np.float32], n_slices: int) -> NDArray[np.float32]:
    """Exactly `n_slices`: a volume with fewer repeats its own."""
    return prepared[np.arange(n_slices) % len(prepared)]
