"""What people do about findings: decide on some or on all that a filter admits, make rules and withdraw them; a CSV."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime

from iap_node.audit.cells import harmless_cell
from iap_node.database import accounts
from iap_node.database.dismissal_rules import DismissalRule, dismiss_by_rule
from iap_node.database.dismissal_rules import withdraw_rule as withdraw_row
from iap_node.database.finding_lists import (
    ANY_SCANNER,
    FindingFilter,
    Scanner,
    count_findings,
    every_finding,
    list_findings,
)
from iap_node.database.findings import AcceptedValue, Decided, IllegalDecision, decide_all
from iap_node.errors import PermanentError
from iap_node.records import FindingState
from iap_node.web.identity import Identity
from iap_node.web.node import WebNode

_PIECE = 64 * 1024  # characters of a CSV at a time
CSV_COLUMNS = (
    "id", "state", "severity", "kind", "check", "element", "raw", "suggested_value", "accepted_value", "evidence",
    "raised_by", "series_instance_uid", "study_instance_uid", "series_description", "manufacturer",
    "manufacturer_model_name", "device_serial_number", "found_at", "model_id", "training_data",
)  # fmt: skip

# From where a filter that names no state takes them: what people decided is not decided again unasked.
_TAKEN_FROM = {
    FindingState.ACCEPTED: (FindingState.OPEN,),
    FindingState.DISMISSED: (FindingState.OPEN,),
    FindingState.OPEN: (FindingState.ACCEPTED, FindingState.DISMISSED, FindingState.CORRECTED),
}


def decide(
    node: WebNode,
    identity: Identity,
    which: Sequence[int] | FindingFilter,
    state: FindingState,
    reason: str,
    value: str | AcceptedValue = AcceptedValue.SUGGESTED,
    told: str = "",
) -> Decided:
    """Accept, dismiss or reopen findings: those named, or whatever a filter admits.

    Parameters
    ----------
    told
        What the audit trail calls them; their numbers without it.

    Raises
    ------
    UnknownFinding, IllegalDecision
    """
    if state not in _TAKEN_FROM:
        raise IllegalDecision(f"people accept, dismiss or reopen findings; {state.value} is what becomes of them")
    now = datetime.now(UTC)
    subject = told or (", ".join(map(str, which)) if not isinstance(which, FindingFilter) else "by a filter")
    with node.database.transaction() as session:
        done = decide_all(session, which, state, identity.name, reason, value, now=now)
        detail = f"{done.n_decided}" + (f": {reason}" if reason else f": {value}" if isinstance(value, str) else "")
        accounts.note(session, identity.name, f"findings {state.value}", subject, now, detail, identity.address)
    return done


def csv_of(node: WebNode, which: FindingFilter) -> Iterator[str]:
    """A CSV of all that a filter admits, piece by piece, safe against formula injection."""
    yield ",".join(CSV_COLUMNS) + "\r\n"
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as kept:  # a slow reader holds no session
        with node.database.reading() as session:
            for one in every_finding(session, which):
                row = asdict(one)
                kept.write(",".join(_quoted(row[column]) for column in CSV_COLUMNS) + "\r\n")
        kept.seek(0)
        while some := kept.read(_PIECE):
            yield some


def _quoted(value: object) -> str:
    text = harmless_cell(value.isoformat() if isinstance(value, datetime) else value)
    return '"' + text.replace('"', '""') + '"'


def deciding(which: FindingFilter, state: FindingState) -> FindingFilter:
    """The findings of a filter that may become `state`: of any state where it names none, only undecided ones.

    Raises
    ------
    IllegalDecision
        Whatever the filter shows is that already, or gone.
    """
    if not which.states:
        return replace(which, states=_TAKEN_FROM.get(state, ()))
    states = tuple(one for one in which.states if one not in (state, FindingState.GONE))
    if not states:
        raise IllegalDecision(f"what the filter shows is {' or '.join(which.states)}, and cannot become {state.value}")
    return replace(which, states=states)


def count(node: WebNode, which: FindingFilter) -> int:
    """How many findings a filter admits."""
    with node.database.reading() as session:
        return sum(count_findings(session, which).values())


def rule_covers(check: str, element: str, scanner: Scanner) -> FindingFilter:
    """The open findings that a rule would dismiss at once."""
    return FindingFilter(
        checks=(check,),
        elements=(element,) if element else (),
        scanner=None if scanner == ANY_SCANNER else scanner,
    )


def make_rule(
    node: WebNode, identity: Identity, check: str, element: str, scanner: Scanner, reason: str
) -> tuple[DismissalRule, int]:
    """Dismiss what a check finds from now on, and what is open of it; the rule, and how many findings were.

    Raises
    ------
    PermanentError
        Without a reason; or nothing was ever found by such a check, which a misspelt name would hide.
    """
    if not reason.strip():
        raise IllegalDecision("a dismissal needs a reason")
    now = datetime.now(UTC)
    with node.database.transaction() as session:
        if not list_findings(session, FindingFilter(states=(), checks=(check,)), limit=1):
            raise PermanentError(f"no finding here is of a check {check!r}; rules are about what was found")
        rule, n_dismissed = dismiss_by_rule(
            session, check=check, element=element, scanner=scanner, reason=reason, who=identity.name, now=now
        )
        detail = f"{check}, {element or 'any element'}, {n_dismissed} dismissed: {reason}"
        accounts.note(session, identity.name, "make dismissal rule", str(rule.id), now, detail, identity.address)
    return rule, n_dismissed


def withdraw_rule(node: WebNode, identity: Identity, rule_id: int, reason: str) -> int:
    """End a rule and reopen what it dismissed; how many findings that were.

    Raises
    ------
    UnknownRule
    """
    now = datetime.now(UTC)
    with node.database.transaction() as session:
        n_reopened = withdraw_row(session, rule_id, who=identity.name, reason=reason, now=now)
        detail = f"{n_reopened} reopened" + (f": {reason}" if reason else "")
        accounts.note(session, identity.name, "withdraw dismissal rule", str(rule_id), now, detail, identity.address)
    return n_reopened
