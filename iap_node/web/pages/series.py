"""The list of series, and all about one of them: header, pixels, findings, route, timeline."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from iap_node.database import archive, results
from iap_node.database.finding_lists import FindingFilter, list_findings
from iap_node.database.series import SeriesFilter, page_of_series, series_by_id
from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.records import FindingState, ParameterPrediction, SeriesState
from iap_node.web.identity import Viewer
from iap_node.web.node import Node
from iap_node.web.rendering import page

LINES = 50  # series on a page
MOST_FINDINGS = 200  # of a series
MOST_BARS = 6  # classes of a drawn distribution

router = APIRouter(include_in_schema=False)


@router.get("/series")
def series_list(
    request: Request,
    node: Node,
    viewer: Viewer,
    state: Annotated[str, Query(max_length=16)] = "",
    text: Annotated[str, Query(max_length=128)] = "",
    scanner: Annotated[str, Query(max_length=128)] = "",
    modality: Annotated[str, Query(max_length=16)] = "",
    domain: Annotated[str, Query(max_length=128)] = "",
    destination: Annotated[str, Query(max_length=128)] = "",
    findings: bool = False,
    before: Annotated[int | None, Query(ge=1)] = None,
) -> HTMLResponse:
    """The list, or its rows alone when htmx asks for more or for what is new."""
    states = (SeriesState(state),) if state in set(SeriesState) else ()
    which = SeriesFilter(states, text.strip(), scanner.strip(), modality.strip(), domain, destination, findings)
    with node.database.reading() as session:
        found = page_of_series(session, which, LINES + 1, before)
    more = found[LINES - 1].id if len(found) > LINES else None
    asked = {
        "state": states[0].value if states else "", "text": text, "scanner": scanner, "modality": modality,
        "domain": domain, "destination": destination, "findings": "true" if findings else "",
    }  # fmt: skip
    template = "_series_rows.html" if request.headers.get("hx-request") else "series.html"
    return page(
        request, template, viewer, series=found[:LINES], states=list(SeriesState), which=replace(which), asked=asked,
        query=urlencode({key: value for key, value in asked.items() if value}), more=more, is_first=before is None,
        domains=sorted(node.config.routing.domains), destinations=sorted(node.config.destinations),
    )  # fmt: skip


@router.get("/series/{series_id}")
def series_detail(request: Request, node: Node, viewer: Viewer, series_id: int) -> HTMLResponse:
    """Everything that is known of a series."""
    with node.database.reading() as session:
        series = series_by_id(session, series_id)
        judgement = results.judgement(session, series_id)
        instances = archive.current_instances(session, series_id)
        answers = results.instance_deliveries(session, series_id)
        found = list_findings(
            session, FindingFilter(states=tuple(FindingState), series_id=series_id), limit=MOST_FINDINGS
        )
    predicted = {}
    if judgement is not None and judgement.prediction is not None:
        predicted = {one.keyword: one for one in judgement.prediction.parameters}
    template = "_series_detail.html" if request.headers.get("hx-request") else "series_detail.html"
    return page(
        request, template, viewer, series=series, judgement=judgement, instances=instances, answers=answers,
        findings=found, predicted=predicted, parameters=BY_KEYWORD, bars=bars,
    )  # fmt: skip


def bars(prediction: ParameterPrediction) -> list[tuple[str, float, bool]]:
    """The most probable classes of a parameter: label, probability, whether the conformal set has it."""
    return [
        (label, probability, label in prediction.prediction_set)
        for label, probability in prediction.probabilities[:MOST_BARS]
    ]
