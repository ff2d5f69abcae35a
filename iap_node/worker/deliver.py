"""Send one series to one destination. The DELIVER handler.

Only instances that the destination has not accepted yet are offered, as they came or as corrected or de-identified
copies (`consignment`); what it answers for each is written together with the job's new state. Called by
`iap_node.worker.loop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog

from iap_node.config import NodeConfig
from iap_node.config.destinations import AnyDestination, InstancesConfig
from iap_node.config.patient_key import load_or_create_patient_key
from iap_node.database import results
from iap_node.database.corrections import finish_correction
from iap_node.database.destination_health import note_answered, note_failed
from iap_node.database.engine import Database
from iap_node.deidentification.pseudonyms import Pseudonyms
from iap_node.errors import DeliveryError, PermanentError
from iap_node.records import InstanceDelivery, Job, JobState
from iap_node.results.message import result_message
from iap_node.routing.destinations.destination import open_destination
from iap_node.spool import Spool
from iap_node.worker.consignment import MADE_BY, Consignment, corrected, deidentified, originals
from iap_node.worker.document import send_document
from iap_node.worker.loop import Clock, utc_now

log = structlog.get_logger("deliver")


class DeliverHandler:
    """Handles DELIVER jobs."""

    def __init__(self, database: Database, spool: Spool, config: NodeConfig, clock: Clock = utc_now) -> None:
        self._database = database
        self._spool = spool
        self._config = config
        self._clock = clock

    def __call__(self, job: Job) -> None:
        """Offer the outstanding instances of the job's revision to its destination.

        Raises
        ------
        PermanentError
            The configuration does not name the destination any more, its files of TLS, token or secret cannot be used,
            it refuses us as such, or it wants corrected copies and an accepted value cannot be written.
        DeliveryError
            The destination could not be reached, or asks to be left alone for now. Retried.
        LeaseLost
            Somebody else has the job; the answers are dropped and the instances are sent again.
        """
        destination = self._config.destinations.get(job.destination)
        if destination is None:
            raise PermanentError(
                f"destination {job.destination!r} of series {job.series_instance_uid} is no longer in the "
                f"configuration; name it under destinations again and retry job {job.id}"
            )
        now = self._clock()
        consignment = self._consignment(job, destination, now)
        there = open_destination(destination, lambda: self._message(job))
        try:
            answers = there.send(consignment.instances)
        except (DeliveryError, PermanentError) as error:
            self._note(job.destination, str(error))
            raise
        self._note(job.destination, _failure(answers))
        comment = _warned(job.destination, answers)
        if destination.results and all(answer.accepted for answer in answers):
            problem = send_document(self._database, self._spool, self._config, job, consignment, destination, there)
            comment = "; ".join(filter(None, (comment, problem)))
        with self._database.transaction() as session:
            now = self._clock()
            state = results.save_delivery(
                session,
                job,
                answers,
                self._config.jobs,
                now,
                sent_uids=consignment.sent_uids,
                comment=comment,
            )
            if consignment.correction is not None and state is JobState.DONE:
                finish_correction(
                    session,
                    consignment.correction,
                    consignment.accepted,
                    n_instances=len(consignment.sent_uids),
                    who=MADE_BY,
                    now=now,
                )
        copy = consignment.correction
        log.info(
            "series delivered" if state is JobState.DONE else "series not delivered completely",
            address=destination.address,
            offered=len(answers),
            accepted=sum(answer.accepted for answer in answers),
            state=state,
            corrected_copy=None if copy is None else copy.series_instance_uid,
            corrected_elements=None if copy is None else sorted(copy.elements),
        )

    def _message(self, job: Job) -> dict[str, Any]:
        with self._database.reading() as session:
            return result_message(session, job).as_json()

    def _consignment(self, job: Job, destination: AnyDestination, now: datetime) -> Consignment:
        limit = self._config.inference.max_bytes_per_instance
        if destination.send == "corrected":
            return corrected(self._database, self._spool, job, limit, now)
        if isinstance(destination, InstancesConfig) and destination.send == "deidentified":
            pseudonyms = Pseudonyms.of_node(load_or_create_patient_key(self._config.patient_key_path))
            return deidentified(self._database, self._spool, job, destination.retain, pseudonyms, limit)
        return originals(self._database, self._spool, job, limit)

    def _note(self, destination: str, failure: str) -> None:
        """Let all workers know how the destination answers; "": as it should."""
        with self._database.transaction() as session:
            if not failure:
                note_answered(session, destination)
                return
            paused_until = note_failed(session, destination, failure, self._config.jobs, self._clock())
        if paused_until is not None:
            log.warning("destination is left alone", error=failure, until=paused_until.isoformat())


def _warned(destination: str, answers: Sequence[InstanceDelivery]) -> str:
    """What people should know of instances that were stored with a warning (Bxxx); "": there are none."""
    warned = [one for one in answers if one.accepted and one.status]
    if not warned:
        return ""
    said = f"{destination} stored {len(warned)} instances with a warning; first status {warned[0].status:04X}H"
    log.warning("instances stored with a warning", instances=len(warned), status=f"{warned[0].status:04X}H")
    return f"{said}, {warned[0].comment}" if warned[0].comment else said


def _failure(answers: Sequence[InstanceDelivery]) -> str:
    """What speaks of the destination as a whole: that it took nothing, and refused nothing either."""
    if not answers or any(one.accepted or one.permanent for one in answers):
        return ""
    return f"none of {len(answers)} instances was taken; first: {answers[0].comment or 'no comment'}"
