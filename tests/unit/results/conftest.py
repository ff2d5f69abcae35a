"""Results of one series, made without an archive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydicom.dataset import Dataset

from iap_node.records import FindingKind, FindingState, ParameterKind, Severity, Verdict, Witness
from iap_node.results.content import (
    ClassProbability,
    FindingResult,
    ModelUsed,
    ParameterResult,
    ResultStatus,
    SeriesResult,
)
from iap_node.results.document import Origin, ReferencedInstance
from iap_node.results.identity import Identity

MR = "1.2.840.10008.5.1.4.1.1.4"
ECHO_TIME = ParameterResult(
    keyword="EchoTime",
    title="Echo Time",
    unit="ms",
    kind=ParameterKind.CONTINUOUS,
    predicted_value=88.25,
    probability=None,
    classes=(),
    interval=(80.5, 97.0),
    confidence=0.95,
    by_association=False,
    header_value="12",
    header_problem="",
    header_probability=0.001,
    verdict=Verdict.CONTRADICTS,
    suggested_value="88.25",
    reason="",
)
SCAN_OPTIONS = replace(
    ECHO_TIME,
    keyword="ScanOptions",
    title="Scan Options",
    unit="",
    kind=ParameterKind.CATEGORICAL,
    predicted_value="PFP\\FS",
    probability=0.75,
    classes=(ClassProbability("PFP\\FS", 0.75), ClassProbability("FS", 0.2)),
    interval=None,
    by_association=True,
    header_value="",
    header_probability=None,
    verdict=Verdict.MISSING,
    suggested_value="PFP\\FS",
)
FINDING = FindingResult(
    check="echo time as the pixels have it",
    element="EchoTime",
    kind=FindingKind.CONTRADICTION,
    severity=Severity.WARNING,
    state=FindingState.OPEN,
    raised_by=Witness.PIXELS,
    evidence="The header says 12 ms; the pixels, by a model trained on simulated images, 88.25 ms – \x07µ.",
    conclusion="The header is probably wrong.",
    header_value="12",
    suggested_value="88.25",
    accepted_value=None,
)
RESULT = SeriesResult(
    study_instance_uid="1.2.3",
    series_instance_uid="1.2.3.4",
    modality="MR",
    revision=1,
    n_instances=2,
    judged_at=datetime(2026, 3, 1, 10, 0, tzinfo=UTC),
    changed_at=datetime(2026, 3, 1, 10, 0, tzinfo=UTC),
    status=ResultStatus.PREDICTED,
    statement="Predicted by an algorithm: model reference-1, trained on simulated images.",
    software_version="0.1.0",
    model=ModelUsed("reference-1-abcd", "reference", "1", "trained on simulated images"),
    n_slices=2,
    novelty_score=1.5,
    novelty_threshold=4.5,
    header_fit=0.01,
    parameters=(ECHO_TIME, SCAN_OPTIONS),
    findings=(FINDING,),
    domain=None,
    route_reason="no rule applies",
)
NOT_ANALYSED = replace(
    RESULT,
    modality="OT",
    status=ResultStatus.NOT_ANALYSED,
    statement="Not analysed: raw data, not an image.",
    model=None,
    n_slices=None,
    novelty_score=None,
    novelty_threshold=None,
    header_fit=None,
    parameters=(),
    findings=(),
)
NOVEL = replace(RESULT, status=ResultStatus.NOVEL, novelty_score=float("inf"), parameters=(), header_fit=None)


@pytest.fixture
def result() -> SeriesResult:
    return RESULT


@pytest.fixture
def results() -> dict[str, SeriesResult]:
    """One of each status."""
    return {"predicted": RESULT, "novel": NOVEL, "not analysed": NOT_ANALYSED}


@pytest.fixture
def make_origin() -> Callable[..., Origin]:
    """Factory: whose series it is, and its instances."""

    def make(timezone: str = "", sop_class_uid: str = MR, **elements: Any) -> Origin:
        ds = Dataset()
        whose = {
            "StudyDate": "20260301", "StudyTime": "090000", "AccessionNumber": "", "ReferringPhysicianName": "",
            "PatientName": "Müller^Jörg", "PatientID": "P1", "PatientBirthDate": "19700101", "PatientSex": "M",
            "StudyID": "S1",
        }  # fmt: skip
        for keyword, value in (whose | elements).items():
            setattr(ds, keyword, value)
        instances = [ReferencedInstance(sop_class_uid, f"1.2.3.4.{number}") for number in (1, 2)]
        return Origin(Identity(ds, timezone), "1.2.3.4", instances, "IAP_NODE")

    return make
