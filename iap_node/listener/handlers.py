"""What the listener answers: the handlers of pynetdicom's events, bound explicitly by `scp`, and of `receiver`.

`answer_store` is one of the edges of the node: whatever goes wrong with one instance, the sender gets a status
of PS3.4 Table B.2-1 with a comment that says what to do, and the association goes on.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE, SOPClassCommonExtendedNegotiation
from pynetdicom.presentation import PresentationContextTuple

from iap_node.dicom.commitment import STORAGE_COMMITMENT_PUSH_MODEL
from iap_node.dicom.part10 import HeaderScanner
from iap_node.dicom.query import STUDY_ROOT_FIND
from iap_node.dicom.status import StoreStatus
from iap_node.errors import RetriableError, UnreadableInstance, where
from iap_node.listener.admission import Admission, crowding, storage_service, supported_contexts
from iap_node.listener.associations import Associations
from iap_node.listener.commitment import Commitments
from iap_node.listener.intake import InstanceMismatch, Intake
from iap_node.listener.limits import DiskLow, DiskReserve, InstanceTooLarge, Limits
from iap_node.listener.query import Finder
from iap_node.listener.reception import Reception, Request
from iap_node.records import ReceivedInstance
from iap_node.spool import MAX_RECORD_BYTES

MAX_COMMENT = 64  # Error Comment (0000,0902) is LO: 64 characters, no backslash

DISK_OR_DATABASE = "Not stored: disk or archive of receiver fails; send again later"
DISK_LOW = "Not stored: the disk of the receiver is low; send again later"
TOO_LARGE = "Not stored: larger than the receiver takes (max_instance_mb)"
MISMATCH = "Quarantined: SOP UIDs of C-STORE-RQ and data set differ"
UNREADABLE = "Quarantined: "
UNEXPECTED = "Not stored: receiver error, see its log; send again later"

OnRelease = Callable[[list[str]], None]

log = structlog.get_logger("listener")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a C-STORE-RSP says."""

    status: StoreStatus
    comment: str  # Error Comment (0000,0902), ASCII; empty: none


SUCCESS = Answer(StoreStatus.SUCCESS, "")


