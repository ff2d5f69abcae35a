"""`findings accept`, `dismiss`, `reopen`, `rules`: what people make of findings, one, some or all of a kind."""

from __future__ import annotations

import os
import pwd
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from iap_node.cli.exits import Exit
from iap_node.cli.finding_options import (
    CHECK,
    ELEMENT,
    KIND,
    OF_SERIES,
    SCANNER,
    SEVERITY,
    SINCE,
    WITNESS,
    Asked,
)
from iap_node.cli.options import CONFIG, JSON, open_node
from iap_node.cli.output import complain, console, print_json, print_table
from iap_node.records import FindingKind, FindingState, Severity, Witness

if TYPE_CHECKING:
    from iap_node.database.findings import AcceptedValue

IDS = typer.Argument(None, metavar="[ID]...", help="Findings, by their number; or say which by options.")
WHO = typer.Option(None, "--as", metavar="NAME", help="Who decides, where that is not the user of this session.")
REASON = typer.Option("", "--reason", "-r", help="Why, for those who come after.")
YES = typer.Option(False, "--yes", "-y", help="Do not ask.")


def add_to(group: typer.Typer) -> None:
    """Register the commands of this module below `findings`."""
    for command in (accept, dismiss, reopen):
        group.command(command.__name__)(command)
    rules = typer.Typer(
        no_args_is_help=True,
        help="""The rules by which findings are dismissed as they come: made by `findings dismiss --rule`, in force
        until they are withdrawn, which reopens what they dismissed.""",
    )
    rules.command("list")(list_rules)
    rules.command("withdraw")(withdraw)
    group.add_typer(rules, name="rules")


def accept(
    ids: list[int] = IDS,
    config_path: Path = CONFIG,
    value: str | None = typer.Option(None, "--value", help="What is right, as it would be written; else as suggested."),
    no_value: bool = typer.Option(False, "--no-value", help="The header is wrong, and nobody knows what is right."),
    reason: str = REASON,
    severity: list[Severity] = SEVERITY,
    kind: list[FindingKind] = KIND,
    witness: list[Witness] = WITNESS,
    check: list[str] = CHECK,
    element: list[str] = ELEMENT,
    scanner: str | None = SCANNER,
    series: str | None = OF_SERIES,
    since: datetime | None = SINCE,
    yes: bool = YES,
    who: str | None = WHO,
    as_json: bool = JSON,
) -> None:
    """Say that headers are wrong, and what is right: the suggested value, --value, or --no-value.

    By options it takes the open findings, asks first, and passes over those for which nothing is suggested.
    """
    from iap_node.database.findings import AcceptedValue

    if value is not None and no_value:
        raise typer.BadParameter("--value and --no-value exclude each other")
    taken = value if value is not None else AcceptedValue.UNKNOWN if no_value else AcceptedValue.SUGGESTED
    asked = Asked(severity, kind, witness, check, element, scanner, series, since)
    _decide(config_path, ids, asked, FindingState.ACCEPTED, reason, taken, yes, who, as_json)


def dismiss(
    ids: list[int] = IDS,
    config_path: Path = CONFIG,
    reason: str = REASON,
    rule: bool = typer.Option(
        False, "--rule", help="And whatever --check finds from now on, on --scanner and about --element if given."
    ),
    severity: list[Severity] = SEVERITY,
    kind: list[FindingKind] = KIND,
    witness: list[Witness] = WITNESS,
    check: list[str] = CHECK,
    element: list[str] = ELEMENT,
    scanner: str | None = SCANNER,
    series: str | None = OF_SERIES,
    since: datetime | None = SINCE,
    yes: bool = YES,
    who: str | None = WHO,
    as_json: bool = JSON,
) -> None:
    """Say that something is no fault, with --reason; by options it takes the open findings, and asks first.

    With --rule a check's findings are dismissed as they come: `dismiss --rule --check NAME --scanner SERIAL`.
    """
    asked = Asked(severity, kind, witness, check, element, scanner, series, since)
    if not reason.strip():
        raise typer.BadParameter("a dismissal needs --reason")
    if rule:
        _make_rule(config_path, ids, asked, reason, yes, who, as_json)
    else:
        _decide(config_path, ids, asked, FindingState.DISMISSED, reason, None, yes, who, as_json)


def reopen(
    ids: list[int] = IDS,
    config_path: Path = CONFIG,
    reason: str = REASON,
    severity: list[Severity] = SEVERITY,
    kind: list[FindingKind] = KIND,
    witness: list[Witness] = WITNESS,
    check: list[str] = CHECK,
    element: list[str] = ELEMENT,
    scanner: str | None = SCANNER,
    series: str | None = OF_SERIES,
    since: datetime | None = SINCE,
    yes: bool = YES,
    who: str | None = WHO,
    as_json: bool = JSON,
) -> None:
    """Take a decision back: what was accepted, dismissed or corrected is open again. By options it asks first."""
    asked = Asked(severity, kind, witness, check, element, scanner, series, since)
    _decide(config_path, ids, asked, FindingState.OPEN, reason, None, yes, who, as_json)


