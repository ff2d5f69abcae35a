"""What people do to correct a series: look what a copy would be, write the copies, take them away, send them."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO

from iap_node.correction.noted import FOLDER, WrittenSeries, default_folder, write_noted
from iap_node.correction.series import SeriesCorrection
from iap_node.correction.series import look as look_at
from iap_node.database import accounts
from iap_node.database.corrections import deliver_again, list_corrections
from iap_node.database.series import series_by_id
from iap_node.errors import PermanentError, RetriableError
from iap_node.web.identity import Identity
from iap_node.web.node import WebNode

_PIECE = 1024 * 1024  # bytes of a download at a time


class Changed(PermanentError):
    """What is accepted for the series is not any more what the person saw."""


def look(node: WebNode, series_id: int) -> SeriesCorrection:
    """What a corrected copy of a series would be, by the values that are accepted; nothing is written.

    Raises
    ------
    UnknownSeries
    PermanentError
        A value cannot be written, or bytes of the series are gone.
    RetriableError
        The spool cannot be read now.
    """
    with node.database.reading() as session:
        series_by_id(session, series_id)
    limit = node.config.inference.max_bytes_per_instance
    with _spool_read():
        return look_at(node.database, node.spool, series_id, max_inflated_bytes=limit)


def destinations(node: WebNode) -> list[str]:
    """Those that take corrected copies."""
    return sorted(name for name, one in node.config.destinations.items() if one.send == "corrected")


def write(node: WebNode, identity: Identity, series_id: int, seen: str | None = None) -> WrittenSeries:
    """Write the copies into their folder below the data directory; the findings become corrected.

    Parameters
    ----------
    seen
        Fingerprint of the changes that the person saw; None: whatever is accepted now.

    Raises
    ------
    Changed
    UnknownSeries, PermanentError, RetriableError
        See `look` and `write_noted`.
    """
    correction = _as_seen(node, series_id, seen)
    folder = default_folder(node.config.data_dir, correction)
    with node.database.transaction() as session:  # before the first copy: what is begun and fails is told too
        told = f"copy {correction.copy_series_instance_uid}: {_elements(correction)}"
        accounts.note(
            session, identity.name, "correct series", str(series_id), datetime.now(UTC), told, identity.address
        )
    with _spool_read():
        return write_noted(node.database, correction, folder, identity.name)


def send(
    node: WebNode, identity: Identity, series_id: int, destination: str, seen: str | None = None
) -> SeriesCorrection:
    """Put a series into the queue for a destination that takes corrected copies.

    Raises
    ------
    Changed
    UnknownSeries, PermanentError, RetriableError
        See `look` and `deliver_again`; or the destination takes none.
    """
    if destination not in destinations(node):
        raise PermanentError(f"destination {destination!r} takes no corrected copies; see `send` in the configuration")
    correction, now = _as_seen(node, series_id, seen), datetime.now(UTC)
    with node.database.transaction() as session:
        deliver_again(session, correction.series, destination, now)
        told = f"copy {correction.copy_series_instance_uid} to {destination}: {_elements(correction)}"
        accounts.note(session, identity.name, "send corrected series", str(series_id), now, told, identity.address)
    return correction


def take(node: WebNode, identity: Identity, series_id: int, copy_id: int) -> Iterator[bytes]:
    """The copies that were written into the node's folder, as a ZIP file in pieces; they name the patient: it is noted.

    Raises
    ------
    PermanentError
        There is no such copy here, or not all of its instances are.
    """
    with node.database.reading() as session:
        one = next((copy for copy in list_corrections(session, series_id) if copy.id == copy_id), None)
    if one is None or one.finished_at is None:
        raise PermanentError("there is no finished copy of that number for this series")
    folder = node.config.data_dir / FOLDER / one.series_instance_uid
    files = sorted(folder.glob("*.dcm")) if one.target == str(folder) else []
    if len(files) < one.n_instances:
        raise PermanentError(f"the copy went to {one.target}, or was taken away since; write it again")
    with node.database.transaction() as session:
        now, told = datetime.now(UTC), f"copy {one.series_instance_uid}"
        accounts.note(session, identity.name, "take corrected copy", str(series_id), now, told, identity.address)
    packed = tempfile.TemporaryFile(dir=node.config.data_dir)  # noqa: SIM115 - the reader closes it
    with zipfile.ZipFile(packed, "w") as archive:  # stored: pixels hardly become smaller, and people wait
        for file in files:
            archive.write(file, file.name)
    packed.seek(0)
    return _pieces(packed)


def _pieces(packed: IO[bytes]) -> Iterator[bytes]:
    with packed:
        while piece := packed.read(_PIECE):
            yield piece


def _as_seen(node: WebNode, series_id: int, seen: str | None) -> SeriesCorrection:
    correction = look(node, series_id)
    if seen is not None and seen != correction.changes.fingerprint:
        raise Changed("what is accepted for this series changed meanwhile; look at it again")
    if not correction.changes_something:
        raise PermanentError("nothing is accepted for this series that its headers do not say already")
    return correction


def _elements(correction: SeriesCorrection) -> str:
    return ", ".join(
        f"{label} {'removed' if value is None else value}" for label, value in correction.changes.elements.items()
    )


@contextmanager
def _spool_read() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RetriableError(f"the spool cannot be read now: {error.strerror or type(error).__name__}") from error
