"""Findings as work: what the witnesses have against a header, recorded with each judgement, decided by people.

There is one finding per (series, element, check); a new revision of the series updates it. `record` is called by
`results.save_judgement`; lists, decisions and rules are for the command line, the reports and the correction. The
lists stand in `finding_lists`, the rules in `dismissal_rules`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from iap_node.database.columns import storable
from iap_node.database.dismissal_rules import (
    DismissalRule,
    UnknownRule,
    dismiss_by_rule,
    move,
    rules,
    rules_in_force,
    withdraw_rule,
)
from iap_node.database.finding_lists import (
    ArchivedFinding,
    FindingEvent,
    FindingFilter,
    FindingOrder,
    Scanner,
    UnknownFinding,
    UnknownScanner,
    admitted,
    count_findings,
    every_finding,
    finding,
    finding_events,
    list_findings,
    named_scanner,
)
from iap_node.database.payloads import to_payload
from iap_node.database.tables import FindingEventRow, FindingRow, SeriesRow
from iap_node.errors import PermanentError
from iap_node.records import Finding, FindingState, Witness

__all__ = [
    "AcceptedValue",
    "ArchivedFinding",
    "Decided",
    "DismissalRule",
    "FindingEvent",
    "FindingFilter",
    "FindingOrder",
    "IllegalDecision",
    "Scanner",
    "UnknownFinding",
    "UnknownRule",
    "UnknownScanner",
    "count_findings",
    "decide",
    "decide_all",
    "dismiss_by_rule",
    "every_finding",
    "finding",
    "finding_events",
    "foresee",
    "list_findings",
    "named_scanner",
    "record",
    "rules",
    "withdraw_rule",
]

_Key = tuple[str, str]  # element and check of a finding of one series
AUDIT = "audit"  # who it is in a finding's history
_SHOWN = 64  # characters of a raw value in a finding's history
_AT_ONCE = 1000  # findings decided by a statement

# What people may make of a finding, by what it is. Only the audit makes one GONE, or brings it back.
_LEGAL: dict[FindingState, frozenset[FindingState]] = {
    FindingState.OPEN: frozenset({FindingState.ACCEPTED, FindingState.DISMISSED}),
    FindingState.ACCEPTED: frozenset(
        {FindingState.ACCEPTED, FindingState.DISMISSED, FindingState.OPEN, FindingState.CORRECTED}
    ),
    FindingState.DISMISSED: frozenset({FindingState.ACCEPTED, FindingState.DISMISSED, FindingState.OPEN}),
    FindingState.CORRECTED: frozenset({FindingState.ACCEPTED, FindingState.OPEN, FindingState.CORRECTED}),
    FindingState.GONE: frozenset(),
}


class IllegalDecision(PermanentError):
    """A finding cannot become this, or not without a value or a reason; nothing was changed."""


class AcceptedValue(Enum):
    """What is taken for right where no value is given."""

    SUGGESTED = "suggested"  # what the witnesses suggest
    UNKNOWN = "unknown"  # the header is wrong, and nobody knows the right value


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of a decision about many findings."""

    n_decided: int
    n_other_state: int  # passed over: what they are does not admit it
    n_nothing_suggested: int  # passed over: the suggested value was to be accepted, and there is none


# ---------------------------------------------------------------- what a judgement shows


