"""Reports of storage commitment on associations of our own: one thread per process of the listener.

Requests wait in the database, so that they survive a restart and may be reported by any process. One association
takes all that is due for a requestor; we propose ourselves as the SCP (PS3.4 J.3.3, PS3.7 D.3.3.4).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog
from pynetdicom import build_context, build_role
from pynetdicom.association import Association

from iap_node.config import TlsConfig
from iap_node.database import commitments
from iap_node.database.commitments import CommitmentRequest
from iap_node.dicom.commitment import STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE
from iap_node.errors import ConfigError, DeliveryError, RetriableError, where
from iap_node.listener.commitment import Commitments
from iap_node.scu import association, name_of

POLL_S = 5.0  # how soon a process notices what others left, and what is due again
AT_ONCE = 20  # requests; one may name thousands of instances
WAIT_S = 600.0  # for which what is claimed is nobody else's: a crash delays its reports by so much

log = structlog.get_logger("commitment")


@dataclass(frozen=True, slots=True)
class _Requestor:
    ae_title: str
    host: str
    port: int
    calling_ae_title: str
    timeout_s: float
    tls: TlsConfig


class Reporter:
    """Reports what is due until it is stopped.

    Parameters
    ----------
    ae_title
        Ours: who the requestors asked.
    """

    def __init__(self, commitments: Commitments, ae_title: str) -> None:
        self._commitments = commitments
        self._ae_title = ae_title
        self._stop = threading.Event()
        self._assoc: Association | None = None
        self._thread = threading.Thread(target=self._run, name="commitment-reporter", daemon=True)

    def start(self) -> None:
        """Begin; what is due from before comes first."""
        self._thread.start()

    def stop(self) -> None:
        """End; a report that is under way is cut off, and made again after the next start."""
        self._stop.set()
        self._commitments.due.set()
        assoc = self._assoc
        if assoc is not None:
            assoc.abort()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._commitments.due.clear()
            try:
                self.report_due()
            except RetriableError as error:
                log.warning("storage commitments wait", error=str(error))
            except Exception as error:  # noqa: BLE001 - an edge: one odd peer must not end the thread
                log.error("storage commitments wait, unexpected error", error=where(error))
            if not self._stop.is_set():
                self._commitments.due.wait(POLL_S)

    def report_due(self) -> None:
        """Report everything that is due now.

        Raises
        ------
        RetriableError
            The database does not work.
        """
        ours = self._commitments
        now = ours.now()
        with ours.database.reading() as session:
            if not commitments.is_any_due(session, now):
                return
        with ours.database.transaction() as session:
            requests = commitments.claim_due(session, now, now + timedelta(seconds=WAIT_S), AT_ONCE)
        of_requestor: dict[str, list[CommitmentRequest]] = {}
        for request in requests:
            of_requestor.setdefault(request.calling_ae_title, []).append(request)
        for ae_title, theirs in of_requestor.items():
            self._report_to(ae_title, theirs)
        if len(requests) == AT_ONCE:
            ours.due.set()

    def _report_to(self, ae_title: str, requests: Sequence[CommitmentRequest]) -> None:
        ours = self._commitments
        left = list(requests)
        try:
            known = ours.config.requestors.get(ae_title)
            if known is None:
                raise DeliveryError(
                    f"{ae_title} ended its association and has no address; add it to storage_commitment.requestors"
                )
            requestor = _Requestor(
                ae_title, known.host, known.port, self._ae_title, ours.config.timeout_s, known.tls
            )
            context = build_context(STORAGE_COMMITMENT_PUSH_MODEL)
            role = build_role(STORAGE_COMMITMENT_PUSH_MODEL, scp_role=True)
            with association([context], requestor, roles=[role]) as assoc:
                self._assoc = assoc
                if not assoc.accepted_contexts:
                    raise DeliveryError(f"{name_of(requestor)} takes no reports of storage commitment; allow it there")
                while left:
                    self._report(assoc, left[0], name_of(requestor))
                    del left[0]
        except (DeliveryError, ConfigError) as error:
            for request in left:
                ours.failed(request, str(error))
        finally:
            self._assoc = None

    def _report(self, assoc: Association, request: CommitmentRequest, peer: str) -> None:
        ours = self._commitments
        report = ours.report(request)
        if isinstance(report, float):
            ours.postpone(request, report)
            return
        if not assoc.is_established:
            raise DeliveryError(f"{peer} ended the association")
        status, _ = assoc.send_n_event_report(
            report.ds,
            int(report.event_type),
            STORAGE_COMMITMENT_PUSH_MODEL,
            STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
        )
        if "Status" not in status:
            raise DeliveryError(f"{peer} did not answer the report")
        ours.settle(report, int(status.Status), "on a new association")
