"""Fitting: both recipes learn a tiny set by heart, and a killed run ends like one that was not killed.

Not here: how good a model becomes (docs/reference-model.md).
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from iap_node.errors import ConfigError
from iap_node.inference.heads import Head, n_outputs, output_slices
from iap_node.inference.network import ResNet18
from iap_node.inference.preprocess import standardise
from iap_node.records import ParameterKind
from training import fit as fitting
from training import losses, tensorboard
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
    head_losses = losses.HeadLosses(heads, weighed=True)
    outputs = torch.randn(3, n_outputs(heads), requires_grad=True)
    targets = torch.full((3, len(heads)), torch.nan)
    targets[1, 0] = 1.0
    head_losses(outputs, targets).backward()
    assert outputs.grad is not None
    touched = outputs.grad.abs() > 0
    assert touched[1, output_slices(heads)[0]].all()
    assert touched.sum() == heads[0].n_outputs


def test_the_published_loss_is_the_unweighted_sum():
    data = tiny_set(SMALL_PAPER)
    heads = heads_for(SMALL_PAPER, data.labels)
    head_losses = losses.HeadLosses(heads, weighed=False)
    targets = torch.tensor([[0.0, 1.0, 2.5]])
    outputs = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0, 1.5]])
    wanted = np.log(2) + np.log(3) + 1.0
    assert head_losses(outputs, targets).item() == pytest.approx(wanted, rel=1e-6)
    assert not head_losses.log_variances.requires_grad


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


def test_the_same_seed_gives_the_same_numbers_twice(tmp_path):
    data = tiny_set(SMALL_REFERENCE)
    heads = heads_for(SMALL_REFERENCE, data.labels)
    told: list[list[float]] = [[], []]
    one, other = (
        fitting.fit(
            SMALL_REFERENCE,
            heads,
            data,
            tmp_path / str(k),
            epochs=2,
            seed=3,
            report=lambda p, k=k: told[k].append(p.loss),
        )
        for k in range(2)
    )
    assert told[0] == told[1]
    for name, array in one.weights.items():
        np.testing.assert_array_equal(other.weights[name], array, err_msg=name)


def test_a_run_can_be_told_how_many_images_to_show(tmp_path):
    data = tiny_set(SMALL_REFERENCE)
    heads = heads_for(SMALL_REFERENCE, data.labels)
    fitted = fitting.fit(SMALL_REFERENCE, heads, data, tmp_path, images_seen=40)
    assert fitted.steps == 5  # batches of 8


FLIP = Head("FlipAngle", ParameterKind.CATEGORICAL, ("7", "8", "10", "12"))


def test_a_number_further_from_the_truth_costs_more():
    distances = losses.distances_of(FLIP, 2.0)
    np.testing.assert_allclose(distances, [0.5, 1.0, 1.0])
    head_losses = losses.HeadLosses([FLIP], weighed=False, distances={"FlipAngle": distances})
    sure_of = [head_losses(30.0 * torch.eye(4)[[k]], torch.tensor([[0.0]])).item() for k in range(4)]
    assert sure_of[0] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(np.array(sure_of[1:]) - 30.0, [0.5, 1.5, 2.5], atol=1e-4)  # the score of a sure answer
    assert losses.distances_of(replace(FLIP, classes=("7", "10", "8")), 2.0) is None


def test_the_best_answer_stays_the_true_distribution():
    # Soft targets would blur it: what calibration starts from must not be blurred on purpose.
    truth = torch.tensor([0.1, 0.5, 0.15, 0.25])
    targets = torch.repeat_interleave(torch.arange(4.0), (truth * 100).round().long())[:, None]
    distances = losses.distances_of(FLIP, 2.0)
    head_losses = losses.HeadLosses([FLIP], weighed=False, distances={"FlipAngle": distances})
    logits = torch.zeros(4, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = head_losses(logits.expand(100, 4), targets)
        value.backward()
        return value

    optimiser.step(loss)
    torch.testing.assert_close(torch.softmax(logits.detach(), 0), truth, atol=1e-3, rtol=0)


def test_the_reference_recipe_treats_numbers_as_numbers_and_the_published_one_does_not():
    assert {keyword for keyword, _ in REFERENCE.ordinal} == {
        "MagneticFieldStrength",
        "SliceThickness",
        "FlipAngle",
        "FieldOfView",
    }
    assert REFERENCE.rare_classes > 0
    assert (paper().ordinal, paper().rare_classes) == ((), 0.0)


def test_class_weights_are_out_of_what_the_network_says_in_the_end():
    # A network that sees nothing can say the frequencies only; weighed ones, until the weights are taken out.
    counts = np.array([70, 20, 8, 2])
    targets = np.repeat(np.arange(4.0), counts)
    weights = losses.class_weights(FLIP, np.append(targets, np.nan), power=0.5)
    assert (weights * counts).sum() / 100 == pytest.approx(1)
    assert np.diff(weights).min() > 0
    head_losses = losses.HeadLosses([FLIP], weighed=False, weights={"FlipAngle": weights})
    bias = torch.zeros(4, requires_grad=True)
    optimiser = torch.optim.LBFGS([bias], max_iter=100, tolerance_grad=1e-9, tolerance_change=1e-12)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = head_losses(bias.expand(100, 4), torch.from_numpy(targets[:, None]).float())
        value.backward()
        return value

    optimiser.step(loss)
    fond = torch.softmax(bias, 0).detach().numpy()
    assert fond[3] > 0.03
    fair = torch.softmax(bias - torch.from_numpy(losses.weight_bias([FLIP], {"FlipAngle": weights})), 0)
    np.testing.assert_allclose(fair.detach().numpy(), counts / 100, atol=1e-3)


def test_a_run_that_begins_with_finished_weights_goes_on_where_they_were(tmp_path):
    # The weights of the classes are put back first: otherwise each start would move the answers once more.
    recipe = replace(SMALL_REFERENCE, learning_rate=0.0, average_decay=0.0, rare_classes=0.5)
    data = tiny_set(recipe)
    heads = heads_for(recipe, data.labels)
    first = fitting.fit(recipe, heads, data, tmp_path / "one", epochs=1)
    again = fitting.fit(recipe, heads, data, tmp_path / "two", epochs=1, start=first.weights)
    np.testing.assert_allclose(again.weights["fc.bias"], first.weights["fc.bias"], atol=1e-6)


def test_loss_and_learning_rate_are_written_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX", reason="pip install 'iap-node[tensorboard]' to run this test")
    data = tiny_set(SMALL_REFERENCE)
    heads = heads_for(SMALL_REFERENCE, data.labels)
    told = []
    with tensorboard.logged(tmp_path / "events", told.append) as show:
        fitting.fit(SMALL_REFERENCE, heads, data, tmp_path / "run", epochs=1, report=show)
    (events,) = (tmp_path / "events").iterdir()
    content = events.read_bytes()
    assert b"loss" in content
    assert b"learning_rate" in content
    assert len(told) == 2
    assert 0 < told[0].learning_rate <= SMALL_REFERENCE.learning_rate


def test_without_tensorboardx_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"iap-node\[tensorboard\]"), tensorboard.logged(tmp_path, print):
        pass


SEVERAL_PROCESSES = """
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, sys.argv[1])
from test_fit import SMALL_REFERENCE, tiny_set

