"""The report of one study: its series with their findings, and what differs between them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from iap_node.audit.reports import findings
from iap_node.audit.reports import series as series_report
from iap_node.audit.reports.files import safe_name
from iap_node.audit.reports.rendering import document, page, table
from iap_node.database.report_series import ReportedSeries, ReportedStudy
from iap_node.records import Severity

MOST_VALUES = 8  # of one element that are named

# One patient, once on one scanner: these do not change between the series of a study. A contrast agent is given
# between series, and what belongs to the protocol is another in each.
_OF_THE_STUDY = (
    "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "MagneticFieldStrength",
    "PatientPosition", "BodyPartExamined", "ImagedNucleus", "StationName",
)  # fmt: skip

CSV_COLUMNS = (
    "study_instance_uid", "series_instance_uid", "series_number", "series_description", "protocol_name", "series_state",
    "n_instances", *findings.COLUMNS, "state", "accepted_value", "found_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    """An element that the series of a study do not state alike: each value, and the series that state it."""

    element: str
    values: tuple[tuple[str, tuple[str, ...]], ...]  # "": not stated
    of_the_study: bool  # it should be the same in all of them


def name(study: ReportedStudy) -> str:
    """What the files of the report are called."""
    return safe_name("study", study.study_instance_uid)


def as_html(study: ReportedStudy, at: datetime) -> str:
    """A page that needs nothing else: for the screen, and for paper."""
    severities = Counter(one.finding.severity for series in study.series for one in series.standing)
    differing = differences(study)
    return page(
        "study.html",
        at,
        study=study,
        severities={severity.value: severities[severity] for severity in Severity},
        unlike=[one for one in differing if one.of_the_study],
        protocol=[one for one in differing if not one.of_the_study],
        most_values=MOST_VALUES,
        labels=labels(study),
        entries=lambda series: [(one.finding, one) for one in series.standing],
        about=findings,
    )


def as_csv(study: ReportedStudy) -> str:
    """One line per finding; a series without one has a line without one."""
    no_finding = (None,) * (len(findings.COLUMNS) + 3)
    return table(
        CSV_COLUMNS,
        (
            (
                study.study_instance_uid, series.series_instance_uid, series.series_number, series.series_description,
                series.protocol_name, series.state, series.n_instances, *cells,
            )
            for series in study.series
            for cells in [series_report.finding_cells(one) for one in series.findings] or [no_finding]
        ),
    )  # fmt: skip


def as_json(study: ReportedStudy, at: datetime) -> str:
    """Everything."""
    content = {
        "study_instance_uid": study.study_instance_uid,
        "received_at": study.received_at,
        "n_series": study.n_series,
        "differences": differences(study),
        "series": [series_report.as_object(series) for series in study.series],
    }
    return document(at, content)


def differences(study: ReportedStudy) -> list[Difference]:
    """What the series do not state alike; what should be alike first."""
    named = labels(study)
    stated = {named[series.id]: _stated(series) for series in study.series}
    elements = dict.fromkeys([*_OF_THE_STUDY, *sorted({keyword for values in stated.values() for keyword in values})])
    found = []
    for element in elements:
        values: dict[str, list[str]] = {}
        for label, of_series in stated.items():
            values.setdefault(of_series.get(element, ""), []).append(label)
        if len(values) > 1 and (element not in _OF_THE_STUDY or len([value for value in values if value]) > 1):
            by_number = sorted(values.items(), key=lambda item: (-len(item[1]), item[0]))
            rows = tuple((value, tuple(labels)) for value, labels in by_number)
            found.append(Difference(element, rows, element in _OF_THE_STUDY))
    return found


def _stated(series: ReportedSeries) -> dict[str, str]:
    of_the_row = {
        "Manufacturer": series.manufacturer,
        "ManufacturerModelName": series.manufacturer_model_name,
        "DeviceSerialNumber": series.device_serial_number,
        "SoftwareVersions": series.software_versions,
        "BodyPartExamined": series.body_part_examined,
    }
    return {keyword: str(value) for keyword, value in {**series.stated, **of_the_row}.items() if value}


def labels(study: ReportedStudy) -> dict[int, str]:
    """How the page names each series: by its number, and by that of its row where two have the same or one has none."""
    times = Counter(series.series_number for series in study.series)
    return {
        series.id: str(series.series_number)
        if series.series_number is not None and times[series.series_number] == 1
        else f"{'' if series.series_number is None else series.series_number}#{series.id}"
        for series in study.series
    }
