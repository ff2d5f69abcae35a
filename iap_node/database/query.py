"""C-FIND in SQL: what the archive holds, matched by the keys of `iap_node.dicom.query`. Called by the listener.

Only instances whose bytes are here count; a series or study without any is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, distinct, exists, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from iap_node.database.tables import BytesState, InstanceRow, SeriesRow, StudyRow
from iap_node.dicom.query import BY_KEYWORD, Condition, Level, Matching, Query, date_range, is_at_or_above

COLUMNS: Final[dict[str, InstrumentedAttribute[Any]]] = {
    "StudyInstanceUID": StudyRow.study_instance_uid,
    "StudyDate": StudyRow.study_date,
    "SeriesInstanceUID": SeriesRow.series_instance_uid,
    "Modality": SeriesRow.modality,
    "SeriesNumber": SeriesRow.series_number,
    "SeriesDescription": SeriesRow.series_description,
    "ProtocolName": SeriesRow.protocol_name,
    "BodyPartExamined": SeriesRow.body_part_examined,
    "Manufacturer": SeriesRow.manufacturer,
    "ManufacturerModelName": SeriesRow.manufacturer_model_name,
    "DeviceSerialNumber": SeriesRow.device_serial_number,
    "SoftwareVersions": SeriesRow.software_versions,
    "SOPInstanceUID": InstanceRow.sop_instance_uid,
    "InstanceNumber": InstanceRow.instance_number,
    "SOPClassUID": InstanceRow.sop_class_uid,
    "AvailableTransferSyntaxUID": InstanceRow.transfer_syntax_uid,
    "Rows": InstanceRow.rows,
    "Columns": InstanceRow.columns,
    "NumberOfFrames": InstanceRow.number_of_frames,
}
_PRESENT = InstanceRow.bytes_state == BytesState.PRESENT

# What is counted: correlated, so that it costs nothing where nobody asks for it.
_COUNTS: Final = {
    "NumberOfStudyRelatedSeries": select(func.count(distinct(SeriesRow.id)))
    .join(InstanceRow, InstanceRow.series_id == SeriesRow.id)
    .where(SeriesRow.study_id == StudyRow.id, _PRESENT)
    .correlate(StudyRow)
    .scalar_subquery(),
    "NumberOfStudyRelatedInstances": select(func.count(InstanceRow.id))
    .join(SeriesRow, InstanceRow.series_id == SeriesRow.id)
    .where(SeriesRow.study_id == StudyRow.id, _PRESENT)
    .correlate(StudyRow)
    .scalar_subquery(),
    "NumberOfSeriesRelatedInstances": select(func.count(InstanceRow.id))
    .where(InstanceRow.series_id == SeriesRow.id, _PRESENT)
    .correlate(SeriesRow)
    .scalar_subquery(),
}
MODALITIES = "ModalitiesInStudy"
_IDS: Final = {Level.STUDY: StudyRow.id, Level.SERIES: SeriesRow.id, Level.IMAGE: InstanceRow.id}


def find(session: Session, query: Query, after_id: int, limit: int) -> list[tuple[int, dict[str, Any]]]:
    """The next matches behind `after_id`, by id: each with the values of the keys that are wanted and known.

    Parameters
    ----------
    after_id
        The id of the last match before, 0 at first.
    limit
        At most so many.
    """
    known = [
        keyword
        for keyword in query.wanted
        if keyword in BY_KEYWORD and keyword != MODALITIES and is_at_or_above(BY_KEYWORD[keyword], query.level)
    ]
    columns = [(_COUNTS[keyword] if keyword in _COUNTS else COLUMNS[keyword]).label(keyword) for keyword in known]
    row_id = _IDS[query.level]
    statement: Select[Any] = select(row_id.label("match_id"), StudyRow.id.label("study_row_id"), *columns)
    statement = _from(statement, query.level)
    case_sensitive = "GLOB" if session.get_bind().dialect.name == "sqlite" else "LIKE"
    statement = statement.where(row_id > after_id, *(_clause(one, case_sensitive) for one in query.conditions))
    found = session.execute(statement.order_by(row_id).limit(limit)).all()
    modalities = _modalities(session, [row.study_row_id for row in found]) if MODALITIES in query.wanted else {}
    matches = []
    for row in found:
        values = {keyword: row._mapping[keyword] for keyword in known}
        if MODALITIES in query.wanted:
            values[MODALITIES] = modalities.get(row.study_row_id, [])
        matches.append((row.match_id, values))
    return matches


def _from(statement: Select[Any], level: Level) -> Select[Any]:
    """The tables of a level; levels above joined, and something present below."""
    if level is Level.STUDY:
        here = (
            exists()
            .where(SeriesRow.study_id == StudyRow.id, InstanceRow.series_id == SeriesRow.id, _PRESENT)
            .correlate(StudyRow)
        )
        return statement.select_from(StudyRow).where(here)
    if level is Level.SERIES:
        here = exists().where(InstanceRow.series_id == SeriesRow.id, _PRESENT).correlate(SeriesRow)
        return statement.select_from(SeriesRow).join(StudyRow, StudyRow.id == SeriesRow.study_id).where(here)
    return (
        statement.select_from(InstanceRow)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(_PRESENT)
    )


def _clause(condition: Condition, case_sensitive: str) -> ColumnElement[bool]:
    """One key of the identifier."""
    keyword, values = condition.key.keyword, condition.values
    if keyword == MODALITIES:
        # of its own alias: at lower levels the series itself may have another modality
        other = SeriesRow.__table__.alias("other_series")
        matches = or_(*(_text(other.c.modality, value, case_sensitive) for value in values))
        return exists().where(other.c.study_id == StudyRow.id, matches).correlate(StudyRow)
    column = COLUMNS[keyword]
    if condition.key.matching is Matching.UID:
        return column.in_(values)
    if condition.key.matching is Matching.NUMBER:
        return column.in_([int(value) for value in values])
    if condition.key.matching is Matching.DATE:
        # real headers hold "***" and worse: what is no date is in no range
        ranges = [and_(column >= first, column <= last) for first, last in map(date_range, values)]
        return and_(func.length(column) == 8, or_(*ranges))
    return or_(*(_text(column, value, case_sensitive) for value in values))


def _text(column: Any, value: str, case_sensitive: str) -> ColumnElement[bool]:
    """Single value or wild card matching, which heed case (PS3.4 C.2.2.2.1, C.2.2.2.4)."""
    clause: ColumnElement[bool]
    if "*" not in value and "?" not in value:
        clause = column == value
    elif case_sensitive == "GLOB":
        clause = column.op("GLOB")(value.replace("[", "[[]"))
    else:
        escaped = value.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
        clause = column.like(escaped.replace("*", "%").replace("?", "_"), escape="\\")
    return clause


def _modalities(session: Session, study_ids: Sequence[int]) -> dict[int, list[str]]:
    query = (
        select(SeriesRow.study_id, SeriesRow.modality)
        .where(SeriesRow.study_id.in_(set(study_ids)), exists().where(InstanceRow.series_id == SeriesRow.id, _PRESENT))
        .distinct()
        .order_by(SeriesRow.study_id, SeriesRow.modality)
    )
    found: dict[int, list[str]] = {}
    for study_id, modality in session.execute(query):
        if modality:
            found.setdefault(study_id, []).append(modality)
    return found
