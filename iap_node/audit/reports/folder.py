"""The audit of a folder as a page for people and as tables for programs. Called by `iap-node audit`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iap_node.audit.checks import CHECKS
from iap_node.audit.folder import AuditedSeries, FolderAudit
from iap_node.audit.reports import findings
from iap_node.audit.reports.drawing import Drawing, bar
from iap_node.audit.reports.parameters import compared
from iap_node.audit.reports.rendering import document, page, table
from iap_node.records import Finding, Severity

if TYPE_CHECKING:  # pixels and their decoders, for whoever asks for them
    from iap_node.audit.pixels_at_rest import PixelJudgement

MOST_BARS = 20  # of the drawing of what was found most often
MOST_SHOWN = 500  # series with findings, without, protocols and files on the page; the tables for programs have all
MOST_NAMED = 5  # series of a parameter group that the page names

CSV_COLUMNS = (
    "series_instance_uid", "study_instance_uid", "folder", "manufacturer", "manufacturer_model_name",
    "software_versions", "series_number", "series_description", "n_instances", "group", "pixels", "model_id",
    "training_data", *findings.COLUMNS,
)  # fmt: skip
GROUPS_COLUMNS = (
    "protocol", "manufacturer", "model", "serial_number", "software_versions", "group", "dominant", "n_series",
    "n_studies", "since", "until", "element", "usual", "here", "series",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelSpoke:
    """A model that looked at series of the folder."""

    model_id: str
    training_data: str
    n_judged: int
    n_novel: int  # unlike its training data: no verdict


def as_html(audit: FolderAudit, at: datetime) -> str:
    """A page that needs nothing else: for the screen, and for paper."""
    found = [finding for series in audit.series for finding in series.findings]
    severities = Counter(finding.severity for finding in found)
    return page(
        "folder.html",
        at,
        audit=audit,
        n_checks=len(CHECKS),
        severities={severity.value: severities[severity] for severity in Severity},
        frequent=frequent(found),
        protocols=[one for one in audit.protocols if one.variants],
        called={series.series_key: f"{_called(series)} ({_where(audit, series, ', ')})" for series in audit.series},
        models=models(audit),
        looked=any(series.pixels is not None for series in audit.series),
        compared=lambda one: compared(one.prediction, one.comparisons, one.header),
        most_named=MOST_NAMED,
        most_shown=MOST_SHOWN,
        conspicuous=sorted(
            (series for series in audit.series if series.findings),
            key=lambda one: (findings.worst(one.findings), -len(one.findings)),
        ),
        quiet=[series for series in audit.series if not series.findings],
        below=lambda path: _below(audit, path),
        where=lambda series: _where(audit, series, ", "),
        without_history=lambda of_series: [(finding, None) for finding in of_series],
        about=findings,
    )


def frequent(found: Iterable[Finding]) -> list[tuple[str, Drawing, int]]:
    """What was found most often: check, bar in the colour of its worst severity, how often."""
    of_check: dict[str, list[Finding]] = {}
    for finding in found:
        of_check.setdefault(finding.check, []).append(finding)
    most = sorted(of_check.items(), key=lambda item: (-len(item[1]), item[0]))[:MOST_BARS]
    styles = {rank: severity.value for severity, rank in findings.RANK.items()}
    return [
        (name, bar(len(these) / len(most[0][1]), str(len(these)), styles[findings.worst(these)]), len(these))
        for name, these in most
    ]


def as_csv(audit: FolderAudit) -> str:
    """One line per finding; a series without one has none."""
    return table(
        CSV_COLUMNS,
        (
            (
                series.series_instance_uid, series.study_instance_uid, _where(audit, series, "; "),
                series.manufacturer, series.manufacturer_model_name, series.software_versions, series.series_number,
                series.series_description, series.n_instances, series.group, *_pixels(series),
                *findings.cells(finding),
            )
            for series in audit.series
            for finding in series.findings
        ),
    )  # fmt: skip


def groups_as_csv(audit: FolderAudit) -> str:
    """One line per element in which a variant of a protocol differs; a dominant group has one line without any."""
    lines: list[tuple[object, ...]] = []
    for one in audit.protocols:
        protocol = (one.protocol, one.manufacturer, one.model, one.serial_number, one.software_versions)
        for group in one.groups:
            about = (group.rank, group is one.dominant, group.n_series, group.n_studies, group.since, group.until)
            members = " ".join(group.series)
            for element, usual, here in [(it.element, it.usual, it.here) for it in group.differences] or [("", "", "")]:
                lines.append((*protocol, *about, element, usual, here, members))
    return table(GROUPS_COLUMNS, lines)


def as_json(audit: FolderAudit, at: datetime) -> str:
    """Everything, one object per series."""
    return document(
        at,
        {
            "folder": audit.root,
            "n_files": audit.n_files,
            "n_instances": audit.n_instances,
            "n_findings": audit.n_findings,
            "models": models(audit),
            "series": [_as_object(audit, series) for series in audit.series],
            "protocols": audit.protocols,
            "unread": [{"path": _below(audit, one.path), "reason": one.reason} for one in audit.unread],
        },
    )


def _as_object(audit: FolderAudit, series: AuditedSeries) -> dict[str, Any]:
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
        "key": series.series_key,
        "group": series.group,
        "pixels": None if series.pixels is None else _pixels_as_object(audit, series.pixels),
        "findings": [findings.as_object(finding) for finding in series.findings],
    }


def _pixels_as_object(audit: FolderAudit, pixels: PixelJudgement) -> dict[str, Any]:
    problems = [{"path": _below(audit, Path(str(file))), "reason": reason} for file, reason in pixels.problems]
    return {
        "prediction": pixels.prediction,
        "not_analysed_reason": pixels.reason or None,
        "comparisons": pixels.comparisons,
        "problems": problems,
    }


def _pixels(series: AuditedSeries) -> tuple[str, str, str]:
    """Whether the pixels were judged, and by which model."""
    if series.pixels is None:
        return "", "", ""
    prediction = series.pixels.prediction
    if prediction is None:
        return f"not analysed: {series.pixels.reason}", "", ""
    spoke = "novel" if prediction.novel else "judged" if prediction.calibrated else "shown, not judged"
    return spoke, prediction.model_id, prediction.training_data


def models(audit: FolderAudit) -> list[ModelSpoke]:
    """The models that judged series, and what became of these."""
    said = Counter(_pixels(series) for series in audit.series if series.pixels is not None)
    names = dict.fromkeys((model_id, training_data) for _, model_id, training_data in said if model_id)
    return [ModelSpoke(*name, said["judged", *name], said["novel", *name]) for name in names]


def _called(series: AuditedSeries) -> str:
    number = "" if series.series_number is None else f"{series.series_number} "
    return f"{number}{series.series_description or series.protocol_name or series.series_instance_uid}"


def _where(audit: FolderAudit, series: AuditedSeries, separator: str) -> str:
    return separator.join(_below(audit, folder) for folder in series.folders)


def _below(audit: FolderAudit, path: Path) -> str:
    """A path as seen from the folder that was audited."""
    return str(path.relative_to(audit.root)) if path.is_relative_to(audit.root) else str(path)