def list_rules(
    config_path: Path = CONFIG,
    withdrawn: bool = typer.Option(False, "--withdrawn", help="Those that were withdrawn too."),
    as_json: bool = JSON,
) -> None:
    """One line per rule: which check, on which scanner, why, who made it, and how many findings it dismisses."""
    from iap_node.database.findings import rules

    _, database = open_node(config_path)
    with database.reading() as session:
        found = rules(session, withdrawn=withdrawn)
    if as_json:
        print_json(found)
        return
    print_table(
        "Rules",
        ("ID", "check", "element", "manufacturer", "model", "serial", "dismisses", "why", "by", "since", "ended"),
        [
            (
                one.id,
                one.check,
                one.element or "any",
                one.scanner.manufacturer or "any",
                one.scanner.manufacturer_model_name or "any",
                one.scanner.device_serial_number or "any",
                one.n_dismissed,
                one.reason,
                one.made_by,
                one.made_at,
                one.withdrawn_at,
            )
            for one in found
        ],
        empty="no rules",
    )


def withdraw(
    rule_id: int = typer.Argument(..., metavar="RULE", help="Its number in `iap-node findings rules list`."),
    config_path: Path = CONFIG,
    reason: str = REASON,
    who: str | None = WHO,
    as_json: bool = JSON,
) -> None:
    """End a rule; what it dismissed is open again."""
    from iap_node.database.findings import UnknownRule, withdraw_rule

    _, database = open_node(config_path)
    with database.transaction() as session:
        try:
            n_reopened = withdraw_rule(session, rule_id, who=_person(who), reason=reason, now=datetime.now(UTC))
        except UnknownRule as error:
            raise _ended(error, Exit.NOT_FOUND) from error
    if as_json:
        print_json({"reopened": n_reopened})
    else:
        console().print(f"rule {rule_id} is withdrawn; {n_reopened} findings are open again")


# ---------------------------------------------------------------- how


def _decide(
    config_path: Path,
    ids: list[int] | None,
    asked: Asked,
    state: FindingState,
    reason: str,
    value: str | AcceptedValue | None,
    yes: bool,
    who: str | None,
    as_json: bool,
) -> None:
    from iap_node.database.findings import AcceptedValue, IllegalDecision, UnknownFinding, count_findings, decide_all

    if bool(ids) == asked.anything:
        raise typer.BadParameter("name findings by their numbers, or say which by options")
    _, database = open_node(config_path)
    # from where a filter takes them: what people decided already is not decided again unasked
    states = (
        (FindingState.ACCEPTED, FindingState.DISMISSED, FindingState.CORRECTED)
        if state is FindingState.OPEN
        else (FindingState.OPEN,)
    )
    if not ids and not yes:
        with database.reading() as session:
            n = sum(count_findings(session, asked.filter(session, states)).values())
        typer.confirm(f"Make {n} findings {state}?", abort=True, err=True)
    with database.transaction() as session:
        try:
            decided = decide_all(
                session, ids or asked.filter(session, states), state, _person(who), reason,
                AcceptedValue.SUGGESTED if value is None else value, now=datetime.now(UTC),
            )  # fmt: skip
        except UnknownFinding as error:
            raise _ended(error, Exit.NOT_FOUND) from error
        except IllegalDecision as error:
            raise _ended(error, Exit.FAILED) from error
    if as_json:
        print_json(decided)
        return
    console().print(f"{decided.n_decided} findings are {state} now")
    if decided.n_nothing_suggested:
        console().print(f"{decided.n_nothing_suggested} passed over: nothing is suggested for them")
    if decided.n_other_state:
        console().print(f"{decided.n_other_state} passed over: somebody else decided them meanwhile")


def _make_rule(
    config_path: Path, ids: list[int] | None, asked: Asked, reason: str, yes: bool, who: str | None, as_json: bool
) -> None:
    from iap_node.database.findings import Scanner, count_findings, dismiss_by_rule

    beyond = (asked.severity, asked.kind, asked.witness, asked.series, asked.since, ids)
    if len(asked.check) != 1 or len(asked.element) > 1 or any(beyond):
        raise typer.BadParameter("a rule is about one --check, and may name one --element and a --scanner; no more")
    (check,), element = asked.check, (*asked.element, "")[0]
    _, database = open_node(config_path)
    with database.reading() as session:
        which = asked.filter(session, (FindingState.OPEN,))
        n = sum(count_findings(session, which).values())
    if not yes:
        where = asked.scanner or "all scanners"
        typer.confirm(f"Dismiss {n} findings, and whatever {check} finds on {where} from now on?", abort=True, err=True)
    with database.transaction() as session:
        rule, n_dismissed = dismiss_by_rule(
            session, check=check, element=element, scanner=which.scanner or Scanner(), reason=reason,
            who=_person(who),
            now=datetime.now(UTC),
        )  # fmt: skip
    if as_json:
        print_json({"rule": rule, "dismissed": n_dismissed})
    else:
        console().print(f"rule {rule.id} dismissed {n_dismissed} findings, and dismisses what comes")


def _person(who: str | None) -> str:
    """Who decides: the name that was given, or the operating system's for the user of this session."""
    if who is not None and who.strip():
        return who.strip()
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        return f"user {os.getuid()}"


def _ended(error: Exception, code: Exit) -> typer.Exit:
    complain(error)
    return typer.Exit(code)
