"""The result of one series as a record: what the pixels say, what the headers state, what was found against them.

The one content of the SR document, of the JSON of `iap-node result` and of the API, and of what webhooks get. Called
by `report` and `message`; the strings below the fields are what the published schema (`schema`) says of them.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy.orm import Session

import iap_node
from iap_node.database.archive import current_instances
from iap_node.database.findings import FindingFilter, every_finding
from iap_node.database.models import manifest_of
from iap_node.database.results import Judgement, judgement
from iap_node.database.series import series_by_id
from iap_node.dicom.parameters import PARAMETERS, AcquisitionParameter
from iap_node.errors import PermanentError
from iap_node.records import (
    FindingKind,
    FindingState,
    HeaderComparison,
    HeaderValue,
    ParameterKind,
    ParameterPrediction,
    SeriesPrediction,
    Severity,
    Verdict,
    Witness,
)

FORMAT = "iap-node-result"
FORMAT_VERSION = 1
_TOLD = tuple(state for state in FindingState if state is not FindingState.GONE)


class NoResult(PermanentError):
    """The series was not judged yet, or nothing of it is here from which a document could be made."""


class ResultStatus(StrEnum):
    """What the model made of the series."""

    PREDICTED = "predicted"
    NOVEL = "novel"  # unlike what the model learned from: it abstains
    NOT_ANALYSED = "not analysed"


@dataclass(frozen=True, slots=True)
class ModelUsed:
    """The model that looked at the pixels."""

    model_id: str
    name: str
    version: str
    training_data: str
    """What it learned from: `trained on simulated images` for the shipped reference model."""


@dataclass(frozen=True, slots=True)
class ClassProbability:
    """One class of a vocabulary, and how probable the model takes it for."""

    value: str
    probability: float


@dataclass(frozen=True, slots=True)
class ParameterResult:
    """One acquisition parameter: what the pixels say and what the header states."""

    keyword: str
    title: str
    unit: str
    """Empty where it has none."""
    kind: ParameterKind | None
    """Null: the model said nothing of it."""
    predicted_value: str | float | None
    """The most probable class, or a number in `unit`."""
    probability: float | None
    """Of the most probable class."""
    classes: tuple[ClassProbability, ...]
    """Of the conformal set, the most probable one first."""
    interval: tuple[float, float] | None
    """Conformal interval of a number, in `unit`."""
    confidence: float | None
    """Of the conformal set or the interval: 1 - alpha."""
    by_association: bool
    """Learned from protocol habits, not from physics."""
    header_value: str
    """As the header states it; empty when missing."""
    header_problem: str
    header_probability: float | None
    """Of the header's own value."""
    verdict: Verdict
    suggested_value: str
    reason: str


@dataclass(frozen=True, slots=True)
class FindingResult:
    """One finding against a header, and what people made of it."""

    check: str
    element: str
    """DICOM keyword."""
    kind: FindingKind
    severity: Severity
    state: FindingState
    raised_by: Witness
    evidence: str
    conclusion: str
    header_value: str
    """As written: to be escaped wherever it is shown."""
    suggested_value: str | None
    accepted_value: str | None


