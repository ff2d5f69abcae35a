"""The correction of one series of the archive: what is accepted, what stands in its headers, and the copies.

Called by the command `correct` and by `iap_node.worker.consignment`. `look` only reads; `begin` notes in the database
that copies are about to be made, and gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

import iap_node
from iap_node.correction.changes import Changes, gather
from iap_node.correction.copies import CopyPlan, CorrectedInstance, Original, Survey, survey
from iap_node.correction.trace import Origin
from iap_node.correction.uids import CopyUids
from iap_node.database import archive, corrections
from iap_node.database.archive import ArchivedInstance
from iap_node.database.corrections import Correction, SeriesToCorrect
from iap_node.database.engine import Database
from iap_node.database.tables import BytesState
from iap_node.errors import PermanentError
from iap_node.spool import Spool


@dataclass(frozen=True, slots=True)
class SeriesCorrection:
    """What a corrected copy of a series would be."""

    series: SeriesToCorrect
    changes: Changes
    survey: Survey
    originals: tuple[Original, ...]  # all of the series
    uids: CopyUids | None  # None: the copies keep the UIDs of their originals
    max_inflated_bytes: int

    @property
    def copy_series_instance_uid(self) -> str:
        """Of the copy."""
        return self.series.series_instance_uid if self.uids is None else self.uids.copied(self.uids.series_instance_uid)

    @property
    def changes_something(self) -> bool:
        """Whether a copy would differ in any value from its original."""
        return self.survey.changes_something


def look(
    database: Database,
    spool: Spool,
    series_id: int,
    *,
    max_inflated_bytes: int,
    settings: Sequence[str] = (),
    keep_uids: bool = False,
    up_to_revision: int | None = None,
    whole: bool = True,
) -> SeriesCorrection:
    """Read what is accepted for a series and what its headers say.

    Parameters
    ----------
    max_inflated_bytes
        The most that the data set of an instance that came deflated may have.
    settings
        Values that a person sets; see `changes.gather`.
    up_to_revision
        Only instances that came with this revision or before; None: all.
    whole
        Whether the bytes of all instances must be here.

    Raises
    ------
    PermanentError
        A value cannot be written, or bytes of the series are gone; the text says why and what to do.
    OSError
        The spool cannot be read; trying again may help.
    """
    with database.reading() as session:
        series = corrections.series_to_correct(session, series_id)
        accepted = corrections.accepted_values(session, series_id)
        instances = [
            one
            for one in archive.current_instances(session, series_id)
            if up_to_revision is None or one.revision <= up_to_revision
        ]
    changes = gather(accepted, settings)
    present = [one for one in instances if one.bytes_state is BytesState.PRESENT]
    if changes.changes and whole and len(present) < len(instances):
        raise _gone(series, len(instances) - len(present))
    originals = tuple(_original(one, spool) for one in instances)
    here = {one.id for one in present}
    to_survey = [one for one in originals if one.instance_id in here]
    try:
        found = survey(to_survey, changes, max_inflated_bytes) if changes.changes else Survey((), {}, ())
    except FileNotFoundError as error:
        raise _gone(series, 1) from error
    members = frozenset(one.sop_instance_uid for one in instances)
    uids = None if keep_uids else CopyUids(changes.fingerprint, series.series_instance_uid, members)
    return SeriesCorrection(series, changes, found, originals, uids, max_inflated_bytes)


def begin(
    session: Session, correction: SeriesCorrection, *, target: str, made_by: str, now: datetime
) -> tuple[Correction, tuple[CorrectedInstance, ...]]:
    """Note that copies go to `target`; the note, and the copies of all instances."""
    noted = corrections.begin_correction(
        session,
        correction.series,
        copy_series_instance_uid=correction.copy_series_instance_uid,
        elements=correction.changes.elements,
        target=target,
        made_by=made_by,
        software_version=iap_node.__version__,
        now=now.replace(microsecond=0),
    )
    plan = CopyPlan(
        survey=correction.survey,
        origin=Origin(
            corrected_at=noted.made_at,
            software_version=noted.software_version,
            source=correction.series.calling_ae_title,
            keywords=tuple(change.keyword for change in correction.changes.changes),
        ),
        uids=correction.uids,
        max_inflated_bytes=correction.max_inflated_bytes,
    )
    return noted, tuple(CorrectedInstance(original, plan) for original in correction.originals)


def still_here(session: Session, correction: SeriesCorrection) -> frozenset[int]:
    """The instances whose bytes nobody has decided to delete: only of these is what was read the original."""
    instances = archive.current_instances(session, correction.series.id)
    return frozenset(one.id for one in instances if one.bytes_state is BytesState.PRESENT)


def _gone(series: SeriesToCorrect, n_gone: int) -> PermanentError:
    return PermanentError(
        f"the bytes of {n_gone} instances of series {series.series_instance_uid} are gone, no corrected copy can be "
        "made; `iap-node show` says why. Have the series sent again"
    )


def _original(instance: ArchivedInstance, spool: Spool) -> Original:
    return Original(
        instance_id=instance.id,
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        file=spool.locate(instance.spool_path),
    )
