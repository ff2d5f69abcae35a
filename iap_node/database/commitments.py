"""Storage commitment: what was asked, whether it can be promised, and how far the answers got.

Called by `iap_node.listener.commitment`, by `iap-node status` and by `timeline`. Rows wait until their report is
delivered, or until nobody tries any more; a report that somebody is about to send is due only later, so
that nobody else sends it too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from iap_node.database.tables import (
    BytesState,
    CommitmentRow,
    CommitmentSeriesRow,
    CommitmentState,
    ConflictRow,
    InstanceRow,
)
from iap_node.errors import RetriableError

MOST_WAITING = 1000  # requests of one peer; a scanner has one for each study
UIDS_AT_ONCE = 500  # each is a bound parameter

Reference = tuple[str, str]  # SOP Class UID, SOP Instance UID


class TooManyWaiting(RetriableError):
    """A peer asks and asks, and does not take its reports."""


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """What a peer wants to have promised, and who it is."""

    id: int
    transaction_uid: str
    calling_ae_title: str
    source_address: str
    instances: tuple[Reference, ...]
    uid_in_use: bool  # another request had its Transaction UID and was not reported yet
    attempts: int  # to report it
    requested_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """An archived instance, as far as a promise goes."""

    sop_class_uid: str
    spool_path: str
    bytes_state: BytesState


@dataclass(frozen=True, slots=True)
class CommitmentCounts:
    """Requests by what became of them."""

    states: Mapping[CommitmentState, int]
    oldest_waiting_at: datetime | None


@dataclass(frozen=True, slots=True)
class SeriesCommitment:
    """A request that named instances of a series, and how far its report got."""

    calling_ae_title: str
    state: CommitmentState
    n_not_committed: int | None  # of the whole request, as it was reported
    error: str | None
    requested_at: datetime
    updated_at: datetime


def commitments_of(session: Session, series_id: int) -> list[SeriesCommitment]:
    """The requests that named instances of a series which are here, the oldest first."""
    row = CommitmentRow
    query = (
        select(row.calling_ae_title, row.state, row.n_not_committed, row.error, row.requested_at, row.updated_at)
        .join(CommitmentSeriesRow, CommitmentSeriesRow.commitment_id == row.id)
        .where(CommitmentSeriesRow.series_id == series_id)
        .order_by(row.id)
    )
    return [SeriesCommitment(*one) for one in session.execute(query)]


def ask(
    session: Session,
    transaction_uid: str,
    calling_ae_title: str,
    source_address: str,
    instances: Sequence[Reference],
    now: datetime,
    due_at: datetime,
    expires_at: datetime,
) -> CommitmentRequest:
    """Keep a request.

    The same request once more, by a peer that missed our answer, is the one that stands: it is to be reported anew.
    With other instances under a Transaction UID that this peer still waits for it is kept as such (`uid_in_use`).

    Raises
    ------
    TooManyWaiting
        More than `MOST_WAITING` requests of this peer wait to be reported.
    """
    of_peer = (CommitmentRow.transaction_uid == transaction_uid, CommitmentRow.calling_ae_title == calling_ae_title)
    waiting = session.scalars(
        select(CommitmentRow)
        .where(*of_peer, CommitmentRow.state == CommitmentState.WAITING)
        .order_by(CommitmentRow.id)
        .with_for_update()
    ).all()
    wanted = [list(reference) for reference in instances]
    for row in waiting:
        if row.instances == wanted:
            row.due_at, row.updated_at = due_at, now
            return _request(row)
    all_of_peer = CommitmentRow.state == CommitmentState.WAITING, CommitmentRow.calling_ae_title == calling_ae_title
    if (session.scalar(select(func.count()).where(*all_of_peer)) or 0) >= MOST_WAITING:
        raise TooManyWaiting(f"{MOST_WAITING} requests of {calling_ae_title} wait: does it take its reports?")
    row = CommitmentRow(
        transaction_uid=transaction_uid,
        calling_ae_title=calling_ae_title,
        source_address=source_address,
        instances=wanted,
        uid_in_use=bool(waiting),
        state=CommitmentState.WAITING,
        attempts=0,
        due_at=due_at,
        requested_at=now,
        expires_at=expires_at,
        updated_at=now,
    )
    session.add(row)
    session.flush()
    _note_series(session, row.id, wanted)
    return _request(row)


def claim_due(session: Session, now: datetime, until: datetime, limit: int) -> list[CommitmentRequest]:
    """Requests whose report is due, the oldest first; until then nobody else gets them."""
    rows = session.scalars(
        select(CommitmentRow)
        .where(CommitmentRow.state == CommitmentState.WAITING, CommitmentRow.due_at <= now)
        .order_by(CommitmentRow.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        row.due_at, row.updated_at = until, now
    return [_request(row) for row in rows]


def is_any_due(session: Session, now: datetime) -> bool:
    """Whether `claim_due` would find something."""
    due = select(CommitmentRow.id).where(CommitmentRow.state == CommitmentState.WAITING, CommitmentRow.due_at <= now)
    return session.scalar(due.limit(1)) is not None


def delivered(session: Session, request_id: int, n_not_committed: int, now: datetime) -> None:
    """The requestor has its report; which instances it was about is kept no longer, only their series."""
    _note_series(session, request_id)  # some may have come since it was asked
    _change(
        session, request_id, now, state=CommitmentState.DELIVERED, due_at=None, error=None,
        n_not_committed=n_not_committed, instances=[],
    )  # fmt: skip


def postpone(session: Session, request_id: int, due_at: datetime, now: datetime) -> None:
    """Report it then, and not before; no attempt was made."""
    _change(session, request_id, now, due_at=due_at)


def failed(session: Session, request: CommitmentRequest, error: str, wait_s: float, now: datetime) -> CommitmentState:
    """An attempt to report it failed: it is tried again after `wait_s`, or given up after `expires_at`."""
    due_at = now + timedelta(seconds=wait_s)
    if due_at > request.expires_at:
        _note_series(session, request.id, request.instances)
        _change(session, request.id, now, state=CommitmentState.EXPIRED, due_at=None, error=error, instances=[])
        return CommitmentState.EXPIRED
    _change(session, request.id, now, due_at=due_at, error=error, attempts=request.attempts + 1)
    return CommitmentState.WAITING


def standing_instances(session: Session, sop_instance_uids: Collection[str]) -> dict[str, Standing]:
    """The archived instances among these, by SOP Instance UID."""
    found: dict[str, Standing] = {}
    named = select(
        InstanceRow.sop_instance_uid, InstanceRow.sop_class_uid, InstanceRow.spool_path, InstanceRow.bytes_state
    )
    for uids in _batches(sop_instance_uids):
        rows = session.execute(named.where(InstanceRow.sop_instance_uid.in_(uids)))
        for uid, sop_class_uid, spool_path, state in rows:
            found[uid] = Standing(sop_class_uid, spool_path, state)
    return found


def lost_conflicts(session: Session, sop_instance_uids: Collection[str], calling_ae_title: str) -> set[str]:
    """Those of which this peer sent other bytes than the archived ones, and these other bytes are here no more."""
    found: set[str] = set()
    for uids in _batches(sop_instance_uids):
        found.update(
            session.scalars(
                select(InstanceRow.sop_instance_uid)
                .join(ConflictRow, ConflictRow.instance_id == InstanceRow.id)
                .where(
                    InstanceRow.sop_instance_uid.in_(uids),
                    ConflictRow.calling_ae_title == calling_ae_title,
                    ConflictRow.bytes_state != BytesState.PRESENT,
                )
            )
        )
    return found


def commitment_counts(session: Session) -> CommitmentCounts:
    """Requests by state, every state with its number, and since when the oldest waits."""
    states = dict.fromkeys(CommitmentState, 0)
    for state, n in session.execute(select(CommitmentRow.state, func.count()).group_by(CommitmentRow.state)):
        states[state] = n
    oldest = select(func.min(CommitmentRow.requested_at)).where(CommitmentRow.state == CommitmentState.WAITING)
    return CommitmentCounts(states, session.scalar(oldest))


def _note_series(
    session: Session, request_id: int, instances: Sequence[Sequence[str]] | None = None
) -> None:
    """Remember of which series here a request names instances; None: as the request's own row lists them."""
    if instances is None:
        instances = session.scalar(select(CommitmentRow.instances).where(CommitmentRow.id == request_id)) or []
    found: set[int] = set()
    for uids in _batches([uid for _, uid in instances]):
        found.update(session.scalars(select(InstanceRow.series_id).where(InstanceRow.sop_instance_uid.in_(uids))))
    if found:
        session.execute(delete(CommitmentSeriesRow).where(CommitmentSeriesRow.commitment_id == request_id))
        rows = [{"commitment_id": request_id, "series_id": series_id} for series_id in sorted(found)]
        session.execute(insert(CommitmentSeriesRow), rows)


def _batches(uids: Collection[str]) -> list[list[str]]:
    distinct = list(dict.fromkeys(uids))
    return [distinct[start : start + UIDS_AT_ONCE] for start in range(0, len(distinct), UIDS_AT_ONCE)]


def _change(session: Session, request_id: int, now: datetime, **values: object) -> None:
    waiting = CommitmentRow.id == request_id, CommitmentRow.state == CommitmentState.WAITING
    session.execute(update(CommitmentRow).where(*waiting).values(updated_at=now, **values))


def _request(row: CommitmentRow) -> CommitmentRequest:
    return CommitmentRequest(
        id=row.id,
        transaction_uid=row.transaction_uid,
        calling_ae_title=row.calling_ae_title,
        source_address=row.source_address,
        instances=tuple((sop_class_uid, sop_instance_uid) for sop_class_uid, sop_instance_uid in row.instances),
        uid_in_use=row.uid_in_use,
        attempts=row.attempts,
        requested_at=row.requested_at,
        expires_at=row.expires_at,
    )
