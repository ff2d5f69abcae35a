"""What a data set of real series was made of: one row per series, dropped ones included; stored as Parquet.

Written by `training.prepare`, read by `training.analyze` and by whoever names a data set in a model's provenance. Holds
no patient identity: a patient is the keyed hash that the archive keeps too. pyarrow comes with the extra `training`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from iap_node.dicom.parameters import ALL_PARAMETERS, Nature
from training.dataset import SPLITS, DataSetError
from training.recipes import Labels

MANIFEST_FILE: Final = "manifest.parquet"
ROWS_AT_ONCE: Final = 5000  # of a row group: what writing and reading hold in memory

Shares = Mapping[str, float]
SHARES: Final[Shares] = {"training": 0.7, "temperature": 0.1, "conformal": 0.1, "test": 0.1}

# Held-out splits take their part of the hashes first: whatever becomes of the training share, who is tested on stays.
_ORDER: Final = ("test", "conformal", "temperature", "training")


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One series of a data set, or one that was looked at and left out.

    Attributes
    ----------
    patient
        Keyed hash of the patient, 64 hexadecimal digits.
    split
        Of `training.dataset.SPLITS`; follows from `patient` alone.
    labels
        Canonical value by DICOM keyword of every acquisition parameter; None where the header is silent, unusable,
        varies, or has an open finding.
    left_out
        Keywords whose value was there and is no label because of an open finding, with the finding's check.
    source
        Where it came from: paths below the folder, or the ids of the archive's instances.
    n_slices
        That the series has; 0 where its pixels were not read.
    header_digest
        SHA-256 of the canonical header; tells whether a header changed since.
    dropped_reason
        Why its images are not in the data set; None: they are.
    """

    study_instance_uid: str
    series_instance_uid: str
    patient: str
    split: str
    labels: Labels
    left_out: Mapping[str, str]
    source: str
    n_slices: int
    header_digest: str
    dropped_reason: str | None = None


def split_of(patient: str, shares: Shares = SHARES) -> str:
    """The split of a patient: a function of the hash and the shares, whoever else is there or comes later.

    Parameters
    ----------
    patient
        Keyed hash of the patient, or whatever else stands for one.
    shares
        Of each split of `SPLITS`; they sum to 1. A patient of the test split stays there while the test's share
        does not shrink.

    Raises
    ------
    ValueError
        The shares are no shares of these splits.
    """
    check_shares(shares)
    digest = hashlib.blake2b(patient.encode(), digest_size=8, person=b"iap-split").digest()
    place = int.from_bytes(digest, "big") / 2**64
    reached = 0.0
    for split in _ORDER:
        reached += shares[split]
        if place < reached:
            return split
    return _ORDER[-1]


def check_shares(shares: Shares) -> None:
    """Whether there is a share for every split, and they sum to 1.

    Raises
    ------
    ValueError
        They are not; the text says what they must be.
    """
    if set(shares) != set(SPLITS) or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"shares must name {', '.join(SPLITS)}, be at least 0 and sum to 1, not {dict(shares)}")


def manifest_hash(folder: Path) -> str:
    """SHA-256 over the rows of a data set, whatever their order or the writer's version: what provenance names.

    Raises
    ------
    DataSetError
        There is no manifest.
    """
    digests = sorted(hashlib.sha256(_canonical(row)).digest() for row in read_manifest(folder))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _canonical(row: ManifestRow) -> bytes:
    return json.dumps(as_json(row), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def as_json(row: ManifestRow) -> dict[str, Any]:
    """Plain values; `from_json` reads them."""
    return {name: _plain(getattr(row, name)) for name in ManifestRow.__dataclass_fields__}


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def from_json(values: Mapping[str, Any]) -> ManifestRow:
    """A row from plain values."""
    return ManifestRow(**values)


def read_manifest(folder: Path) -> Iterator[ManifestRow]:
    """The rows of a data set's manifest, some thousands in memory at a time.

    Raises
    ------
    DataSetError
        There is no manifest in the folder, or pyarrow is not installed.
    """
    _, parquet = _arrow()
    path = folder / MANIFEST_FILE if folder.is_dir() else folder
    if not path.is_file():
        raise DataSetError(f"{path} is missing: simulated data sets have none; make one with iap-train prepare")
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            for record in batch.to_pylist():
                yield _row(record)


def write_manifest(folder: Path, rows: Iterable[ManifestRow]) -> None:
    """Write the manifest of a data set, a row group at a time; an interrupted write leaves the earlier one.

    Raises
    ------
    DataSetError
        pyarrow is not installed.
    """
    arrow, parquet = _arrow()
    schema = arrow.schema(
        [
            ("study_instance_uid", arrow.string()),
            ("series_instance_uid", arrow.string()),
            ("patient", arrow.string()),
            ("split", arrow.string()),
            *(
                (one.keyword, arrow.float64() if one.nature is Nature.NUMBER else arrow.string())
                for one in ALL_PARAMETERS
            ),
            ("left_out", arrow.string()),  # JSON: check by keyword
            ("source", arrow.string()),
            ("n_slices", arrow.int64()),
            ("header_digest", arrow.string()),
            ("dropped_reason", arrow.string()),
        ]
    )
    path = folder / MANIFEST_FILE
    partial = path.with_suffix(".partial")
    with parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
        for part in _chunks(rows):
            writer.write_table(arrow.Table.from_pylist([_record(row) for row in part], schema=schema))
    partial.replace(path)


def _chunks(rows: Iterable[ManifestRow]) -> Iterator[Sequence[ManifestRow]]:
    part: list[ManifestRow] = []
    for row in rows:
        part.append(row)
        if len(part) == ROWS_AT_ONCE:
            yield part
            part = []
    if part:
        yield part


def _record(row: ManifestRow) -> dict[str, Any]:
    values = as_json(row)
    labels, left_out = values.pop("labels"), values.pop("left_out")
    of_parameters = {one.keyword: labels.get(one.keyword) for one in ALL_PARAMETERS}
    return values | of_parameters | {"left_out": json.dumps(left_out, sort_keys=True)}


def _row(record: dict[str, Any]) -> ManifestRow:
    labels = {one.keyword: record.pop(one.keyword) for one in ALL_PARAMETERS}
    return ManifestRow(**record | {"labels": labels, "left_out": json.loads(record["left_out"])})


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataSetError("manifests need pyarrow: pip install 'iap-node[training]'") from error
    return pyarrow, pyarrow.parquet