from training import fit, processes
from training.recipes import heads_for

torch.set_num_threads(1)
out = Path(sys.argv[2])
data = tiny_set(SMALL_REFERENCE)
with processes.joined() as group:
    fitted = fit.fit(SMALL_REFERENCE, heads_for(SMALL_REFERENCE, data.labels), data, out / "run", epochs=2)
    np.savez(out / f"{group.rank}of{group.size}.npz", **fitted.weights)
"""


def test_two_processes_under_torchrun_end_with_the_weights_of_one_that_parts_its_batches(tmp_path):
    script = tmp_path / "several.py"
    script.write_text(SEVERAL_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [*command, str(Path(__file__).parent), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    data = tiny_set(SMALL_REFERENCE)
    alone = fitting.fit(
        replace(SMALL_REFERENCE, parts=2), heads_for(SMALL_REFERENCE, data.labels), data, tmp_path / "alone", epochs=2
    )
    first, second = (np.load(tmp_path / f"{rank}of2.npz") for rank in range(2))
    assert set(first) == set(alone.weights)
    for name, array in alone.weights.items():
        np.testing.assert_allclose(first[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(first["fc.weight"], second["fc.weight"])


@pytest.mark.cuda
def test_mixed_precision_on_cuda_learns_what_the_cpu_learns(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device; run it on a machine with one")
    recipe = replace(SMALL_REFERENCE, bfloat16=True, intensity_jitter=0.0)
    data = tiny_set(recipe)
    heads = heads_for(recipe, data.labels)
    told = []
    fitted = fitting.fit(
        recipe, heads, data, tmp_path, epochs=40, device="cuda", report=lambda state: told.append(state.loss)
    )
    assert np.mean(told[-4:]) < np.mean(told[:4]) - 1
    assert all(array.dtype != np.float16 for array in fitted.weights.values())
