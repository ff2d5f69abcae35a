"""Send one series to one destination. The DELIVER handler.

Only instances that the destination has not accepted yet are offered; what it answers for each is written
together with the job's new state. Called by `iap_node.worker.loop`.
"""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from iap_node.config import NodeConfig
from iap_node.database import results
from iap_node.database.engine import Database
from iap_node.errors import PermanentError
from iap_node.records import Job, JobState
from iap_node.routing.destinations.dicom import send_instances
from iap_node.routing.destinations.store import OutgoingInstance
from iap_node.spool import Spool

log = structlog.get_logger("deliver")


class DeliverHandler:
    """Handles DELIVER jobs."""

    def __init__(self, database: Database, spool: Spool, config: NodeConfig) -> None:
        self._database = database
        self._spool = spool
        self._config = config

    def __call__(self, job: Job) -> None:
        """Offer the outstanding instances of the job's revision to its destination.

        Raises
        ------
        PermanentError
            The configuration does not name the destination any more, or its TLS files cannot be used.
        DeliveryError
            The destination could not be reached. Retried.
        LeaseLost
            Somebody else has the job; the answers are dropped and the instances are sent again.
        """
        destination = self._config.destinations.get(job.destination)
        if destination is None:
            raise PermanentError(
                f"destination {job.destination!r} of series {job.series_instance_uid} is no longer in the "
                f"configuration; name it under destinations again and retry job {job.id}"
            )
        with self._database.reading() as session:
            outstanding = [
                OutgoingInstance(
                    instance_id=instance.instance_id,
                    sop_class_uid=instance.sop_class_uid,
                    sop_instance_uid=instance.sop_instance_uid,
                    transfer_syntax_uid=instance.transfer_syntax_uid,
                    file=self._spool.locate(instance.spool_path),
                )
                for instance in results.outstanding_instances(session, job)
            ]
        answers = send_instances(outstanding, destination)
        with self._database.transaction() as session:
            state = results.save_delivery(session, job, answers, self._config.jobs, datetime.now(UTC))
        log.info(
            "series delivered" if state is JobState.DONE else "series not delivered completely",
            ae_title=destination.ae_title,
            offered=len(answers),
            accepted=sum(answer.accepted for answer in answers),
            state=state,
        )
