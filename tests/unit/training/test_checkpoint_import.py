"""Checkpoints of the published code become packages whose outputs are the network's; everything else is refused.

The network that is written here is not ours: a ResNet-18 built from torch's own layers under torchvision's names, with
one input channel, wrapped and saved as the published code does it. Not here: a file of the authors, which nobody gives
out.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from iap_node.audit.verdicts import compare
from iap_node.config import AuditConfig
from iap_node.errors import ModelPackageError
from iap_node.inference.package import load_package
from iap_node.inference.predictor import Predictor
from iap_node.records import HeaderValue, SeriesHeader, Verdict
from iap_node.routing.distributions import observed, predicted
from training import checkpoint_file, checkpoint_import, dataset, reference
from training.checkpoint_file import CheckpointError
from training.cli import app


class Block(nn.Module):
    """torchvision's BasicBlock, by its names and the order of its layers."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(n_out, n_out, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample = None
        if stride != 1:
            convolution = nn.Conv2d(n_in, n_out, kernel_size=1, stride=stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(n_out))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + identity)


class TorchvisionResNet18(nn.Module):
    """ResNet-18 under torchvision's names; the first layer takes one channel, as the published code replaces it."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, kernel_size=(7, 7), stride=(2, 2), padding=(3, 3), bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        widths = (64, 64, 128, 256, 512)
        for stage in range(1, 5):
            first = Block(widths[stage - 1], widths[stage], 1 if stage == 1 else 2)
            setattr(self, f"layer{stage}", nn.Sequential(first, Block(widths[stage], widths[stage], 1)))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512, n_outputs)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def published_network(n_outputs: int) -> TorchvisionResNet18:
    """With weights that differ everywhere, normalisation statistics included."""
    torch.manual_seed(n_outputs)
    network = TorchvisionResNet18(n_outputs)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return network.eval()


def published_input(pixels: np.ndarray) -> torch.Tensor:
    """One slice as the published data set prepares it: by its maximum to whole numbers, then 224 x 224."""
    scaled = (pixels.astype(float) * 255.0 / pixels.max()).astype(np.uint8)
    image = torch.from_numpy(scaled).float()[None, None]
    return nn.functional.interpolate(image, size=(224, 224), mode="bilinear", align_corners=False)


@pytest.fixture(scope="module")
def networks() -> dict[int, TorchvisionResNet18]:
    return {n: published_network(n) for n in (96, 97, 47)}


@pytest.fixture
def checkpoint(tmp_path, networks):
    """Writes a checkpoint of the published form; `change` may spoil what is saved."""

    def write(n_outputs: int = 96, wrapped: bool = True, change=lambda state: state) -> Path:
        network = networks[n_outputs]
        state = {"net": (nn.DataParallel(network) if wrapped else network).state_dict(), "epoch": 95}
        path = tmp_path / "resnet18_10000_2000_0.5_95_all_best.h5"
        torch.save(change(state), path)
        return path

    return write


SLICES = [np.random.default_rng(k).integers(0, 3000, (96 + 20 * k, 128)).astype(np.uint16) for k in range(2)]


@pytest.mark.parametrize(("n_outputs", "wrapped"), [(96, True), (97, False), (47, True)])
def test_outputs_are_those_of_an_independent_forward_pass(tmp_path, checkpoint, networks, n_outputs, wrapped):
    package = checkpoint_import.import_checkpoint(checkpoint(n_outputs, wrapped), tmp_path / "package")
    predictor = Predictor(package, device="cpu")
    with torch.inference_mode():
        wanted = torch.cat([networks[n_outputs](published_input(pixels)) for pixels in SLICES]).numpy()
    from iap_node.inference.preprocess import prepare_series

    got, _ = predictor.forward(prepare_series(SLICES, package.manifest.preprocessing))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
    assert package.manifest.provenance["imported"] == {
        "file": "resnet18_10000_2000_0.5_95_all_best.h5",
        "sha256": package.manifest.provenance["imported"]["sha256"],
        "epoch": 95,
        "layout": str(n_outputs),
    }


def test_layouts_have_their_parameters_in_the_published_order():
    vocabulary = checkpoint_import.published_vocabulary()
    sizes = {
        layout: [head.n_outputs for head in checkpoint_import.heads_of(layout, vocabulary)]
        for layout in ("96", "97", "47")
    }
    assert sizes["96"] == [3, 8, 9, 2, 4, 6, 10, 21, 4, 27, 1, 1]
    assert sizes["97"] == [3, 8, 9, 2, 4, 6, 11, 21, 4, 27, 1, 1]
    assert sizes["47"] == [3, 8, 9, 2, 4, 6, 10, 1, 1, 1, 1, 1]
    agent = checkpoint_import.heads_of("96", vocabulary)[5]
    assert agent.keyword == "ContrastBolusAgent"
    assert agent.by_association


def test_a_package_without_calibration_shows_answers_and_rests_nothing_on_them(tmp_path, checkpoint):
    package = checkpoint_import.import_checkpoint(checkpoint(47), tmp_path / "package")
    assert not package.calibrated
    assert "not calibrated" in package.training_data
    header = SeriesHeader((HeaderValue("Manufacturer", "SIEMENS", "SIEMENS"), HeaderValue("EchoTime", "99", 99.0)))
    prediction = Predictor(package, device="cpu").predict(SLICES, 0.05, header)
    assert not prediction.speaks
    assert not prediction.novel
    assert prediction.header_fit is None
    answers = {one.keyword: one for one in prediction.parameters}
    assert sum(share for _, share in answers["Manufacturer"].probabilities) == pytest.approx(1)
    assert answers["Manufacturer"].prediction_set == ()
    assert answers["EchoTime"].interval is None
    comparisons = compare(header, prediction, AuditConfig())
    assert {one.verdict for one in comparisons} == {Verdict.NOT_JUDGED}
    assert all("not calibrated" in one.reason and not one.suggested_value for one in comparisons)
    assert comparisons[0].predicted_value == answers["Manufacturer"].probabilities[0][0]
    assert predicted(prediction, "Manufacturer") is None
    assert "not calibrated" in observed(prediction, "Manufacturer")


def test_calibration_and_novelty_are_there_together_or_not_at_all(tmp_path, checkpoint):
    folder = checkpoint_import.import_checkpoint(checkpoint(47), tmp_path / "package").folder
    text = (folder / "model.json").read_text()
    heads = ",".join(
        f'{{"keyword": "{head.keyword}", "temperature": 1.0, "quantiles": [0.5]}}'
        for head in load_package(folder).manifest.parameters
    )
    half = f'"calibration": [{{"n_slices": 1, "n_series": 9, "alphas": [0.5], "heads": [{heads}]}}]'
    (folder / "model.json").write_text(text.replace('"calibration": []', half))
    with pytest.raises(ModelPackageError, match="go together"):
        load_package(folder)


def refuses(path: Path, tmp_path: Path, reason: str, **options) -> None:
    with pytest.raises(CheckpointError, match=reason):
        checkpoint_import.import_checkpoint(path, tmp_path / "refused", **options)
    assert not (tmp_path / "refused").exists()


def in_net(**changes):
    """The same checkpoint with tensors of other values; None leaves one out."""

    def change(state):
        net = OrderedDict(state["net"])
        for name, value in changes.items():
            key = "module." + name.replace("__", ".")
            if value is None:
                del net[key]
            else:
                net[key] = value(net.get(key))
        return state | {"net": net}

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state["net"], "must hold 'net' and 'epoch'"),
        (lambda state: state | {"epoch": "last"}, "'epoch' is no whole number but str"),
        (lambda state: state | {"net": [1, 2]}, "'net' is no state_dict but list"),
        (in_net(fc__weight=None), "no last layer"),
        (in_net(layer3__0__conv1__weight=None), "without 'layer3.0.conv1.weight'"),
        (in_net(head__weight=lambda _: torch.zeros(2)), "with 'head.weight'"),
        (in_net(conv1__weight=lambda old: old.repeat(1, 3, 1, 1)), r"conv1.weight has shape \(64, 3, 7, 7\)"),
        (in_net(bn1__bias=lambda old: old.double()), "bn1.bias has values of type float64, not float32"),
        (in_net(fc__bias=lambda old: old * torch.nan), "fc.bias holds values that are not finite"),
        (in_net(bn1__running_var=lambda old: -old), "negative variances"),
        (in_net(fc__weight=lambda old: old[:80], fc__bias=lambda old: old[:80]), "80 outputs; the published"),
        (
            lambda state: state | {"net": OrderedDict(state["net"], stray=torch.zeros(1))},
            "some names begin with 'module.' and some do not: 'stray'",
        ),
    ],
)
def test_what_is_not_the_published_network_is_refused_with_what_was_found(tmp_path, checkpoint, change, reason):
    refuses(checkpoint(change=change), tmp_path, reason)


def test_another_layout_than_asked_for_is_refused(tmp_path, checkpoint):
    refuses(checkpoint(96), tmp_path, "has 96 outputs, not the 47", layout="47")


class RunsACommand:
    """What pickles can do to whoever reads them."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_pickled_code_is_named_and_never_run(tmp_path, checkpoint):
    ran = tmp_path / "ran"
    path = checkpoint(change=lambda state: state | {"more": RunsACommand(f"touch {ran}")})
    refuses(path, tmp_path, r"pickled code: it names '(posix|os).system'")
    bare = tmp_path / "bare.pt"
    bare.write_bytes(pickle.dumps(RunsACommand(f"touch {ran}")))
    refuses(bare, tmp_path, "no whole archive")
    assert not ran.exists()


