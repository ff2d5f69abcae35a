"""`/api/v1/series/{id}/result`: what was found out about a series, as JSON and as a DICOM SR document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Response

from iap_node.database import accounts
from iap_node.results.content import series_result
from iap_node.results.report import sr_document
from iap_node.web.api.series import SeriesId
from iap_node.web.identity import Operator, Viewer
from iap_node.web.node import Node

DICOM = "application/dicom"  # RFC 3240

router = APIRouter(tags=["series"])


@router.get("/series/{series_id}/result")
def result(node: Node, _: Viewer, series_id: SeriesId) -> dict[str, Any]:
    """Predicted parameters with confidence, header values, findings, and the model; no patient is named."""
    with node.database.reading() as session:
        return series_result(session, series_id).as_json()


@router.get(
    "/series/{series_id}/result.dcm",
    response_class=Response,
    responses={200: {"content": {DICOM: {"schema": {"type": "string", "format": "binary"}}}}},
)
def document(node: Node, operator: Operator, series_id: SeriesId) -> Response:
    """The same as a Comprehensive SR (TID 1500). It names the patient, as the images do: who took it is noted."""
    made = sr_document(
        node.database,
        node.spool,
        series_id,
        ae_title=node.config.listener.ae_title,
        max_inflated_bytes=node.config.inference.max_bytes_per_instance,
    )
    with node.database.transaction() as session:
        told = f"SR document {made.sop_instance_uid}"
        accounts.note(
            session, operator.name, "take result", str(series_id), datetime.now(UTC), told, operator.address
        )
    name = f'attachment; filename="{made.sop_instance_uid}.dcm"'
    return Response(made.content, media_type=DICOM, headers={"Content-Disposition": name})
