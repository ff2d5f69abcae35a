"""Instances that come by STOW-RS, part by part, into the same intake as C-STORE. `iap-node web` hands it to the web.

What holds for an association holds for a request: limits of size and pace, the disk's reserve, the quarantine, and
Success only for what is durable. A part is a Part 10 file; its data set is kept as it came, its file meta is written
anew, as of an instance that comes by C-STORE.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import structlog

from iap_node.config import ListenerConfig
from iap_node.config.web import StowConfig
from iap_node.dicom.part10 import HeaderScanner, identify_first_bytes, n_first_bytes
from iap_node.dicom.status import StoreStatus
from iap_node.dicom.store_instances import STUDY_MISMATCH, PartStatus
from iap_node.errors import NodeError, RetriableError, UnreadableInstance
from iap_node.listener.intake import Intake
from iap_node.listener.limits import DiskLow, DiskReserve, InstanceTooLarge, Limits
from iap_node.listener.reception import Reception, Request
from iap_node.spool import MAX_RECORD_BYTES

ROWS_S = 10.0  # how long an answer waits for the rows of what is durable already; without them it is given as well

log = structlog.get_logger("stow")


class _OfOtherStudy(NodeError):
    """The instance is not of the study that the request names."""


class StowIntake:
    """Takes requests; any number of threads may ask.

    Parameters
    ----------
    intake
        Of this process, for as long as it lives.
    disk
        Asked before a request, before each instance, and while a large one comes.
    """

    def __init__(self, intake: Intake, disk: DiskReserve, listener: ListenerConfig, config: StowConfig) -> None:
        self._intake = intake
        self._disk = disk
        self._limits = Limits.of(listener)
        self._most_requests = config.max_requests
        self._turn = threading.Lock()
        self._n_requests = 0
        self.idle_timeout_s = listener.idle_timeout_s

    def begin(self, sender: str, address: str, study_instance_uid: str | None) -> StowReception:
        """Begin a request; `close` it in any case.

        Parameters
        ----------
        sender
            By which archive and rules know it: as an AE title.
        study_instance_uid
            All instances must be of; None: of any.

        Raises
        ------
        RetriableError
            Nothing can be taken now: disk low, database away, or as many requests are under way as may be.
        """
        reason = self.disk_refusal() or self._intake.refusal()
        if reason is not None:
            raise RetriableError(reason)
        with self._turn:
            if self._n_requests >= self._most_requests:
                raise RetriableError(f"{self._most_requests} requests are under way already (web.stow.max_requests)")
            self._n_requests += 1
        return StowReception(self, Request("", "", "", sender, address), study_instance_uid)

    def disk_refusal(self) -> str | None:
        """Why no further instance is taken: the disk is low, what the requests under way may need included."""
        return self._disk.refusal(expected_bytes=self._n_requests * MAX_RECORD_BYTES)

    def _ended(self) -> None:
        with self._turn:
            self._n_requests -= 1


class StowReception:
    """One request on its way in, part after part; not for several threads at once."""

    def __init__(self, stow: StowIntake, request: Request, study_instance_uid: str | None) -> None:
        self.parts: list[PartStatus] = []
        self._stow = stow
        self._intake, self._disk, self._size = stow._intake, stow._disk, stow._limits.size
        self._pace = stow._limits.new_pace()
        self._request = self._begun = request  # of any part, and of the one that comes
        self._study_instance_uid = study_instance_uid
        self._scanner = HeaderScanner()
        self._reception: Reception | None = None
        self._head: bytearray | None = None  # of the part, until it is known which instance it holds
        self._failed: PartStatus | None = None
        self._n_bytes = 0
        self._closed = False

    # ------------------------------------------------------------ pace

    def waited(self, seconds: float, n_bytes: int) -> None:
        """So long nothing came, then so much.

        Raises
        ------
        PeerOutOfBounds
            The sender is too slow.
        """
        self._pace.received(n_bytes)
        self._pace.waited(seconds)

    # ------------------------------------------------------------ a part

    def begin_part(self) -> None:
        """The headers of a part came; its file is still to come."""
        self._head, self._failed, self._n_bytes = bytearray(), None, 0

    def write(self, piece: memoryview) -> None:
        """So much of its file came.

        Raises
        ------
        PeerOutOfBounds
            It is too large even to be read to its end.
        """
        self._n_bytes += len(piece)
        try:
            if self._failed is None:
                self._take(piece)
            self._size.check(self._n_bytes)  # afterwards: its name is known then, and a piece is small
        except (InstanceTooLarge, UnreadableInstance, RetriableError) as error:
            self._fail_by(error)

    def end_part(self) -> None:
        """Its file came whole: keep it, durably; its row follows."""
        try:
            if self._failed is None and self._head is not None:
                self._identify()
            if self._failed is None:
                self._keep()
        except (_OfOtherStudy, UnreadableInstance, RetriableError) as error:
            self._fail_by(error)
        self._end_part()

    def refuse_part(self, why: str) -> None:
        """A part came that is no DICOM file; nothing of it is written."""
        self._failed, self._n_bytes = None, 0
        self._fail(StoreStatus.CANNOT_UNDERSTAND, why)

    def _take(self, piece: memoryview) -> None:
        if self._head is not None:
            self._head += piece
            if len(self._head) >= 144 and len(self._head) >= n_first_bytes(self._head):
                self._identify()
            return
        assert self._reception is not None
        self._reception.write(piece)
        if self._n_bytes > MAX_RECORD_BYTES:
            reason = self._disk.refusal_of_running()
            if reason is not None:
                raise DiskLow(reason)

    def _identify(self) -> None:
        """Begin the instance that the first bytes tell of; what tells of none goes to the quarantine, as it is."""
        head, self._head = self._head, None
        assert head is not None
        request, begins = self._request, 0
        try:
            found = identify_first_bytes(head)
            begins = found.data_set_at
            request = replace(
                request,
                sop_class_uid=found.sop_class_uid,
                sop_instance_uid=found.sop_instance_uid,
                transfer_syntax_uid=found.transfer_syntax_uid,
            )
        except UnreadableInstance:
            if not head:
                raise
        self._begun = request
        reason = self._stow.disk_refusal()
        if reason is not None:
            raise DiskLow(reason)
        self._reception = self._intake.open(request, self._scanner)
        self._reception.write(memoryview(head)[begins:])

    def _keep(self) -> None:
        assert self._reception is not None
        self._refuse_other_study(self._reception)
        kept = self._intake.accept(self._reception)
        header = kept.header
        self.parts.append(PartStatus(StoreStatus.SUCCESS, "", header.sop_class_uid, header.sop_instance_uid))
        log.debug(
            "instance accepted", sop_instance_uid=header.sop_instance_uid, size_bytes=kept.size_bytes,
            series_instance_uid=header.series_instance_uid, not_analysed_reason=kept.not_analysed_reason,
        )  # fmt: skip

    def _refuse_other_study(self, reception: Reception) -> None:
        if self._study_instance_uid is None:
            return
        try:
            found = reception.scan().study_instance_uid
        except UnreadableInstance:  # the intake says so, too, and keeps its bytes
            return
        if found != self._study_instance_uid:
            raise _OfOtherStudy(f"it is of study {found}, the request names {self._study_instance_uid}")

    def _fail_by(self, error: NodeError) -> None:
        if isinstance(error, _OfOtherStudy):
            self._fail(STUDY_MISMATCH, str(error))
        elif isinstance(error, RetriableError):
            self._fail(StoreStatus.OUT_OF_RESOURCES, str(error), told=isinstance(error, DiskLow))
        else:  # unreadable (its bytes are in the quarantine), or too large; why this status: `SizeLimit`
            self._fail(StoreStatus.CANNOT_UNDERSTAND, str(error))

    def _fail(self, status: int, why: str, *, told: bool = False) -> None:
        if self._failed is not None:
            return
        request = self._begun
        self._failed = PartStatus(int(status), why, request.sop_class_uid, request.sop_instance_uid)
        self.parts.append(self._failed)
        self._head = None
        self._drop()
        level = logging.DEBUG if told else logging.WARNING  # that the disk is low is told once, when it begins
        log.log(
            level, "instance not stored", sop_instance_uid=request.sop_instance_uid, error=why,
            calling_ae_title=request.calling_ae_title, status=f"{status:04X}H",
        )  # fmt: skip

    def _end_part(self) -> None:
        self._drop()
        self._head = self._failed = None
        self._begun = self._request

    def _drop(self) -> None:
        reception, self._reception = self._reception, None
        if reception is not None:
            reception.drop()

    # ------------------------------------------------------------ the end

    def settle(self) -> None:
        """Wait for the rows of what was stored, for a while: who asks next finds it."""
        if not self._intake.flush(ROWS_S):
            log.warning("rows of what was stored follow later", calling_ae_title=self._request.calling_ae_title)

    def close(self) -> None:
        """Leave nothing of a part that did not come whole; what was kept stays."""
        if not self._closed:
            self._closed = True
            self._end_part()
            self._stow._ended()
