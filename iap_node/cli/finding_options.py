"""Which findings a command is about: the options that `findings` and what it decides have in common."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import typer

from iap_node.cli.exits import Exit
from iap_node.cli.options import named_series
from iap_node.cli.output import complain
from iap_node.records import FindingKind, FindingState, Severity, Witness

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from iap_node.database.findings import FindingFilter, Scanner

SEVERITY = typer.Option([], "--severity", help="Only of this severity; repeatable.")
KIND = typer.Option([], "--kind", help="Only of this kind; repeatable.")
WITNESS = typer.Option([], "--witness", help="Only what this witness raised; repeatable.")
CHECK = typer.Option([], "--check", metavar="NAME", help="Only of this check; repeatable.")
ELEMENT = typer.Option([], "--element", metavar="KEYWORD", help="Only about this element (EchoTime); repeatable.")
SCANNER = typer.Option(
    None, "--scanner", metavar="TEXT", help="Only of this serial number, model or manufacturer, or all three with /."
)
OF_SERIES = typer.Option(None, "--series", metavar="SERIES", help="Only of this series (UID, its beginning or end).")
SINCE = typer.Option(None, "--since", metavar="TIME", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="Found since.")


@dataclass(frozen=True)
class Asked:
    """What the options say."""

    severity: list[Severity]
    kind: list[FindingKind]
    witness: list[Witness]
    check: list[str]
    element: list[str]
    scanner: str | None
    series: str | None
    since: datetime | None

    @property
    def anything(self) -> bool:
        """Whether they name any."""
        return any((self.severity, self.kind, self.witness, self.check, self.element, self.scanner, self.series,
                    self.since))  # fmt: skip

    def filter(self, session: Session, states: tuple[FindingState, ...]) -> FindingFilter:
        """The findings in `states` that they name; ends the command where what they name does not exist.

        A misspelt check would otherwise list nothing, which reads as if all were well.
        """
        from iap_node.database.findings import FindingFilter

        for check in self.check:
            _require_check(session, check)
        for element in self.element:
            _require_element(element)
        return FindingFilter(
            states=states,
            severities=tuple(self.severity),
            kinds=tuple(self.kind),
            witnesses=tuple(self.witness),
            checks=tuple(self.check),
            elements=tuple(self.element),
            scanner=None if self.scanner is None else _scanner(session, self.scanner),
            series_id=None if self.series is None else named_series(session, self.series).id,
            since=None if self.since is None else self.since.astimezone(),
        )


def _scanner(session: Session, text: str) -> Scanner:
    from iap_node.database.findings import UnknownScanner, named_scanner

    try:
        return named_scanner(session, text)
    except UnknownScanner as error:
        raise _not_found(str(error)) from error


def _require_check(session: Session, check: str) -> None:
    from iap_node.audit.checks import CHECKS
    from iap_node.audit.habit import DEVIATES, SOFTWARE_CHANGED, STUDY
    from iap_node.audit.pixels import CONTRADICT, JOINT, MISSING, QUESTION
    from iap_node.database.findings import FindingFilter, list_findings

    known = {one.name for one in CHECKS} | {DEVIATES, SOFTWARE_CHANGED, STUDY, CONTRADICT, JOINT, MISSING, QUESTION}
    if check in known or list_findings(session, FindingFilter(states=(), checks=(check,)), limit=1):
        return  # the second: of another version
    raise _not_found(f"there is no check {check!r}{_hint(check, known)}")


def _require_element(element: str) -> None:
    from pydicom.datadict import keyword_dict

    if element not in keyword_dict:
        raise _not_found(f"there is no element with the DICOM keyword {element!r}{_hint(element, keyword_dict)}")


def _hint(text: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(text, sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _not_found(text: str) -> typer.Exit:
    complain(text)
    return typer.Exit(Exit.NOT_FOUND)