def test_damaged_and_swollen_files_are_refused(tmp_path, checkpoint, monkeypatch):
    whole = checkpoint().read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole[: len(whole) // 2])
    refuses(cut, tmp_path, "no whole archive of torch.save")
    refuses(tmp_path / "nowhere.pt", tmp_path, "cannot be read")
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for one in old.namelist()[:3]:
            new.writestr(one, old.read(one))
    refuses(packed, tmp_path, "compressed records")
    monkeypatch.setattr(checkpoint_file, "LARGEST_FILE", 1024)
    refuses(checkpoint(), tmp_path, "bytes, more than the 1024")


def rewritten(path: Path, name: str, content: bytes) -> Path:
    """The archive with one record replaced."""
    with zipfile.ZipFile(path) as old:
        records = {one: old.read(one) for one in old.namelist()}
    (key,) = [one for one in records if one.endswith(name)]
    records[key] = content
    with zipfile.ZipFile(path, "w") as new:
        for one, value in records.items():
            new.writestr(one, value)
    return path


def test_storages_must_hold_exactly_what_they_claim(tmp_path):
    # torch itself would read ten gigabytes from a record of four bytes, and end, or tell what lies beyond.
    path = tmp_path / "claims.pt"
    torch.save({"net": OrderedDict({"fc.weight": torch.zeros(1, 1)}), "epoch": 1}, path)
    with zipfile.ZipFile(path) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith("data.pkl")]
        honest = archive.read(name)
    one_value = b"K\x01t"  # of the storage: BININT1 1, end of the claim
    assert honest.count(one_value) >= 1
    place = honest.index(one_value)
    for numel, reason in (
        (1000, "claims 4000 bytes, and its record holds 4"),
        (2_500_000_000, "claims 2500000000 val"),
    ):
        claimed = b"\x8a\x05" + numel.to_bytes(5, "little") + b"t"  # LONG1
        refuses(
            rewritten(path, "data.pkl", honest[:place] + claimed + honest[place + len(one_value) :]), tmp_path, reason
        )
    refuses(rewritten(path, "byteorder", b"big"), tmp_path, "byte order")


