"""Routes as rows: deliveries that follow from a decision, series that wait for a person, and what people decided.

A series waits because a rule of its newest judgement says so, or because a person holds it (`holds`), or both.
`open_deliveries` is called by `results.save_judgement`; facts and findings are asked for by the worker, the rest by the
command line and the web.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, insert, or_, select, update
from sqlalchemy.orm import Session

from iap_node.database.findings import foresee
from iap_node.database.holds import SeriesHold, begin_hold, end_hold, held_by_person, standing_hold
from iap_node.database.insertion import insert_if_new
from iap_node.database.jobs import lock_series, open_job
from iap_node.database.payloads import from_payload
from iap_node.database.tables import (
    DeliveryRow,
    DeliveryState,
    FindingRow,
    InstanceRow,
    JobRow,
    JudgementRow,
    RouteAction,
    RouteChangeRow,
    RouteDecisionRow,
    RoutingRulesRow,
    SeriesHoldRow,
    SeriesRow,
    StudyRow,
)
from iap_node.errors import PermanentError
from iap_node.records import (
    Finding,
    FoundFact,
    JobKind,
    JobState,
    RouteDecision,
    SeriesFacts,
    Witness,
)


class NotHeld(PermanentError):
    """The series does not wait for a person."""


class HeldAlready(PermanentError):
    """A person holds the series already."""


class NotRouted(PermanentError):
    """The series was not judged yet, or a new revision is on its way: there is no route to change."""


@dataclass(frozen=True, slots=True)
class HeldSeries:
    """A series that waits for a person: nothing of its newest revision is sent."""

    series_id: int
    series_instance_uid: str
    study_instance_uid: str
    modality: str
    series_description: str
    calling_ae_title: str
    revision: int
    held: str  # why
    destinations: tuple[str, ...]  # where it goes once released, as far as is known
    shadow_destinations: tuple[str, ...]
    held_at: datetime
    held_by: str = ""  # the person; "": a rule alone


@dataclass(frozen=True, slots=True)
class RouteChange:
    """What a person decided about a route."""

    revision: int
    action: RouteAction
    destinations: tuple[str, ...]
    who: str
    reason: str
    at: datetime


# ---------------------------------------------------------------- decisions


def open_deliveries(
    session: Session, series_id: int, revision: int, decision: RouteDecision, now: datetime
) -> None:
    """Open a DELIVER job per destination of a decision, shadows marked; none while the series is held."""
    if decision.held:
        return
    for destination in dict.fromkeys(decision.destinations):
        _open(session, series_id, revision, destination, now, shadow=False)
    for destination in dict.fromkeys(decision.shadow_destinations):
        _open(session, series_id, revision, destination, now, shadow=True)


def save_rules(session: Session, version: str, rules: dict[str, Any], now: datetime) -> None:
    """Keep the rules of a version; those that are there stay."""
    insert_if_new(
        session, RoutingRulesRow, (RoutingRulesRow.version,), version=version, rules=rules, first_used_at=now
    )


def rules_of(session: Session, version: str) -> dict[str, Any] | None:
    """The `routing` section that decisions of this version were made by; None where it was not kept."""
    found: dict[str, Any] | None = session.scalar(
        select(RoutingRulesRow.rules).where(RoutingRulesRow.version == version)
    )
    return found


def series_facts(session: Session, series_id: int) -> SeriesFacts:
    """What the archive knows of a series and its study, for the rules."""
    query = (
        select(SeriesRow, StudyRow.study_date)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(SeriesRow.id == series_id)
    )
    series, study_date = session.execute(query).one()
    n_instances = session.scalar(select(func.count()).where(InstanceRow.series_id == series_id))
    return facts_of(series, study_date, n_instances)


def facts_of(series: SeriesRow, study_date: str, n_instances: int | None) -> SeriesFacts:
    """The facts that stand in a series' row, and two that do not."""
    return SeriesFacts(
        calling_ae_title=series.calling_ae_title,
        modality=series.modality,
        series_number=series.series_number,
        series_description=series.series_description,
        protocol_name=series.protocol_name,
        body_part_examined=series.body_part_examined,
        manufacturer=series.manufacturer,
        manufacturer_model_name=series.manufacturer_model_name,
        device_serial_number=series.device_serial_number,
        software_versions=series.software_versions,
        study_date=study_date,
        number_of_instances=n_instances,
    )


