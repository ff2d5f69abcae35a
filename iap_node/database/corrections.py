"""Corrected copies of series: what people accepted, what was written, under which UIDs, where to.

Called by the command `correct` and by the DELIVER handler. A correction has its row before the first copy is written,
so that a run that was killed goes on with the same time and version: the same copies to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from iap_node.database.dismissal_rules import move
from iap_node.database.insertion import insert_if_new
from iap_node.database.jobs import lock_series, open_job
from iap_node.database.tables import (
    CorrectionRow,
    DeliveryRow,
    DeliveryState,
    FindingEventRow,
    FindingRow,
    JobRow,
    SeriesRow,
    StudyRow,
)
from iap_node.errors import PermanentError, RetriableError
from iap_node.records import FindingKind, FindingState, JobKind, JobState

# A finding that was corrected in one copy is corrected in the next one too.
_STANDING = (FindingState.ACCEPTED, FindingState.CORRECTED)


@dataclass(frozen=True, slots=True)
class AcceptedValue:
    """What a person took for right, in place of what a finding is about."""

    finding_id: int
    keyword: str
    check: str
    kind: FindingKind
    found: str  # as the header has it
    value: str  # as it would be written
    who: str  # accepted it
    at: datetime | None

    @property
    def reason(self) -> str:
        """The finding as people name it."""
        return f"finding {self.finding_id} ({self.check})"


@dataclass(frozen=True, slots=True)
class SeriesToCorrect:
    """What a corrected copy takes over from the archive."""

    id: int
    series_instance_uid: str
    study_instance_uid: str
    revision: int
    judged_revision: int | None
    calling_ae_title: str  # who sent the original


@dataclass(frozen=True, slots=True)
class Correction:
    """One corrected copy of a series."""

    id: int
    series_instance_uid: str  # of the copy
    elements: Mapping[str, str | None]
    n_instances: int
    target: str
    made_by: str
    made_at: datetime
    software_version: str
    finished_at: datetime | None  # None: not all instances were written yet


def series_to_correct(session: Session, series_id: int) -> SeriesToCorrect:
    """The row of a series, as far as a copy needs it."""
    row, study_uid = session.execute(
        select(SeriesRow, StudyRow.study_instance_uid)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(SeriesRow.id == series_id)
    ).one()
    return SeriesToCorrect(
        id=row.id,
        series_instance_uid=row.series_instance_uid,
        study_instance_uid=study_uid,
        revision=row.revision,
        judged_revision=row.judged_revision,
        calling_ae_title=row.calling_ae_title,
    )


def accepted_values(session: Session, series_id: int) -> list[AcceptedValue]:
    """What people accepted in place of what a series' headers say, by element; corrected findings included."""
    rows = session.scalars(
        select(FindingRow)
        .where(
            FindingRow.series_id == series_id,
            FindingRow.state.in_(_STANDING),
            FindingRow.accepted_value.is_not(None),
        )
        .order_by(FindingRow.element, FindingRow.id)
    ).all()
    events = session.scalars(
        select(FindingEventRow)
        .where(
            FindingEventRow.finding_id.in_([row.id for row in rows]), FindingEventRow.state == FindingState.ACCEPTED
        )
        .order_by(FindingEventRow.id)
    )
    accepted = {event.finding_id: event for event in events}  # the last one of each
    return [
        AcceptedValue(
            finding_id=row.id,
            keyword=row.element,
            check=row.check_name,
            kind=row.kind,
            found=row.raw,
            value=row.accepted_value or "",
            who=accepted[row.id].who if row.id in accepted else "",
            at=accepted[row.id].at if row.id in accepted else None,
        )
        for row in rows
    ]


def begin_correction(
    session: Session,
    series: SeriesToCorrect,
    *,
    copy_series_instance_uid: str,
    elements: Mapping[str, str | None],
    target: str,
    made_by: str,
    software_version: str,
    now: datetime,
) -> Correction:
    """Note that a copy is about to be written; where the same one was begun before, with its time and version.

    The time and the version of the node stand in the copies, under UIDs that do not depend on them: a copy that is
    made again must not differ.
    """
    lock_series(session, series.id)
    same = [
        row
        for row in session.scalars(
            select(CorrectionRow)
            .where(
                CorrectionRow.series_id == series.id,
                CorrectionRow.series_instance_uid == copy_series_instance_uid,
            )
            .order_by(CorrectionRow.id)
        )
        if row.elements == dict(elements)
    ]
    here = next((row for row in same if row.target == target and row.revision == series.revision), None)
    if here is not None:
        return _correction(here)
    row = CorrectionRow(
        series_id=series.id,
        revision=series.revision,
        study_instance_uid=series.study_instance_uid,
        series_instance_uid=copy_series_instance_uid,
        elements=dict(elements),
        n_instances=0,
        target=target,
        made_by=made_by,
        made_at=same[0].made_at if same else now,
        software_version=same[0].software_version if same else software_version,
        finished_at=None,
    )
    session.add(row)
    session.flush()
    return _correction(row)


