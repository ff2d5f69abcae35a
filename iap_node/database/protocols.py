"""What series state of scanner and protocol: kept for each, and asked for as the habit of a scanner.

Called by the worker in the transaction of a judgement, and by `iap-node protocols`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from iap_node.records import PastSeries, StatedProtocol


@dataclass(frozen=True, slots=True)
class KnownProtocol:
    """A scanner and a protocol of which the archive has series."""

    device: str
    protocol: str
    n_series: int
    last_stated_at: datetime


def save_protocol(session: Session, series_id: int, revision: int, protocol: StatedProtocol, now: datetime) -> None:
    """Keep what a revision of a series states; an older revision never replaces a newer one."""
    raise NotImplementedError


def history(session: Session, protocol: StatedProtocol, series_id: int, limit: int) -> tuple[PastSeries, ...]:
    """The newest `limit` series of the same device and protocol that came before `series_id`, newest first."""
    raise NotImplementedError


def of_study(session: Session, series_id: int) -> tuple[PastSeries, ...]:
    """What the other series of the same study state."""
    raise NotImplementedError


def device_spellings(session: Session) -> list[tuple[str, str, str, int]]:
    """Manufacturer, model, serial number as written, and in how many series: what `learn_vocabulary` learns from."""
    raise NotImplementedError


def scan_options(session: Session) -> list[tuple[str, int]]:
    """Scan Options as written, and in how many of the newest series."""
    raise NotImplementedError
