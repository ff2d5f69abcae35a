"""Rules that dismiss findings by themselves: this check, on this scanner, is no fault.

Made and withdrawn by people through `findings`, applied there to what is open and in `findings.record` to what is
found. Whoever makes a rule keeps judgements from being written until it stands: no finding slips through between.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.orm import Session

from iap_node.database.finding_lists import ANY_SCANNER, Scanner, made_by
from iap_node.database.tables import DismissalRuleRow, FindingEventRow, FindingRow, SeriesRow
from iap_node.errors import PermanentError
from iap_node.records import FindingState

_AT_ONCE = 1000  # rows changed by a statement


class UnknownRule(PermanentError):
    """No rule of that number is in force."""


@dataclass(frozen=True, slots=True)
class DismissalRule:
    """A rule that dismisses findings; "" stands for any."""

    id: int
    check: str
    element: str
    scanner: Scanner
    reason: str
    made_by: str
    made_at: datetime
    withdrawn_at: datetime | None
    n_dismissed: int = 0  # findings that are dismissed by it now

    def covers(self, check: str, element: str, scanner: Scanner) -> bool:
        """Whether a finding of a check about an element of a scanner's series falls under it."""
        pairs = (
            (self.element, element),
            (self.scanner.manufacturer, scanner.manufacturer),
            (self.scanner.manufacturer_model_name, scanner.manufacturer_model_name),
            (self.scanner.device_serial_number, scanner.device_serial_number),
        )
        return self.check == check and all(not asked or asked.lower() == given.lower() for asked, given in pairs)


def dismiss_by_rule(
    session: Session,
    *,
    check: str,
    element: str = "",
    scanner: Scanner = ANY_SCANNER,
    reason: str,
    who: str,
    now: datetime,
) -> tuple[DismissalRule, int]:
    """Make a rule, and dismiss the open findings that it covers; the rule and how many there were.

    A rule that stands already is not made twice, but is applied again.

    Parameters
    ----------
    check
        Name of the check; a rule always names one.
    element
        DICOM keyword; "" for all elements that the check finds.
    who
        The person whose rule it is.
    """
    if not check or not reason.strip():
        raise ValueError("a rule names a check and has a reason")
    _lock(session, "EXCLUSIVE")
    values = {
        "check_name": check,
        "element": element,
        "manufacturer": scanner.manufacturer,
        "manufacturer_model_name": scanner.manufacturer_model_name,
        "device_serial_number": scanner.device_serial_number,
    }
    same = [getattr(DismissalRuleRow, name) == value for name, value in values.items()]
    rule_id = session.scalar(
        select(DismissalRuleRow.id).where(*same, DismissalRuleRow.withdrawn_at.is_(None)).order_by(DismissalRuleRow.id)
    )
    if rule_id is None:
        row = DismissalRuleRow(**values, reason=reason, made_by=who, made_at=now)
        session.add(row)
        session.flush()
        rule_id = row.id
    covered = [FindingRow.state == FindingState.OPEN, FindingRow.check_name == check]
    if element:
        covered.append(FindingRow.element == element)
    if scanner != ANY_SCANNER:
        covered.append(FindingRow.series_id.in_(select(SeriesRow.id).where(*made_by(scanner))))
    ids = session.scalars(select(FindingRow.id).where(*covered).order_by(FindingRow.id).with_for_update()).all()
    move(session, ids, FindingState.DISMISSED, who=f"rule {rule_id}", reason=reason, now=now, rule_id=rule_id)
    (rule,) = rules(session, ids=[rule_id])
    return rule, len(ids)


