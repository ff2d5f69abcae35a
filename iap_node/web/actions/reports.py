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
from typing import TypeVar

from starlette.responses import Response

from iap_node.audit.reports import month as month_report
from iap_node.audit.reports import scanner as scanner_report
from iap_node.audit.reports import series as series_report
from iap_node.audit.reports import study as study_report
from iap_node.audit.reports.files import Report
from iap_node.audit.reports.period import Month
from iap_node.database import report_series
from iap_node.database.report_figures import Scope
from iap_node.database.series import series_by_id
from iap_node.errors import PermanentError
from iap_node.web.node import WebNode

Figures = TypeVar("Figures")

_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)


class NoSuchMonth(PermanentError):
    """A year before the first or after the last that there is."""


class Form(StrEnum):
    """What a report is made as."""

    HTML = "html"
    CSV = "csv"
    JSON = "json"


MEDIA_TYPES = {
    Form.HTML: "text/html; charset=utf-8",
    Form.CSV: "text/csv; charset=utf-8",
    Form.JSON: "application/json",
}


def of_series(node: WebNode, series_id: int, form: Form) -> Response:
    """One series: header against pixels, findings with their witnesses and history; raises `UnknownSeries`."""
    with node.database.reading() as session:
        series_by_id(session, series_id)
        found = report_series.series(session, series_id)
    return _answer(series_report, found, series_report.name(found), form)


def of_study(node: WebNode, series_id: int, form: Form) -> Response:
    """The study that a series belongs to, and what differs between its series; raises `UnknownSeries`."""
    with node.database.reading() as session:
        found = report_series.study(session, series_by_id(session, series_id).study_instance_uid)
    return _answer(study_report, found, study_report.name(found), form)


def of_scanner(node: WebNode, serial: str, model: str, days: int, form: Form) -> Response:
    """A scanner, all of one model, or all of them; "" stands for any."""
    until = datetime.now(UTC)
    scope = Scope(until - timedelta(days=days), until, serial or None, model or None)
    with node.database.reading() as session:
        found = scanner_report.gather(session, scope)
    return _answer(scanner_report, found, scanner_report.name(found), form)


def of_month(node: WebNode, month: str, form: Form) -> Response:
    """The physicist's report of a month, YYYY-MM.

    Raises
    ------
    NoSuchMonth
    """
    try:
        about = Month.parse(month)
        with node.database.reading() as session:
            found = month_report.gather(session, about, node.config.audit.joint_alpha)
    except (ValueError, OverflowError) as error:
        raise NoSuchMonth(f"there is no month {month}") from error
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
    return Response(text.encode("utf-8", "replace"), media_type=MEDIA_TYPES[form], headers=headers)


def policy(html: str) -> str:
    """What a report may do: be styled by what stands in it, and nothing else."""
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(style.encode('utf-8', 'replace')).digest()).decode()}'"
        for style in _STYLE.findall(html)
    ]
    styles = " ".join(hashes) or "'none'"
    return f"default-src 'none'; style-src {styles}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
