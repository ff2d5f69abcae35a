"""Reports for download (`actions.reports`): of a series, a study, a scanner, a month."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from iap_node.web.actions import reports
from iap_node.web.actions.reports import Form
from iap_node.web.identity import Viewer
from iap_node.web.node import Node
from iap_node.web.pages.series import SeriesId

router = APIRouter(include_in_schema=False)


@router.get("/series/{series_id}/report.{form}")
def of_series(node: Node, _: Viewer, series_id: SeriesId, form: Form) -> Response:
    """One series: header against pixels, findings with their witnesses and history."""
    return reports.of_series(node, series_id, form)


@router.get("/series/{series_id}/study.{form}")
def of_study(node: Node, _: Viewer, series_id: SeriesId, form: Form) -> Response:
    """The study that a series belongs to, and what differs between its series."""
    return reports.of_study(node, series_id, form)


@router.get("/scanners/report.{form}")
def of_scanner(
    node: Node,
    _: Viewer,
    form: Form,
    serial: Annotated[str, Query(max_length=128)] = "",
    model: Annotated[str, Query(max_length=128)] = "",
    days: Annotated[int, Query(ge=1, le=3660)] = 90,
) -> Response:
    """A scanner, all of one model, or all of them."""
    return reports.of_scanner(node, serial, model, days, form)


@router.get("/months/{month}/report.{form}")
def of_month(
    node: Node, _: Viewer, month: Annotated[str, Path(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")], form: Form
) -> Response:
    """The physicist's report of a month."""
    return reports.of_month(node, month, form)
