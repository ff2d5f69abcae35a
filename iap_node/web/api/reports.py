"""`/api/v1/.../report`: reports as the console gives them for download; scanners by element, and their drift."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from iap_node.database import report_figures
from iap_node.database.alarms import alarm_rates
from iap_node.database.report_figures import Scope
from iap_node.database.scanner_matrix import cells
from iap_node.web.actions import reports as actions
from iap_node.web.actions.reports import MEDIA_TYPES, Form
from iap_node.web.api.paging import plain
from iap_node.web.api.series import SeriesId
from iap_node.web.identity import Viewer
from iap_node.web.node import Node

WEEKS = 12

router = APIRouter(tags=["reports"])

AsForm = Annotated[Form, Query(alias="form", description="a page, a table, or everything")]
Days = Annotated[int, Query(ge=1, le=3660)]
Text = Annotated[str, Query(max_length=128)]
_TEXT = {"schema": {"type": "string"}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            MEDIA_TYPES[Form.HTML]: _TEXT, MEDIA_TYPES[Form.CSV]: _TEXT,
            MEDIA_TYPES[Form.JSON]: {"schema": {"type": "object"}},
        }
    }
}  # fmt: skip


@router.get("/series/{series_id}/report", response_class=Response, responses=_ANSWERS)
def of_series(node: Node, _: Viewer, series_id: SeriesId, form: AsForm = Form.JSON) -> Response:
    """One series: header against pixels, findings with their witnesses and history."""
    return actions.of_series(node, series_id, form)


@router.get("/series/{series_id}/study-report", response_class=Response, responses=_ANSWERS)
def of_study(node: Node, _: Viewer, series_id: SeriesId, form: AsForm = Form.JSON) -> Response:
    """The study that a series belongs to, and what differs between its series."""
    return actions.of_study(node, series_id, form)


@router.get("/scanners/report", response_class=Response, responses=_ANSWERS)
def of_scanner(
    node: Node, _: Viewer, serial: Text = "", model: Text = "", days: Days = 90, form: AsForm = Form.JSON
) -> Response:
    """A scanner, all of one model, or all of them."""
    return actions.of_scanner(node, serial, model, days, form)


@router.get("/months/{month}/report", response_class=Response, responses=_ANSWERS)
def of_month(
    node: Node,
    _: Viewer,
    month: Annotated[str, Path(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")],
    form: AsForm = Form.JSON,
) -> Response:
    """The physicist's report of a month."""
    return actions.of_month(node, month, form)


@router.get("/alarm-rates")
def alarms(
    node: Node, _: Viewer, days: Annotated[int | None, Query(ge=1, le=3660, description="as notified without")] = None
) -> dict[str, Any]:
    """How often the pixels doubt headers, by scanner and parameter, beside what was promised: drift shows here."""
    now = datetime.now(UTC)
    since = now - timedelta(days=node.config.notifications.drift_days if days is None else days)
    with node.database.reading() as session:
        return {"items": plain(alarm_rates(session, since, now, joint_alpha=node.config.audit.joint_alpha))}


@router.get("/scanners")
def scanners(node: Node, _: Viewer, days: Days = 90) -> dict[str, Any]:
    """Scanners by element: how many series have standing findings, how many grave ones; weeks; software versions."""
    now = datetime.now(UTC)
    scope = Scope(now - timedelta(days=days), now)
    starts = [now - timedelta(weeks=n) for n in range(WEEKS, 0, -1)]
    with node.database.reading() as session:
        return {
            "scanners": plain(report_figures.scanners(session, scope)),
            "cells": plain(cells(session, scope.since)),
            "weeks": plain(report_figures.weeks(session, Scope(starts[0], now), starts)),
            "software": plain(report_figures.software(session, scope)),
        }