@dataclass(frozen=True, slots=True)
class SeriesResult:
    """Everything that the node found out about one revision of a series, without whose it is."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    revision: int
    n_instances: int
    judged_at: datetime
    changed_at: datetime
    """The judgement, or what people decided about a finding since."""
    status: ResultStatus
    statement: str
    """One sentence for people."""
    software_version: str
    model: ModelUsed | None
    """Null: not analysed."""
    n_slices: int | None
    novelty_score: float | None
    novelty_threshold: float | None
    header_fit: float | None
    """Conformal p-value of the header as a whole."""
    parameters: tuple[ParameterResult, ...]
    findings: tuple[FindingResult, ...]
    domain: str | None
    """Null: no downstream model takes it for its own."""
    route_reason: str

    def as_json(self) -> dict[str, Any]:
        """As programs get it: values that JSON knows; numbers that are not finite become null (RFC 8259)."""
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **plain(dataclasses.asdict(self))}


def series_result(session: Session, series_id: int, revision: int | None = None) -> SeriesResult:
    """What was found out about a revision of a series; None: about the newest one that was judged.

    Raises
    ------
    UnknownSeries
    NoResult
        It has not been judged yet.
    """
    series = series_by_id(session, series_id)
    found = judgement(session, series_id, revision)
    if found is None:
        raise NoResult(
            f"series {series.series_instance_uid} has not been judged yet; `iap-node show` says how far it is"
        )
    instances = [one for one in current_instances(session, series_id) if one.revision <= found.revision]
    findings = tuple(every_finding(session, FindingFilter(states=_TOLD, series_id=series_id)))
    model = _model(session, found.prediction)
    prediction = found.prediction
    status = _status(prediction)
    return SeriesResult(
        study_instance_uid=series.study_instance_uid,
        series_instance_uid=series.series_instance_uid,
        modality=series.modality,
        revision=found.revision,
        n_instances=len(instances),
        judged_at=found.judged_at,
        changed_at=max((found.judged_at, *(one.updated_at for one in findings))),
        status=status,
        statement=_statement(found, model),
        software_version=iap_node.__version__,
        model=model,
        n_slices=None if prediction is None else prediction.n_slices,
        novelty_score=None if prediction is None else prediction.novelty_score,
        novelty_threshold=None if prediction is None else prediction.novelty_threshold,
        header_fit=None if prediction is None or prediction.header_fit is None else prediction.header_fit.p_value,
        parameters=_parameters(found),
        findings=tuple(
            FindingResult(
                check=one.check,
                element=one.element,
                kind=one.kind,
                severity=one.severity,
                state=one.state,
                raised_by=one.raised_by,
                evidence=one.evidence,
                conclusion=one.conclusion,
                header_value=one.raw,
                suggested_value=one.suggested_value,
                accepted_value=one.accepted_value,
            )
            for one in findings
        ),
        domain=found.decision.domain,
        route_reason=found.decision.reason,
    )


def _model(session: Session, prediction: SeriesPrediction | None) -> ModelUsed | None:
    if prediction is None:
        return None
    manifest = manifest_of(session, prediction.model_id)
    return ModelUsed(
        model_id=prediction.model_id,
        name=str(manifest.get("name") or prediction.model_id),
        version=str(manifest.get("version") or prediction.model_id),
        training_data=prediction.training_data,
    )


def _status(prediction: SeriesPrediction | None) -> ResultStatus:
    if prediction is None:
        return ResultStatus.NOT_ANALYSED
    return ResultStatus.NOVEL if prediction.novel else ResultStatus.PREDICTED


def _statement(found: Judgement, model: ModelUsed | None) -> str:
    if model is None:
        return f"Not analysed: {found.not_analysed_reason}"
    if _status(found.prediction) is ResultStatus.NOVEL:
        return (
            f"Novel: unlike what model {model.model_id} ({model.training_data}) learned from; it makes no prediction."
        )
    return (
        f"Acquisition parameters predicted from the pixels by an algorithm: model {model.model_id}, "
        f"{model.training_data}."
    )


def _parameters(found: Judgement) -> tuple[ParameterResult, ...]:
    """Of every parameter that was read, predicted or compared, in the table's order."""
    predicted = {} if found.prediction is None else {one.keyword: one for one in found.prediction.parameters}
    compared = {one.keyword: one for one in found.comparisons}
    stated = {one.keyword for one in found.header.values}
    return tuple(
        _parameter(parameter, predicted.get(keyword), compared.get(keyword), found.header.value(keyword), found)
        for parameter in PARAMETERS
        if (keyword := parameter.keyword) in predicted or keyword in compared or keyword in stated
    )


def _parameter(
    parameter: AcquisitionParameter,
    prediction: ParameterPrediction | None,
    comparison: HeaderComparison | None,
    stated: HeaderValue,
    found: Judgement,
) -> ParameterResult:
    classes = () if prediction is None else prediction.probabilities
    in_set = () if prediction is None else tuple(one for one in classes if one[0] in prediction.prediction_set)
    header_value = parameter.text(stated.canonical) if stated.canonical is not None else stated.raw
    value: str | float | None = classes[0][0] if classes else None
    if prediction is not None and prediction.kind is ParameterKind.CONTINUOUS:
        value = prediction.value
    return ParameterResult(
        keyword=parameter.keyword,
        title=parameter.title,
        unit=parameter.unit,
        kind=None if prediction is None else prediction.kind,
        predicted_value=value,
        probability=classes[0][1] if classes else None,
        classes=tuple(ClassProbability(*one) for one in in_set or classes[:1]),
        interval=None if prediction is None else prediction.interval,
        confidence=None if prediction is None else 1.0 - prediction.alpha,
        by_association=prediction is not None and prediction.by_association,
        header_value=header_value,
        header_problem=stated.problem,
        header_probability=None if comparison is None else comparison.header_probability,
        verdict=Verdict.NOT_JUDGED if comparison is None else comparison.verdict,
        suggested_value="" if comparison is None else comparison.suggested_value,
        reason=(found.not_analysed_reason or "") if comparison is None else comparison.reason,
    )


def plain(value: Any) -> Any:
    """Nested dicts and sequences as JSON values; numbers that are not finite become null."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
