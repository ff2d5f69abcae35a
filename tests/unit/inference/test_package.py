"""Model packages on disk: a whole one loads, every kind of damage is refused by name."""

import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from iap_node.errors import ModelPackageError
from iap_node.inference.novelty import View
from iap_node.inference.package import load_package, package_folder, write_package
from iap_node.inference.predictor import Predictor
from iap_node.records import HeaderValue, SeriesHeader

HEADER = SeriesHeader((HeaderValue("Manufacturer", "SIEMENS", "SIEMENS"), HeaderValue("EchoTime", "2", 2.0)))


def edit(folder: Path, change) -> None:
    """Change model.json."""
    path = folder / "model.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace_file(folder: Path, section: str, content: bytes) -> None:
    """Replace a binary file and say its new hash in model.json, as somebody careful would."""

    def change(manifest):
        part = manifest["weights"] if section == "weights" else manifest[section]["file"]
        (folder / part["file"]).write_bytes(content)
        part["sha256"] = hashlib.sha256(content).hexdigest()

    edit(folder, change)


def test_a_package_loads_as_it_was_written(tmp_path, write_tiny_package):
    package = load_package(write_tiny_package(tmp_path / "tiny"))
    assert package.training_data == "not trained at all"
    assert package.model_id.startswith("tiny-1-")
    assert [head.keyword for head in package.manifest.parameters] == ["Manufacturer", "ContrastBolusAgent", "EchoTime"]
    assert [head.by_association for head in package.manifest.parameters] == [False, True, False]
    assert package.manifest.calibration[0].heads[0].quantiles == (None, 0.99, 0.2)
    assert set(package.novelty) == {"feature", "input"}
    assert package.header is not None
    np.testing.assert_array_equal(package.header.weights, [1.0, 0.0, 0.5])
    assert [(count, scores.shape) for count, scores in package.header.scores] == [(1, (199, 3))]


def test_a_package_that_judges_single_values_only_loads_too(tmp_path, write_tiny_package):
    # As all packages were before headers were judged as a whole.
    folder = write_tiny_package(tmp_path)
    edit(folder, lambda manifest: manifest.pop("header"))
    (folder / "header.safetensors").unlink()
    package = load_package(folder)
    assert package.header is None
    prediction = Predictor(package, device="cpu").predict([np.ones((64, 64))], 0.05, HEADER)
    assert prediction.parameters
    assert prediction.header_fit is None


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.update(weights=arrays["weights"][:-1].copy()),
        lambda arrays: arrays.update(weights=-arrays["weights"]),
        lambda arrays: arrays.update(weights=np.full_like(arrays["weights"], np.nan)),
        lambda arrays: arrays.update({"scores.1": arrays["scores.1"][:, :-1].copy()}),
        lambda arrays: arrays.pop("scores.1"),
        lambda arrays: arrays.pop("weights"),
    ],
)
def test_scores_of_right_headers_that_do_not_fit_are_refused(tmp_path, write_tiny_package, change):
    folder = write_tiny_package(tmp_path)
    arrays = safetensors.numpy.load_file(folder / "header.safetensors")
    change(arrays)
    replace_file(folder, "header", safetensors.numpy.save(arrays))
    with pytest.raises(ModelPackageError, match=r"header\.safetensors.*iap-train"):
        load_package(folder)


def test_arrays_come_back_as_they_were_whatever_their_layout_in_memory(tmp_path, write_tiny_package):
    package = load_package(write_tiny_package(tmp_path / "tiny"))
    tensors = safetensors.numpy.load(package.weights)
    # As torch's channels-last format and a transposed matrix lie in memory: the same values, other strides.
    turned = {name: np.asfortranarray(array) for name, array in tensors.items()}
    views = {
        name: View(np.asfortranarray(view.means), np.asfortranarray(view.whitening), view.thresholds)
        for name, view in package.novelty.items()
    }
    write_package(tmp_path / "again", package.manifest, turned, views)
    again = load_package(tmp_path / "again")
    for name, array in safetensors.numpy.load(again.weights).items():
        np.testing.assert_array_equal(array, tensors[name], err_msg=name)
    for name, view in package.novelty.items():
        np.testing.assert_array_equal(again.novelty[name].whitening, view.whitening)


def test_identity_changes_with_the_manifest(tmp_path, write_tiny_package):
    folder = write_tiny_package(tmp_path)
    before = load_package(folder).model_id
    edit(folder, lambda manifest: manifest["calibration"][0]["heads"][1].update(temperature=1.5))
    assert load_package(folder).model_id != before


def test_shipped_model_is_found_by_name_and_others_by_path(tmp_path):
    assert package_folder("reference").name == "reference"
    assert (package_folder("reference") / "model.json").is_file()
    assert package_folder(str(tmp_path)) == tmp_path


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelPackageError, match=r"nowhere.*model\.json.*iap-train"):
        load_package(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["weights.safetensors", "novelty.safetensors", "header.safetensors"])
