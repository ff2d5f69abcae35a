"""Has a PACS send: by C-MOVE to our listener, or by C-GET over our own association, straight into the intake.

Source: PS3.4 C.4.2 (C-MOVE), C.4.3 (C-GET, with SCP/SCU role selection for each storage SOP Class).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext

from iap_node.config import SourceConfig
from iap_node.dicom.query import STUDY_ROOT_FIND
from iap_node.dicom.sop_classes import MR_IMAGE_SOP_CLASSES, STORAGE_SOP_CLASSES
from iap_node.dicom.status import StoreStatus
from iap_node.errors import ConfigError, DeliveryError, RetriableError, UnreadableInstance, where
from iap_node.listener.intake import Intake
from iap_node.listener.limits import DiskReserve
from iap_node.listener.reception import Request
from iap_node.scu import MOST_CONTEXTS, association, name_of

STUDY_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
UIDS_AT_ONCE: Final = 100  # of one IMAGE level request
PENDING: Final = 0xFF00
MOVE_DESTINATION_UNKNOWN: Final = 0xA801

# What a C-GET proposes: the syntaxes that instances are stored in. An MR image has a context for each, so that the PACS
# sends it as it has it; the other SOP Classes share what contexts are left, and the PACS chooses.
GET_TRANSFER_SYNTAXES: Final = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1, JPEGLossless, JPEG2000Lossless, JPEG2000,
    JPEGLSLossless, JPEGLSNearLossless, RLELossless, JPEGBaseline8Bit, JPEGExtended12Bit, HTJ2KLossless,
    DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian,
)  # fmt: skip
_MR_FIRST = sorted(STORAGE_SOP_CLASSES, key=lambda uid: uid not in MR_IMAGE_SOP_CLASSES)
_N_MR = len(MR_IMAGE_SOP_CLASSES)
GET_SOP_CLASSES: Final = tuple(_MR_FIRST[: _N_MR + MOST_CONTEXTS - 2 - _N_MR * len(GET_TRANSFER_SYNTAXES)])

log = structlog.get_logger("pull")


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What became of one request."""

    n_completed: int
    n_failed: int
    problem: str = ""  # empty: all of it was sent