def record(
    session: Session,
    series_id: int,
    revision: int,
    findings: Sequence[Finding],
    now: datetime,
    unheard: Collection[Witness] = (),
) -> None:
    """Update the findings of a series to what a revision shows; in the transaction that writes the judgement.

    What is new is open, or dismissed where a rule covers it. What is shown again stays as people decided while the
    raw value is the same, and is open again when it changed; a rule's dismissal holds whatever the value. What is not
    shown any more is gone, and comes back as open unless a person had dismissed the same raw value.

    Parameters
    ----------
    findings
        The first one of each element and check counts.
    unheard
        Witnesses that could not look at every instance: what they had raised is not gone because they are silent.
    """
    update = _Update(session, series_id, revision, now)
    shown = _distinct(findings)
    covering = _rules_over(session, series_id, shown, rules_in_force(session, (check for _, check in shown)))
    there = select(FindingRow).where(FindingRow.series_id == series_id).order_by(FindingRow.id).with_for_update()
    rows = {(row.element, row.check_name): row for row in session.scalars(there)}
    for key, one in shown.items():
        if key in rows:
            update.shown_again(rows[key], one, covering.get(key))
        else:
            update.found(one, covering.get(key))
    for key, row in rows.items():
        if key not in shown and row.state is not FindingState.GONE and row.raised_by not in unheard:
            update.gone(row)
    update.write()


def foresee(
    session: Session, series_id: int, findings: Sequence[Finding], unheard: Collection[Witness] = ()
) -> dict[_Key, FindingState]:
    """What `record` would make of each finding by (element, check), those apart that would be gone; writes nothing."""
    shown = _distinct(findings)
    in_force = rules_in_force(session, (check for _, check in shown), lock=False)
    covering = _rules_over(session, series_id, shown, in_force)
    query = select(FindingRow).where(FindingRow.series_id == series_id).order_by(FindingRow.id)
    rows = {(row.element, row.check_name): row for row in session.scalars(query)}
    states: dict[_Key, FindingState] = {}
    for key, one in shown.items():
        rule = covering.get(key)
        if key in rows:
            states[key] = _becomes(session, rows[key], storable(one.raw), rule) or rows[key].state
        else:
            states[key] = FindingState.OPEN if rule is None else FindingState.DISMISSED
    for key, row in rows.items():
        if key not in shown and row.state is not FindingState.GONE and row.raised_by in unheard:
            states[key] = row.state
    return states


def _distinct(findings: Sequence[Finding]) -> dict[_Key, Finding]:
    distinct: dict[_Key, Finding] = {}
    for one in findings:
        distinct.setdefault((one.element, one.check), one)
    return distinct


def _rules_over(
    session: Session, series_id: int, shown: Iterable[_Key], in_force: Sequence[DismissalRule]
) -> dict[_Key, DismissalRule]:
    """The first rule that covers each finding of a series."""
    if not in_force:
        return {}
    query = select(SeriesRow.manufacturer, SeriesRow.manufacturer_model_name, SeriesRow.device_serial_number)
    scanner = Scanner(*session.execute(query.where(SeriesRow.id == series_id)).one())
    return {
        (element, check): rule
        for element, check in shown
        for rule in reversed(in_force)
        if rule.covers(check, element, scanner)
    }


