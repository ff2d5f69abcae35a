"""The Duke collection: which series are chosen, and that a download goes on where it stopped.

`duke_series.json` holds what idc-index-data 25.0.5 lists of the collection: each distinct set of series, with one
patient's series numbers and image counts, and how many patients have it. Nothing is downloaded here: the fetcher is the
boundary, and behind it lies idc-index, which has never been run against the collection from a test.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.dataset import DataSetError
from training.sources import duke

KINDS = json.loads((Path(__file__).parent / "duke_series.json").read_text())
COLUMNS = {  # types of idc-index-data 25.0.5, of those that are read
    "collection_id": pa.large_string(), "Modality": pa.large_string(), "PatientID": pa.large_string(),
    "SeriesInstanceUID": pa.large_string(), "SeriesNumber": pa.large_string(), "SeriesDescription": pa.large_string(),
    "instanceCount": pa.int64(), "series_size_MB": pa.float64(), "license_short_name": pa.large_string(),
}  # fmt: skip


def row(patient: str, uid: str, number: int, description: str | None, n: int, **values):
    return {
        "collection_id": "duke_breast_cancer_mri", "Modality": "MR", "PatientID": patient, "SeriesInstanceUID": uid,
        "SeriesNumber": str(number), "SeriesDescription": description, "instanceCount": n, "series_size_MB": n / 2,
        "license_short_name": "CC BY-NC 4.0",
    } | values  # fmt: skip


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """The whole collection in the index's own form, with what is not to be chosen beside it."""
    rows = [
        row("Breast_MRI_1", "9.9.1", 300, "Segmentation", 1, Modality="SEG"),
        row("other", "9.9.2", 4, "ax dyn pre", 160, collection_id="another_collection"),
    ]
    patient = 0
    for kind in KINDS:
        for _ in range(kind["patients"]):
            patient += 1
            rows += [
                row(f"Breast_MRI_{patient:03d}", f"1.{patient}.{number}", number, description, n)
                for number, description, n in reversed(kind["series"])
            ]
    path = tmp_path_factory.mktemp("index") / "idc_index.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(COLUMNS.items()))), path)
    return path


def test_every_patient_of_the_collection_gets_one_fat_saturated_series_before_contrast(index):
    chosen, without = duke.select_pre_contrast(duke.read_index(index))
    assert without == []
    assert len(chosen) == len({one.patient_id for one in chosen}) == 922
    assert dict(duke.described(chosen)) == {
        "ax dyn pre": 290, "ax 3d dyn": 208, "ax 3d dyn MP": 180, "ax dynamic": 107, "Ax Vibrant MultiPhase": 67,
        "ax dyn": 31, "ax 3d dyn pre": 26, "ax 3d pre": 10, "t1_fl3d_tra_dynVIEWS_spair_ pre": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("series", "chosen"),
    [
        ([(3, "ax t1 pre"), (500, "ax 3d dyn"), (501, "Ph1/ax 3d dyn")], 500),  # the first has its fat
        ([(6, "ax dyn pre"), (5, "ax dyn"), (8, "ax dyn")], 6),  # what says so comes first
        ([(15, "ax dyn"), (7, "ax dyn"), (8, "ax dyn")], 7),  # the earliest of a dynamic scan
        ([(6, "1st ax dyn"), (5, "ax 3d pre"), (904, "AX IDEAL Breast")], 5),
        ([(2, "Ax 3D T1 NON FS"), (4, "ax dyn 1st pass"), (26, "ax t1 tse +c")], None),
        ([(2, None)], None),
    ],
)
def test_descriptions_say_which_series_it_is(series, chosen):
    listed = [duke.DukeSeries("P", f"1.{number}", number, text or "", 2, 1.0) for number, text in series]
    found, without = duke.select_pre_contrast(listed)
    assert [one.series_number for one in found] == ([] if chosen is None else [chosen])
    assert without == (["P"] if chosen is None else [])


class Shop:
    """A fetcher that writes files, and dies when it is told to."""

    def __init__(self, series):
        self.counts = {one.series_instance_uid: one.n_instances for one in series}
        self.asked = []
        self.dies_after = None

    def __call__(self, series_instance_uids, folder):
        for uid in series_instance_uids:
            self.asked.append(uid)
            (folder / uid).mkdir(exist_ok=True)
            for number in range(self.counts[uid]):
                if self.dies_after is not None and len(self.asked) > self.dies_after and number == 1:
                    raise OSError("no route to host")
                (folder / uid / f"{number}.dcm").write_bytes(b"x")


def test_a_download_that_was_cut_off_goes_on_with_what_is_missing(tmp_path):
    chosen = [duke.DukeSeries(f"P{n}", f"1.{n}", 4, "ax dyn pre", 3, 1.0) for n in range(20)]
    shop, counted = Shop(chosen), []
    shop.dies_after = 10
    with pytest.raises(OSError, match="no route"):
        duke.download(chosen, tmp_path, shop, counted.append)
    assert len(duke.missing(chosen, tmp_path)) == 10  # the eleventh came in part
    (tmp_path / "1.0" / "0.dcm").write_bytes(b"")  # a power cut left it empty
    shop.asked, shop.dies_after = [], None
    counted.clear()
    duke.download(chosen, tmp_path, shop, counted.append)
    assert shop.asked == ["1.0", *(f"1.{n}" for n in range(10, 20))]
    assert sum(counted) == 20
    shop.asked = []
    duke.download(chosen, tmp_path, shop)
    assert shop.asked == []


def test_a_series_that_came_in_part_is_an_error_that_names_it(tmp_path):
    one = duke.DukeSeries("P", "1.7", 4, "ax dyn pre", 3, 1.0)
    shop = Shop([one])
    shop.counts["1.7"] = 2
    with pytest.raises(DataSetError, match=r"series 1\.7 has 2 of 3 files.*run it again"):
        duke.download([one], tmp_path, shop)
