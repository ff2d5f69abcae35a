"""A data set of real series, in the form that `training.dataset` reads: labels from headers, slices prepared, and a
manifest that says what became of every series.

Series are dealt to their split's next shard as their source names them; a process reads the headers and pixels of one
shard at a time. A run that was killed goes on where it stopped: a shard is made again only where what it is made of
changed. Called by `iap-train prepare` and by retraining.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from iap_node.dicom.file_slice import InstanceFile
from iap_node.dicom.header import read_header_dataset, read_series_header
from iap_node.dicom.parameters import ALL_PARAMETERS
from iap_node.dicom.part10 import read_instance_header
from iap_node.dicom.pixels import read_series_slices
from iap_node.dicom.sop_classes import why_not_analysed
from iap_node.errors import UnreadableInstance
from iap_node.inference.preprocess import Preprocessing, prepare_series
from iap_node.records import SeriesHeader
from training import dataset
from training.dataset import DESCRIPTION_FILE, SHARD_SERIES, SPLITS, DataSetError, SplitPlan, full, shard_path
from training.manifest import (
    SHARES,
    ManifestRow,
    Shares,
    as_json,
    check_shares,
    from_json,
    manifest_hash,
    split_of,
    write_manifest,
)
from training.recipes import Labels
from training.sources.series import Source, SourceSeries

SUMMARY_FILE = "summary.json"
_BEGUN_FILE = "preparing.json"
_LEAST = (
    ("training", 1, "fitting"),
    ("temperature", 20, "temperatures that are more than a guess"),
    ("conformal", 19, "conformal sets at alpha 0.05"),  # 1 / 0.05 - 1: below, no quantile exists
    ("test", 20, "figures that say something"),
)
_SERIES_OF_A_BATCH = 500  # dropped ones included: what the parent holds of each split


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """How a source becomes a data set.

    Attributes
    ----------
    shares
        Of the patients, by split.
    training_slices, held_out_slices
        Evenly spaced slices of each series, as the node takes them; a series with fewer repeats its own.
    processes
        How many read and prepare at once.
    max_pixels_per_slice, max_bytes_per_instance
        As in config.yaml: what claims to be larger is not read.
    """

    shares: Shares = field(default_factory=lambda: dict(SHARES))
    training_slices: int = 8
    held_out_slices: int = 8
    processes: int = 2
    max_pixels_per_slice: int = 4096 * 4096
    max_bytes_per_instance: int = 512 * 1024**2

    def n_slices(self, split: str) -> int:
        """Slices of each series of a split."""
        return self.training_slices if split == "training" else self.held_out_slices


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of the series of a source.

    Attributes
    ----------
    images
        Where the images come from.
    series, patients
        In the data set, by split.
    dropped
        Series that are not in it, by reason, the commonest first.
    labels
        Series in the data set with a label, by keyword.
    left_out
        Values that are no label because of an open finding: (keyword, check, number of series).
    manifest_sha256
        `training.manifest.manifest_hash`.
    """

    images: str
    series: Mapping[str, int]
    patients: Mapping[str, int]
    dropped: Mapping[str, int]
    labels: Mapping[str, int]
    left_out: tuple[tuple[str, str, int], ...]
    manifest_sha256: str

    @property
    def n_series(self) -> int:
        """Series in the data set."""
        return sum(self.series.values())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know before a model is fitted on this."""
        found = []
        for split, least, why in _LEAST:
            if self.series[split] < least:
                found.append(f"{split}: {self.series[split]} series, and {why} need{'s' * (least == 1)} {least}")
        return tuple(found)

    @property
    def n_dropped(self) -> int:
        """Series that are not in it."""
        return sum(self.dropped.values())

    def as_json(self) -> dict[str, Any]:
        """Plain values, as they stand in summary.json."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def prepare(
    source: Source,
    out: Path,
    preprocessing: Preprocessing,
    options: PrepareOptions | None = None,
    advance: Callable[[int], None] = lambda n_series: None,
) -> Summary:
    """Make a data set from a source, or go on with one that was begun, or bring it up to date with its source.

    Parameters
    ----------
    out
        Becomes the data set's folder: shards and labels by split, `dataset.json`, `manifest.parquet`, `summary.json`.
        While the work goes on there is no `dataset.json`, so that nobody trains on a part.
    advance
        Called with a number of series whenever that many more are done, or were found done.

    Raises
    ------
    DataSetError
        The folder holds another data set, or the source has nothing to learn from.
    OSError
        A file cannot be read; running again goes on.
    """
    options = options or PrepareOptions()
    check_shares(options.shares)
    out.mkdir(parents=True, exist_ok=True)
    _begin(out, source, preprocessing, options)
    n_shards = _make_shards(source, out, preprocessing, options, advance)
    tally = _Tally()
    write_manifest(out, tally.over(_rows(out, n_shards)))
    summary = tally.summary(source.images, manifest_hash(out))
    if not summary.n_series:
        why = "; ".join(f"{reason} ({number})" for reason, number in list(summary.dropped.items())[:3])
        raise DataSetError(f"none of {summary.n_dropped} series can be learned from: {why}")
    _write(out / SUMMARY_FILE, summary.as_json())
    _write(
        out / DESCRIPTION_FILE,
        {
            "seed": 0,  # nothing is random
            "preprocessing": asdict(preprocessing),
            "splits": {
                split: asdict(SplitPlan(summary.series[split], options.n_slices(split), "even"))
                | {"n_patients": summary.patients[split], "n_shards": n_shards[split]}
                for split in SPLITS
            },
            "shares": dict(options.shares),
            "images": f"{source.images} ({summary.series['training']} series of "
            f"{summary.patients['training']} patients)",
            "manifest_sha256": summary.manifest_sha256,
        },
    )
    return summary