class Retriever:
    """Asks one PACS for series.

    Parameters
    ----------
    destination
        Our listener's AE title, to which C-MOVE sends.
    intake, disk
        Where C-GET files what comes; not used by C-MOVE.
    pause
        Called with a number of seconds to wait, to stay below `instances_per_minute`.
    """

    def __init__(
        self,
        source: SourceConfig,
        destination: str,
        intake: Intake,
        disk: DiskReserve | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._source = source
        self._destination = destination
        self._intake = intake
        self._disk = disk
        self._pause = pause
        self._failure: RetriableError | ConfigError | None = None  # of ours, over which nothing more is asked for
        self._next_at_s = time.monotonic()
        self.on_instance: Callable[[int], None] = lambda n: None  # called with how many more have come

    @contextmanager
    def connected(self) -> Iterator[Association]:
        """An association for both search and retrieval.

        Raises
        ------
        DeliveryError, ConfigError
            See `iap_node.scu.association`; or the PACS does not offer what is needed.
        """
        contexts: list[PresentationContext] = [build_context(STUDY_ROOT_FIND)]
        roles = []
        service = STUDY_ROOT_MOVE if self._source.retrieve == "move" else STUDY_ROOT_GET
        contexts.append(build_context(service))
        if service == STUDY_ROOT_GET:
            for sop_class_uid in GET_SOP_CLASSES:
                contexts += _contexts(sop_class_uid)
                roles.append(build_role(sop_class_uid, scp_role=True))
        handlers: list[evt.EventHandlerType] = [(evt.EVT_C_STORE, self._on_c_store)]
        with association(contexts, self._source, roles=roles, handlers=handlers) as assoc:
            accepted = {str(context.abstract_syntax) for context in assoc.accepted_contexts}
            for needed, name in ((STUDY_ROOT_FIND, "C-FIND"), (service, f"C-{self._source.retrieve.upper()}")):
                if needed not in accepted:
                    raise DeliveryError(f"{name_of(self._source)} offers no {name} of the Study Root; allow it there")
            yield assoc

    def retrieve(
        self,
        assoc: Association,
        study_instance_uid: str,
        series_instance_uid: str,
        sop_instance_uids: Sequence[str] = (),
    ) -> Retrieved:
        """Have a series sent, or these instances of it.

        Raises
        ------
        RetriableError
            Our disk or database does not work, or the PACS does not answer.
        """
        n_completed = n_failed = 0
        problem = ""
        batches: list[Sequence[str]] = [
            sop_instance_uids[start : start + UIDS_AT_ONCE] for start in range(0, len(sop_instance_uids), UIDS_AT_ONCE)
        ]
        for uids in batches or [()]:
            ds = Dataset()
            ds.QueryRetrieveLevel = "IMAGE" if uids else "SERIES"
            ds.StudyInstanceUID = study_instance_uid
            ds.SeriesInstanceUID = series_instance_uid
            if uids:
                ds.SOPInstanceUID = list(uids)
            done = self._request(assoc, ds)
            n_completed, n_failed = n_completed + done.n_completed, n_failed + done.n_failed
            problem = done.problem or problem
        return Retrieved(n_completed, n_failed, problem)

    def _request(self, assoc: Association, ds: Dataset) -> Retrieved:
        if not assoc.is_established:
            raise DeliveryError("the PACS ended the association")
        by_move = self._source.retrieve == "move"
        answers = (
            assoc.send_c_move(ds, self._destination, STUDY_ROOT_MOVE)
            if by_move
            else assoc.send_c_get(ds, STUDY_ROOT_GET)
        )
        status = Dataset()
        n_told = 0
        for status, _ in answers:
            if "Status" not in status:
                break
            if by_move:
                n_done = _number(status, "NumberOfCompletedSuboperations")
                self.on_instance(max(0, n_done - n_told))
                n_told = max(n_told, n_done)
        if self._failure is not None:
            raise self._failure
        if "Status" not in status:
            raise DeliveryError(f"{name_of(self._source)} did not answer, or ended the association")
        n_failed = _number(status, "NumberOfFailedSuboperations")
        n_completed = _number(status, "NumberOfCompletedSuboperations")
        n_completed += _number(status, "NumberOfWarningSuboperations")
        if by_move:
            self._keep_pace(n_completed)
        problem = "" if status.Status == 0x0000 and not n_failed else self._problem(status, n_failed)
        return Retrieved(n_completed, n_failed, problem)

    def _problem(self, status: Dataset, n_failed: int) -> str:
        comment = str(status.get("ErrorComment", "") or "")
        if status.Status == MOVE_DESTINATION_UNKNOWN:
            return f"the PACS does not know {self._destination}: enter our listener there, or set retrieve: get"
        told = f"{n_failed} instances not sent, status {status.Status:04X}H {comment}".rstrip()
        return f"{told}; see the log there"

    # ------------------------------------------------------------ C-GET: what the PACS sends

    def _on_c_store(self, event: evt.Event) -> int:
        """File an instance that the PACS sends: an edge, as the listener's."""
        request = cast(C_STORE, event.request)
        sop_instance_uid = str(request.AffectedSOPInstanceUID)
        if self._failure is not None:
            return StoreStatus.OUT_OF_RESOURCES
        try:
            reason = None if self._disk is None else self._disk.refusal()
            if reason is not None:
                raise RetriableError(reason)
            data: Any = request.DataSet
            self._intake.accept_whole(
                data.getvalue() if data else b"",
                Request(
                    str(request.AffectedSOPClassUID),
                    sop_instance_uid,
                    str(event.context.transfer_syntax),
                    self._source.ae_title,
                    self._source.host,
                ),
            )
        except UnreadableInstance:  # it is in the quarantine, and the intake has logged why
            return StoreStatus.CANNOT_UNDERSTAND
        except RetriableError as error:
            self._failure = error
            return StoreStatus.OUT_OF_RESOURCES
        except Exception as error:  # noqa: BLE001 - an edge: one instance must not end the association
            log.error("instance not stored, unexpected error", sop_instance_uid=sop_instance_uid, error=where(error))
            return StoreStatus.PROCESSING_FAILURE
        self.on_instance(1)
        self._keep_pace(1)
        return StoreStatus.SUCCESS

    def _keep_pace(self, n_instances: int) -> None:
        """Wait where more came than `instances_per_minute` allows on average."""
        if self._source.instances_per_minute is None:
            return
        now_s = time.monotonic()
        self._next_at_s = max(self._next_at_s, now_s) + n_instances * 60.0 / self._source.instances_per_minute
        self._pause(self._next_at_s - now_s)


def _contexts(sop_class_uid: str) -> list[PresentationContext]:
    syntaxes: list[str | UID] = list(GET_TRANSFER_SYNTAXES)
    if sop_class_uid in MR_IMAGE_SOP_CLASSES:
        return [build_context(sop_class_uid, syntax) for syntax in syntaxes]
    return [build_context(sop_class_uid, syntaxes)]


def _number(status: Dataset, keyword: str) -> int:
    return int(status.get(keyword, 0) or 0)
