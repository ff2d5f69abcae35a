"""Which findings a command is about: the options that `findings` and what it decides have in common."""

from __future__ import annotations

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
        """The findings in `states` that they name; ends the command where there is no such scanner or series."""
        from iap_node.database.findings import FindingFilter

        return FindingFilter(
            states=states,
            severities=tuple(self.severity),
            kinds=tuple(self.kind),
            witnesses=tuple(self.witness),
            checks=tuple(self.check),
            elements=tuple(self.element),
            scanner=None if self.scanner is None else scanner_named(session, self.scanner),
            series_id=None if self.series is None else named_series(session, self.series).id,
            since=None if self.since is None else self.since.astimezone(),
        )


def scanner_named(session: Session, text: str) -> Scanner:
    """The scanner that `--scanner` names; ends the command where there is none."""
    from iap_node.database.findings import UnknownScanner, named_scanner

    try:
        return named_scanner(session, text)
    except UnknownScanner as error:
        complain(error)
        raise typer.Exit(Exit.NOT_FOUND) from error
