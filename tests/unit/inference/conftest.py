"""A tiny, untrained model package: real files, made in a moment."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from iap_node.inference import novelty
from iap_node.inference.calibration import Calibration, HeadCalibration
from iap_node.inference.heads import Head, n_outputs
from iap_node.inference.joint import HeaderReference
from iap_node.inference.network import ResNet18
from iap_node.inference.novelty import View
from iap_node.inference.package import (
    FORMAT,
    FORMAT_VERSION,
    FileReference,
    Manifest,
    Network,
    NoveltyReference,
    write_package,
)
from iap_node.inference.preprocess import Preprocessing
from iap_node.records import ParameterKind

HEADS = (
    Head("Manufacturer", ParameterKind.CATEGORICAL, ("GE MEDICAL SYSTEMS", "SIEMENS")),
    Head("ContrastBolusAgent", ParameterKind.CATEGORICAL, ("GADAVIST", "absent"), by_association=True),
    Head("EchoTime", ParameterKind.CONTINUOUS, transform="log", mean=0.6, std=0.2),
)
CALIBRATION = Calibration(
    1,
    500,
    (0.01, 0.05, 0.5),
    (
        HeadCalibration("Manufacturer", 1.0, (None, 0.99, 0.2)),
        HeadCalibration("ContrastBolusAgent", 2.0, (0.99, 0.9, 0.2)),
        HeadCalibration("EchoTime", 1.0, (None, 2.0, 0.5)),
    ),
)


@pytest.fixture
def write_tiny_package() -> Callable[..., Path]:
    """Writes a package with an untrained network into a folder; `novelty_limit` is the distance that is too far."""

    def write(folder: Path, novelty_limit: float = 1e9) -> Path:
        torch.manual_seed(0)
        spec = Preprocessing(
            size=32, channels=("image", "spectrum"), rounded=True, offset=(50.0, 100.0), scale=(50.0, 30.0)
        )
        network = ResNet18(2, n_outputs(HEADS), 0.125)
        rng = np.random.default_rng(0)
        views = {}
        for name, n_dimensions in (("feature", 64), ("input", 256)):
            means, whitening = novelty.fit_clusters(rng.normal(size=(50, n_dimensions)), 2, rng)
            views[name] = View(means, whitening, ((1, novelty_limit),))
        manifest = Manifest(
            format=FORMAT,
            format_version=FORMAT_VERSION,
            name="tiny",
            version="1",
            training_data="not trained at all",
            network=Network("resnet18", 2, 0.125),
            preprocessing=spec,
            parameters=HEADS,
            calibration=(CALIBRATION,),
            novelty=NoveltyReference(FileReference("", ""), {}),
            weights=FileReference("", ""),
        )
        weights = {name: value.numpy() for name, value in network.state_dict().items()}
        header = HeaderReference(np.array([1.0, 0.0, 0.5]), ((1, rng.exponential(size=(199, 3))),))
        write_package(folder, manifest, weights, views, header)
        return folder

    return write