def test_a_file_that_changed_on_the_way_is_refused(tmp_path, write_tiny_package, name):
    folder = write_tiny_package(tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelPackageError, match=rf"{name}.*SHA-256.*copy the whole package"):
        load_package(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "novelty.safetensors", "header.safetensors"])
def test_a_missing_file_is_named(tmp_path, write_tiny_package, name):
    folder = write_tiny_package(tmp_path)
    (folder / name).unlink()
    with pytest.raises(ModelPackageError, match=name):
        load_package(folder)


class Trap:
    """Running this pickle would be noticed."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was run')",))


@pytest.mark.parametrize("section", ["weights", "novelty"])
def test_a_pickle_under_a_safetensors_name_is_refused_and_never_run(tmp_path, write_tiny_package, section):
    folder = write_tiny_package(tmp_path)
    replace_file(folder, section, pickle.dumps(Trap()))
    with pytest.raises(ModelPackageError, match="not a safetensors file"):
        Predictor(load_package(folder), device="cpu")


@pytest.mark.parametrize("file", ["../weights.safetensors", "weights.pt", "/etc/passwd"])
def test_a_file_outside_the_package_or_of_another_kind_is_refused(tmp_path, write_tiny_package, file):
    folder = write_tiny_package(tmp_path)
    edit(folder, lambda manifest: manifest["weights"].update(file=file))
    with pytest.raises(ModelPackageError, match=r"\.safetensors file"):
        load_package(folder)


@pytest.mark.parametrize("key", ["format", "training_data", "network", "preprocessing", "parameters", "calibration"])
def test_a_missing_key_is_named(tmp_path, write_tiny_package, key):
    folder = write_tiny_package(tmp_path)
    edit(folder, lambda manifest: manifest.pop(key))
    with pytest.raises(ModelPackageError, match=rf"model\.json: {key}"):
        load_package(folder)


def test_a_format_of_the_future_is_refused(tmp_path, write_tiny_package):
    folder = write_tiny_package(tmp_path)
    edit(folder, lambda manifest: manifest.update(format_version=2))
    with pytest.raises(ModelPackageError, match="format version 2"):
        load_package(folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m["parameters"].reverse(), "order"),
        (lambda m: m["parameters"].append(m["parameters"][0]), "order"),
        (lambda m: m["calibration"][0]["heads"].pop(), "calibration"),
        (lambda m: m["network"].update(in_channels=1), "in_channels"),
        (lambda m: m.update(training_data=" "), "training_data"),
        (lambda m: m["parameters"][0].update(keyword="PatientName"), "PatientName"),
        (lambda m: m["parameters"][0].update(classes=["SIEMENS"]), "two classes"),
        (lambda m: m["novelty"].update(thresholds={}), "novelty"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path, write_tiny_package, change, text):
    folder = write_tiny_package(tmp_path)
    edit(folder, change)
    with pytest.raises(ModelPackageError, match=text):
        load_package(folder)


def test_weights_of_another_network_are_refused(tmp_path, write_tiny_package):
    folder = write_tiny_package(tmp_path)
    edit(folder, lambda manifest: manifest["parameters"][0].update(classes=["A", "B", "C"]))
    with pytest.raises(ModelPackageError, match=r"weights\.safetensors does not fit.*fc"):
        Predictor(load_package(folder), device="cpu")


def test_weights_that_are_not_finite_are_refused(tmp_path, write_tiny_package):
    folder = write_tiny_package(tmp_path)
    tensors = safetensors.numpy.load_file(folder / "weights.safetensors")
    tensors["fc.bias"] = np.full_like(tensors["fc.bias"], np.nan)
    replace_file(folder, "weights", safetensors.numpy.save(tensors))
    with pytest.raises(ModelPackageError, match="not finite"):
        Predictor(load_package(folder), device="cpu")


def test_novelty_arrays_of_another_shape_are_refused(tmp_path, write_tiny_package):
    folder = write_tiny_package(tmp_path)
    tensors = safetensors.numpy.load_file(folder / "novelty.safetensors")
    tensors["feature.means"] = tensors["feature.means"][:, :-1].copy()
    replace_file(folder, "novelty", safetensors.numpy.save(tensors))
    with pytest.raises(ModelPackageError, match=r"feature\.means"):
        load_package(folder)


def test_reading_a_package_does_not_import_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import iap_node.inference, iap_node.inference.preprocess, iap_node.inference.pooling\n"
        "import iap_node.inference.calibration, iap_node.inference.novelty\n"
        "from iap_node.inference.package import load_package, package_folder\n"
        "print(load_package(package_folder('reference')).model_id)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reference-")
