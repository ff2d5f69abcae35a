"""The list of series, and all about one of them: header, pixels, findings, route, timeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse

from iap_node.database import archive, results
from iap_node.database import routes as rows
from iap_node.database.archive import ArchivedInstance
from iap_node.database.finding_lists import FindingFilter, list_findings
from iap_node.database.results import InstanceAnswer
from iap_node.database.series import SeriesFilter, page_of_series, series_by_id
from iap_node.database.tables import BytesState
from iap_node.database.timeline import timeline
from iap_node.dicom.parameters import BY_KEYWORD, canonical_number
from iap_node.records import FindingState, ParameterPrediction, SeriesState
from iap_node.web.identity import Identity, Viewer
from iap_node.web.node import Node, WebNode
from iap_node.web.rendering import page

LINES = 50  # series on a page
MOST_FINDINGS = 200  # of a series
MOST_BARS = 6  # classes of a drawn distribution
FAN_WIDTH = 180.0  # pixels of a drawn interval
FAN_ALPHAS = (0.2, 0.5)  # of the inner intervals
MOST_INSTANCES = 200  # of a series
MOST_REFUSALS = 5  # different ones of a destination
GONE = {
    BytesState.DELETING: "its bytes are being deleted by retention",
    BytesState.DELETED: "its bytes were deleted by retention; sent again, they are stored again",
    BytesState.LOST: "its bytes were lost on the disk; sent again, they are restored",
}

router = APIRouter(include_in_schema=False)

SeriesId = Annotated[int, Path(ge=1, le=2**62)]


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
    before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
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
def series_detail(request: Request, node: Node, viewer: Viewer, series_id: SeriesId) -> HTMLResponse:
    """Everything that is known of a series."""
    return shown(request, node, viewer, series_id, "")


def shown(request: Request, node: WebNode, identity: Identity, series_id: int, message: str) -> HTMLResponse:
    """The page of a series, or its live part when htmx asks; for what people do to it too."""
    with node.database.reading() as session:
        series = series_by_id(session, series_id)
        judgement = results.judgement(session, series_id)
        instances = archive.current_instances(session, series_id)
        answers = results.instance_deliveries(session, series_id)
        found = list_findings(
            session, FindingFilter(states=tuple(FindingState), series_id=series_id), limit=MOST_FINDINGS
        )
        held = rows.held_series(session, series_id=series_id)
        events = timeline(session, series_id)
    predicted = {}
    if judgement is not None and judgement.prediction is not None:
        predicted = {one.keyword: one for one in judgement.prediction.parameters}
    problems = dict(judgement.problems) if judgement is not None else {}
    template = "_series_detail.html" if request.headers.get("hx-request") else "series_detail.html"
    return page(
        request, template, identity, series=series, judgement=judgement, findings=found, predicted=predicted,
        parameters=BY_KEYWORD, bars=bars, fan=fan, held=held[0] if held else None, timeline=events, problems=problems,
        message=message,
        instances=told_first(instances, problems)[:MOST_INSTANCES], n_instances=len(instances),
        bytes_states=Counter(one.bytes_state.value for one in instances), answered=answered(answers),
        destinations=sorted(node.config.destinations), gone=GONE, joint_alpha=node.config.audit.joint_alpha,
        alpha=node.config.audit.alpha,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answered:
    """What a destination answered for the instances of a series."""

    destination: str
    n_accepted: int
    n_corrected: int  # of those, sent as corrected or de-identified copies
    n: int
    last_at: datetime
    refusals: tuple[tuple[str, int], ...]  # status and comment, how often; the commonest first


def answered(answers: Iterable[InstanceAnswer]) -> list[Answered]:
    """Answers by destination."""
    by_destination: dict[str, list[InstanceAnswer]] = {}
    for one in answers:
        by_destination.setdefault(one.destination, []).append(one)
    return [
        Answered(
            destination,
            sum(one.accepted for one in some),
            sum(one.accepted and one.sent_sop_instance_uid is not None for one in some),
            len(some),
            max(one.answered_at for one in some),
            tuple(Counter(_refusal(one) for one in some if not one.accepted).most_common(MOST_REFUSALS)),
        )
        for destination, some in by_destination.items()
    ]


def _refusal(answer: InstanceAnswer) -> str:
    status = "no answer" if answer.status is None else f"status {answer.status:04X}H"
    return f"{status}, {answer.comment}" if answer.comment else status


def told_first(instances: Iterable[ArchivedInstance], problems: Mapping[int, str]) -> list[ArchivedInstance]:
    """Those of which there is something to say first: gone, not usable, not analysed."""
    return sorted(
        instances,
        key=lambda one: (
            one.bytes_state is BytesState.PRESENT,
            one.id not in problems,
            one.not_analysed_reason is None,
        ),
    )


@dataclass(frozen=True, slots=True)
class Fan:
    """A number's prediction drawn along a line: nested intervals, the best value, what the header says."""

    bands: tuple[tuple[float, float, float], ...]  # from, width, 1 - alpha: the widest first
    value: float
    header: float | None
    low: float  # at the left end, in the parameter's unit
    high: float


def fan(prediction: ParameterPrediction, stated: str) -> Fan | None:
    """Where the parts of a drawing 0 to `FAN_WIDTH` wide lie; None: there is no interval.

    Parameters
    ----------
    stated
        The header's value as text; what is no number is not drawn.
    """
    if prediction.interval is None or prediction.value is None:
        return None
    widest = (prediction.alpha, *prediction.interval)
    inner = [one for one in prediction.intervals if one[0] > prediction.alpha]
    chosen = [widest, *(min(inner, key=lambda one: abs(one[0] - alpha)) for alpha in FAN_ALPHAS if inner)]
    header = canonical_number(stated.partition(" ")[0])
    marks = [prediction.value, *prediction.interval] + ([] if header is None else [header])
    low, high = min(marks), max(marks)
    margin = 0.06 * (high - low) or abs(high) or 1.0
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return FAN_WIDTH * (value - low) / (high - low)

    bands = tuple((place(begin), max(place(end) - place(begin), 1.0), 1.0 - alpha) for alpha, begin, end in chosen)
    return Fan(bands, place(prediction.value), None if header is None else place(header), low, high)


def bars(prediction: ParameterPrediction) -> list[tuple[str, float, bool]]:
    """The most probable classes of a parameter: label, probability, whether the conformal set has it."""
    return [
        (label, probability, label in prediction.prediction_set)
        for label, probability in prediction.probabilities[:MOST_BARS]
    ]
