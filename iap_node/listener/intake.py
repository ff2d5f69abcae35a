"""Takes one instance: identify it, make its bytes durable, hand it on for its archive row. Called by the receiver,
the C-STORE handler, STOW-RS, `iap-node import` and `iap-node quarantine retry`.

The order is the promise. The bytes are written and flushed first, into a segment of the spool, together with all that
the archive row is made of; only then does a sender hear that the instance is here. The row follows
(`iap_node.listener.registrar`); if the machine stops in between, `iap_node.listener.recovery` writes it at the next
start. What cannot be identified goes to the quarantine; if anything else fails, nothing is left behind and the caller
hears an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial

import structlog

from iap_node.database.engine import Database
from iap_node.dicom.part10 import HeaderScanner, file_preamble, is_safe_uid
from iap_node.dicom.sop_classes import why_not_analysed
from iap_node.errors import RetriableError, UnreadableInstance
from iap_node.listener.patients import patient_hash
from iap_node.listener.reception import Reception, Request
from iap_node.listener.registrar import Registrar
from iap_node.records import InstanceHeader, ReceivedInstance, StoreOutcome
from iap_node.spool import PREAMBLE_BYTES, Facts, Spool, disk_errors_are_retriable
from iap_node.upkeep.quarantine import put_aside

log = structlog.get_logger("intake")


class InstanceMismatch(UnreadableInstance):
    """The data set is of another SOP Instance or SOP Class than the C-STORE-RQ says."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Intake:
    """Takes instances into a spool and an archive; any number of threads and processes may do so at once.

    Parameters
    ----------
    patient_key
        Keys the patient hashes (`load_or_create_patient_key`).
    now
        The clock: aware UTC times of reception.
    """

    def __init__(
        self, spool: Spool, database: Database, patient_key: bytes, *, now: Callable[[], datetime] = _utc_now
    ) -> None:
        self._spool = spool
        self._database = database
        self._registrar = Registrar(spool, database, partial(patient_hash, patient_key))
        self._now = now

    # ------------------------------------------------------------ whole instances

    def file(self, dataset: bytes, request: Request) -> StoreOutcome:
        """Take one instance and wait for its row.

        A duplicate (same bytes) changes nothing. Other bytes under a known SOP Instance UID are kept beside
        the first ones as a conflict. Both are filed: the sender did nothing wrong and cannot do otherwise.

        Parameters
        ----------
        dataset
            The encoded data set, without file meta. It is written as it is, to the bit.
        request
            What its sender says of it.

        Raises
        ------
        UnreadableInstance
            It cannot be identified, or is not what the C-STORE-RQ says (`InstanceMismatch`); it lies in the
            quarantine.
        RetriableError
            The disk or the database does not work.
        """
        return self.file_pieces([dataset], request)

    def file_pieces(self, pieces: Iterable[bytes], request: Request) -> StoreOutcome:
        """As `file`, of a data set that comes piece by piece; whatever `pieces` raises ends it, and nothing is left."""
        return self._registrar.submit_and_tell(self._keep_pieces(pieces, request)).outcome()

    def accept_whole(self, dataset: bytes, request: Request) -> ReceivedInstance:
        """As `open`, `Reception.write` and `accept`, of a data set that is in memory."""
        self._refuse_if_away()
        return self._submit(self._keep_pieces([dataset], request))

    def _keep_pieces(self, pieces: Iterable[bytes], request: Request) -> ReceivedInstance:
        reception = self._open(request, HeaderScanner())
        try:
            for piece in pieces:
                reception.write(piece)
            return self._keep(reception)
        finally:
            reception.drop()

    # ------------------------------------------------------------ piece by piece

    def open(self, request: Request, scanner: HeaderScanner) -> Reception:
        """Begin an instance whose data set is still to come.

        `write` what comes, then `accept` it; `drop` it in any case, which does nothing to what is accepted.

        Parameters
        ----------
        scanner
            Of the association, so that it knows the headers that came before.

        Raises
        ------
        RetriableError
            The disk does not work, or the database is away; nothing is left behind.
        """
        self._refuse_if_away()
        return self._open(request, scanner)

    def accept(self, reception: Reception) -> ReceivedInstance:
        """Make an instance durable whose data set is written; its row follows.

        Raises
        ------
        UnreadableInstance, RetriableError
            As `file`.
        """
        return self._submit(self._keep(reception))

    def adopt(self, received: Sequence[ReceivedInstance]) -> list[StoreOutcome | None]:
        """Give instances whose bytes lie in the spool their rows, and wait for them.

        Returns
        -------
        list[StoreOutcome | None]
            One per instance; None: it cannot be recorded, and lies in the quarantine.

        Raises
        ------
        RetriableError
            The database does not work; the bytes stay where they are.
        """
        outcomes: list[StoreOutcome | None] = []
        for ticket in [self._registrar.submit_and_tell(one) for one in received]:
            try:
                outcomes.append(ticket.outcome())
            except UnreadableInstance:
                outcomes.append(None)
        return outcomes

    # ------------------------------------------------------------ life

    def then(self, function: Callable[[], None]) -> None:
        """Call `function` when all that was accepted so far has its rows; it must not raise."""
        self._registrar.then(function)

    def refusal(self) -> str | None:
        """Why nothing can be taken now, whatever it is: the database is away or too slow; None: it can."""
        return self._registrar.refusal()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was accepted so far has its rows; False: it has not in time."""
        return self._registrar.flush(timeout_s)

    def close(self, timeout_s: float = 30.0) -> None:
        """Write the rows that wait, then put the spool's segments in order. What cannot be done now, recovery does."""
        self._registrar.close(timeout_s)
        self._spool.close()

    # ------------------------------------------------------------ steps

    def _refuse_if_away(self) -> None:
        reason = self._registrar.refusal()
        if reason is not None:
            raise RetriableError(reason)

    def _open(self, request: Request, scanner: HeaderScanner) -> Reception:
        uids = (request.sop_class_uid, request.sop_instance_uid, request.transfer_syntax_uid)
        head = b""
        if all(map(is_safe_uid, uids)):
            head = file_preamble(*uids, source_ae_title=request.calling_ae_title)[PREAMBLE_BYTES:]
        return Reception(request, self._spool, head, scanner)

    def _keep(self, reception: Reception) -> ReceivedInstance:
        received_at = self._now()
        try:
            header = self._identify(reception)
        except UnreadableInstance as error:
            self._put_aside(reception, str(error), received_at)
            raise
        request = reception.request
        not_analysed_reason = why_not_analysed(header)
        checksum = reception.checksum.digest()
        # From here on nothing may fail: what is kept must get its row.
        spool_path = self._spool.keep(
            reception.instance,
            Facts(received_at, request.source_address, checksum),
            series_instance_uid=header.series_instance_uid,
            sop_instance_uid=header.sop_instance_uid,
        )
        return ReceivedInstance(
            header=header,
            spool_path=spool_path,
            checksum=checksum.hex(),
            size_bytes=reception.instance.size_bytes,
            calling_ae_title=request.calling_ae_title,
            source_address=request.source_address,
            received_at=received_at,
            not_analysed_reason=not_analysed_reason,
        )

    def _submit(self, received: ReceivedInstance) -> ReceivedInstance:
        self._registrar.submit(received)
        return received

    def _identify(self, reception: Reception) -> InstanceHeader:
        header = reception.scan()
        request = reception.request
        if request.sop_instance_uid != header.sop_instance_uid:
            raise _mismatch("SOP Instance UID", request.sop_instance_uid, header.sop_instance_uid)
        if request.sop_class_uid != header.sop_class_uid:
            raise _mismatch("SOP Class UID", request.sop_class_uid, header.sop_class_uid)
        return header

    def _put_aside(self, reception: Reception, reason: str, received_at: datetime) -> None:
        """Keep bytes that cannot be filed, with the reason, for a person to look at."""
        request = reception.request
        part_10 = "yes" if reception.is_part_10 else "no: a UID of the request is none; the bytes are the bare data set"
        facts = {"reason": reason, **asdict(request), "part_10": part_10}
        with disk_errors_are_retriable(self._spool.root):
            file = reception.instance.take_file()
        with contextlib.ExitStack() as undo:
            undo.callback(file.discard)
            spool_path, new = put_aside(self._spool, self._database, file, facts, received_at)
            undo.pop_all()
        log.warning(
            "instance quarantined", sop_instance_uid=request.sop_instance_uid, reason=reason, spool_path=spool_path,
            calling_ae_title=request.calling_ae_title, seen_before=not new,
        )  # fmt: skip


def _mismatch(name: str, said: str, found: str) -> InstanceMismatch:
    return InstanceMismatch(
        f"{name}: the C-STORE-RQ says {said[:64]!r}, the data set {found}; correct it at the sender"
    )
