"""What operators do about destinations: try one, or let what waits for it go at once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from iap_node.database import accounts, destination_health
from iap_node.errors import NodeError, PermanentError
from iap_node.routing.destinations.destination import open_destination
from iap_node.web.identity import Identity
from iap_node.web.node import WebNode


class UnknownDestination(PermanentError):
    """The configuration names no such destination."""


@dataclass(frozen=True, slots=True)
class Echoed:
    """How a destination answered a try."""

    answered: bool
    text: str  # for people: how fast, or what is wrong and what helps


def echo(node: WebNode, identity: Identity, name: str) -> Echoed:
    """Try a destination, now; nothing is left there.

    Raises
    ------
    UnknownDestination
    """
    config = node.config.destinations.get(name)
    if config is None:
        raise UnknownDestination(f"no destination {name!r} in the configuration")
    began = time.monotonic()
    try:
        open_destination(config).echo()
        found = Echoed(True, f"answers in {1000 * (time.monotonic() - began):.0f} ms")
    except NodeError as error:
        found = Echoed(False, str(error))
    with node.database.transaction() as session:
        accounts.note(session, identity.name, "echo", name, datetime.now(UTC), found.text, identity.address)
    return found


def try_now(node: WebNode, identity: Identity, name: str) -> int:
    """End the pause of a destination that failed, and the waits of its deliveries; how many of them are due now."""
    now = datetime.now(UTC)
    with node.database.transaction() as session:
        n = destination_health.try_now(session, name, now)
        accounts.note(session, identity.name, "try destination now", name, now, f"{n} due", identity.address)
    return n