def finish_correction(
    session: Session,
    correction: Correction,
    accepted: Sequence[AcceptedValue],
    *,
    n_instances: int,
    who: str,
    now: datetime,
) -> list[int]:
    """Note that all copies are written, and that the findings behind them are corrected; the numbers of those.

    A finding whose accepted value changed meanwhile, or that was dismissed, stays as it is.
    """
    session.execute(
        update(CorrectionRow)
        .where(CorrectionRow.id == correction.id)
        .values(n_instances=n_instances, finished_at=now)
    )
    corrected: list[int] = []
    for value in sorted(accepted, key=lambda one: one.finding_id):  # as every decision locks them
        standing = select(FindingRow.id).where(
            FindingRow.id == value.finding_id,
            FindingRow.state == FindingState.ACCEPTED,
            FindingRow.accepted_value == value.value,
        )
        corrected += session.scalars(standing.with_for_update()).all()
    reason = f"corrected copy {correction.series_instance_uid} to {correction.target}"
    kept = FindingRow.accepted_value
    move(session, corrected, FindingState.CORRECTED, who=who, reason=reason, now=now, accepted_value=kept)
    return corrected


def list_corrections(session: Session, series_id: int) -> list[Correction]:
    """The corrected copies of a series, the newest first."""
    rows = session.scalars(
        select(CorrectionRow).where(CorrectionRow.series_id == series_id).order_by(CorrectionRow.id.desc())
    )
    return [_correction(row) for row in rows]


def deliver_again(session: Session, series: SeriesToCorrect, destination: str, now: datetime) -> None:
    """Put the newest judged revision of a series on its way to a destination, were it delivered there before or not.

    The DELIVER job sends what the destination has not accepted in this form yet.

    Raises
    ------
    PermanentError
        The series is not judged yet: when it is, its values are corrected on the way.
    RetriableError
        It is on its way there at this moment, with what was accepted when that began.
    """
    if series.judged_revision is None:
        raise PermanentError(
            f"series {series.series_instance_uid} is not judged yet; when it is, it goes where its route says, "
            "corrected where values are accepted by then"
        )
    lock_series(session, series.id)
    keys = {"series_id": series.id, "revision": series.judged_revision, "destination": destination}
    under_way = select(JobRow.id).filter_by(**keys, kind=JobKind.DELIVER, state=JobState.LEASED)
    if session.scalar(under_way.with_for_update()) is not None:
        raise RetriableError(
            f"series {series.series_instance_uid} is being sent to {destination} at this moment; try again later"
        )
    insert_if_new(
        session,
        DeliveryRow,
        (DeliveryRow.series_id, DeliveryRow.revision, DeliveryRow.destination),
        **keys,
        state=DeliveryState.PENDING,
        created_at=now,
        updated_at=now,
    )
    open_job(session, JobKind.DELIVER, series.id, series.judged_revision, now, destination)
    revived = session.execute(
        update(JobRow)
        .where(
            JobRow.series_id == series.id,
            JobRow.kind == JobKind.DELIVER,
            JobRow.revision == series.judged_revision,
            JobRow.destination == destination,
            JobRow.state.not_in((JobState.READY, JobState.LEASED)),
        )
        .values(state=JobState.READY, attempts=0, due_at=now, error=None, updated_at=now)
        .returning(JobRow.id)
    ).one_or_none()
    if revived is not None:
        session.execute(
            update(DeliveryRow).filter_by(**keys).values(state=DeliveryState.PENDING, updated_at=now)
        )


def _correction(row: CorrectionRow) -> Correction:
    return Correction(
        id=row.id,
        series_instance_uid=row.series_instance_uid,
        elements=dict(row.elements),
        n_instances=row.n_instances,
        target=row.target,
        made_by=row.made_by,
        made_at=row.made_at,
        software_version=row.software_version,
        finished_at=row.finished_at,
    )
