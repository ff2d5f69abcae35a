"""Data sets on disk: same bytes whatever the processes, resumed where they stopped, patients kept apart."""

import json

import numpy as np
import pytest

from iap_node.dicom.parameters import PARAMETERS
from iap_node.inference.preprocess import Preprocessing
from training import dataset

SPEC = Preprocessing(size=32, channels=("image", "spectrum"), rounded=True, offset=(0.0, 0.0), scale=(1.0, 1.0))


@pytest.fixture
def plan(monkeypatch) -> dataset.DataPlan:
    monkeypatch.setattr(dataset, "SHARD_SERIES", 1)
    return dataset.plan(SPEC, seed=1, n_training=2, n_held_out=1, slices=2, held_out_slices=2)


def content(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_interrupted_data_set_goes_on_and_is_the_same_whatever_the_processes(tmp_path, plan):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    dataset.simulate(whole, plan, processes=2)
    counted = []
    dataset.simulate(cut, plan, processes=1, splits=("conformal",))
    with pytest.raises(dataset.DataSetError, match=r"training.*missing"):
        dataset.load(cut, "training")
    assert len(dataset.load(cut, "conformal").labels) == 1
    dataset.simulate(cut, plan, processes=1)
    (cut / "training" / "000001.json").unlink()  # as a kill between pixels and labels leaves it
    kept = (cut / "training" / "000000.npy").stat().st_mtime_ns
    dataset.simulate(cut, plan, processes=1, advance=counted.append)
    assert sum(counted) == 5
    assert (cut / "training" / "000000.npy").stat().st_mtime_ns == kept
    assert content(whole) == content(cut)

    training = dataset.load(whole, "training")
    assert training.inputs.shape == (2, 2, 2, 32, 32)
    assert training.inputs.dtype == np.uint8
    assert set(training.labels[0]) == {parameter.keyword for parameter in PARAMETERS}
    assert dataset.describe(whole)["images"] == "simulated"
    assert dataset.preprocessing_of(whole) == SPEC

    with pytest.raises(dataset.DataSetError, match="another data set"):
        dataset.simulate(whole, dataset.plan(SPEC, seed=2, n_training=2, n_held_out=1))


def test_no_patient_is_in_two_splits():
    patients = [dataset.series_seed(7, split, number)[1] for split in dataset.SPLITS for number in range(500)]
    assert len(set(patients)) == len(patients)


def test_an_incomplete_split_is_refused_with_the_remedy(tmp_path, plan):
    (tmp_path / "dataset.json").write_text(json.dumps(plan.as_json()))
    with pytest.raises(dataset.DataSetError, match=r"missing.*iap-train simulate"):
        dataset.load(tmp_path, "training")
    with pytest.raises(dataset.DataSetError, match="no split"):
        dataset.load(tmp_path, "validation")
    with pytest.raises(dataset.DataSetError, match="no data set"):
        dataset.load(tmp_path / "nowhere", "training")
