"""What operators do to a series from its page: hold, release, reroute, judge again; answered by its live part."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse

from iap_node.web.actions import series as actions
from iap_node.web.identity import Operator
from iap_node.web.node import Node
from iap_node.web.pages.series import SeriesId, shown

router = APIRouter(include_in_schema=False, prefix="/series/{series_id}")

Reason = Annotated[str, Form(max_length=1000)]


@router.post("/hold")
def hold(request: Request, node: Node, operator: Operator, series_id: SeriesId, reason: Reason = "") -> HTMLResponse:
    """Let nothing of it be sent until somebody releases it."""
    under_way = actions.hold(node, operator, series_id, reason.strip())
    goes_on = f"; {under_way} deliveries are under way already and go on" if under_way else ""
    return shown(request, node, operator, series_id, f"held: nothing more of it is sent{goes_on}")


@router.post("/release")
def release(
    request: Request, node: Node, operator: Operator, series_id: SeriesId, reason: Reason = ""
) -> HTMLResponse:
    """Let a held series go where the rules would have sent it."""
    sent = actions.release(node, operator, series_id, reason.strip())
    return shown(request, node, operator, series_id, f"released to {', '.join(sent) or 'nowhere'}")


@router.post("/reroute")
def reroute(
    request: Request,
    node: Node,
    operator: Operator,
    series_id: SeriesId,
    destination: Annotated[list[str] | None, Form()] = None,
    reason: Reason = "",
) -> HTMLResponse:
    """Send a judged series where the person says."""
    actions.reroute(node, operator, series_id, destination or [], reason.strip())
    return shown(request, node, operator, series_id, f"rerouted to {', '.join(destination or [])}")


@router.post("/rejudge")
def rejudge(
    request: Request, node: Node, operator: Operator, series_id: SeriesId, reason: Reason = ""
) -> HTMLResponse:
    """Judge the series again, by the model and the rules of now."""
    revision = actions.judge_again(node, operator, series_id, reason.strip())
    return shown(request, node, operator, series_id, f"in the queue, to be judged again as revision {revision}")