def findings_to_be(
    session: Session, series_id: int, findings: Sequence[Finding], unheard: Sequence[Witness] = ()
) -> tuple[FoundFact, ...]:
    """The findings of a series as they will stand once `findings.record` has written those of the next judgement.

    A route is decided before that; people's decisions on earlier revisions and the rules of dismissal count already.
    """
    states = foresee(session, series_id, findings, unheard)
    facts: dict[tuple[str, str], FoundFact] = {}
    for one in findings:
        key = (one.element, one.check)
        facts.setdefault(key, _fact(one.check, one.element, one.severity, states[key], one.raised_by))
    query = select(FindingRow).where(FindingRow.series_id == series_id)
    for row in session.scalars(query):  # of witnesses that could not look, what they had raised stays
        key = (row.element, row.check_name)
        if key in states and key not in facts:
            facts[key] = _fact(row.check_name, row.element, row.severity, states[key], row.raised_by)
    return tuple(facts.values())


def _fact(check: str, element: str, severity: str, state: str, raised_by: str) -> FoundFact:
    return FoundFact(check, element, str(severity), str(state), str(raised_by))


# ---------------------------------------------------------------- people


def hold(session: Session, series_id: int, who: str, reason: str, now: datetime) -> int:
    """Let nothing of a series be sent until a person releases or reroutes it, whatever its state; late instances and
    later judgements do not end it. How many deliveries are under way already and go on.

    Raises
    ------
    HeldAlready
    """
    lock_series(session, series_id)
    standing = standing_hold(session, series_id)
    if standing is not None:
        raise HeldAlready(f"the series is {standing.text} already; release it first")
    begin_hold(session, series_id, who, reason, now)
    under_way = select(func.count()).where(
        JobRow.series_id == series_id, JobRow.kind == JobKind.DELIVER, JobRow.state == JobState.LEASED
    )
    return session.scalar(under_way) or 0


def held_series(session: Session, limit: int = 100, series_id: int | None = None) -> list[HeldSeries]:
    """Series that wait for a person, those first that wait longest."""
    by_rule = {one.series_id: one for one in _held_by_rule(session, limit, series_id)}
    by_person = {one.series_id: one for one in _held_by_person(session, limit, series_id)}
    for number, one in by_person.items():
        rule = by_rule.get(number)
        if rule is not None:
            by_person[number] = replace(rule, held=f"{rule.held}; {one.held}", held_by=one.held_by)
    return sorted((by_rule | by_person).values(), key=lambda one: (one.held_at, one.series_id))[:limit]


