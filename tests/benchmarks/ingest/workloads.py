"""What is sent: simulated MR instances as Part 10 files, each with what the minimal sender must know of it.

A workload is written once into the bench's folder and found there again. UIDs end in four digits, the *tag*; the
minimal sender writes another one into what it sends, and `tagged_copies` makes files for the other senders, so that
every run sends instances that its receiver has not seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, EnhancedMRImageStorage

from training.simulation.dicom_series import make_datasets
from training.simulation.series import simulate_series

VERSION = 4  # of the files' form: others are written anew
SEED = 3
SLICES_SIMULATED = 8  # pixels repeat after so many instances; headers and UIDs never do
PRIVATE_HEADER_BYTES = 20_800  # what Siemens' private blocks add to an image's header; makes 320 x 320 the usual 227 KB
TAG_DIGITS = 4
UID_DIGITS = 30
LEAST_INSTANCES = 10  # more than any run has associations


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Instances of one size."""

    key: str
    title: str
    instances: int
    series: int
    rows: int
    frames: int = 1

    def scaled(self, divisor: int) -> Workload:
        """About so many times fewer instances, and fewer frames; the workload itself for 1."""
        if divisor == 1:
            return self
        per_series = max(LEAST_INSTANCES, self.instances // divisor) // 2
        return replace(self, instances=2 * per_series, series=2, frames=-(-self.frames // divisor))


MR320 = Workload(key="mr320", title="320 x 320", instances=1000, series=8, rows=320)
MR512 = Workload(key="mr512", title="512 x 512", instances=400, series=4, rows=512)
BULK = Workload(key="bulk", title="60 MB", instances=20, series=4, rows=512, frames=114)
WORKLOADS = (MR320, MR512, BULK)


@dataclass(frozen=True)
class PreparedInstance:
    """A file, and where the minimal sender finds what it sends and changes (see `sender.c`); offsets in bytes."""

    path: str
    dataset_offset: int
    dataset_length: int
    head_length: int  # of the data set, before the pixels
    sop_class_uid: str
    sop_instance_uid: str
    sop_tag_offset: int
    series_tag_offset: int


def prepare(folder: Path, workload: Workload) -> list[PreparedInstance]:
    """The instances of a workload, written into `folder` unless they lie there."""
    index = folder / "index.json"
    wanted = {"version": VERSION, **asdict(workload)}
    if index.is_file():
        content = json.loads(index.read_text())
        if content["workload"] == wanted:
            return [PreparedInstance(**entry) for entry in content["instances"]]
    folder.mkdir(parents=True, exist_ok=True)
    instances = list(_write(folder, workload))
    index.write_text(json.dumps({"workload": wanted, "instances": [asdict(instance) for instance in instances]}))
    return instances


def tagged_copies(instances: list[PreparedInstance], folder: Path, tag: int) -> list[Path]:
    """The same instances as files under other UIDs, made unless they lie in `folder`; in the same order."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = f"{tag:0{TAG_DIGITS}d}".encode()
    paths = []
    for instance in instances:
        path = folder / Path(instance.path).name
        paths.append(path)
        if path.is_file():
            continue
        content = Path(instance.path).read_bytes()
        head = bytearray(content[: instance.dataset_offset + instance.head_length])
        sop_instance_uid = instance.sop_instance_uid.encode()
        head[:] = head.replace(sop_instance_uid, sop_instance_uid[:-TAG_DIGITS] + digits)  # file meta and data set
        series = instance.dataset_offset + instance.series_tag_offset
        head[series : series + TAG_DIGITS] = digits
        path.write_bytes(bytes(head) + content[len(head) :])
    return paths


def _write(folder: Path, workload: Workload) -> Iterator[PreparedInstance]:
    rng = np.random.default_rng([SEED, workload.rows, workload.frames])  # no UID is in two workloads
    per_series = workload.instances // workload.series
    for series_number in range(1, workload.series + 1):
        simulated = simulate_series(rng, SLICES_SIMULATED, slice_positions="even")
        datasets = make_datasets(simulated, rng=rng, series_number=series_number)
        slices = [_resized(slice_pixels, workload.rows, rng) for slice_pixels in simulated.pixels]
        series_instance_uid = _new_uid(rng)
        for number in range(1, per_series + 1):
            ds = datasets[number % SLICES_SIMULATED]
            frames = [slices[(number + frame) % SLICES_SIMULATED] for frame in range(workload.frames)]
            path = folder / f"{series_number:02d}-{number:03d}.dcm"
            yield _write_instance(path, ds, series_instance_uid, number, workload, frames, rng)


def _write_instance(
    path: Path,
    ds: Dataset,
    series_instance_uid: str,
    number: int,
    workload: Workload,
    frames: list[bytes],
    rng: np.random.Generator,
) -> PreparedInstance:
    if workload.frames > 1:
        ds.SOPClassUID, ds.NumberOfFrames = EnhancedMRImageStorage, workload.frames
    ds.SeriesInstanceUID, ds.SOPInstanceUID = series_instance_uid, _new_uid(rng)
    ds.InstanceNumber, ds.Rows, ds.Columns = number, workload.rows, workload.rows
    if "PixelData" in ds:
        del ds.PixelData
    block = ds.private_block(0x0029, "SIMULATED HEADER", create=True)
    block.add_new(0x10, "OB", rng.bytes(PRIVATE_HEADER_BYTES))
    ds.file_meta.MediaStorageSOPClassUID = UID(ds.SOPClassUID)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(ds.SOPInstanceUID)
    encoded = BytesIO()
    ds.save_as(encoded, enforce_file_format=True)
    header = encoded.getvalue()
    # (0002,0000) is the first element of the file meta and tells the length of what follows it (PS3.10 7.1)
    offset = 144 + int.from_bytes(header[140:144], "little")
    n_pixel_bytes = sum(map(len, frames))
    header += bytes.fromhex("e07f1000") + b"OW\0\0" + n_pixel_bytes.to_bytes(4, "little")
    with path.open("wb") as stream:
        stream.write(header)
        stream.writelines(frames)
    dataset = header[offset:]
    return PreparedInstance(
        path=str(path),
        dataset_offset=offset,
        dataset_length=len(dataset) + n_pixel_bytes,
        head_length=len(dataset),
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        sop_tag_offset=_tag_offset(dataset, ds.SOPInstanceUID),
        series_tag_offset=_tag_offset(dataset, ds.SeriesInstanceUID),
    )


def _tag_offset(dataset: bytes, uid: str) -> int:
    first = dataset.index(uid.encode())
    assert dataset.find(uid.encode(), first + 1) < 0, "a UID stands twice in the header"
    return first + len(uid) - TAG_DIGITS


def _new_uid(rng: np.random.Generator) -> str:
    """Random, so that rows and files land anywhere among those that are there; ends in the tag 0000."""
    digits = "".join(map(str, rng.integers(1, 10, size=UID_DIGITS)))
    return f"2.25.{digits}{0:0{TAG_DIGITS}d}"


def _resized(pixels: NDArray[np.uint16], rows: int, rng: np.random.Generator) -> bytes:
    """A slice at `rows` x `rows`, nearest neighbours, with noise of its own in the low bits."""
    of_rows = np.arange(rows) * pixels.shape[0] // rows
    of_columns = np.arange(rows) * pixels.shape[1] // rows
    resized = pixels[np.ix_(of_rows, of_columns)].astype("<u2")
    return bytes((resized ^ rng.integers(0, 16, size=resized.shape, dtype="<u2")).tobytes())
