"""What a webhook is told of a series, as JSON values: prediction, comparisons, findings, decision, model.

UIDs and acquisition parameters, never a patient; headers as they were written (`Finding.raw`) stay here. Called by
`iap_node.worker.deliver`.
"""

from __future__ import annotations

from typing import Any

from iap_node.database import results
from iap_node.database.engine import Database
from iap_node.database.finding_lists import ArchivedFinding, FindingFilter, every_finding
from iap_node.database.payloads import to_payload
from iap_node.database.series import series_by_id
from iap_node.errors import PermanentError
from iap_node.records import Job

FORMAT = 1  # of the message; a change that breaks receivers makes it 2


def verdict_of(database: Database, job: Job) -> dict[str, Any]:
    """The verdict of the series of a DELIVER job, of its newest judgement.

    Raises
    ------
    PermanentError
        The series has not been judged.
    """
    with database.reading() as session:
        series = series_by_id(session, job.series_id)
        judgement = results.judgement(session, job.series_id)
        findings = list(every_finding(session, FindingFilter(states=(), series_id=job.series_id)))
    if judgement is None:
        raise PermanentError(
            f"series {job.series_instance_uid} has no verdict; have it judged, then retry job {job.id}"
        )
    prediction = judgement.prediction
    return {
        "format": FORMAT,
        "delivery": f"{job.series_instance_uid}/{judgement.revision}/{job.destination}",
        "study_instance_uid": series.study_instance_uid,
        "series_instance_uid": job.series_instance_uid,
        "revision": judgement.revision,
        "judged_at": judgement.judged_at.isoformat(),
        "model": None if prediction is None else {
            "model_id": prediction.model_id, "training_data": prediction.training_data,
        },
        "not_analysed_reason": judgement.not_analysed_reason,
        "prediction": None if prediction is None else to_payload(prediction),
        "comparisons": to_payload(judgement.comparisons),
        "findings": [_finding(one) for one in findings],
        "decision": to_payload(judgement.decision),
        "shadow": job.destination in judgement.decision.shadow_destinations,
    }  # fmt: skip


def _finding(one: ArchivedFinding) -> dict[str, Any]:
    return {
        "element": one.element,
        "check": one.check,
        "kind": one.kind.value,
        "severity": one.severity.value,
        "raised_by": one.raised_by.value,
        "evidence": one.evidence,
        "conclusion": one.conclusion,
        "suggested_value": one.suggested_value,
        "state": one.state.value,
        "accepted_value": one.accepted_value,
        "model_id": one.model_id,
        "training_data": one.training_data,
    }
