"""What people do to a series: hold it, release it, send it elsewhere, have it judged again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from iap_node.database import accounts, archive
from iap_node.database import routes as rows
from iap_node.database.series import series_by_id
from iap_node.database.timeline import JUDGE_AGAIN
from iap_node.errors import PermanentError
from iap_node.web.identity import Identity
from iap_node.web.node import WebNode


def hold(node: WebNode, identity: Identity, series_id: int, reason: str) -> int:
    """Let nothing of a series be sent until somebody releases it; how many deliveries are under way and go on.

    Raises
    ------
    UnknownSeries, HeldAlready
    PermanentError
        Without a reason: others will ask why nothing arrives.
    """
    if not reason.strip():
        raise PermanentError("say why the series is held: others will ask why nothing of it arrives")
    now = datetime.now(UTC)
    with node.database.transaction() as session:
        series_by_id(session, series_id)
        under_way = rows.hold(session, series_id, identity.name, reason, now)
        accounts.note(session, identity.name, "hold series", str(series_id), now, reason, identity.address)
    return under_way


def release(node: WebNode, identity: Identity, series_id: int, reason: str) -> tuple[str, ...]:
    """Let a held series go where the rules would have sent it; the destinations.

    Raises
    ------
    UnknownSeries, NotHeld
    """
    now = datetime.now(UTC)
    with node.database.transaction() as session:
        series_by_id(session, series_id)
        sent = rows.release(session, series_id, identity.name, reason, now)
        accounts.note(
            session, identity.name, "release series", str(series_id), now, ", ".join(sent), identity.address
        )
    return sent


def reroute(node: WebNode, identity: Identity, series_id: int, destinations: Sequence[str], reason: str) -> int:
    """Send a judged series to these destinations, held or not; its revision.

    Raises
    ------
    UnknownSeries, NotRouted
    PermanentError
        No destination is named, or one that is not in the configuration.
    """
    if not destinations:
        raise PermanentError("choose at least one destination")
    for name in destinations:
        if name not in node.config.destinations:
            raise PermanentError(f"no destination {name!r} in the configuration")
    now, told = datetime.now(UTC), ", ".join(destinations)
    with node.database.transaction() as session:
        series_by_id(session, series_id)
        revision = rows.reroute(session, series_id, destinations, identity.name, reason, now)
        accounts.note(session, identity.name, "reroute series", str(series_id), now, told, identity.address)
    return revision


def judge_again(node: WebNode, identity: Identity, series_id: int, reason: str) -> int:
    """Put a series back into the queue, to be judged by the model and the rules of now; the new revision.

    Raises
    ------
    UnknownSeries, NotJudgedAgain
    """
    now = datetime.now(UTC)
    with node.database.transaction() as session:
        series_by_id(session, series_id)
        revision = archive.judge_again(session, series_id, now)
        accounts.note(session, identity.name, JUDGE_AGAIN, str(series_id), now, reason, identity.address)
    return revision