def withdraw_rule(session: Session, rule_id: int, *, who: str, reason: str, now: datetime) -> int:
    """End a rule and reopen what it dismissed; how many findings that were.

    Raises
    ------
    UnknownRule
        No such rule is in force.
    """
    _lock(session, "EXCLUSIVE")
    ended = session.scalar(
        update(DismissalRuleRow)
        .where(DismissalRuleRow.id == rule_id, DismissalRuleRow.withdrawn_at.is_(None))
        .values(withdrawn_at=now)
        .returning(DismissalRuleRow.id)
    )
    if ended is None:
        raise UnknownRule(f"rule {rule_id} is not in force; `iap-node findings rules list` lists those that are")
    dismissed = (FindingRow.rule_id == rule_id, FindingRow.state == FindingState.DISMISSED)
    ids = session.scalars(select(FindingRow.id).where(*dismissed).order_by(FindingRow.id).with_for_update()).all()
    why = f"rule {rule_id} was withdrawn" + (f": {reason}" if reason else "")
    move(session, ids, FindingState.OPEN, who=who, reason=why, now=now)
    return len(ids)


def rules(session: Session, *, withdrawn: bool = False, ids: Collection[int] | None = None) -> list[DismissalRule]:
    """The rules in force, the oldest first; those that were withdrawn too if asked for."""
    n_dismissed = (
        select(func.count())
        .where(FindingRow.rule_id == DismissalRuleRow.id, FindingRow.state == FindingState.DISMISSED)
        .scalar_subquery()
    )
    query = select(DismissalRuleRow, n_dismissed).order_by(DismissalRuleRow.id)
    if not withdrawn:
        query = query.where(DismissalRuleRow.withdrawn_at.is_(None))
    if ids is not None:
        query = query.where(DismissalRuleRow.id.in_(ids))
    return [_rule(row, n) for row, n in session.execute(query)]


def rules_in_force(session: Session, checks: Iterable[str], *, lock: bool = True) -> list[DismissalRule]:
    """The rules about some checks; none is made or withdrawn until the transaction ends, unless `lock` is False."""
    if lock:
        _lock(session, "ROW SHARE")
    query = select(DismissalRuleRow).where(
        DismissalRuleRow.withdrawn_at.is_(None), DismissalRuleRow.check_name.in_(set(checks))
    )
    return [_rule(row, 0) for row in session.scalars(query.order_by(DismissalRuleRow.id))]


def move(
    session: Session,
    ids: Sequence[int],
    state: FindingState,
    *,
    who: str,
    reason: str,
    now: datetime,
    rule_id: int | None = None,
    **values: object,
) -> None:
    """Bring findings into a state, and write into each one's history who did it and why. For `findings` too.

    Parameters
    ----------
    values
        Further columns of `finding`; `accepted_value` is written into the history.
    """
    changes = {"accepted_value": None, **values, "state": state, "rule_id": rule_id, "updated_at": now}
    for start in range(0, len(ids), _AT_ONCE):
        chosen = FindingRow.id.in_(ids[start : start + _AT_ONCE])
        moved = session.execute(
            update(FindingRow)
            .where(chosen)
            .values(changes)
            .returning(FindingRow.id, FindingRow.accepted_value)
            .execution_options(synchronize_session=False)
        ).all()
        events = [
            {"finding_id": key, "state": state, "who": who, "reason": reason, "value": value, "at": now}
            for key, value in sorted(moved, key=lambda row: row.id)
        ]
        session.execute(insert(FindingEventRow), events)


def _lock(session: Session, mode: str) -> None:
    """ROW SHARE waits for EXCLUSIVE, and the other way round (PostgreSQL); SQLite has one writer anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"LOCK TABLE dismissal_rule IN {mode} MODE"))


def _rule(row: DismissalRuleRow, n_dismissed: int) -> DismissalRule:
    return DismissalRule(
        id=row.id,
        check=row.check_name,
        element=row.element,
        scanner=Scanner(row.manufacturer, row.manufacturer_model_name, row.device_serial_number),
        reason=row.reason,
        made_by=row.made_by,
        made_at=row.made_at,
        withdrawn_at=row.withdrawn_at,
        n_dismissed=n_dismissed,
    )
