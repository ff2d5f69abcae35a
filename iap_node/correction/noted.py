"""Corrected copies of an archived series, written into a folder and noted in the database from begin to end.

Called by the command `correct` and by the web. A run that was ended goes on where it was when it is begun again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from iap_node.correction import folder as files
from iap_node.correction.folder import WrittenCopy
from iap_node.correction.series import SeriesCorrection, begin, still_here
from iap_node.database.corrections import finish_correction
from iap_node.database.engine import Database
from iap_node.errors import PermanentError

FOLDER = "corrected"  # below the data directory, where no other is named

Track = Callable[[Iterable[WrittenCopy], int], Iterable[WrittenCopy]]
"""Goes through the copies, whose number is given, and shows how far it is."""


@dataclass(frozen=True, slots=True)
class WrittenSeries:
    """The copies of one series, and the findings that are corrected with them."""

    folder: Path
    n_copies: int
    n_there: int  # that an earlier run had written
    finding_ids: tuple[int, ...]


def default_folder(data_dir: Path, correction: SeriesCorrection) -> Path:
    """Where the copies go when nobody says where."""
    return data_dir / FOLDER / correction.copy_series_instance_uid


def write_noted(
    database: Database,
    correction: SeriesCorrection,
    folder: Path,
    who: str,
    track: Track = lambda copies, _: copies,
) -> WrittenSeries:
    """Write the copies of a series; the findings behind them become corrected.

    Raises
    ------
    RetriableError
        The disk is full or fails.
    PermanentError
        Another file has the name of a copy, an original is damaged, or retention deleted it meanwhile: then its copy
        is removed again.
    """
    with database.transaction() as session:
        noted, copies = begin(session, correction, target=str(folder), made_by=who, now=datetime.now(UTC))
    done = list(track(files.write_copies(copies, folder), len(copies)))
    with database.transaction() as session:
        here = still_here(session, correction)
        overtaken = [one.path for one in done if one.instance_id not in here and not one.was_there]
        corrected = (
            []
            if overtaken
            else finish_correction(
                session,
                noted,
                correction.changes.accepted,
                n_instances=len(copies),
                who=who,
                now=datetime.now(UTC),
            )
        )
    for path in overtaken:  # their originals may have been erased while they were read
        path.unlink()
    if overtaken:
        raise PermanentError(
            f"the bytes of {len(overtaken)} instances went while they were copied, by retention; their copies are "
            "removed again. Have the series sent again"
        )
    return WrittenSeries(folder, len(copies), sum(one.was_there for one in done), tuple(corrected))


def as_object(correction: SeriesCorrection) -> dict[str, Any]:
    """What a copy would be, element by element, for programs."""
    return {
        "series_instance_uid": correction.series.series_instance_uid,
        "copy_series_instance_uid": correction.copy_series_instance_uid if correction.changes_something else None,
        "groups": [
            {
                "sop_instance_uids": group.sop_instance_uids,
                "elements": [
                    {
                        "tag": f"{one.attribute.tag:08X}",
                        "keyword": one.attribute.keyword,
                        "where": one.place or "top level",
                        "old": one.old,
                        "new": one.new,
                        "from": one.change.reason,
                        "accepted_by": one.change.who,
                    }
                    for one in group.writes
                ],
            }
            for group in correction.survey.groups
        ],
        "left_out": correction.changes.left_out,
    }
