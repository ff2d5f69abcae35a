"""Standing findings by scanner and element: the cells of the console's heat map."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, distinct, func, select
from sqlalchemy.orm import Session

from iap_node.database.report_figures import STANDING, Scanner
from iap_node.database.tables import FindingRow, SeriesRow
from iap_node.records import Severity

MOST_CELLS = 5_000  # the fullest


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands against one element on one scanner."""

    scanner: Scanner
    element: str  # DICOM keyword
    n_series: int  # with a finding against it
    n_grave: int  # of these, with an error or a warning


def cells(session: Session, since: datetime) -> list[Cell]:
    """The cells with findings that were found since then, the fullest first."""
    scanner = (SeriesRow.manufacturer, SeriesRow.manufacturer_model_name, SeriesRow.device_serial_number)
    n_series = func.count(distinct(FindingRow.series_id))
    grave = case((FindingRow.severity.in_((Severity.ERROR, Severity.WARNING)), FindingRow.series_id))
    query = (
        select(*scanner, FindingRow.element, n_series, func.count(distinct(grave)))
        .join(SeriesRow, SeriesRow.id == FindingRow.series_id)
        .where(FindingRow.state.in_(STANDING), FindingRow.found_at >= since)
        .group_by(*scanner, FindingRow.element)
        .order_by(n_series.desc(), *scanner, FindingRow.element)
        .limit(MOST_CELLS)
    )
    return [Cell(Scanner(*row[:3]), *row[3:]) for row in session.execute(query)]
