"""What is here already, so that it need not be pulled again. Called by `iap_node.pull`."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from iap_node.database.tables import BytesState, InstanceRow, SeriesRow, StudyRow


def held_instances(session: Session, study_instance_uid: str, series_instance_uid: str) -> set[str]:
    """SOP Instance UIDs of a series that came once.

    Those whose bytes retention has deleted count: to pull them again would judge nothing anew. Lost ones do not.
    """
    query = (
        select(InstanceRow.sop_instance_uid)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(
            StudyRow.study_instance_uid == study_instance_uid,
            SeriesRow.series_instance_uid == series_instance_uid,
            InstanceRow.bytes_state != BytesState.LOST,
        )
    )
    return set(session.scalars(query))