def _begin(out: Path, source: Source, preprocessing: Preprocessing, options: PrepareOptions) -> None:
    """Say what the folder is to hold; nothing in it is a data set until that is there."""
    wanted = {
        "source": source.identity,
        "preprocessing": asdict(preprocessing),
        "shares": dict(options.shares),
        "slices": {split: options.n_slices(split) for split in SPLITS},
    }
    wanted = json.loads(json.dumps(wanted))
    begun = out / _BEGUN_FILE
    try:
        standing = json.loads(begun.read_text())
    except FileNotFoundError:
        standing = wanted if not (out / DESCRIPTION_FILE).exists() else None
    if standing != wanted:
        raise DataSetError(f"{out} holds another data set, or the same prepared otherwise; name an empty folder")
    _write(begun, wanted)
    (out / DESCRIPTION_FILE).unlink(missing_ok=True)


def _make_shards(
    source: Source, out: Path, preprocessing: Preprocessing, options: PrepareOptions, advance: Callable[[int], None]
) -> dict[str, int]:
    """Make what is missing; how many shards each split has."""
    n_shards = dict.fromkeys(SPLITS, 0)
    missing = _missing_shards(source, out, options.shares, n_shards, advance)
    if options.processes == 1:
        for shard in missing:
            advance(_make_shard(*shard, preprocessing, options))
        return n_shards
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # before the workers load NumPy
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("spawn")
    running: set[Future[int]] = set()
    pool = ProcessPoolExecutor(options.processes, mp_context=context, initializer=dataset.end_with_parent)
    try:
        for shard in missing:
            running.add(pool.submit(_make_shard, *shard, preprocessing, options))
            if len(running) > 2 * options.processes:  # what waits is held in memory
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    advance(one.result())
        for one in running:
            advance(one.result())
    finally:
        pool.shutdown(cancel_futures=True)
    return n_shards


def _missing_shards(
    source: Source, out: Path, shares: Shares, n_shards: dict[str, int], advance: Callable[[int], None]
) -> Iterator[tuple[Path, str, list[SourceSeries]]]:
    """What is to be made; counts the shards of each split as it goes."""
    for split, batch in _batches(source, shares):
        path = shard_path(out, split, n_shards[split] * SHARD_SERIES)
        n_shards[split] += 1
        if _is_made(path, batch):
            advance(len(batch))
        else:
            yield path, split, batch


def _batches(source: Source, shares: Shares) -> Iterator[tuple[str, list[SourceSeries]]]:
    """The series of each split in the order of the source, as many as a shard takes, with those dropped between."""
    open_ones: dict[str, list[SourceSeries]] = {split: [] for split in SPLITS}
    wanted = dict.fromkeys(SPLITS, 0)
    for one in source.series():
        split = split_of(one.patient, shares)
        open_ones[split].append(one)
        wanted[split] += one.dropped_reason is None
        if wanted[split] == SHARD_SERIES or len(open_ones[split]) == _SERIES_OF_A_BATCH:
            yield split, open_ones[split]
            open_ones[split], wanted[split] = [], 0
    for split in SPLITS:
        if open_ones[split]:
            yield split, open_ones[split]


# ---------------------------------------------------------------- shards


