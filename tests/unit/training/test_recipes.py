"""Recipes: the published head layouts, and targets that may be missing."""

import math

import numpy as np
import pytest

from iap_node.inference.heads import n_outputs
from iap_node.inference.preprocess import PAPER
from training.recipes import REFERENCE, encode_targets, heads_for, paper

# Sizes of the Duke vocabulary (arXiv 2303.04911); the repository counts ten matrix classes.
DUKE_SIZES = {
    "Manufacturer": 3,
    "ManufacturerModelName": 8,
    "ScanOptions": 9,
    "PatientPosition": 2,
    "MagneticFieldStrength": 4,
    "ContrastBolusAgent": 6,
    "AcquisitionMatrix": 10,
    "SliceThickness": 21,
    "FlipAngle": 4,
    "FieldOfView": 27,
}
NUMBERS = {"MagneticFieldStrength", "SliceThickness", "FlipAngle", "FieldOfView"}


def duke_labels() -> list[dict[str, str | float | None]]:
    """Labels in which every class of the Duke vocabulary's sizes occurs."""
    labels = []
    for row in range(30):
        label: dict[str, str | float | None] = {"EchoTime": 1.2 + row / 20, "RepetitionTime": 4.0 + row / 10}
        for keyword, size in DUKE_SIZES.items():
            label[keyword] = float(row % size + 1) if keyword in NUMBERS else f"class {row % size}"
        labels.append(label)
    return labels


@pytest.mark.parametrize("layout", ["96", "47"])
def test_published_layouts_have_their_number_of_outputs_on_the_duke_vocabulary(layout):
    assert n_outputs(heads_for(paper(layout), duke_labels())) == int(layout)


def test_published_recipe_has_no_head_beyond_the_paper():
    labels = [
        label | {"SequenceFamily": ("gradient echo", "spin echo")[row % 2]} for row, label in enumerate(duke_labels())
    ]
    assert n_outputs(heads_for(paper(), labels)) == 96
    assert heads_for(REFERENCE, labels)[-1].keyword == "SequenceFamily"


def test_published_recipe_is_that_of_the_paper():
    recipe = paper()
    assert recipe.preprocessing == PAPER
    assert (recipe.width, recipe.optimiser, recipe.learning_rate, recipe.weight_decay) == (1.0, "Adam", 1e-3, 1e-4)
    assert (recipe.batch_size, recipe.epochs, recipe.loss, recipe.target) == (512, 100, "sum", "raw")
    assert recipe.intensity_jitter == 0


def test_numeric_classes_are_ordered_as_numbers_and_written_shortly():
    labels = [{"SliceThickness": value} for value in (10.0, 2.0, 1.25, 2.0)]
    assert heads_for(REFERENCE, labels)[0].classes == ("1.25", "2", "10")


def test_a_parameter_with_one_class_gets_no_head():
    labels = [{"Manufacturer": "SIEMENS", "PatientPosition": position} for position in ("HFP", "FFP")]
    assert [head.keyword for head in heads_for(REFERENCE, labels)] == ["PatientPosition"]


def test_contrast_agent_is_marked_as_learned_by_association():
    heads = heads_for(REFERENCE, duke_labels())
    assert [head.keyword for head in heads if head.by_association] == ["ContrastBolusAgent"]


def test_missing_and_unknown_labels_become_no_target():
    heads = heads_for(REFERENCE, duke_labels())
    targets = encode_targets(heads, [{}, {"Manufacturer": "class 1", "EchoTime": None}, {"Manufacturer": "other"}])
    assert np.isnan(targets[0]).all()
    assert targets[1, 0] == 1
    assert np.isnan(targets[1, 1:]).all()
    assert math.isnan(targets[2, 0])


def test_log_targets_are_standardised_over_the_training_labels():
    labels = duke_labels()
    heads = heads_for(REFERENCE, labels)
    echo_time = encode_targets(heads, labels)[:, [head.keyword for head in heads].index("EchoTime")]
    assert echo_time.mean() == pytest.approx(0, abs=1e-5)
    assert echo_time.std() == pytest.approx(1, abs=1e-4)
