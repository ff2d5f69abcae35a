"""Reports for download, as the audit makes them: of a series, a study, a scanner, a month.

A report is a page of its own with its style inside: its answer allows exactly that style, by its hash (CSP level 3,
section 6.7.3), and no script.
"""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, TypeVar

from fastapi import APIRouter, HTTPException, Path, Query, Response

from iap_node.audit.reports import month as month_report
from iap_node.audit.reports import scanner as scanner_report
from iap_node.audit.reports import series as series_report
from iap_node.audit.reports import study as study_report
from iap_node.audit.reports.files import Report
from iap_node.audit.reports.period import Month
from iap_node.database import report_series
from iap_node.database.report_figures import Scope
from iap_node.database.series import series_by_id
from iap_node.web.identity import Viewer
from iap_node.web.node import Node
from iap_node.web.pages.series import SeriesId

Figures = TypeVar("Figures")

_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)

router = APIRouter(include_in_schema=False)


class Form(StrEnum):
    """What a report is made as."""

    HTML = "html"
    CSV = "csv"
    JSON = "json"


_MEDIA_TYPE = {
    Form.HTML: "text/html; charset=utf-8",
    Form.CSV: "text/csv; charset=utf-8",
    Form.JSON: "application/json",
}


@router.get("/series/{series_id}/report.{form}")
def of_series(node: Node, _: Viewer, series_id: SeriesId, form: Form) -> Response:
    """One series: header against pixels, findings with their witnesses and history."""
    with node.database.reading() as session:
        series_by_id(session, series_id)
        found = report_series.series(session, series_id)
    return _answer(series_report, found, series_report.name(found), form)


@router.get("/series/{series_id}/study.{form}")
def of_study(node: Node, _: Viewer, series_id: SeriesId, form: Form) -> Response:
    """The study that a series belongs to, and what differs between its series."""
    with node.database.reading() as session:
        found = report_series.study(session, series_by_id(session, series_id).study_instance_uid)
    return _answer(study_report, found, study_report.name(found), form)


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
    until = datetime.now(UTC)
    scope = Scope(until - timedelta(days=days), until, serial or None, model or None)
    with node.database.reading() as session:
        found = scanner_report.gather(session, scope)
    return _answer(scanner_report, found, scanner_report.name(found), form)


@router.get("/months/{month}/report.{form}")
def of_month(
    node: Node, _: Viewer, month: Annotated[str, Path(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")], form: Form
) -> Response:
    """The physicist's report of a month."""
    try:
        about = Month.parse(month)
        with node.database.reading() as session:
            found = month_report.gather(session, about, node.config.audit.joint_alpha)
    except (ValueError, OverflowError) as error:  # a year before the first or after the last that there is
        raise HTTPException(404, f"there is no month {month}") from error
    return _answer(month_report, found, month_report.name(about), form)


def _answer(report: Report[Figures], figures: Figures, name: str, form: Form) -> Response:
    at = datetime.now(UTC)
    if form is Form.HTML:
        text = report.as_html(figures, at)
    else:
        text = report.as_csv(figures) if form is Form.CSV else report.as_json(figures, at)
    headers = {"Content-Disposition": f'attachment; filename="{name}.{form}"'}
    if form is Form.HTML:
        headers["Content-Security-Policy"] = policy(text)
    return Response(text.encode("utf-8", "replace"), media_type=_MEDIA_TYPE[form], headers=headers)


def policy(html: str) -> str:
    """What a report may do: be styled by what stands in it, and nothing else."""
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(style.encode('utf-8', 'replace')).digest()).decode()}'"
        for style in _STYLE.findall(html)
    ]
    styles = " ".join(hashes) or "'none'"
    return f"default-src 'none'; style-src {styles}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
