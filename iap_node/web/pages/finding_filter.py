"""Which findings a person asked for: the fields of the filter, from a link's query or from a form that carries them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Depends, Form, Query

from iap_node.database.finding_lists import FindingFilter, Scanner
from iap_node.records import FindingState, Severity, Witness

_MOST_STATE, _MOST_TEXT = 16, 128

State = Annotated[str, Query(max_length=_MOST_STATE)]
Text = Annotated[str, Query(max_length=_MOST_TEXT)]
StateField = Annotated[str, Form(max_length=_MOST_STATE)]
TextField = Annotated[str, Form(max_length=_MOST_TEXT)]


@dataclass(frozen=True, slots=True)
class AskedFindings:
    """The filter as its fields say; "" stands for any."""

    state: str = FindingState.OPEN.value
    severity: str = ""
    witness: str = ""
    check: str = ""
    element: str = ""
    manufacturer: str = ""
    model: str = ""
    serial: str = ""

    @property
    def fields(self) -> dict[str, str]:
        """By name, for forms."""
        return asdict(self)

    @property
    def query(self) -> str:
        """For links: an inbox without a state is that of open ones, so that any state is said."""
        return urlencode({key: value for key, value in asdict(self).items() if value or key == "state"})

    @property
    def text(self) -> str:
        """For people, as the audit trail has it."""
        said = ", ".join(f"{key} {value}" for key, value in asdict(self).items() if value)
        return f"all findings of {said}" if said else "all findings"

    def filter(self) -> FindingFilter:
        """What the database is asked."""
        named = self.manufacturer or self.model or self.serial
        return FindingFilter(
            states=(FindingState(self.state),) if self.state in set(FindingState) else (),
            severities=(Severity(self.severity),) if self.severity in set(Severity) else (),
            witnesses=(Witness(self.witness),) if self.witness in set(Witness) else (),
            checks=(self.check,) if self.check else (),
            elements=(self.element,) if self.element else (),
            scanner=Scanner(self.manufacturer, self.model, self.serial) if named else None,
        )


def _from_query(
    state: State = FindingState.OPEN.value,
    severity: State = "",
    witness: State = "",
    check: Text = "",
    element: Text = "",
    manufacturer: Text = "",
    model: Text = "",
    serial: Text = "",
) -> AskedFindings:
    return AskedFindings(state, severity, witness, check.strip(), element.strip(), manufacturer, model, serial)


def _from_form(
    of_state: StateField = "",  # an empty field counts as none: it must not become "open"
    of_severity: StateField = "",
    of_witness: StateField = "",
    of_check: TextField = "",
    of_element: TextField = "",
    of_manufacturer: TextField = "",
    of_model: TextField = "",
    of_serial: TextField = "",
) -> AskedFindings:
    return AskedFindings(
        of_state, of_severity, of_witness, of_check, of_element, of_manufacturer, of_model, of_serial
    )


FromQuery = Annotated[AskedFindings, Depends(_from_query)]
FromForm = Annotated[AskedFindings, Depends(_from_form)]
"""Fields named `of_...`: a decision has a state of its own."""
