"""From slice outputs to one answer per series."""

import numpy as np

from iap_node.inference.heads import Head
from iap_node.inference.pooling import log_softmax, pool, probabilities
from iap_node.records import ParameterKind

HEADS = (
    Head("Manufacturer", ParameterKind.CATEGORICAL, ("A", "B", "C")),
    Head("EchoTime", ParameterKind.CONTINUOUS, transform="log", mean=0.5, std=0.2),
)


def test_pooled_confidence_does_not_depend_on_how_many_slices_say_the_same():
    outputs = np.array([[2.0, 0.0, -1.0, 0.3]])
    one, many = pool(outputs, HEADS), pool(np.repeat(outputs, 24, axis=0), HEADS)
    for left, right in zip(one, many, strict=True):
        np.testing.assert_allclose(left, right)


def test_log_probabilities_and_numbers_are_averaged_over_slices():
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(5, 8, 4))
    classes, number = pool(outputs, HEADS)
    np.testing.assert_allclose(classes, log_softmax(outputs[..., :3]).mean(axis=1))
    np.testing.assert_allclose(number[..., 0], outputs[..., 3].mean(axis=1))


def test_probabilities_sum_to_one_and_a_high_temperature_levels_them():
    mean_log = np.array([-0.1, -3.0, -5.0])
    sharp, level = probabilities(mean_log, 0.5), probabilities(mean_log, 50.0)
    np.testing.assert_allclose([sharp.sum(), level.sum()], 1.0)
    assert sharp[0] > level[0] > 1 / 3


def test_huge_logits_stay_finite():
    assert np.isfinite(pool(np.array([[1e4, -1e4, 0.0, 1.0]]), HEADS)[0]).all()


def test_log_target_and_its_value_are_inverse():
    head = HEADS[1]
    np.testing.assert_allclose([head.decode(head.encode(value)) for value in (0.7, 1.8, 40.0)], [0.7, 1.8, 40.0])
