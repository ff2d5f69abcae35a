"""The audit of a folder as pages for people and as tables for programs: self-contained HTML, CSV, JSON.

Called by `iap-node audit`. Header text comes from outside: the page escapes it, the CSV cannot be taken for formulas.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from datetime import datetime
from typing import Any

import jinja2
from pydicom.datadict import dictionary_description, tag_for_keyword

from iap_node import __version__
from iap_node.audit.cells import harmless_cell
from iap_node.audit.checks import CHECKS
from iap_node.audit.folder import AuditedSeries, FolderAudit
from iap_node.records import Severity

MOST_BARS = 20  # of the drawing of what was found most often

_CHECKS = {check.name: check for check in CHECKS}
_RANK = {severity: rank for rank, severity in enumerate(Severity)}

CSV_COLUMNS = (
    "series_instance_uid", "study_instance_uid", "folder", "manufacturer", "manufacturer_model_name",
    "software_versions", "series_number", "series_description", "n_instances", "severity", "kind", "check", "element",
    "tag", "raw", "suggested_value", "evidence", "source",
)  # fmt: skip

_pages = jinja2.Environment(
    loader=jinja2.PackageLoader("iap_node.audit", "pages"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def as_json(audit: FolderAudit, at: datetime) -> str:
    """Everything, one object per series."""
    content = {
        "made_by": f"iap-node {__version__}",
        "made_at": at.isoformat(),
        "folder": str(audit.root),
        "n_files": audit.n_files,
        "n_instances": audit.n_instances,
        "n_findings": audit.n_findings,
        "series": [_series_as_json(audit, series) for series in audit.series],
        "unread": [{"path": _below(audit, one.path), "reason": one.reason} for one in audit.unread],
    }
    return json.dumps(content, indent=1, ensure_ascii=True)


def _series_as_json(audit: FolderAudit, series: AuditedSeries) -> dict[str, Any]:
    return {
        "series_instance_uid": series.series_instance_uid,
        "study_instance_uid": series.study_instance_uid,
        "folders": [_below(audit, folder) for folder in series.folders],
        "n_instances": series.n_instances,
        "modality": series.modality,
        "manufacturer": series.manufacturer,
        "manufacturer_model_name": series.manufacturer_model_name,
        "software_versions": series.software_versions,
        "series_number": series.series_number,
        "series_description": series.series_description,
        "protocol_name": series.protocol_name,
        "findings": [
            {
                "severity": finding.severity.value,
                "kind": finding.kind.value,
                "check": finding.check,
                "element": finding.element,
                "tag": tag_text(finding.element),
                "raw": finding.raw,
                "suggested_value": finding.suggested_value,
                "evidence": finding.evidence,
                "source": _CHECKS[finding.check].source,
            }
            for finding in series.findings
        ],
    }


def as_csv(audit: FolderAudit) -> str:
    """One line per finding; a series without one has none."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(CSV_COLUMNS)
    for series in audit.series:
        for finding in series.findings:
            cells = (
                series.series_instance_uid, series.study_instance_uid,
                "; ".join(_below(audit, folder) for folder in series.folders), series.manufacturer,
                series.manufacturer_model_name, series.software_versions, series.series_number,
                series.series_description, series.n_instances, finding.severity.value, finding.kind.value,
                finding.check, finding.element, tag_text(finding.element), finding.raw, finding.suggested_value,
                finding.evidence, _CHECKS[finding.check].source,
            )  # fmt: skip
            lines.writerow([harmless_cell(cell) for cell in cells])
    return text.getvalue()


def as_html(audit: FolderAudit, at: datetime) -> str:
    """A page that needs nothing else: for the screen, and for paper."""
    frequent = Counter(finding.check for series in audit.series for finding in series.findings).most_common(MOST_BARS)
    severities = Counter(finding.severity for series in audit.series for finding in series.findings)
    page = _pages.get_template("folder.html")
    return page.render(
        audit=audit,
        at=at.astimezone(),
        version=__version__,
        n_checks=len(CHECKS),
        severities=[(severity.value, severities[severity]) for severity in Severity],
        bars=[(_CHECKS[name], n, n / frequent[0][1]) for name, n in frequent],
        conspicuous=sorted(
            (series for series in audit.series if series.findings), key=lambda one: (_worst(one), -len(one.findings))
        ),
        quiet=[series for series in audit.series if not series.findings],
        below=lambda path: _below(audit, path),
        tag=tag_text,
        title=title,
        check=_CHECKS.__getitem__,
    )


def _worst(series: AuditedSeries) -> int:
    return min(_RANK[finding.severity] for finding in series.findings)


def tag_text(keyword: str) -> str:
    """(gggg,eeee) of an element; empty where the dictionary has none of that name."""
    tag = tag_for_keyword(keyword)
    return "" if tag is None else f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def title(keyword: str) -> str:
    """An element's name for people."""
    tag = tag_for_keyword(keyword)
    return keyword if tag is None else dictionary_description(tag)


def _below(audit: FolderAudit, path: Any) -> str:
    """A path as seen from the folder that was audited."""
    return str(path.relative_to(audit.root)) if path.is_relative_to(audit.root) else str(path)