def _digest(batch: Sequence[SourceSeries]) -> str:
    """What a shard is made of, as far as its source tells."""
    told = [
        [
            one.study_instance_uid, one.series_instance_uid, one.patient, [str(file) for file in one.files],
            one.reference, sorted(one.left_out.items()), one.dropped_reason,
        ]
        for one in batch
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _rows_path(shard: Path) -> Path:
    return shard.with_suffix(".rows.json")


def _is_made(path: Path, batch: Sequence[SourceSeries]) -> bool:
    if not path.with_suffix(".json").exists():
        return False
    made: dict[str, Any] = json.loads(_rows_path(path).read_text())
    return bool(made["made_of"] == _digest(batch))


def _make_shard(
    path: Path, split: str, batch: Sequence[SourceSeries], preprocessing: Preprocessing, options: PrepareOptions
) -> int:
    """Read, prepare and store one shard; the label file comes last and says that it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)
    n_slices = options.n_slices(split)
    prepared, labels, rows = [], [], []
    for one in batch:
        row, images = _read(one, split, n_slices, preprocessing, options)
        rows.append(as_json(row))
        if images is not None:
            prepared.append(full(images, n_slices))
            labels.append(row.labels)
    shape = (0, n_slices, len(preprocessing.channels), preprocessing.size, preprocessing.size)
    _write(_rows_path(path), {"made_of": _digest(batch), "rows": rows})
    images = np.stack(prepared) if prepared else np.zeros(shape, np.float32)
    dataset.write_shard(path, images, labels, preprocessing)
    return len(batch)


def _read(
    one: SourceSeries, split: str, n_slices: int, preprocessing: Preprocessing, options: PrepareOptions
) -> tuple[ManifestRow, NDArray[np.float32] | None]:
    """Labels and slices of one series; no slices where it is dropped."""

    def row(labels: Labels, n_available: int, digest: str, dropped: str | None) -> ManifestRow:
        left_out = {} if header is None else {
            keyword: check
            for keyword, check in sorted(one.left_out.items())
            if header.value(keyword).canonical is not None
        }  # fmt: skip
        return ManifestRow(
            one.study_instance_uid, one.series_instance_uid, one.patient, split, labels, left_out, one.reference,
            n_available, digest, dropped,
        )  # fmt: skip

    header: SeriesHeader | None = None
    nothing: Labels = {parameter.keyword: None for parameter in ALL_PARAMETERS}
    if one.dropped_reason is not None:
        return row(nothing, 0, "", one.dropped_reason), None
    files, datasets, problems = _images_of(one.files)
    if not files:
        why = Counter(problems).most_common(1)
        return row(nothing, 0, "", why[0][0] if why else "it has no instances"), None
    header = read_series_header(datasets)
    labels = labels_of(header, one.left_out)
    digest = header_digest(header)
    pixels = read_series_slices(
        files,
        max_slices=n_slices,
        max_pixels_per_slice=options.max_pixels_per_slice,
        max_bytes_per_instance=options.max_bytes_per_instance,
    )
    if not pixels.slices:
        why = Counter(reason for _, reason in pixels.problems).most_common(1)
        reason = f"no pixels could be read: {why[0][0]}" if why else "it has no pixels"
        return row(labels, 0, digest, reason), None
    return row(labels, pixels.n_available, digest, None), prepare_series(pixels.slices, preprocessing)


def _images_of(files: Sequence[InstanceFile]) -> tuple[list[InstanceFile], list[Dataset], list[str]]:
    """The files that are MR images with a readable header, their headers, and what is wrong with the others."""
    images, datasets, problems = [], [], []
    for file in files:
        try:
            reason = why_not_analysed(read_instance_header(file))
            if reason is None:
                datasets.append(read_header_dataset(file))
                images.append(file)
            else:
                problems.append(reason)
        except UnreadableInstance:
            problems.append("no instance has a readable header")  # what is wrong with each may name its UID
        except FileNotFoundError:
            problems.append("its files are gone")  # retention may have been there
    return images, datasets, problems


def labels_of(header: SeriesHeader, left_out: Mapping[str, str] | None = None) -> dict[str, str | float | None]:
    """Canonical value by keyword; None where the header is silent or unusable, or the value is left out."""
    return {
        parameter.keyword: None if parameter.keyword in (left_out or {}) else header.value(parameter.keyword).canonical
        for parameter in ALL_PARAMETERS
    }


def header_digest(header: SeriesHeader) -> str:
    """SHA-256 of the values as they are written, in the order of the parameters' table."""
    told = [[value.keyword, value.raw, value.canonical] for value in header.values]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


# ---------------------------------------------------------------- what became of them


def _rows(out: Path, n_shards: Mapping[str, int]) -> Iterator[ManifestRow]:
    for split in SPLITS:
        for number in range(n_shards[split]):
            path = _rows_path(shard_path(out, split, number * SHARD_SERIES))
            for values in json.loads(path.read_text())["rows"]:
                yield from_json(values)


class _Tally:
    """Counts rows as they pass by."""

    def __init__(self) -> None:
        self._series, self._dropped, self._labels = Counter[str](), Counter[str](), Counter[str]()
        self._left_out = Counter[tuple[str, str]]()
        self._patients: dict[str, set[str]] = {split: set() for split in SPLITS}

    def over(self, rows: Iterator[ManifestRow]) -> Iterator[ManifestRow]:
        """The same rows."""
        for row in rows:
            if row.dropped_reason is None:
                self._series[row.split] += 1
                self._patients[row.split].add(row.patient)
                self._labels.update(key for key, value in row.labels.items() if value is not None)
                self._left_out.update(row.left_out.items())
            else:
                self._dropped[row.dropped_reason] += 1
            yield row

    def summary(self, images: str, manifest_sha256: str) -> Summary:
        """Of all rows that passed."""
        return Summary(
            images=images,
            series={split: self._series[split] for split in SPLITS},
            patients={split: len(self._patients[split]) for split in SPLITS},
            dropped=dict(self._dropped.most_common()),
            labels={parameter.keyword: self._labels[parameter.keyword] for parameter in ALL_PARAMETERS},
            left_out=tuple((*key, number) for key, number in self._left_out.most_common()),
            manifest_sha256=manifest_sha256,
        )


def _write(path: Path, values: Mapping[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(values, indent=1), encoding="utf-8")
    partial.replace(path)