class _Update:
    """The findings of one series on their way to a revision, and what is to be written into their histories."""

    def __init__(self, session: Session, series_id: int, revision: int, now: datetime) -> None:
        self._session = session
        self._series_id = series_id
        self._revision = revision
        self._now = now
        self._events: list[tuple[FindingRow, FindingState, str, str]] = []

    def found(self, one: Finding, rule: DismissalRule | None) -> None:
        row = FindingRow(
            series_id=self._series_id,
            element=one.element,
            check_name=one.check,
            **_said(one),
            state=FindingState.OPEN,
            first_revision=self._revision,
            last_revision=self._revision,
            found_at=self._now,
            updated_at=self._now,
        )
        self._session.add(row)
        self._become(row, FindingState.OPEN, AUDIT, f"found in revision {self._revision}", rule)

    def shown_again(self, row: FindingRow, one: Finding, rule: DismissalRule | None) -> None:
        old, said = row.raw, _said(one)
        becomes = _becomes(self._session, row, said["raw"], rule)
        if any(getattr(row, name) != value for name, value in said.items()):
            for name, value in said.items():
                setattr(row, name, value)
            row.updated_at = self._now
        row.last_revision = max(row.last_revision, self._revision)
        if becomes is None:
            return
        reason = f"revision {self._revision} shows it again"
        if row.state is not FindingState.GONE:
            said_now = _quoted(row.raw)
            reason = f"revision {self._revision}: the header now says {said_now}, it was decided on {_quoted(old)}"
        elif becomes is FindingState.DISMISSED:
            reason += ", as it was dismissed"
        self._become(row, becomes, AUDIT, reason, rule)

    def gone(self, row: FindingRow) -> None:
        self._events.append((row, FindingState.GONE, AUDIT, f"revision {self._revision} does not show it any more"))
        row.state = FindingState.GONE
        row.updated_at = self._now

    def write(self) -> None:
        self._session.flush()  # gives the new ones their numbers
        if self._events:
            events = [
                {"finding_id": row.id, "state": state, "who": who, "reason": reason, "value": None, "at": self._now}
                for row, state, who, reason in self._events
            ]
            self._session.execute(insert(FindingEventRow), events)

    def _become(
        self, row: FindingRow, state: FindingState, who: str, reason: str, rule: DismissalRule | None = None
    ) -> None:
        """`state`, or dismissed where a rule covers it."""
        if rule is not None:
            state, who, reason = FindingState.DISMISSED, f"rule {rule.id}", rule.reason
        row.state = state
        row.rule_id = None if rule is None else rule.id
        row.accepted_value = None
        row.updated_at = self._now
        self._events.append((row, state, who, reason))


def _becomes(session: Session, row: FindingRow, raw: str, rule: DismissalRule | None) -> FindingState | None:
    """What a finding becomes when it is shown again with a raw value, under a rule or none; None: what it is."""
    changed = row.raw != raw
    decided = row.state not in (FindingState.OPEN, FindingState.GONE)
    if rule is not None:
        by_it = row.state is FindingState.DISMISSED and row.rule_id == rule.id
        return None if by_it or (decided and not changed) else FindingState.DISMISSED
    if row.state is not FindingState.GONE:
        return FindingState.OPEN if decided and changed else None
    if changed or row.rule_id is not None:  # a rule's dismissal ended with the rule
        return FindingState.OPEN
    before = session.scalar(
        select(FindingEventRow.state)
        .where(FindingEventRow.finding_id == row.id, FindingEventRow.state != FindingState.GONE)
        .order_by(FindingEventRow.id.desc())
        .limit(1)
    )
    return FindingState.DISMISSED if before is FindingState.DISMISSED else FindingState.OPEN


def _said(one: Finding) -> dict[str, Any]:
    """What the columns hold of a finding, as the database gives it back: only then can the two be compared."""
    suggested = one.suggested_value
    testimonies = [
        {name: storable(value) if isinstance(value, str) else value for name, value in to_payload(testimony).items()}
        for testimony in one.testimonies
    ]
    return {
        "kind": one.kind,
        "severity": one.severity,
        "raised_by": one.raised_by,
        "evidence": storable(one.evidence),
        "raw": storable(one.raw),
        "suggested_value": None if suggested is None else storable(suggested),
        "testimonies": testimonies,
        "conclusion": storable(one.conclusion),
    }


def _quoted(raw: str) -> str:
    text = "".join(character if character.isprintable() else " " for character in raw)
    return f"'{text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'}'"


# ---------------------------------------------------------------- what people decide


def decide(
    session: Session,
    finding_id: int,
    state: FindingState,
    who: str,
    reason: str = "",
    value: str | AcceptedValue = AcceptedValue.SUGGESTED,
    *,
    now: datetime,
) -> None:
    """Accept, dismiss or reopen a finding, or say that a copy was corrected.

    Raises
    ------
    UnknownFinding, IllegalDecision
        See `decide_all`.
    """
    decide_all(session, [finding_id], state, who, reason, value, now=now)


