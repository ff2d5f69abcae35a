"""The report of one series: what its header says, what the pixels say, what was found and what became of it."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from iap_node.audit.reports import findings
from iap_node.audit.reports.files import safe_name
from iap_node.audit.reports.parameters import compared
from iap_node.audit.reports.rendering import document, page, plain, table
from iap_node.database.report_series import ReportedFinding, ReportedSeries

CSV_COLUMNS = (
    "series_instance_uid", "section", "parameter", "header_value", "predicted_value", "header_probability", "verdict",
    "reason", *findings.COLUMNS, "state", "accepted_value", "found_at",
)  # fmt: skip


def name(series: ReportedSeries) -> str:
    """What the files of the report are called."""
    return safe_name("series", series.series_instance_uid)


def as_html(series: ReportedSeries, at: datetime) -> str:
    """A page that needs nothing else: for the screen, and for paper."""
    judgement = series.judgement
    return page(
        "series.html",
        at,
        series=series,
        judgement=judgement,
        parameters=[] if judgement is None else compared(judgement.prediction, judgement.comparisons, judgement.header),
        problems=[] if judgement is None else Counter(reason for _, reason in judgement.problems).most_common(5),
        entries=[(one.finding, one) for one in series.standing],
        settled=[(one.finding, one) for one in series.findings if one not in series.standing],
        about=findings,
    )


def as_csv(series: ReportedSeries) -> str:
    """Lines of section `pixels`, one per parameter, and of section `finding`, one per finding."""
    comparisons = () if series.judgement is None else series.judgement.comparisons
    no_finding, no_comparison = (None,) * (len(findings.COLUMNS) + 3), (None,) * 6
    uid = series.series_instance_uid
    lines: list[tuple[object, ...]] = [
        (uid, "pixels", one.keyword, one.header_value, one.predicted_value, one.header_probability, one.verdict,
         one.reason, *no_finding)
        for one in comparisons
    ]  # fmt: skip
    lines += [(uid, "finding", *no_comparison, *finding_cells(one)) for one in series.findings]
    return table(CSV_COLUMNS, lines)


def as_json(series: ReportedSeries, at: datetime) -> str:
    """Everything."""
    return document(at, {"series": as_object(series)})


def as_object(series: ReportedSeries) -> dict[str, Any]:
    """The series for programs."""
    reported = [{**findings.as_object(one.finding), "events": plain(one.events)} for one in series.findings]
    return {**plain(series), "findings": reported}


def finding_cells(one: ReportedFinding) -> tuple[object, ...]:
    """`findings.COLUMNS`, and what became of the finding."""
    return (*findings.cells(one.finding), one.state, one.finding.accepted_value, one.finding.found_at)
