"""The SR document by itself: what it says, that others read it, that it is always the same.

Which record it is made from is tested in tests/integration/worker/test_deliver_results.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from iap_node.records import FindingState
from iap_node.results import codes
from iap_node.results.codes import PARAMETER_CODES, PRIVATE_CODES, term
from iap_node.results.content import SeriesResult
from iap_node.results.document import Origin, build_document, encode

DECISION = Path(__file__).resolve().parents[3] / "docs" / "decisions" / "0021-results-as-dicom.md"
RAW_DATA = "1.2.840.10008.5.1.4.1.1.66"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"


def items(ds: Dataset, path: str = "") -> Iterator[tuple[str, Dataset]]:
    """Every content item with the meanings of its concept names, from the root on."""
    concept = ds.get("ConceptNameCodeSequence")
    here = f"{path}/{concept[0].CodeMeaning}" if concept else f"{path}/"
    yield here, ds
    for child in ds.get("ContentSequence", ()):
        yield from items(child, here)


def of_group(ds: Dataset, name: str) -> dict[str, list[Dataset]]:
    """The items of one measurement group, by the meanings of their concept names."""
    for _, item in items(ds):
        children = item.get("ContentSequence", ())
        if any(child.get("TextValue") == name for child in children):
            found: dict[str, list[Dataset]] = {}
            for child in children:
                found.setdefault(child.ConceptNameCodeSequence[0].CodeMeaning, []).append(child)
            return found
    raise AssertionError(f"no group {name}")


def number(item: Dataset) -> tuple[float, str]:
    measured = item.MeasuredValueSequence[0]
    return float(measured.NumericValue), measured.MeasurementUnitsCodeSequence[0].CodeValue


def read(result: SeriesResult, origin: Origin) -> Dataset:
    return dcmread(BytesIO(encode(build_document(result, origin))))


@pytest.mark.parametrize("which", ["predicted", "novel", "not analysed"])
def test_clunie_and_dcmtk_read_it_without_an_error(
    which: str, results: Any, make_origin: Any, program: Any, tmp_path: Path
) -> None:
    dciodvfy, dsrdump = program("dciodvfy", "dicom3tools"), program("dsrdump", "dcmtk")
    sop_class = RAW_DATA if which == "not analysed" else None
    origin = make_origin(timezone="+0100", **({"sop_class_uid": sop_class} if sop_class else {}))
    for syntax in (IMPLICIT, EXPLICIT):
        path = tmp_path / "sr.dcm"
        path.write_bytes(encode(build_document(results[which], origin), syntax))
        judged = subprocess.run([dciodvfy, path], capture_output=True, text=True, check=False)
        complaints = [line for line in judged.stderr.splitlines() if "defined term <99IAP>" not in line]
        assert (judged.returncode, complaints) == (0, ["ComprehensiveSR"])  # which is the IOD that it took it for
        dumped = subprocess.run([dsrdump, path], capture_output=True, text=True, check=False)
        assert (dumped.returncode, dumped.stdout.count("Imaging Measurement Report")) == (0, 1)
        assert [line for line in dumped.stderr.splitlines() if "ISO_IR 192" not in line] == []


def test_number_has_unit_interval_and_confidence(result: SeriesResult, make_origin: Any) -> None:
    group = of_group(read(result, make_origin()), "EchoTime")
    (value,) = group["Echo Time"]
    assert number(value) == (88.25, "ms")
    assert [number(one) for one in value.ContentSequence] == [(80.5, "ms"), (97.0, "ms"), (0.95, "1")]
    assert [number(one) for one in group["Value stated in the header"]] == [(12.0, "ms")]
    assert group["Header compared with the pixels"][0].ConceptCodeSequence[0].CodeMeaning == "contradicts"


def test_header_value_that_is_no_number_is_told_as_written(result: SeriesResult, make_origin: Any) -> None:
    varies = replace(result.parameters[0], header_value="12\\13", header_problem="varies in the series")
    group = of_group(read(replace(result, parameters=(varies,)), make_origin()), "EchoTime")
    assert [one.TextValue for one in group["Value stated in the header"]] == ["12\\13"]
    assert [one.TextValue for one in group["Problem of the value in the header"]] == ["varies in the series"]


def test_classes_are_coded_with_their_probability_and_the_value_in_full(result: SeriesResult, make_origin: Any) -> None:
    first, second = of_group(read(result, make_origin()), "ScanOptions")["Scan Options"]
    assert first.ConceptCodeSequence[0].CodeMeaning == "PFP, FS"  # no backslash in an LO
    assert [one.get("TextValue") for one in first.ContentSequence][-1] == "PFP\\FS"
    assert [number(one.ContentSequence[0]) for one in (first, second)] == [(0.75, "1"), (0.2, "1")]


def test_every_prediction_and_finding_names_its_algorithm_and_what_it_was_trained_on(
    result: SeriesResult, make_origin: Any
) -> None:
    ds = read(result, make_origin())
    for name in ("novelty", "EchoTime", "ScanOptions", "finding 1: echo time as the pixels have it EchoTime"):
        group = of_group(ds, name)
        assert group["Algorithm Name"][0].TextValue == "reference"
        assert group["Algorithm Version"][0].TextValue == "1 (reference-1-abcd)"
        assert group["Algorithm Parameters"][0].TextValue == "trained on simulated images"
    whole = {path.rsplit("/", 1)[-1]: item for path, item in items(ds)}
    assert whole["Observer Type"].ConceptCodeSequence[0].CodeMeaning == "Device"
    assert "trained on simulated images" in whole["What the model was trained on"].TextValue


def test_finding_is_told_with_evidence_and_suggestion_and_nothing_that_a_terminal_obeys(
    result: SeriesResult, make_origin: Any
) -> None:
    group = of_group(read(result, make_origin()), "finding 1: echo time as the pixels have it EchoTime")
    assert group["Severity"][0].ConceptCodeSequence[0].CodeMeaning == "warning"
    assert group["Suggested value"][0].TextValue == "88.25"
    assert group["Evidence"][0].TextValue.endswith("88.25 ms – ?µ.")


def test_novel_and_not_analysed_series_say_so_and_predict_nothing(results: Any, make_origin: Any) -> None:
    for which in ("novel", "not analysed"):
        ds = read(results[which], make_origin(sop_class_uid=RAW_DATA))
        said = {path.rsplit("/", 1)[-1]: item for path, item in items(ds) if "Qualitative" in path}
        assert said["Status of the analysis"].ConceptCodeSequence[0].CodeMeaning == which
        assert said["Statement about the analysis"].TextValue == results[which].statement
        assert not [path for path, _ in items(ds) if path.endswith("/Echo Time")]
        assert not [path for path, _ in items(ds) if "Image Library" in path]  # there are no images


def test_it_refers_to_the_instances_and_takes_patient_and_study_along(result: SeriesResult, make_origin: Any) -> None:
    ds = read(result, make_origin())
    series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == "1.2.3.4" != ds.SeriesInstanceUID
    assert [one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence] == ["1.2.3.4.1", "1.2.3.4.2"]
    assert (str(ds.PatientName), ds.PatientID, ds.StudyInstanceUID) == ("Müller^Jörg", "P1", "1.2.3")
    assert (ds.Modality, ds.VerificationFlag, ds.CompletionFlag) == ("SR", "UNVERIFIED", "COMPLETE")


def test_same_result_is_the_same_file_and_anything_else_another_uid(
    result: SeriesResult, make_origin: Callable[..., Origin]
) -> None:
    first = build_document(result, make_origin())
    assert encode(first) == encode(build_document(result, make_origin()))
    decided = replace(result, findings=(replace(result.findings[0], state=FindingState.DISMISSED),))
    copied = replace(make_origin(), series_instance_uid="1.2.3.5")
    others = [
        build_document(decided, make_origin()),
        build_document(replace(result, revision=2), make_origin()),
        build_document(result, copied),
        build_document(result, make_origin(timezone="-0330")),
    ]
    assert len({ds.SOPInstanceUID for ds in (first, *others)}) == 5
    assert [ds.SeriesInstanceUID == first.SeriesInstanceUID for ds in others] == [True, True, False, True]


def test_times_are_in_the_time_of_the_images_where_they_tell_it(result: SeriesResult, make_origin: Any) -> None:
    late = replace(result, changed_at=datetime(2026, 3, 1, 2, 0, tzinfo=UTC))
    ds = build_document(late, make_origin(timezone="-0330"))
    assert (ds.ContentDate, ds.ContentTime, ds.TimezoneOffsetFromUTC) == ("20260228", "223000", "-0330")


def test_private_codes_fit_their_elements_and_are_the_ones_that_the_decision_note_lists() -> None:
    assert len({code.value for code in PRIVATE_CODES}) == len(PRIVATE_CODES)
    listed = DECISION.read_text(encoding="utf-8")
    for code in (*PRIVATE_CODES, *PARAMETER_CODES.values(), term("EchoTime", "x" * 200)):
        assert 0 < len(code.value) <= 16  # SH
        assert 0 < len(code.meaning) <= 64  # LO
        assert code.value.startswith("T-") or f"| `{code.value}` | {code.meaning} |" in listed


def test_terms_of_two_kinds_have_two_codes_and_meanings_hold_no_backslash_or_control() -> None:
    assert term("EchoTime", "a") != term("FlipAngle", "a")
    assert codes.meaning("A\\B\x1b\nC") == "A, B C"
    assert codes.meaning("\x00") == "(empty)"
