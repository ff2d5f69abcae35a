"""The network: torchvision's names and shapes, so that checkpoints trained elsewhere fit."""

import pytest
import torch

from iap_node.inference.network import ResNet18

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def torchvision_names() -> set[str]:
    """State dict keys of torchvision.models.resnet18, spelt out by its structure."""
    names = {"conv1.weight", "fc.weight", "fc.bias"} | {f"bn1.{part}" for part in NORM}
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            prefix = f"layer{layer}.{block}"
            names |= {f"{prefix}.conv{k}.weight" for k in (1, 2)}
            names |= {f"{prefix}.bn{k}.{part}" for k in (1, 2) for part in NORM}
        if layer > 1:
            names.add(f"layer{layer}.0.downsample.0.weight")
            names |= {f"layer{layer}.0.downsample.1.{part}" for part in NORM}
    return names


def test_parameter_names_are_those_of_torchvision():
    names = set(ResNet18(1, 96).state_dict())
    assert names == torchvision_names()
    assert len(names) == 122


def test_parameter_count_is_that_of_resnet18():
    assert sum(p.numel() for p in ResNet18(3, 1000).parameters()) == 11_689_512  # torchvision's documentation


def test_paper_network_has_one_channel_and_512_features():
    network = ResNet18(1, 96)
    assert tuple(network.conv1.weight.shape) == (64, 1, 7, 7)
    assert tuple(network.fc.weight.shape) == (96, 512)


@pytest.mark.parametrize(("size", "width"), [(224, 1.0), (96, 0.5)])
def test_forward_gives_outputs_and_the_feature_they_are_read_from(size, width):
    network = ResNet18(2, 7, width).eval()
    with torch.inference_mode():
        outputs, features = network(torch.rand(3, 2, size, size))
        torch.testing.assert_close(outputs, network.fc(features))
    assert outputs.shape == (3, 7)
    assert features.shape == (3, round(512 * width))
