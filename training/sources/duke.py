"""Duke-Breast-Cancer-MRI from the Imaging Data Commons: the kind of series that arXiv 2303.04911 learned from.

The index that the package idc-index-data brings names every series of the collection; of each patient the fat-saturated
pre-contrast series is chosen by its description. Files come through idc-index, a few series at a time; what is complete
on the disk is not fetched again. The folder then is a source like any other (`training.sources.folder`). The images of
the collection are under CC BY-NC 4.0 (doi 10.7937/TCIA.e3sv-re93).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.dataset import DataSetError

COLLECTION: Final = "duke_breast_cancer_mri"
IMAGES: Final = "real breast MR of Duke-Breast-Cancer-MRI, fat-saturated and pre-contrast"
SERIES_AT_ONCE = 8  # fetched by one call: some 500 MB

_COLUMNS = (
    "collection_id", "Modality", "PatientID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription",
    "instanceCount", "series_size_MB",
)  # fmt: skip
# Said outright: "ax dyn pre", "ax 3d dyn pre", "ax 3d pre", "t1_fl3d_tra_dynVIEWS_spair_ pre". "ax t1 pre" has its fat.
_PRE_CONTRAST = re.compile(r"ax dyn pre|ax 3d (dyn )?pre|t1_fl3d_tra_dynviews_spair_ ?pre")
# The scanner's own name for a dynamic scan, its first phase: later phases are "Ph1/ax dyn" or have a later number.
_DYNAMIC = re.compile(r"ax (3d )?dyn(amic)?( mp)?|ax vibrant multiphase")

Fetch = Callable[[Sequence[str], Path], None]
"""Fetches whole series, by Series Instance UID, into sub-folders of a folder that are named so."""


@dataclass(frozen=True, slots=True)
class DukeSeries:
    """One series of the collection, as its index has it."""

    patient_id: str
    series_instance_uid: str
    series_number: int
    description: str
    n_instances: int
    size_mb: float


def read_index(path: Path | None = None) -> list[DukeSeries]:
    """MR series of the collection.

    Parameters
    ----------
    path
        A Parquet file in the form of idc-index-data's; None: the one that is installed.

    Raises
    ------
    DataSetError
        The extra is not installed.
    """
    try:
        import pyarrow.parquet

        if path is None:
            from idc_index_data import IDC_INDEX_PARQUET_FILEPATH

            path = IDC_INDEX_PARQUET_FILEPATH
    except ImportError as error:
        raise DataSetError("the Duke collection needs idc-index: pip install 'iap-node[duke]'") from error
    of_collection = [("collection_id", "=", COLLECTION), ("Modality", "=", "MR")]
    table = pyarrow.parquet.read_table(path, columns=list(_COLUMNS), filters=of_collection)
    return [_series(row) for row in table.to_pylist()]


def _series(row: Mapping[str, Any]) -> DukeSeries:
    return DukeSeries(
        patient_id=row["PatientID"],
        series_instance_uid=row["SeriesInstanceUID"],
        series_number=int(row["SeriesNumber"] or 0),
        description=row["SeriesDescription"] or "",
        n_instances=int(row["instanceCount"]),
        size_mb=float(row["series_size_MB"]),
    )


def select_pre_contrast(series: Iterable[DukeSeries]) -> tuple[list[DukeSeries], list[str]]:
    """Of each patient the fat-saturated pre-contrast series, by Patient ID; and the patients of whom none was found.

    What calls itself so comes before what is the first phase of a dynamic scan; of several, the earliest counts.
    """
    of_patient: defaultdict[str, list[DukeSeries]] = defaultdict(list)
    for one in series:
        of_patient[one.patient_id].append(one)
    chosen, without = [], []
    for patient, mine in sorted(of_patient.items()):
        ranked = sorted((rank, one.series_number, one.series_instance_uid, one) for one in mine if (rank := _rank(one)))
        if ranked:
            chosen.append(ranked[0][-1])
        else:
            without.append(patient)
    return chosen, without


def _rank(one: DukeSeries) -> int:
    """1 for what says pre-contrast, 2 for the first phase of a dynamic scan, 0 for the rest."""
    description = one.description.strip().casefold()
    if _PRE_CONTRAST.fullmatch(description):
        return 1
    return 2 if _DYNAMIC.fullmatch(description) else 0


def described(chosen: Sequence[DukeSeries]) -> list[tuple[str, int]]:
    """How many were chosen by which description, the commonest first."""
    return Counter(one.description for one in chosen).most_common()


def missing(chosen: Sequence[DukeSeries], folder: Path) -> list[DukeSeries]:
    """Those whose files are not all there yet."""
    return [one for one in chosen if _n_files(folder / one.series_instance_uid) < one.n_instances]


def _n_files(folder: Path) -> int:
    return sum(1 for path in folder.glob("*.dcm") if path.stat().st_size) if folder.is_dir() else 0


def download(
    chosen: Sequence[DukeSeries],
    folder: Path,
    fetch: Fetch,
    advance: Callable[[int], None] = lambda n_series: None,
) -> None:
    """Fetch what is missing of the chosen series into `folder`; run again to go on.

    Raises
    ------
    DataSetError
        A series came incompletely.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = missing(chosen, folder)
    advance(len(chosen) - len(wanted))
    for start in range(0, len(wanted), SERIES_AT_ONCE):
        part = wanted[start : start + SERIES_AT_ONCE]
        fetch([one.series_instance_uid for one in part], folder)
        left = missing(part, folder)
        if left:
            one = left[0]
            raise DataSetError(
                f"series {one.series_instance_uid} has {_n_files(folder / one.series_instance_uid)} of "
                f"{one.n_instances} files after its download; see to the network and the disk, and run it again"
            )
        advance(len(part))


def idc_fetch() -> Fetch:
    """A fetcher over idc-index: s5cmd from the public buckets, without an account.

    Raises
    ------
    DataSetError
        The extra is not installed.
    """
    try:
        from idc_index import IDCClient
    except ImportError as error:
        raise DataSetError("the Duke collection needs idc-index: pip install 'iap-node[duke]'") from error
    client = IDCClient.client()

    def fetch(series_instance_uids: Sequence[str], folder: Path) -> None:
        client.download_dicom_series(
            seriesInstanceUID=list(series_instance_uids),
            downloadDir=str(folder),
            dirTemplate="%SeriesInstanceUID",
            use_s5cmd_sync=True,  # what is there of a series is not fetched again
            show_progress_bar=False,
        )

    return fetch