def test_huge_shapes_over_small_storages_are_refused_before_they_are_made(tmp_path, checkpoint):
    swollen = in_net(fc__weight=lambda old: old[:1, :1].expand(2**16, 2**16))
    refuses(checkpoint(change=swollen), tmp_path, "65536 outputs; the published")


def test_command_imports_and_says_what_is_missing(tmp_path, checkpoint):
    done = CliRunner().invoke(app, ["import-checkpoint", str(checkpoint(97)), "--out", str(tmp_path / "package")])
    assert done.exit_code == 0, done.output
    assert "97 outputs" in done.output
    assert "iap-train recalibrate" in done.output
    assert load_package(tmp_path / "package").manifest.preprocessing.size == 224


def test_another_vocabulary_must_fit_the_outputs(tmp_path, checkpoint):
    vocabulary = checkpoint_import.published_vocabulary()
    fewer = vocabulary | {"PatientPosition": ["FFP", "HFP", "HFS"]}
    refuses(checkpoint(), tmp_path, "makes 97 outputs, and its last layer has 96", vocabulary=fewer)
    with pytest.raises(CheckpointError, match="in this order"):
        checkpoint_import.read_vocabulary("Manufacturer: [A, B]")
    with pytest.raises(CheckpointError, match="in quotes"):
        checkpoint_import.read_vocabulary(
            "\n".join(f"{keyword}: {[1.5] if keyword == 'FlipAngle' else []}" for keyword in vocabulary)
        )


def test_recalibration_makes_it_a_model_that_speaks(tmp_path, checkpoint):
    package = checkpoint_import.import_checkpoint(checkpoint(47), tmp_path / "package")
    spec = package.manifest.preprocessing
    data = tmp_path / "data"
    plan = dataset.plan(spec, seed=0, n_training=1, n_held_out=12, held_out_slices=1)
    rng = np.random.default_rng(0)
    data.mkdir()
    (data / "dataset.json").write_text(json.dumps(plan.as_json()))
    for split in ("temperature", "conformal"):
        (data / split).mkdir()
        n = plan.splits[split].n_series
        np.save(data / split / "000000.npy", rng.integers(0, 255, (n, 1, 1, 224, 224)).astype(np.uint8))
        labels = [{"PatientPosition": ("FFP", "HFP")[k % 2], "EchoTime": 2.0 + k / 10} for k in range(n)]
        (data / split / "000000.json").write_text(json.dumps(labels))
    speaking = reference.recalibrated(package, tmp_path / "calibrated", data, seed=0)
    assert speaking.calibrated
    assert set(speaking.novelty) == {"feature", "input"}
    assert "not calibrated" not in speaking.training_data
    assert speaking.manifest.provenance["imported"]["epoch"] == 95
    assert speaking.weights == package.weights
