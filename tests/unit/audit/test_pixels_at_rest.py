"""Files of one series judged without a node: what is handed to the model, and what becomes of what it cannot use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import RawDataStorage

from iap_node.audit.pixels_at_rest import judge_pixels
from iap_node.config import AuditConfig, InferenceConfig
from iap_node.errors import UnreadablePixels
from iap_node.records import (
    Finding,
    FindingKind,
    ParameterKind,
    ParameterPrediction,
    SeriesHeader,
    SeriesPrediction,
    Severity,
    Verdict,
)
from training.simulation.dicom_series import write_series
from training.simulation.series import simulate_series

AUDIT, INFERENCE = AuditConfig(alpha=0.05), InferenceConfig(max_slices=2)


class Scripted:
    """Shares the real predictor's interface; the pixels say Siemens, and an echo time of 50 ms."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, float, SeriesHeader | None]] = []

    def predict(
        self, slices: Sequence[np.ndarray], alpha: float, header: SeriesHeader | None = None
    ) -> SeriesPrediction:
        if not slices:
            raise UnreadablePixels("the series has no slice with pixels; nothing to predict from")
        self.asked.append((len(slices), alpha, header))
        shares = (("SIEMENS", 0.5), ("GE MEDICAL SYSTEMS", 0.3), ("MPTronic software", 0.2))
        everybody = tuple(name for name, _ in shares)
        return SeriesPrediction(
            "scripted-1", "none: scripted for a test", False, 1.0, 4.5, len(slices),
            (
                ParameterPrediction("Manufacturer", ParameterKind.CATEGORICAL, shares, everybody, alpha=alpha),
                ParameterPrediction(
                    "EchoTime", ParameterKind.CONTINUOUS, value=50.0, interval=(40.0, 60.0),
                    intervals=((alpha, 40.0, 60.0),), alpha=alpha,
                ),
            ),
        )  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    rng = np.random.default_rng(5)
    return write_series(simulate_series(rng, 3), tmp_path_factory.mktemp("series"), rng=rng)


@pytest.fixture
def change(files: list[Path], tmp_path: Path):
    """A copy of the series, each instance changed by a function of its data set."""

    def write(edit) -> list[Path]:
        changed = []
        for file in files:
            ds = pydicom.dcmread(file)
            edit(ds)
            changed.append(tmp_path / file.name)
            ds.save_as(changed[-1])
        return changed

    return write


def test_series_is_judged_as_the_node_would(files: list[Path]) -> None:
    model = Scripted()
    judged = judge_pixels(files, model, AUDIT, INFERENCE)
    assert model.asked == [(2, 0.05, judged.header)]
    assert judged.header.value("EchoTime").canonical == pytest.approx(float(pydicom.dcmread(files[0]).EchoTime))
    assert {item.keyword for item in judged.comparisons if item.verdict is Verdict.CONTRADICTS} == {"EchoTime"}
    assert [(one.element, one.check) for one in judged.findings] == [("EchoTime", "pixels-contradict")]
    assert (judged.reason, judged.problems) == ("", ())


def test_what_others_found_is_not_found_again(change) -> None:
    emptied = change(lambda ds: setattr(ds, "EchoTime", None))
    (missing,) = judge_pixels(emptied, Scripted(), AUDIT, INFERENCE).findings
    assert (missing.check, missing.suggested_value) == ("pixels-missing", "50")
    known = Finding("EchoTime", "present", FindingKind.MISSING, Severity.WARNING, "", "", None)
    assert judge_pixels(emptied, Scripted(), AUDIT, INFERENCE, [known]).findings == ()


def test_instances_without_an_image_are_named_and_the_others_judged(files: list[Path], tmp_path: Path) -> None:
    raw = pydicom.dcmread(files[0])
    raw.SOPClassUID = raw.file_meta.MediaStorageSOPClassUID = RawDataStorage
    raw.save_as(tmp_path / "raw.dcm")
    (tmp_path / "text.dcm").write_text("no instance at all")
    judged = judge_pixels([tmp_path / "raw.dcm", tmp_path / "text.dcm", *files], Scripted(), AUDIT, INFERENCE)
    assert judged.prediction is not None
    assert [file.name for file, _ in judged.problems] == ["raw.dcm", "text.dcm"]


def test_series_without_pixels_has_a_reason_instead_of_a_verdict(change) -> None:
    model = Scripted()
    judged = judge_pixels(change(lambda ds: ds.__delitem__("PixelData")), model, AUDIT, INFERENCE)
    assert model.asked == []
    assert (judged.prediction, judged.findings) == (None, ())
    assert judged.reason
    assert {item.verdict for item in judged.comparisons} == {Verdict.NOT_JUDGED}
    assert judge_pixels([], model, AUDIT, INFERENCE).reason == "the series has no instances"
