"""What was told to whom, and what there is to tell about: deliveries that fail, series that wait.

For `iap_node.notify`. A message is sent outside of any transaction: a process claims a channel's kind of trouble
before, and notes afterwards what it told. When it dies in between, the claim runs out and another one tells it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, func, insert, or_, select, update
from sqlalchemy.orm import Session

from iap_node.config.notifications import TroubleKind
from iap_node.database.holds import held_by_person
from iap_node.database.insertion import insert_if_new
from iap_node.database.routes import waits
from iap_node.database.tables import (
    AnnouncementRow,
    DeliveryRow,
    DeliveryState,
    JudgementRow,
    NotificationRow,
    QuarantineRow,
    RouteDecisionRow,
    SeriesRow,
)

ToldRow = tuple[dict[str, Any], datetime | None, datetime | None]


def told(session: Session, channel: str) -> dict[str, ToldRow]:
    """What a channel was last told, by kind: amounts, when, and when trouble was last told."""
    row = NotificationRow
    query = select(row.kind, row.told, row.told_at, row.begun_at).where(row.channel == channel)
    return {kind: (amounts, at, begun_at) for kind, amounts, at, begun_at in session.execute(query)}


def claim(
    session: Session, channel: str, kind: str, told_at: datetime | None, until: datetime, now: datetime
) -> bool:
    """Take it on oneself to tell a channel; False when another process does, or did since `told_at`."""
    row = NotificationRow
    insert_if_new(session, row, (row.channel, row.kind), channel=channel, kind=kind, told={})
    claimed = session.scalar(
        update(row)
        .where(
            row.channel == channel,
            row.kind == kind,
            row.told_at.is_not_distinct_from(told_at),
            or_(row.claimed_until.is_(None), row.claimed_until <= now),
        )
        .values(claimed_until=until)
        .returning(row.kind)
    )
    return claimed is not None


def note_told(
    session: Session, channel: str, kind: str, amounts: dict[str, int], now: datetime, *, begun: bool
) -> None:
    """What was claimed is told; no amounts: that it is over; `begun`: that it began or grew."""
    values: dict[str, Any] = {"told": amounts, "told_at": now, "claimed_until": None}
    if begun:
        values["begun_at"] = now
    session.execute(
        update(NotificationRow).where(NotificationRow.channel == channel, NotificationRow.kind == kind).values(values)
    )


def give_claim_back(session: Session, channel: str, kind: str) -> None:
    """What was claimed could not be told; somebody may try again."""
    row = NotificationRow
    session.execute(update(row).where(row.channel == channel, row.kind == kind).values(claimed_until=None))


@dataclass(frozen=True, slots=True)
class Announcement:
    """What happened once, for people."""

    id: int
    summary: str
    remedy: str
    made_at: datetime


def announce(session: Session, kind: TroubleKind, summary: str, remedy: str, now: datetime) -> None:
    """Let people be told of what happened, in the transaction in which it does; nothing of a patient or a header.

    The scheduler tells it within a minute where `notifications.kinds` names the kind, or after quiet hours.

    Parameters
    ----------
    kind
        One of `HAPPENS_ONCE`.
    summary
        One line.
    remedy
        What to do about it: a command.
    """
    session.execute(
        insert(AnnouncementRow).values(kind=kind.value, summary=summary, remedy=remedy, made_at=now)
    )


def announcements(session: Session, kind: TroubleKind, after: int, since: datetime) -> list[Announcement]:
    """What was announced after the announcement of that number, and since a time; the oldest first."""
    row = AnnouncementRow
    query = (
        select(row.id, row.summary, row.remedy, row.made_at)
        .where(row.kind == kind.value, row.id > after, row.made_at >= since)
        .order_by(row.id)
    )
    return [Announcement(*one) for one in session.execute(query)]


def failing_deliveries(session: Session, waiting_since: datetime) -> dict[str, tuple[int, int]]:
    """By destination: deliveries that are dead letters, and those that wait since before a time and are not held."""
    row = DeliveryRow
    late = and_(row.state == DeliveryState.PENDING, row.updated_at < waiting_since, ~held_by_person(row.series_id))
    query = (
        select(row.destination, row.state, func.count())
        .where(or_(row.state == DeliveryState.FAILED, late))
        .group_by(row.destination, row.state)
        .order_by(row.destination)
    )
    found: dict[str, tuple[int, int]] = {}
    for destination, state, n in session.execute(query):
        failed, waiting = found.get(destination, (0, 0))
        found[destination] = (n, waiting) if state is DeliveryState.FAILED else (failed, n)
    return found


def count_quarantined_since(session: Session, since: datetime) -> int:
    """How many entries of the quarantine came since."""
    return session.scalar(select(func.count()).where(QuarantineRow.received_at >= since)) or 0


def held_since_before(session: Session, before: datetime, name_at_most: int) -> tuple[int, tuple[str, ...]]:
    """How many series wait for a person since before a time because a rule says so, and the UIDs of those that wait
    longest. What a person holds, a person knows of.
    """

    def of(*columns: Any) -> Any:
        return (
            select(*columns)
            .select_from(RouteDecisionRow)
            .join(JudgementRow, JudgementRow.id == RouteDecisionRow.judgement_id)
            .join(SeriesRow, SeriesRow.id == JudgementRow.series_id)
            .where(waits(), JudgementRow.judged_at <= before)
        )

    uids = session.scalars(
        of(SeriesRow.series_instance_uid).order_by(JudgementRow.judged_at, JudgementRow.id).limit(name_at_most)
    )
    return session.scalar(of(func.count())) or 0, tuple(uids)