def decide_all(
    session: Session,
    which: Sequence[int] | FindingFilter,
    state: FindingState,
    who: str,
    reason: str = "",
    value: str | AcceptedValue = AcceptedValue.SUGGESTED,
    *,
    now: datetime,
) -> Decided:
    """Decide many findings alike: all of the numbers, or whatever of a filter can be so decided.

    Parameters
    ----------
    who
        The person, for the history.
    reason
        A dismissal needs one.
    value
        What is accepted: the text as it would be written, the suggested value, or explicitly none. For a correction
        what was written; without a text it is what was accepted. Other decisions have no value.

    Raises
    ------
    UnknownFinding
        One of the numbers is none.
    IllegalDecision
        A finding that was named cannot become this, or a reason or value is missing. Nothing was changed.
    """
    if state is FindingState.GONE:
        raise IllegalDecision("nobody but the audit decides that a finding is gone")
    if state is FindingState.DISMISSED and not reason.strip():
        raise IllegalDecision("a dismissal needs a reason")
    if isinstance(value, str) and not storable(value).strip():
        raise IllegalDecision("an empty value cannot be accepted; say that the right value is not known instead")
    takes_suggestion = state is FindingState.ACCEPTED and value is AcceptedValue.SUGGESTED
    changes: dict[str, Any] = {}
    if isinstance(value, str) and state in (FindingState.ACCEPTED, FindingState.CORRECTED):
        changes = {"accepted_value": value}
    elif state is FindingState.CORRECTED:
        changes = {"accepted_value": FindingRow.accepted_value}
    elif takes_suggestion:
        changes = {"accepted_value": FindingRow.suggested_value}
    named = not isinstance(which, FindingFilter)
    n_decided = n_other_state = n_nothing_suggested = 0
    for ids in _chosen(session, which):
        query = select(FindingRow.id, FindingRow.state, FindingRow.suggested_value).where(FindingRow.id.in_(ids))
        decided = []
        for finding_id, was, suggested in session.execute(query.order_by(FindingRow.id).with_for_update()):
            # PostgreSQL: somebody else may have decided since it was chosen
            overtaken = isinstance(which, FindingFilter) and which.states and was not in which.states
            if state not in _LEGAL[was] or overtaken:
                if named:
                    raise IllegalDecision(_why_illegal(finding_id, was, state))
                n_other_state += 1
            elif takes_suggestion and suggested is None:
                if named:
                    raise IllegalDecision(
                        f"nothing is suggested for finding {finding_id}: give the value, or say that it is not known"
                    )
                n_nothing_suggested += 1
            else:
                decided.append(finding_id)
        move(session, decided, state, who=who, reason=reason, now=now, **changes)
        n_decided += len(decided)
    return Decided(n_decided, n_other_state, n_nothing_suggested)


def _chosen(session: Session, which: Sequence[int] | FindingFilter) -> Iterator[Sequence[int]]:
    """The numbers of the findings in order, so many at a time as one statement takes."""
    ids: Sequence[int]
    if isinstance(which, FindingFilter):
        ids = session.scalars(select(FindingRow.id).where(*admitted(FindingRow, which)).order_by(FindingRow.id)).all()
    else:
        ids = sorted(set(which))
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        if not isinstance(which, FindingFilter):
            there = session.scalars(select(FindingRow.id).where(FindingRow.id.in_(some))).all()
            if unknown := sorted(set(some) - set(there)):
                numbers = ", ".join(str(number) for number in unknown)
                raise UnknownFinding(f"there is no finding {numbers}; `iap-node findings` lists them")
        yield some


def _why_illegal(finding_id: int, was: FindingState, state: FindingState) -> str:
    if was is FindingState.GONE:
        return f"finding {finding_id} is gone: the newest revision of its series does not show it"
    possible = ", ".join(sorted(one.value for one in _LEGAL[was]))
    return f"finding {finding_id} is {was.value} and cannot become {state.value}, only: {possible}"
