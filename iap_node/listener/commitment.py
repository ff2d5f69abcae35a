"""Storage commitment: the answer to "may I delete mine?". SCP of the Storage Commitment Push Model (PS3.4 Annex J).

A request (N-ACTION) is kept in the database before it is answered, and reported (N-EVENT-REPORT) when the rows of
all that came before it are written: on its own association while that is open, else on a new one (`reporter`).
Committed means what Success means: the archive has a row of this SOP Class, and its bytes lie in the spool.

Called by `handlers` (requests, ends of associations), by `receiver` (whether there is something to say) and by
`reporter`. Every method may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from typing import Any, cast

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import N_EVENT_REPORT_RQ
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.pdu import P_DATA_TF

from iap_node.config import StorageCommitmentConfig
from iap_node.database import commitments
from iap_node.database.commitments import CommitmentRequest
from iap_node.database.engine import Database
from iap_node.database.tables import BytesState
from iap_node.dicom.commitment import (
    REQUEST_STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_PUSH_MODEL,
    STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
    ActionStatus,
    EventType,
    FailureReason,
    InvalidRequest,
    Promise,
    read_request,
    write_report,
)
from iap_node.dicom.status import is_accepted
from iap_node.errors import RetriableError, where
from iap_node.listener.admission import is_storage
from iap_node.listener.intake import Intake
from iap_node.spool import Spool

# For the requestor to answer a report on its own association; then it is reported on a new one.
HOLD_S = 60.0

log = structlog.get_logger("commitment")


@dataclass(frozen=True, slots=True)
class Report:
    """An N-EVENT-REPORT to be sent."""

    request: CommitmentRequest
    event_type: EventType
    ds: Dataset
    n_not_committed: int


@dataclass(slots=True)
class _Waiting:
    """A request that is to be reported on its own association."""

    request: CommitmentRequest
    context_id: int
    transfer_syntax: UID
    look_at_s: float  # by `time.monotonic`


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Commitments:
    """Takes requests and makes reports of them.

    Parameters
    ----------
    now
        The clock: aware UTC times.
    """

    def __init__(
        self,
        config: StorageCommitmentConfig,
        database: Database,
        spool: Spool,
        intake: Intake,
        *,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.config = config
        self.database = database
        self.now = now
        self.due = threading.Event()  # set: there may be something to be reported on a new association
        self._spool = spool
        self._intake = intake
        self._turn = threading.Lock()
        self._outbox: dict[Association, list[_Waiting]] = {}
        self._sent: dict[tuple[Association, int], Report] = {}
        self._n_sent = 0

    # ------------------------------------------------------------ requests

    def on_n_action(self, event: evt.Event) -> tuple[int, None]:
        """Answer a request: Success once it is kept."""
        calling_ae_title = str(event.assoc.requestor.ae_title).strip()
        try:
            self._take(event, calling_ae_title)
        except InvalidRequest as error:
            log.warning("storage commitment refused", calling_ae_title=calling_ae_title, reason=str(error))
            return int(error.status), None
        except RetriableError as error:
            log.error("storage commitment not taken", calling_ae_title=calling_ae_title, error=str(error))
            return int(ActionStatus.RESOURCE_LIMITATION), None
        except Exception as error:  # noqa: BLE001 - an edge: hostile data sets; the message may quote them
            log.error("storage commitment not taken", calling_ae_title=calling_ae_title, error=where(error))
            return int(ActionStatus.PROCESSING_FAILURE), None
        return int(ActionStatus.SUCCESS), None

    def _take(self, event: evt.Event, calling_ae_title: str) -> None:
        asked = cast(N_ACTION, event.request)
        if asked.RequestedSOPInstanceUID != STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE:
            raise InvalidRequest(ActionStatus.NO_SUCH_SOP_INSTANCE, "of another SOP Instance than the well-known one")
        if asked.ActionTypeID != REQUEST_STORAGE_COMMITMENT:
            raise InvalidRequest(ActionStatus.NO_SUCH_ACTION, f"Action Type ID {asked.ActionTypeID}")
        if not asked.ActionInformation:
            raise InvalidRequest(ActionStatus.MISSING_ARGUMENT, "no Action Information")
        transaction_uid, references = read_request(event.action_information)
        now = self.now()
        hold_s = self.config.patience_s + HOLD_S if self.config.same_association else 0.0
        with self.database.transaction() as session:
            request = commitments.ask(
                session, transaction_uid, calling_ae_title, str(event.assoc.requestor.address), references, now,
                due_at=now + timedelta(seconds=hold_s), expires_at=now + timedelta(hours=self.config.expire_h),
            )  # fmt: skip
        log.info(
            "storage commitment requested", transaction_uid=transaction_uid, calling_ae_title=calling_ae_title,
            n_instances=len(references), uid_in_use=request.uid_in_use,
        )  # fmt: skip
        if not self.config.same_association:
            self._intake.then(self.due.set)
            return
        context = event.context
        waiting = _Waiting(request, context.context_id, UID(context.transfer_syntax), time.monotonic())
        # the rows of what came before follow within moments
        self._intake.then(partial(self._ready, event.assoc, waiting))

    def _ready(self, assoc: Association, waiting: _Waiting) -> None:
        if assoc.is_established:
            self._put(assoc, waiting)
        if not assoc.is_established:  # it may have ended before or after
            self.ended(assoc)
            self.postpone(waiting.request, 0.0)

    def _put(self, assoc: Association, waiting: _Waiting) -> None:
        with self._turn:
            outbox = self._outbox.setdefault(assoc, [])
            outbox[:] = [one for one in outbox if one.request.id != waiting.request.id]  # asked for again
            outbox.append(waiting)

    # ------------------------------------------------------------ the same association

    def has_news(self, assoc: Association) -> bool:
        """Whether `next_report` may have something; asked often."""
        return assoc in self._outbox

    def next_report(self, assoc: Association) -> bytes | None:
        """The next report to be sent on this association, as PDUs; None: there is none now."""
        with self._turn:
            outbox = self._outbox.get(assoc, [])
            waiting = next((one for one in outbox if one.look_at_s <= time.monotonic()), None)
            if waiting is None:
                return None
            outbox.remove(waiting)
            if not outbox:
                del self._outbox[assoc]
            self._n_sent += 1
            message_id = self._n_sent % 65535 + 1
        try:
            report = self.report(waiting.request)
        except RetriableError as error:
            log.warning("storage commitment not reported yet", error=str(error))
            return None  # it is due again after HOLD_S
        if isinstance(report, float):
            waiting.look_at_s = time.monotonic() + report
            self._put(assoc, waiting)
            return None
        with self._turn:
            self._sent[assoc, message_id] = report
        return _pdus(report, message_id, waiting, assoc.dimse.maximum_pdu_size)

    def answered(self, assoc: Association, message_id: int, status: int) -> bool:
        """The peer answered a report; False: there was none of this Message ID."""
        with self._turn:
            report = self._sent.pop((assoc, message_id), None)
        if report is None:
            return False
        self.settle(report, status, "on the same association")
        return True

    def ended(self, assoc: Association) -> None:
        """An association is over: what was not reported on it goes on a new one."""
        with self._turn:  # others may have ended without telling
            known = (*self._outbox, *(key[0] for key in self._sent))
            over = {one for one in known if one is assoc or not one.is_alive()}
            left = [waiting.request for one in over for waiting in self._outbox.pop(one, ())]
            left += [self._sent.pop(key).request for key in list(self._sent) if key[0] in over]
        for request in left:
            self.postpone(request, 0.0)

    # ------------------------------------------------------------ for both kinds of associations

    def report(self, request: CommitmentRequest) -> Report | float:
        """What there is to say about a request; a number of seconds where it is too early to say that something
        is not here.

        Raises
        ------
        RetriableError
            The database does not work.
        """
        promises = self._promises(request)
        n_not_committed = sum(promise.failure is not None for promise in promises)
        if n_not_committed and not request.uid_in_use:
            early_s = self.config.patience_s - (self.now() - request.requested_at).total_seconds()
            if early_s > 0:
                return early_s
        return Report(request, *write_report(request.transaction_uid, promises), n_not_committed)

    def settle(self, report: Report, status: int, how: str) -> None:
        """Write down what the requestor answered to a report."""
        if not is_accepted(status):
            self.failed(report.request, f"the requestor answered the report with status {status:04X}H")
            return
        try:
            with self.database.transaction() as session:
                commitments.delivered(session, report.request.id, report.n_not_committed, self.now())
        except RetriableError as error:  # it is reported again later
            log.warning("report of a storage commitment not noted", error=str(error))
            return
        log.info(
            "storage commitment reported", transaction_uid=report.request.transaction_uid, how=how,
            calling_ae_title=report.request.calling_ae_title, n_instances=len(report.request.instances),
            n_not_committed=report.n_not_committed,
        )  # fmt: skip

    def failed(self, request: CommitmentRequest, error: str) -> None:
        """Note that a report did not reach its requestor: it is tried again later, on a new association."""
        wait_s = min(self.config.backoff_s * 2.0 ** min(request.attempts, 30), self.config.backoff_max_s)
        try:
            with self.database.transaction() as session:
                state = commitments.failed(session, request, error, wait_s, self.now())
        except RetriableError as away:
            log.warning("failed report of a storage commitment not noted", error=str(away))
            return
        log.warning(
            "storage commitment not reported", transaction_uid=request.transaction_uid, error=error, state=state.value,
            calling_ae_title=request.calling_ae_title,
        )  # fmt: skip

    def postpone(self, request: CommitmentRequest, wait_s: float) -> None:
        """Report it after so many seconds, and not before."""
        now = self.now()
        try:
            with self.database.transaction() as session:
                commitments.postpone(session, request.id, now + timedelta(seconds=wait_s), now)
        except RetriableError as error:
            log.warning("report of a storage commitment not postponed", error=str(error))  # it is due after HOLD_S
        self.due.set()

    def _promises(self, request: CommitmentRequest) -> list[Promise]:
        if request.uid_in_use:
            return [Promise(*reference, FailureReason.DUPLICATE_TRANSACTION_UID) for reference in request.instances]
        uids = [sop_instance_uid for _, sop_instance_uid in request.instances]
        with self.database.reading() as session:
            standing = commitments.standing_instances(session, uids)
            lost = commitments.lost_conflicts(session, uids, request.calling_ae_title)

        def failure(sop_class_uid: str, sop_instance_uid: str) -> FailureReason | None:
            known = standing.get(sop_instance_uid)
            if known is None:
                known_class = is_storage(sop_class_uid)
                return FailureReason.NO_SUCH_OBJECT_INSTANCE if known_class else FailureReason.SOP_CLASS_NOT_SUPPORTED
            if known.sop_class_uid != sop_class_uid:
                return FailureReason.CLASS_INSTANCE_CONFLICT
            if known.bytes_state is not BytesState.PRESENT or not self._spool.exists(known.spool_path):
                return FailureReason.NO_SUCH_OBJECT_INSTANCE
            if sop_instance_uid in lost:  # what stands here are the bytes of another reception
                return FailureReason.PROCESSING_FAILURE
            return None

        return [Promise(*reference, failure(*reference)) for reference in request.instances]


def _pdus(report: Report, message_id: int, waiting: _Waiting, longest: int) -> bytes:
    """An N-EVENT-REPORT-RQ as P-DATA-TF PDUs."""
    syntax = waiting.transfer_syntax
    encoded = encode(report.ds, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    assert encoded is not None  # UIDs and numbers
    request = N_EVENT_REPORT()
    request.MessageID = message_id
    request.AffectedSOPClassUID = UID(STORAGE_COMMITMENT_PUSH_MODEL)
    request.AffectedSOPInstanceUID = UID(STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE)
    request.EventTypeID = int(report.event_type)
    request.EventInformation = BytesIO(encoded)
    message: Any = N_EVENT_REPORT_RQ()
    message.primitive_to_message(request)
    pdus = []
    for pdata in message.encode_msg(waiting.context_id, longest):
        pdu: Any = P_DATA_TF()
        pdu.from_primitive(pdata)
        pdus.append(pdu.encode())
    return b"".join(pdus)