def _held_by_person(session: Session, limit: int, series_id: int | None) -> list[HeldSeries]:
    query = (
        select(
            SeriesRow.id,
            SeriesRow.series_instance_uid,
            StudyRow.study_instance_uid,
            SeriesRow.modality,
            SeriesRow.series_description,
            SeriesRow.calling_ae_title,
            func.coalesce(SeriesRow.judged_revision, SeriesRow.revision).label("revision"),
            SeriesHoldRow.who,
            SeriesHoldRow.reason,
            SeriesHoldRow.held_at,
        )
        .join(SeriesRow, SeriesRow.id == SeriesHoldRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(SeriesHoldRow.ended_at.is_(None))
        .order_by(SeriesHoldRow.held_at, SeriesHoldRow.id)
        .limit(limit)
    )
    if series_id is not None:
        query = query.where(SeriesRow.id == series_id)
    found = []
    for number, uid, study_uid, modality, description, sent_by, revision, who, reason, at in session.execute(query):
        sent, shadow = _pending(session, number, revision)
        why = SeriesHold(who, reason, at, None, None, None).text
        found.append(
            HeldSeries(number, uid, study_uid, modality, description, sent_by, revision, why, sent, shadow, at, who)
        )
    return found


def _pending(session: Session, series_id: int, revision: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Destinations that a revision is still to be sent to, and those in shadow."""
    query = (
        select(DeliveryRow.destination, DeliveryRow.shadow)
        .where(*_delivery(series_id, revision), DeliveryRow.state == DeliveryState.PENDING)
        .order_by(DeliveryRow.id)
    )
    found = session.execute(query).all()
    return tuple(name for name, shadow in found if not shadow), tuple(name for name, shadow in found if shadow)


def _held_by_rule(session: Session, limit: int, series_id: int | None) -> list[HeldSeries]:
    query = (
        select(
            SeriesRow.id,
            SeriesRow.series_instance_uid,
            StudyRow.study_instance_uid,
            SeriesRow.modality,
            SeriesRow.series_description,
            SeriesRow.calling_ae_title,
            JudgementRow.revision,
            RouteDecisionRow.payload["held"].as_string(),
            RouteDecisionRow.payload["destinations"],
            RouteDecisionRow.payload["shadow_destinations"],
            JudgementRow.judged_at,
        )
        .join(JudgementRow, JudgementRow.id == RouteDecisionRow.judgement_id)
        .join(SeriesRow, SeriesRow.id == JudgementRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(waits())
        .order_by(JudgementRow.judged_at, JudgementRow.id)
        .limit(limit)
    )
    if series_id is not None:
        query = query.where(SeriesRow.id == series_id)
    return [
        HeldSeries(
            series_id=row[0],
            series_instance_uid=row[1],
            study_instance_uid=row[2],
            modality=row[3],
            series_description=row[4],
            calling_ae_title=row[5],
            revision=row[6],
            held=row[7],
            destinations=tuple(row[8]),
            shadow_destinations=tuple(row[9]),
            held_at=row[10],
        )
        for row in session.execute(query)
    ]


def count_held(session: Session) -> int:
    """How many series wait for a person."""
    query = (
        select(func.count())
        .select_from(RouteDecisionRow)
        .join(JudgementRow, JudgementRow.id == RouteDecisionRow.judgement_id)
        .join(SeriesRow, SeriesRow.id == JudgementRow.series_id)
    )
    by_rule = session.scalar(query.where(waits(), ~held_by_person(SeriesRow.id))) or 0
    by_person = select(func.count()).select_from(SeriesHoldRow).where(SeriesHoldRow.ended_at.is_(None))
    return by_rule + (session.scalar(by_person) or 0)


def is_held() -> ColumnElement[bool]:
    """Of a series' row: it waits for a person. For queries over series."""
    by_rule = exists().where(
        JudgementRow.series_id == SeriesRow.id, RouteDecisionRow.judgement_id == JudgementRow.id, waits()
    )
    return or_(by_rule, held_by_person(SeriesRow.id))


def waits() -> ColumnElement[bool]:
    """Of a decision with its judgement and series: held by a rule, of the newest judgement, and nobody has decided."""
    decided = exists().where(RouteChangeRow.judgement_id == RouteDecisionRow.judgement_id)
    return and_(RouteDecisionRow.held, JudgementRow.revision == SeriesRow.judged_revision, ~decided)


def release(session: Session, series_id: int, who: str, reason: str, now: datetime) -> tuple[str, ...]:
    """Let a held series go where the rules would have sent it, or where a person sent it before the hold; the
    destinations, those in shadow last. One that was not judged yet goes where its judgement will say.

    Raises
    ------
    NotHeld
        It does not wait.
    """
    lock_series(session, series_id)
    held = held_series(session, series_id=series_id)
    if not held:
        raise NotHeld("the series does not wait for a person; `iap-node held` lists those that do")
    end_hold(session, series_id, who, reason, now)
    by_rule = _held_by_rule(session, 1, series_id)
    if not by_rule:
        return held[0].destinations + held[0].shadow_destinations
    (series,) = by_rule
    for destination in series.destinations:
        _open(session, series_id, series.revision, destination, now, shadow=False)
    for destination in series.shadow_destinations:
        _open(session, series_id, series.revision, destination, now, shadow=True)
    sent = series.destinations + series.shadow_destinations
    _note(session, series_id, series.revision, RouteAction.RELEASED, sent, who, reason, now)
    return sent


def reroute(
    session: Session, series_id: int, destinations: Sequence[str], who: str, reason: str, now: datetime
) -> int:
    """Send the newest judged revision of a series to these destinations, held or not; the revision.

    What still waits for another destination, or is a dead letter there, ends; what is under way goes on, and what was
    delivered stays. A destination that has the series already is not sent it twice.

    Raises
    ------
    NotRouted
        The series was never judged, or instances came since.
    """
    lock_series(session, series_id)
    state = session.execute(
        select(SeriesRow.revision, SeriesRow.judged_revision).where(SeriesRow.id == series_id)
    ).one()
    if state.judged_revision is None or state.judged_revision != state.revision:
        raise NotRouted("the series waits for its judgement; reroute it when `iap-node series` says judged")
    revision: int = state.judged_revision
    end_hold(session, series_id, who, reason, now)
    others = (
        JobRow.series_id == series_id,
        JobRow.kind == JobKind.DELIVER,
        JobRow.revision == revision,
        JobRow.destination.not_in(destinations),
        JobRow.state.in_((JobState.READY, JobState.DEAD)),
    )
    ended = session.scalars(
        update(JobRow)
        .where(*others)
        .values(state=JobState.SUPERSEDED, due_at=None, lease_token=None, updated_at=now)
        .returning(JobRow.destination)
    ).all()
    session.execute(
        update(DeliveryRow)
        .where(*_delivery(series_id, revision), DeliveryRow.destination.in_(ended))
        .values(state=DeliveryState.SUPERSEDED, updated_at=now)
    )
    for destination in dict.fromkeys(destinations):
        _open(session, series_id, revision, destination, now, shadow=False, again=True)
    _note(session, series_id, revision, RouteAction.REROUTED, tuple(destinations), who, reason, now)
    return revision


def route_changes(session: Session, series_id: int) -> list[RouteChange]:
    """What people decided about the routes of a series, the oldest first."""
    query = (
        select(JudgementRow.revision, RouteChangeRow)
        .join(JudgementRow, JudgementRow.id == RouteChangeRow.judgement_id)
        .where(JudgementRow.series_id == series_id)
        .order_by(RouteChangeRow.id)
    )
    return [
        RouteChange(revision, row.action, tuple(row.destinations), row.who, row.reason, row.at)
        for revision, row in session.execute(query)
    ]


def latest_decision(session: Session, series_id: int) -> RouteDecision | None:
    """The decision on the newest judged revision of a series; None: it was never judged."""
    payload = session.scalar(
        select(RouteDecisionRow.payload)
        .join(JudgementRow, JudgementRow.id == RouteDecisionRow.judgement_id)
        .join(SeriesRow, SeriesRow.id == JudgementRow.series_id)
        .where(SeriesRow.id == series_id, JudgementRow.revision == SeriesRow.judged_revision)
    )
    return None if payload is None else from_payload(RouteDecision, payload)


def _note(
    session: Session,
    series_id: int,
    revision: int,
    action: RouteAction,
    destinations: Sequence[str],
    who: str,
    reason: str,
    now: datetime,
) -> None:
    judgement = select(JudgementRow.id).where(JudgementRow.series_id == series_id, JudgementRow.revision == revision)
    session.execute(
        insert(RouteChangeRow).values(
            judgement_id=judgement.scalar_subquery(),
            action=action,
            destinations=list(destinations),
            who=who,
            reason=reason,
            at=now,
        )
    )


def _open(
    session: Session,
    series_id: int,
    revision: int,
    destination: str,
    now: datetime,
    *,
    shadow: bool,
    again: bool = False,
) -> None:
    """A delivery and its job; `again`: also where it was given up before."""
    new = insert_if_new(
        session,
        DeliveryRow,
        (DeliveryRow.series_id, DeliveryRow.revision, DeliveryRow.destination),
        series_id=series_id,
        revision=revision,
        destination=destination,
        state=DeliveryState.PENDING,
        shadow=shadow,
        created_at=now,
        updated_at=now,
    )
    open_job(session, JobKind.DELIVER, series_id, revision, now, destination)
    if new or not again:
        return
    this = (*_delivery(series_id, revision), DeliveryRow.destination == destination)
    session.execute(update(DeliveryRow).where(*this).values(shadow=shadow))
    revived = session.scalar(
        update(JobRow)
        .where(
            JobRow.series_id == series_id,
            JobRow.kind == JobKind.DELIVER,
            JobRow.revision == revision,
            JobRow.destination == destination,
            JobRow.state.in_((JobState.DEAD, JobState.SUPERSEDED)),
        )
        .values(state=JobState.READY, attempts=0, due_at=now, updated_at=now)
        .returning(JobRow.id)
    )
    if revived is not None:
        session.execute(update(DeliveryRow).where(*this).values(state=DeliveryState.PENDING, updated_at=now))


def _delivery(series_id: int, revision: int) -> tuple[ColumnElement[bool], ...]:
    return (DeliveryRow.series_id == series_id, DeliveryRow.revision == revision)
