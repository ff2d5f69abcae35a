"""The SR document that follows a delivered series to a destination with `results: true`.

It goes when the destination has accepted all instances, by itself: an answer to it, whatever it is, changes nothing
for the images. Called by `iap_node.worker.deliver`.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Literal

import structlog

from iap_node.config import NodeConfig
from iap_node.config.destinations import AnyDestination, DestinationConfig
from iap_node.database.engine import Database
from iap_node.errors import LeaseLost, NodeError
from iap_node.records import Job
from iap_node.results.document import SR_MODALITY
from iap_node.results.report import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, sr_document
from iap_node.routing.destinations.destination import Destination
from iap_node.routing.destinations.outgoing import OutgoingInstance
from iap_node.spool import Spool
from iap_node.worker.consignment import Consignment

_NO_ROW = 0  # the archive keeps no documents: they are made anew, always the same

log = structlog.get_logger("deliver")


@dataclass(frozen=True, slots=True)
class _Memory:
    """A Part 10 file in memory."""

    content: bytes

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        return BytesIO(self.content)


def send_document(
    database: Database,
    spool: Spool,
    config: NodeConfig,
    job: Job,
    consignment: Consignment,
    destination: AnyDestination,
    there: Destination,
) -> str:
    """Send the document of the job's revision; "" when it is there, else a sentence that says why it is not.

    There is none about a series of documents: a PACS that sends on to us what it gets from us would have one about each
    of ours, for ever.
    """
    copy = consignment.correction
    # C-STORE peers must take Implicit VR (PS3.5 10.1); on the web and in files Explicit VR is the default
    # (PS3.18 8.7.3.1, PS3.10 7).
    implicit = isinstance(destination, DestinationConfig)
    try:
        document = sr_document(
            database,
            spool,
            job.series_id,
            ae_title=config.listener.ae_title,
            max_inflated_bytes=config.inference.max_bytes_per_instance,
            revision=job.revision,
            sent_uids=consignment.sent_uids,
            sent_series_instance_uid=None if copy is None else copy.series_instance_uid,
            transfer_syntax_uid=IMPLICIT_VR_LITTLE_ENDIAN if implicit else EXPLICIT_VR_LITTLE_ENDIAN,
        )
        if document.result.modality == SR_MODALITY:
            return ""
        outgoing = OutgoingInstance(
            instance_id=_NO_ROW,
            sop_class_uid=document.sop_class_uid,
            sop_instance_uid=document.sop_instance_uid,
            transfer_syntax_uid=document.transfer_syntax_uid,
            file=_Memory(document.content),
        )
        (answer,) = there.send([outgoing])
    except LeaseLost:
        raise
    except NodeError as error:
        return _not_sent(job, str(error))
    if answer.accepted:
        log.info("result delivered", destination=job.destination, sop_instance_uid=document.sop_instance_uid)
        return ""
    status = "" if answer.status is None else f"status {answer.status:04X}H"
    return _not_sent(job, ", ".join(text for text in (status, answer.comment) if text) or "no answer")


def _not_sent(job: Job, why: str) -> str:
    log.warning("result not delivered", destination=job.destination, why=why)
    return f"all instances are there, the SR document is not: {why}; `iap-node result` writes it into a file"
