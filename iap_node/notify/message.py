"""What is told, and to what. Shared by the modules of this room."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from iap_node.config.notifications import TroubleKind
from iap_node.errors import RetriableError


class NotTold(RetriableError):
    """A channel did not take a message; it is tried again at the next look."""


class Event(StrEnum):
    """What has become of it."""

    BEGUN = "begun"
    WORSE = "worse"
    STILL = "still"  # told again, since nothing has changed for long
    BETTER = "better"  # some of it is over
    OVER = "over"
    HAPPENED = "happened"  # once: it neither stands nor ends
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong now.

    Attributes
    ----------
    amounts
        Of what is wrong, by name: a destination's, a parameter's keyword, a kind of job. Greater is worse. Never empty.
    summary
        One line for people.
    remedy
        What to do about it: a command.
    series_instance_uids
        Some of the series that it is about, the oldest.
    """

    kind: TroubleKind
    amounts: dict[str, int]
    summary: str
    remedy: str
    series_instance_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `kind` is that of the trouble, or "test"."""

    node: str  # our AE title
    kind: str
    event: Event
    summary: str
    remedy: str
    at: datetime
    amounts: dict[str, int]
    series_instance_uids: tuple[str, ...] = ()
    console_url: str | None = None

    @property
    def title(self) -> str:
        """The subject of an e-mail."""
        before = "" if self.event in (Event.BEGUN, Event.HAPPENED, Event.TEST) else f"{self.event}: "
        return f"IAP node {self.node}: {before}{self.summary}"


class Channel(Protocol):
    """A way to tell people."""

    @property
    def name(self) -> str:
        """In the rows that keep what it was told."""

    def send(self, message: Message) -> None:
        """Hand a message over.

        Raises
        ------
        NotTold
            It was not taken; the text says why and names the remedy, never a password.
        """
