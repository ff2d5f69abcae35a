"""Fitting: both recipes learn a tiny set by heart, and a killed run ends like one that was not killed.

Not here: how good a model becomes (docs/reference-model.md).
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from iap_node.inference.heads import n_outputs, output_slices
from iap_node.inference.network import ResNet18
from iap_node.inference.preprocess import standardise
from iap_node.records import ParameterKind
from training import fit as fitting
from training.dataset import SeriesSet
from training.recipes import REFERENCE, Recipe, encode_targets, heads_for, paper

SMALL_REFERENCE = replace(
    REFERENCE, preprocessing=replace(REFERENCE.preprocessing, size=32), width=0.25, batch_size=8, bfloat16=False
)
SMALL_PAPER = replace(paper(), preprocessing=replace(paper().preprocessing, size=32), width=0.25, batch_size=8)


def tiny_set(recipe: Recipe, n_series: int = 8) -> SeriesSet:
    """Random images; every second series is another scanner with another echo time, one label is missing."""
    rng = np.random.default_rng(0)
    shape = (n_series, 2, len(recipe.preprocessing.channels), recipe.preprocessing.size, recipe.preprocessing.size)
    labels = [
        {"Manufacturer": "SIEMENS" if k % 2 else "GE", "FlipAngle": 8.0 + 2 * (k % 3), "EchoTime": 1.5 + (k % 2)}
        for k in range(n_series)
    ]
    labels[0]["FlipAngle"] = None
    return SeriesSet(rng.integers(0, 256, shape).astype(np.uint8), tuple(labels))


@pytest.mark.parametrize("recipe", [SMALL_REFERENCE, SMALL_PAPER], ids=["reference", "paper"])
def test_a_recipe_learns_a_tiny_set_by_heart(tmp_path, recipe):
    data = tiny_set(recipe)
    heads = heads_for(recipe, data.labels)
    losses = []
    plain = replace(recipe, intensity_jitter=0.0, average_decay=0.0)
    fitted = fitting.fit(plain, heads, data, tmp_path, epochs=40, report=lambda state: losses.append(state.loss))
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 1
    network = ResNet18(len(recipe.preprocessing.channels), n_outputs(heads), recipe.width)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in fitted.weights.items()})
    network.eval()
    images = standardise(data.inputs.reshape(-1, *data.inputs.shape[2:]), recipe.preprocessing)
    with torch.inference_mode():
        outputs = network(torch.from_numpy(images))[0].numpy()
    targets = encode_targets(heads, data.labels).repeat(2, axis=0)
    for k, (head, where) in enumerate(zip(heads, output_slices(heads), strict=True)):
        if head.kind is ParameterKind.CATEGORICAL:
            known = ~np.isnan(targets[:, k])
            assert (outputs[known, where].argmax(axis=1) == targets[known, k]).mean() > 0.9


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    data = tiny_set(SMALL_REFERENCE)
    heads = heads_for(SMALL_REFERENCE, data.labels)
    whole = fitting.fit(SMALL_REFERENCE, heads, data, tmp_path / "whole", epochs=4, checkpoint_steps=3)

    class Killed(Exception):
        pass

    def kill(state: fitting.Progress) -> None:
        if state.step == 5:
            raise Killed

    with pytest.raises(Killed):
        fitting.fit(SMALL_REFERENCE, heads, data, tmp_path / "cut", epochs=4, checkpoint_steps=3, report=kill)
    steps = []
    resumed = fitting.fit(
        SMALL_REFERENCE,
        heads,
        data,
        tmp_path / "cut",
        epochs=4,
        checkpoint_steps=3,
        report=lambda state: steps.append(state.step),
    )
    assert steps == [4, 5, 6, 7, 8]
    assert resumed.weights.keys() == whole.weights.keys()
    for name, array in whole.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], array, err_msg=name)


def test_another_seed_gives_other_weights(tmp_path):
    data = tiny_set(SMALL_REFERENCE)
    heads = heads_for(SMALL_REFERENCE, data.labels)
    one, other = (
        fitting.fit(SMALL_REFERENCE, heads, data, tmp_path / str(seed), epochs=1, seed=seed) for seed in (1, 2)
    )
    assert np.abs(one.weights["fc.weight"] - other.weights["fc.weight"]).max() > 0


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    data = tiny_set(SMALL_REFERENCE)
    heads = heads_for(SMALL_REFERENCE, data.labels)
    fitting.fit(SMALL_REFERENCE, heads, data, tmp_path, epochs=1)
    with pytest.raises(ValueError, match="another run"):
        fitting.fit(SMALL_REFERENCE, heads, data, tmp_path, epochs=2)


def test_a_time_budget_ends_the_run_early(tmp_path):
    data = tiny_set(SMALL_REFERENCE)
    heads = heads_for(SMALL_REFERENCE, data.labels)
    fitted = fitting.fit(SMALL_REFERENCE, heads, data, tmp_path, epochs=100_000, minutes=0.02)
    assert fitted.epochs < 100_000


def test_targets_that_are_missing_give_no_gradient():
    data = tiny_set(SMALL_REFERENCE)
    heads = heads_for(SMALL_REFERENCE, data.labels)
    losses = fitting.HeadLosses(heads, weighed=True)
    outputs = torch.randn(3, n_outputs(heads), requires_grad=True)
    targets = torch.full((3, len(heads)), torch.nan)
    targets[1, 0] = 1.0
    losses(outputs, targets).backward()
    assert outputs.grad is not None
    touched = outputs.grad.abs() > 0
    assert touched[1, output_slices(heads)[0]].all()
    assert touched.sum() == heads[0].n_outputs


def test_the_published_loss_is_the_unweighted_sum():
    data = tiny_set(SMALL_PAPER)
    heads = heads_for(SMALL_PAPER, data.labels)
    losses = fitting.HeadLosses(heads, weighed=False)
    targets = torch.tensor([[0.0, 1.0, 2.5]])
    outputs = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0, 1.5]])
    wanted = np.log(2) + np.log(3) + 1.0
    assert losses(outputs, targets).item() == pytest.approx(wanted, rel=1e-6)
    assert not losses.log_variances.requires_grad


def test_variation_never_moves_the_spectrum_and_keeps_the_range_of_the_image():
    recipe = replace(REFERENCE, spectrum_noise=0.0)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 2, 96, 96)).astype(np.float32))
    varied = fitting.varied_images(images, recipe, [1, 2])
    torch.testing.assert_close(varied[:, 1], images[:, 1])
    assert not torch.equal(varied[:, 0], images[:, 0])
    assert varied.min() >= 0
    assert varied.max() <= 255
    torch.testing.assert_close(varied, fitting.varied_images(images, recipe, [1, 2]))


def test_position_is_varied_by_at_most_the_jitter():
    recipe = replace(REFERENCE, intensity_jitter=0.0, spectrum_noise=0.0, position_jitter=3)
    images = torch.zeros(40, 2, 96, 96)
    images[:, 0, 50, 40] = 255.0
    places = fitting.varied_images(images, recipe, [3])[:, 0].nonzero()[:, 1:] - torch.tensor([50, 40])
    assert len(places) == 40
    assert places.abs().max() == 3


def test_parts_of_a_batch_give_the_gradient_of_their_mean(tmp_path):
    # Without normalisation by batch statistics the parts would agree to rounding; with it they agree in direction.
    data = tiny_set(SMALL_REFERENCE)
    heads = heads_for(SMALL_REFERENCE, data.labels)
    weights = {}
    for parts in (1, 2):
        recipe = replace(SMALL_REFERENCE, parts=parts, learning_rate=1e-3, average_decay=0.0, warm_up=0.01)
        weights[parts] = fitting.fit(recipe, heads, data, tmp_path / str(parts), epochs=1).weights["fc.bias"]
    torch.manual_seed(0)
    start = ResNet18(2, n_outputs(heads), SMALL_REFERENCE.width).state_dict()["fc.bias"].numpy()
    one, two = weights[1] - start, weights[2] - start
    assert one @ two / np.linalg.norm(one) / np.linalg.norm(two) > 0.8