class Handlers:
    """The handlers of one listener.

    Parameters
    ----------
    on_release
        Called with the Series Instance UIDs of what arrived when a sender releases its association, and not
        when it aborts or is cut off: then more may come. None: nothing is called.
    disk
        Asked before an instance is taken. None: it may fill up.
    commitments
        Answers storage commitment requests. None: that service is not offered.
    finder
        Answers queries. None: that service is not offered.
    """

    def __init__(
        self,
        intake: Intake,
        admission: Admission,
        associations: Associations,
        limits: Limits,
        on_release: OnRelease | None,
        disk: DiskReserve | None = None,
        commitments: Commitments | None = None,
        finder: Finder | None = None,
    ) -> None:
        self.limits = limits
        self._disk = disk
        self._crowding: set[str] = set()  # peers that were told, since they last got a place
        self._intake = intake
        self._admission = admission
        self._associations = associations
        self._on_release = on_release
        self._commitments = commitments
        self._finder = finder
        offered = ((STORAGE_COMMITMENT_PUSH_MODEL, commitments), (STUDY_ROOT_FIND, finder))
        self._services = frozenset(uid for uid, service in offered if service is not None)

    def bindings(self) -> list[evt.EventHandlerType]:
        """Which handler answers which event."""
        services: list[evt.EventHandlerType] = []
        if self._commitments is not None:
            services.append((evt.EVT_N_ACTION, self._commitments.on_n_action))
        if self._finder is not None:
            services.append((evt.EVT_C_FIND, self._finder.on_c_find))
            services.append((evt.EVT_SOP_EXTENDED, self._finder.on_extended_negotiation))
        return [
            *services,
            (evt.EVT_REQUESTED, self.on_requested),
            (evt.EVT_SOP_COMMON, self.on_sop_common),
            (evt.EVT_ESTABLISHED, self.on_established),
            (evt.EVT_C_ECHO, self.on_c_echo),
            (evt.EVT_C_STORE, self.on_c_store),
            (evt.EVT_PDU_RECV, self.on_pdu_received),
            (evt.EVT_PDU_SENT, self.on_pdu_sent),
            (evt.EVT_RELEASED, self.on_released),
            (evt.EVT_ABORTED, self.on_aborted),
            (evt.EVT_CONN_CLOSE, self.on_connection_closed),
        ]

    # ------------------------------------------------------------ association

    def on_requested(self, event: evt.Event) -> None:
        """Reject who may not send, or has no place; support of the proposed contexts what we can store."""
        assoc: Association = event.assoc
        request = cast(A_ASSOCIATE, assoc.requestor.primitive)
        address = str(assoc.requestor.address)
        refusal = self._admission.refusal(
            calling_ae_title=request.calling_ae_title,
            called_ae_title=request.called_ae_title,
            address=address,
        )
        level = logging.WARNING
        if refusal is None:
            peer = self._admission.peer(calling_ae_title=request.calling_ae_title, address=address)
            full = self._associations.admit(assoc, peer)
            if full is None:
                self._crowding.discard(peer)
                assoc.acceptor.supported_contexts = supported_contexts(
                    request.presentation_context_definition_list, self._services
                )
                return
            refusal = crowding(full)
            if peer in self._crowding:  # once is enough: one that floods us must not flood the log, too
                level = logging.DEBUG
            self._crowding.add(peer)
        log.log(
            level, "association rejected", calling_ae_title=request.calling_ae_title.strip(), source_address=address,
            reason=refusal.reason.name, remedy=refusal.remedy,
        )  # fmt: skip
        assoc.acse.send_reject(*refusal.reason.value)
        assoc.kill()  # waits until A-ASSOCIATE-RJ has left; pynetdicom closes the connection next

    def on_sop_common(self, event: evt.Event) -> dict[str, SOPClassCommonExtendedNegotiation]:
        """Tell pynetdicom which abstract syntaxes are of the Storage Service Class."""
        request = cast(A_ASSOCIATE, event.assoc.requestor.primitive)
        return storage_service(request.presentation_context_definition_list)

    def on_established(self, event: evt.Event) -> None:
        """Note a new association."""
        assoc: Association = event.assoc
        calling_ae_title, address = peer_of(assoc)
        self._associations.opened(assoc, calling_ae_title, address)
        log.info(
            "association established", calling_ae_title=calling_ae_title, source_address=address,
            n_contexts=len(assoc.accepted_contexts), n_refused_contexts=len(assoc.rejected_contexts),
        )  # fmt: skip

    def on_released(self, event: evt.Event) -> None:
        """The sender is through."""
        series = self._end(event.assoc, "released")
        if series and self._on_release is not None:
            self._intake.then(partial(self._complete_at_release, self._on_release, series))

    @staticmethod
    def _complete_at_release(on_release: OnRelease, series: list[str]) -> None:
        try:
            on_release(series)
        except RetriableError as error:  # the quiet period completes these series later
            log.warning("series not completed at release", error=str(error), n_series=len(series))

    def on_aborted(self, event: evt.Event) -> None:
        """The sender, the network or we cut the association off."""
        self._end(event.assoc, "aborted")

    def on_connection_closed(self, event: evt.Event) -> None:
        """The connection is gone, after a release, an abort, or without either."""
        if event.assoc.is_established or event.assoc.is_released:  # EVT_ABORTED or EVT_RELEASED is on its way
            return
        self._end(event.assoc, "connection closed")

    def _end(self, assoc: Association, how: str) -> list[str]:
        activity = self._associations.closed(assoc)
        if self._commitments is not None:
            self._commitments.ended(assoc)
        if activity is None:
            return []
        log.info(
            "association ended", how=how, calling_ae_title=activity.calling_ae_title,
            source_address=activity.source_address, n_failed=activity.n_failed,
            n_accepted=activity.n_accepted, duration_s=round(time.monotonic() - activity.started_at_s, 3),
        )  # fmt: skip
        return list(activity.series_instance_uids)

    def on_pdu_received(self, event: evt.Event) -> None:
        """Something of a message came in."""
        if isinstance(event.pdu, P_DATA_TF):
            self._associations.message_started(event.assoc)

    def on_pdu_sent(self, event: evt.Event) -> None:
        """Our answer has left."""
        if isinstance(event.pdu, P_DATA_TF):
            self._associations.message_answered(event.assoc)

    # ------------------------------------------------------------ services

    def on_c_echo(self, event: evt.Event) -> int:
        """Answer a verification (PS3.4 Annex A)."""
        calling_ae_title, address = peer_of(event.assoc)
        log.debug("verification", calling_ae_title=calling_ae_title, source_address=address)
        return StoreStatus.SUCCESS

    def on_c_store(self, event: evt.Event) -> Dataset:
        """Answer a store that pynetdicom received."""
        assoc: Association = event.assoc
        request = cast(C_STORE, event.request)
        answer, kept = self.answer_store(
            assoc, str(request.AffectedSOPInstanceUID), lambda: self._receive(assoc, request, event.context)
        )
        if kept is not None:
            self.accepted(assoc, kept)
        ds = Dataset()
        ds.Status = int(answer.status)
        if answer.comment:
            ds.ErrorComment = answer.comment
        return ds

    def _receive(self, assoc: Association, request: C_STORE, context: PresentationContextTuple) -> ReceivedInstance:
        self._refuse_while_disk_is_low()
        calling_ae_title, address = peer_of(assoc)
        return self._intake.accept_whole(
            request.DataSet.getvalue() if request.DataSet else b"",  # shares its memory with the request
            Request(
                str(request.AffectedSOPClassUID),
                str(request.AffectedSOPInstanceUID),
                str(context.transfer_syntax),
                calling_ae_title,
                address,
            ),
        )

    # ------------------------------------------------------------ called by `receiver`, in this order

    def begin_message(self, assoc: Association) -> None:
        """The first fragment of a message came in."""
        self._associations.message_started(assoc)

    def open_store(self, request: Request, scanner: HeaderScanner) -> Reception:
        """A C-STORE-RQ came in; its data set is still to come.

        Parameters
        ----------
        scanner
            Of the association.

        Raises
        ------
        RetriableError
            The disk is low (`DiskLow`) or does not work.
        """
        self._refuse_while_disk_is_low()
        return self._intake.open(request, scanner)

    def check_store(self, n_bytes: int) -> None:
        """The data set of a store has so many bytes so far; for large ones called again and again.

        Raises
        ------
        InstanceTooLarge, RetriableError
            It cannot be stored; that is told when it has come in whole.
        PeerOutOfBounds
            Even that is too much; abort.
        """
        self.limits.size.check(n_bytes)
        if self._disk is not None and n_bytes > MAX_RECORD_BYTES:
            reason = self._disk.refusal_of_running()
            if reason is not None:
                raise DiskLow(reason)

    def _refuse_while_disk_is_low(self) -> None:
        if self._disk is not None:
            # the others that are busy may have as much in memory, or in a segment without blocks
            reason = self._disk.refusal(expected_bytes=self._associations.n_busy() * MAX_RECORD_BYTES)
            if reason is not None:
                raise DiskLow(reason)

    def keep_store(self, reception: Reception) -> ReceivedInstance:
        """The data set came in whole; for use within `answer_store`."""
        return self._intake.accept(reception)

    def answer_store(
        self, assoc: Association, sop_instance_uid: str, keep: Callable[[], ReceivedInstance]
    ) -> tuple[Answer, ReceivedInstance | None]:
        """Keep an instance and tell what became of it (PS3.4 Annex B): Success only for what is durable.

        Parameters
        ----------
        keep
            Makes it durable. Whatever it raises becomes a status.

        Returns
        -------
        Answer
            To be sent.
        ReceivedInstance | None
            To be given to `accepted` when the answer has left: the sender need not wait for that.
        """
        kept = None
        try:
            kept = keep()
            answer = SUCCESS
        except InstanceMismatch:
            answer = _answer(StoreStatus.SOP_CLASS_MISMATCH, MISMATCH)
        except UnreadableInstance as error:
            answer = _answer(StoreStatus.CANNOT_UNDERSTAND, f"{UNREADABLE}{error}")
        except InstanceTooLarge as error:
            _logged(assoc, sop_instance_uid).warning("instance not stored", error=str(error))
            answer = _answer(StoreStatus.CANNOT_UNDERSTAND, TOO_LARGE)  # why this one: `SizeLimit`
        except DiskLow as error:  # its beginning and its end are in the log
            _logged(assoc, sop_instance_uid).debug("instance not stored", error=str(error))
            answer = _answer(StoreStatus.OUT_OF_RESOURCES, DISK_LOW)
        except RetriableError as error:
            _logged(assoc, sop_instance_uid).error("instance not stored", error=str(error))
            answer = _answer(StoreStatus.OUT_OF_RESOURCES, DISK_OR_DATABASE)
        except Exception as error:  # noqa: BLE001 - an edge: one instance must not end the association
            # The traceback, but not the message: it may quote the data set, and so a patient.
            _logged(assoc, sop_instance_uid).error("instance not stored, unexpected error", error=where(error))
            answer = _answer(StoreStatus.PROCESSING_FAILURE, UNEXPECTED)
        if kept is None:
            self._associations.failed(assoc)
        # pynetdicom's idle timer counts from what the peer sent last. However long the disk took, the peer
        # was waiting for us and not idle.
        assoc.dul._idle_timer.restart()
        return answer, kept

    def accepted(self, assoc: Association, kept: ReceivedInstance) -> None:
        """An instance is durable, and its sender is told so."""
        header = kept.header
        self._associations.accepted(assoc, header.series_instance_uid)
        log.debug(
            "instance accepted", sop_instance_uid=header.sop_instance_uid, size_bytes=kept.size_bytes,
            series_instance_uid=header.series_instance_uid, not_analysed_reason=kept.not_analysed_reason,
        )  # fmt: skip

    def end_message(self, assoc: Association) -> None:
        """The answer has left."""
        self._associations.message_answered(assoc)

    # ------------------------------------------------------------ what the node says by itself

    def unasked(self, assoc: Association) -> bytes | None:
        """Between messages: PDUs of what the node has to say on this association; None: nothing."""
        commitments = self._commitments
        if commitments is None or not commitments.has_news(assoc):
            return None
        if self._associations.is_busy(assoc) or not assoc.dul.to_provider_queue.empty():
            return None  # an answer is on its way, and has to leave before
        return commitments.next_report(assoc)

    def answered(self, assoc: Association, message_id: int, status: int) -> bool:
        """The peer answered something that the node had said by itself; False: it had not."""
        if self._commitments is None or not self._commitments.answered(assoc, message_id, status):
            return False
        self._associations.message_answered(assoc)
        return True


def _logged(assoc: Association, sop_instance_uid: str) -> Any:
    return log.bind(sop_instance_uid=sop_instance_uid, calling_ae_title=peer_of(assoc)[0])


def peer_of(assoc: Association) -> tuple[str, str]:
    """Calling AE title and address of the sender."""
    return str(assoc.requestor.ae_title).strip(), str(assoc.requestor.address)


def _answer(status: StoreStatus, comment: str = "") -> Answer:
    """A status with an Error Comment (0000,0902) cut to what LO allows."""
    return Answer(status, re.sub(r"[^\x20-\x5b\x5d-\x7e]", "?", comment)[:MAX_COMMENT].rstrip())
