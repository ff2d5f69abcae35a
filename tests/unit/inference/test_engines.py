"""Every engine gives the answers of torch in float32, on simulated and on real slices; and which engine is chosen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from iap_node.dicom.pixels import read_series_slices
from iap_node.errors import ConfigError
from iap_node.inference import engines
from iap_node.inference.engines import EngineName, Precision, open_engine
from iap_node.inference.heads import output_slices
from iap_node.inference.package import ModelPackage, load_package, package_folder
from iap_node.inference.predictor import Predictor
from iap_node.inference.preprocess import prepare_series, standardise
from iap_node.records import ParameterKind
from training.simulation.series import simulate_series

pytest.importorskip("openvino", reason="OpenVINO is not installed; pip install iap-node[openvino]")

# Largest change of an output (logits, standardised numbers) against torch in float32. float32 differs by the order of
# its sums; bfloat16 keeps eight bits of each factor.
TOLERANCE: dict[Precision, float] = {"float32": 2e-3, "bfloat16": 0.5}
OTHERS: list[tuple[EngineName, Precision]] = [
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("torch", "bfloat16"),
]


@pytest.fixture(scope="module")
def package() -> ModelPackage:
    return load_package(package_folder("reference"))


@pytest.fixture(scope="module")
def simulated() -> list[list[NDArray[np.generic]]]:
    rngs = (np.random.default_rng([5, n]) for n in range(4))
    return [list(simulate_series(rng, 4, slice_positions="even").pixels) for rng in rngs]


@pytest.fixture(scope="module")
def real(mr_real: Path) -> list[list[NDArray[np.generic]]]:
    """A few slices of every tenth folder of the real series that holds plain images."""
    chosen = []
    for folder in sorted(path for path in mr_real.iterdir() if path.is_dir())[::4]:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        slices = list(
            read_series_slices(paths, max_slices=3, max_pixels_per_slice=2**24, max_bytes_per_instance=2**30).slices
        )
        if slices:
            chosen.append(slices)
    assert len(chosen) >= 5
    return chosen


def images_of(package: ModelPackage, slices: list[NDArray[np.generic]]) -> NDArray[np.float32]:
    return standardise(prepare_series(slices, package.manifest.preprocessing), package.manifest.preprocessing)


@pytest.mark.parametrize(("engine", "precision"), OTHERS)
@pytest.mark.parametrize("images", ["simulated", "real"])
def test_engine_agrees_with_the_reference(
    package: ModelPackage, engine: EngineName, precision: Precision, images: str, request: pytest.FixtureRequest
) -> None:
    reference = open_engine(package, "torch", "cpu", "float32")
    other = open_engine(package, engine, "cpu", precision)
    for slices in request.getfixturevalue(images):
        batch = images_of(package, slices)
        outputs, features = reference.forward(batch)
        others, other_features = other.forward(batch)
        assert others.dtype == other_features.dtype == np.float32
        assert np.abs(others - outputs).max() <= TOLERANCE[precision]
        scale = np.abs(features).max()
        assert np.abs(other_features - features).max() <= TOLERANCE[precision] * scale
        for head, where in zip(package.manifest.parameters, output_slices(package.manifest.parameters), strict=True):
            if head.kind is ParameterKind.CATEGORICAL:
                best = outputs[:, where].mean(axis=0)
                chosen = int(others[:, where].mean(axis=0).argmax())
                assert best.max() - best[chosen] <= TOLERANCE[precision]  # the same class, or one as good


@pytest.mark.parametrize(("engine", "precision"), OTHERS)
def test_engine_gives_the_same_verdicts_on_simulated_series(
    package: ModelPackage, engine: EngineName, precision: Precision, simulated: list[list[NDArray[np.generic]]]
) -> None:
    reference = Predictor(package, "cpu")
    other = Predictor(package, "cpu", engine=engine, precision=precision)
    for slices in simulated:
        expected, said = reference.predict(slices, 0.05), other.predict(slices, 0.05)
        assert said.novel == expected.novel
        for left, right in zip(said.parameters, expected.parameters, strict=True):
            if left.kind is ParameterKind.CATEGORICAL:
                right_shares = dict(right.probabilities)
                assert all(share == pytest.approx(right_shares[name], abs=0.06) for name, share in left.probabilities)


def test_batches_of_every_size_give_the_same_answer(
    package: ModelPackage, simulated: list[list[NDArray[np.generic]]]
) -> None:
    engine = open_engine(package, "openvino", "cpu", "float32")
    batch = images_of(package, [one for slices in simulated for one in slices])
    together, _ = engine.forward(batch)
    singly = np.concatenate([engine.forward(batch[n : n + 1])[0] for n in range(len(batch))])
    assert singly == pytest.approx(together, abs=1e-3)


def test_openvino_answers_where_there_is_no_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from iap_node.inference.package import load_package, package_folder\n"
        "from iap_node.inference.predictor import Predictor\n"
        "predictor = Predictor(load_package(package_folder('reference')), 'cpu', engine='auto', precision='auto')\n"
        "said = predictor.predict([np.ones((64, 64))], 0.05)\n"
        "print(predictor.engine, said.n_slices)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith("openvino on cpu, ")
    assert done.stdout.rstrip().endswith(" 1")


def test_engine_that_is_not_installed_is_an_error_with_the_remedy(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_has_openvino", lambda: False)
    with pytest.raises(ConfigError, match=r"iap-node\[openvino\]"):
        open_engine(package, "openvino")
    assert open_engine(package, "auto", "cpu", "float32").description == "torch on cpu, float32"


def test_openvino_on_cuda_is_an_error_with_the_remedy(package: ModelPackage) -> None:
    with pytest.raises(ConfigError, match="torch or auto"):
        open_engine(package, "openvino", "cuda")


def test_auto_takes_torch_where_a_cuda_device_may_be_used(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_sees_cuda", lambda device: device != "cpu")
    assert open_engine(package, "auto", "auto", "float32").description.startswith("torch on ")
    assert open_engine(package, "auto", "cpu", "float32").description == "openvino on cpu, float32"
