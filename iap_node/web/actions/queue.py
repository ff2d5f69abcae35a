"""What operators do about work: put dead letters back, all, some, or those of a destination."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from iap_node.database import accounts, jobs
from iap_node.web.identity import Identity
from iap_node.web.node import WebNode


def requeue(node: WebNode, identity: Identity, which: Sequence[int] | None, told: str = "") -> int:
    """Put dead letters back with a fresh count of attempts; how many there were.

    Parameters
    ----------
    which
        Those that are no dead letters are passed over. None: all.
    told
        What the audit trail calls them; their numbers without it.
    """
    now = datetime.now(UTC)
    subject = told or ("all dead letters" if which is None else ", ".join(map(str, which)))
    with node.database.transaction() as session:
        n = jobs.retry(session, which, now)
        accounts.note(session, identity.name, "requeue jobs", subject, now, f"{n} put back", identity.address)
    return n


def requeue_of(node: WebNode, identity: Identity, destination: str) -> int:
    """Put back the dead letters of one destination; how many there were."""
    with node.database.reading() as session:
        dead = jobs.dead_letters_of(session, destination)
    return requeue(node, identity, dead, f"dead letters of {destination}")
