"""What a DELIVER job sends: the instances as they were received, or corrected or de-identified copies of them.

Called by `iap_node.worker.deliver`. A destination with `send: corrected` gets copies as soon as values are accepted for
a series and differ from what its headers say; until then it gets the originals. One with `send: deidentified` gets
nothing but de-identified copies, of the headers as they came. Bookkeeping goes by original instance and by the UID that
was sent (docs/decisions/0014-corrected-copies.md, 0026-deidentified-copies.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from iap_node.correction.copies import CorrectedInstance
from iap_node.correction.series import begin, look
from iap_node.database import archive, results
from iap_node.database.corrections import AcceptedValue, Correction
from iap_node.database.engine import Database
from iap_node.deidentification.copies import DeidentifiedInstance
from iap_node.deidentification.profile import Retained
from iap_node.deidentification.pseudonyms import Pseudonyms
from iap_node.errors import PermanentError
from iap_node.records import Job
from iap_node.routing.destinations.outgoing import OutgoingInstance
from iap_node.spool import Spool

MADE_BY = "delivery"

log = structlog.get_logger("deliver")


@dataclass(frozen=True, slots=True)
class Consignment:
    """What is to be offered to a destination in one attempt."""

    instances: list[OutgoingInstance]
    sent_uids: Mapping[int, str]  # instance id -> SOP Instance UID of its copy, of the whole series; {}: originals
    correction: Correction | None = None
    accepted: tuple[AcceptedValue, ...] = ()  # that the copies hold


def originals(database: Database, spool: Spool, job: Job, most_decoded_bytes: int) -> Consignment:
    """The instances that the job's destination has not accepted yet, as they were received.

    Parameters
    ----------
    most_decoded_bytes
        Of one instance, where the destination takes it only uncompressed.
    """
    with database.reading() as session:
        outstanding = results.outstanding_instances(session, job)
    instances = [
        OutgoingInstance(
            instance_id=one.instance_id,
            sop_class_uid=one.sop_class_uid,
            sop_instance_uid=one.sop_instance_uid,
            transfer_syntax_uid=one.transfer_syntax_uid,
            file=spool.locate(one.spool_path),
            most_decoded_bytes=most_decoded_bytes,
        )
        for one in outstanding
    ]
    return Consignment(instances, sent_uids={})


def deidentified(
    database: Database,
    spool: Spool,
    job: Job,
    retained: Iterable[str],
    pseudonyms: Pseudonyms,
    most_decoded_bytes: int,
) -> Consignment:
    """De-identified copies of the instances that the destination has not accepted as such.

    Whether one can be de-identified is seen when it is opened: a refusal is of that instance alone.

    Parameters
    ----------
    retained
        Options of the profile, as the configuration calls them.
    """
    with database.reading() as session:
        sent_uids = {
            one.id: pseudonyms.uid(one.sop_instance_uid) for one in archive.current_instances(session, job.series_id)
        }
        outstanding = results.outstanding_instances(session, job, sent_uids)
    options = frozenset(map(Retained, retained))
    instances = [
        OutgoingInstance(
            instance_id=one.instance_id,
            sop_class_uid=one.sop_class_uid,
            sop_instance_uid=sent_uids[one.instance_id],
            transfer_syntax_uid=one.transfer_syntax_uid,
            file=DeidentifiedInstance(spool.locate(one.spool_path), options, pseudonyms, most_decoded_bytes),
            most_decoded_bytes=most_decoded_bytes,
        )
        for one in outstanding
    ]
    return Consignment(instances, sent_uids)


def corrected(database: Database, spool: Spool, job: Job, max_inflated_bytes: int, now: datetime) -> Consignment:
    """Corrected copies of the instances that the destination has not accepted as such; the originals where nothing is
    to be corrected.

    Raises
    ------
    PermanentError
        An accepted value cannot be written; the text says why and what to do.
    OSError
        The spool cannot be read. Retried.
    """
    try:
        correction = look(
            database,
            spool,
            job.series_id,
            max_inflated_bytes=max_inflated_bytes,
            up_to_revision=job.revision,
            whole=False,  # what the destination has may be gone here
        )
    except PermanentError as error:
        raise PermanentError(
            f"series {job.series_instance_uid} cannot be corrected for {job.destination}: {error}. Then retry job "
            f"{job.id}"
        ) from error
    for left in correction.changes.left_out:
        log.warning("accepted value is not written", element=left.keyword, finding=left.reason, why=left.why)
    if not correction.changes_something:
        return originals(database, spool, job, max_inflated_bytes)
    with database.transaction() as session:
        noted, copies = begin(session, correction, target=job.destination, made_by=MADE_BY, now=now)
        by_id = {copy.original.instance_id: copy for copy in copies}
        sent_uids = {instance_id: copy.sop_instance_uid for instance_id, copy in by_id.items()}
        outstanding = results.outstanding_instances(session, job, sent_uids)
    return Consignment(
        [_as_copied(by_id[one.instance_id], max_inflated_bytes) for one in outstanding if one.instance_id in by_id],
        sent_uids=sent_uids,
        correction=noted,
        accepted=correction.changes.accepted,
    )


def _as_copied(copy: CorrectedInstance, most_decoded_bytes: int) -> OutgoingInstance:
    return OutgoingInstance(
        instance_id=copy.original.instance_id,
        sop_class_uid=copy.original.sop_class_uid,
        sop_instance_uid=copy.sop_instance_uid,
        transfer_syntax_uid=copy.original.transfer_syntax_uid,
        file=copy,
        most_decoded_bytes=most_decoded_bytes,
    )
