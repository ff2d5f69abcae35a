"""`/api/v1/series`: the list, one of them with its judgement, why it went where, and what people do about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query
from pydantic import BaseModel, Field

from iap_node.database import archive, results
from iap_node.database import routes as rows
from iap_node.database.series import SeriesFilter, page_of_series, series_by_id
from iap_node.database.timeline import timeline
from iap_node.records import SeriesState
from iap_node.web.actions import series as actions
from iap_node.web.api.paging import Cursor, Limit, Page, page_of, plain
from iap_node.web.identity import Operator, Viewer
from iap_node.web.node import Node

router = APIRouter(tags=["series"])

SeriesId = Annotated[int, Path(ge=1, le=2**62, description="`id` of the series in the list.")]
Text = Annotated[str, Query(max_length=128)]


class Reroute(BaseModel):
    """Where a series is to go, whatever the rules say."""

    destinations: list[str] = Field(min_length=1, max_length=50)
    reason: str = Field("", max_length=1000)


class Reason(BaseModel):
    """Why, for those who come after."""

    reason: str = Field("", max_length=1000)


@router.get("/series", response_model=Page[dict[str, Any]])
def series_list(
    node: Node,
    _: Viewer,
    state: Annotated[list[SeriesState] | None, Query()] = None,
    text: Text = "",
    scanner: Text = "",
    modality: Text = "",
    domain: Text = "",
    destination: Text = "",
    findings: bool = False,
    novel: bool | None = None,
    since: Annotated[datetime | None, Query(description="when its first instance came, or later")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Series, the last begun first."""
    begin = since.replace(tzinfo=UTC) if since is not None and since.tzinfo is None else since
    which = SeriesFilter(tuple(state or ()), text, scanner, modality, domain, destination, findings, novel, begin)
    with node.database.reading() as session:
        return page_of(page_of_series(session, which, limit + 1, cursor), limit)


@router.get("/series/{series_id}")
def one_series(node: Node, _: Viewer, series_id: SeriesId) -> dict[str, Any]:
    """One series: its newest judgement, its instances, and what destinations answered."""
    with node.database.reading() as session:
        series = series_by_id(session, series_id)
        judgement = results.judgement(session, series_id)
        instances = archive.current_instances(session, series_id)
        answers = results.instance_deliveries(session, series_id)
    return {
        "series": plain(series), "judgement": plain(judgement), "instances": plain(instances), "answers": plain(answers)
    }  # fmt: skip


@router.get("/series/{series_id}/route")
def route(node: Node, _: Viewer, series_id: SeriesId) -> dict[str, Any]:
    """Why the series goes where it goes: every domain, rule and condition, and what people decided since."""
    with node.database.reading() as session:
        series_by_id(session, series_id)
        decision = rows.latest_decision(session, series_id)
        changes = rows.route_changes(session, series_id)
        waits = bool(rows.held_series(session, series_id=series_id))
    return {"decision": plain(decision), "changes": plain(changes), "waits_for_a_person": waits}


@router.get("/series/{series_id}/timeline")
def timeline_of(node: Node, _: Viewer, series_id: SeriesId) -> dict[str, Any]:
    """Everything that happened to the series, the oldest first."""
    with node.database.reading() as session:
        series_by_id(session, series_id)
        return {"items": plain(timeline(session, series_id))}


@router.post("/series/{series_id}/hold")
def hold(node: Node, operator: Operator, series_id: SeriesId, asked: Annotated[Reason, Body()]) -> dict[str, Any]:
    """Let nothing of a series be sent until somebody releases it; why must be said."""
    return {"under_way": actions.hold(node, operator, series_id, asked.reason)}


@router.post("/series/{series_id}/release")
def release(node: Node, operator: Operator, series_id: SeriesId, asked: Annotated[Reason, Body()]) -> dict[str, Any]:
    """Let a held series go where the rules would have sent it."""
    return {"destinations": list(actions.release(node, operator, series_id, asked.reason))}


@router.post("/series/{series_id}/reroute")
def reroute(node: Node, operator: Operator, series_id: SeriesId, asked: Annotated[Reroute, Body()]) -> dict[str, Any]:
    """Send a judged series to these destinations, held or not."""
    revision = actions.reroute(node, operator, series_id, asked.destinations, asked.reason)
    return {"revision": revision, "destinations": asked.destinations}


@router.post("/series/{series_id}/rejudge")
def rejudge(node: Node, operator: Operator, series_id: SeriesId, asked: Annotated[Reason, Body()]) -> dict[str, Any]:
    """Put the series into the queue, to be judged by the model and the rules of now, as its next revision."""
    return {"revision": actions.judge_again(node, operator, series_id, asked.reason)}
