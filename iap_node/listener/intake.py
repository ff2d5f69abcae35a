"""Files one instance: identify it, make its bytes durable, make its archive row durable. Called by the
receiver, the C-STORE handler and by `iap-node import`.

An instance comes in pieces (`open`, `Reception.write`, `complete`), which go to a file without a name and are not
kept in memory, or whole (`receive`).

The order is the promise. The file is written and synced first, under a name nobody else has; then the row is
committed; only then does the caller hear that the instance is here. If anything fails before the row is
committed, the file is removed again and the caller hears an error. If the machine stops in between, a file
without a row is left, which was never acknowledged; `iap_node.listener.recovery` files it at the next start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from iap_node.database.archive import record_instance, record_quarantine
from iap_node.database.engine import Database
from iap_node.database.spooled import path_of_reception
from iap_node.dicom.part10 import file_preamble, is_safe_uid, scan_instance_header
from iap_node.dicom.sop_classes import why_not_analysed
from iap_node.errors import PermanentError, RetriableError, UnreadableInstance
from iap_node.listener.patients import patient_hash
from iap_node.listener.reception import Reception, content_hash
from iap_node.records import InstanceHeader, QuarantinedInstance, ReceivedInstance, StoreOutcome
from iap_node.spool import Quarantine, Spool, disk_errors_are_retriable

log = structlog.get_logger("intake")


class InstanceMismatch(UnreadableInstance):
    """The data set is of another SOP Instance or SOP Class than the C-STORE-RQ says."""


@dataclass(frozen=True, slots=True)
class FiledInstance:
    """What became of an instance; it is durable."""

    outcome: StoreOutcome
    study_instance_uid: str
    series_instance_uid: str
    not_analysed_reason: str | None
    size_bytes: int


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Intake:
    """Files instances in a spool and an archive; any number of threads and processes may do so at once.

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
        self._quarantine = Quarantine(spool)
        self._database = database
        self._patient_key = patient_key
        self._now = now

    def file(
        self,
        dataset: bytes,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        calling_ae_title: str,
        source_address: str,
    ) -> StoreOutcome:
        """As `receive`, for callers that only count."""
        return self.receive(
            dataset,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            calling_ae_title=calling_ae_title,
            source_address=source_address,
        ).outcome

    def receive(
        self,
        dataset: bytes,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        calling_ae_title: str,
        source_address: str,
    ) -> FiledInstance:
        """File one instance; when this returns, it would survive a power cut.

        A duplicate (same bytes) changes nothing. Other bytes under a known SOP Instance UID are kept beside
        the first ones as a conflict. Both are filed: the sender did nothing wrong and cannot do otherwise.

        Parameters
        ----------
        dataset
            The encoded data set, without file meta. It is written as it is, to the bit.
        sop_class_uid, sop_instance_uid
            As the C-STORE-RQ says (Affected SOP Class and Instance UID).
        transfer_syntax_uid
            Of the presentation context: how `dataset` is encoded.

        Raises
        ------
        UnreadableInstance
            It cannot be identified, or is not what the C-STORE-RQ says (`InstanceMismatch`); it lies in the
            quarantine.
        RetriableError
            The disk or the database does not work; nothing is left behind.
        """
        reception = self.open(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            calling_ae_title=calling_ae_title,
            source_address=source_address,
        )
        try:
            reception.write(dataset)
            return self.complete(reception)
        finally:
            reception.drop()

    def open(
        self,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        calling_ae_title: str,
        source_address: str,
    ) -> Reception:
        """Begin an instance whose data set is still to come; parameters as for `receive`.

        `write` what comes, then `complete` it; `drop` it in any case, which does nothing to what is filed.

        Raises
        ------
        RetriableError
            The disk does not work; nothing is left behind.
        """
        uids = (sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        preamble = file_preamble(*uids, source_ae_title=calling_ae_title) if all(map(is_safe_uid, uids)) else b""
        reception = Reception(*uids, calling_ae_title, source_address, preamble, self._spool)
        with contextlib.ExitStack() as undo:
            undo.callback(reception.drop)
            with disk_errors_are_retriable(self._spool.root):
                reception.file.write(preamble)
            undo.pop_all()
        return reception

    def complete(self, reception: Reception) -> FiledInstance:
        """File an instance whose data set is written; returns and raises as `receive`."""
        received_at = self._now()
        try:
            header = self._identify(reception)
        except UnreadableInstance as error:
            self._put_aside(reception, str(error), received_at)
            raise
        spool_path = self._spool.new_name(header.series_instance_uid, header.sop_instance_uid)
        self._spool.keep(reception.file, spool_path)
        reception.is_kept = True
        received = ReceivedInstance(
            header=header,
            spool_path=spool_path,
            sha256=reception.digest.hexdigest(),
            size_bytes=reception.file.size_bytes,
            calling_ae_title=reception.calling_ae_title,
            source_address=reception.source_address,
            received_at=received_at,
            not_analysed_reason=why_not_analysed(header),
        )
        return self._record(received)

    def adopt(
        self, header: InstanceHeader, dataset: bytes, spool_path: str, size_bytes: int, calling_ae_title: str
    ) -> FiledInstance:
        """File an instance whose file lies in the spool without a row; durable when this returns.

        Raises
        ------
        RetriableError
            The database does not work; the file stays where it is.
        """
        received = ReceivedInstance(
            header=header,
            spool_path=spool_path,
            sha256=content_hash(dataset, header.transfer_syntax_uid),
            size_bytes=size_bytes,
            calling_ae_title=calling_ae_title,
            source_address="",
            received_at=self._now(),
            not_analysed_reason=why_not_analysed(header),
        )
        return self._record(received, keep_file=True)

    def _record(self, received: ReceivedInstance, *, keep_file: bool = False) -> FiledInstance:
        """Commit the row of a file in the spool, or remove the file."""
        with contextlib.ExitStack() as undo:
            if not keep_file:
                undo.callback(self._discard, received)
            try:
                outcome, path_of_row = self._commit(received)
            except _CommitUnknown as error:
                # Removing the file now could leave a row without one, and the sender's next try would pass as
                # a duplicate of nothing. Without a row it is found at the next start.
                undo.pop_all()
                uid = received.header.sop_instance_uid
                log.error("file kept, its row may or may not be there", sop_instance_uid=uid, error=str(error))
                raise
            undo.pop_all()
        if path_of_row != received.spool_path:
            self._leave_to(path_of_row, received)
        return FiledInstance(
            outcome,
            received.header.study_instance_uid,
            received.header.series_instance_uid,
            received.not_analysed_reason,
            received.size_bytes,
        )

    def _commit(self, received: ReceivedInstance) -> tuple[StoreOutcome, str]:
        """The outcome, and the path that the archive's row for these bytes names."""
        hashed = patient_hash(self._patient_key, received.header)
        path_of_row: str | None = None
        try:
            with self._database.transaction() as session:
                outcome = record_instance(session, received, hashed)
                path_of_row = received.spool_path  # of the new row, which most instances get
                if outcome is StoreOutcome.DUPLICATE:
                    path_of_row = path_of_reception(session, received.header.sop_instance_uid, received.sha256)
                if path_of_row is None:
                    raise PermanentError(f"{received.header.sop_instance_uid} was recorded, but no row names it")
        except RetriableError as error:
            if path_of_row is None or not self._was_committed(received, error):  # None: COMMIT was not reached
                raise
        return outcome, path_of_row

    def _was_committed(self, received: ReceivedInstance, error: RetriableError) -> bool:
        """Whether a commit that failed on our side took place on the server's (a connection lost at that
        moment)."""
        try:
            with self._database.reading() as session:
                path_of_row = path_of_reception(session, received.header.sop_instance_uid, received.sha256)
        except RetriableError:
            raise _CommitUnknown(str(error)) from error
        return path_of_row == received.spool_path

    def _leave_to(self, path_of_row: str, received: ReceivedInstance) -> None:
        """The same bytes are archived under another path: ours is not needed, unless that file got lost."""
        if self._spool.path(path_of_row).exists():
            self._discard(received)
            return
        self._spool.rename(received.spool_path, path_of_row)
        log.warning("archived file was gone, restored", sop_instance_uid=received.header.sop_instance_uid)

    def _discard(self, received: ReceivedInstance) -> None:
        try:
            self._spool.remove(received.spool_path)
        except RetriableError as error:  # the reason for discarding it matters more; the next start finds the file
            log.error("file not removed", sop_instance_uid=received.header.sop_instance_uid, error=str(error))

    def _identify(self, reception: Reception) -> InstanceHeader:
        with disk_errors_are_retriable(self._spool.root), reception.file.reader() as stream:
            stream.seek(len(reception.preamble))
            header = scan_instance_header(stream, reception.transfer_syntax_uid)
        for name, said, found in (
            ("SOP Instance UID", reception.sop_instance_uid, header.sop_instance_uid),
            ("SOP Class UID", reception.sop_class_uid, header.sop_class_uid),
        ):
            if said != found:
                raise InstanceMismatch(
                    f"{name}: the C-STORE-RQ says {said[:64]!r}, the data set {found}; correct it at the sender"
                )
        return header

    def _put_aside(self, reception: Reception, reason: str, received_at: datetime) -> None:
        """Keep bytes that cannot be filed, with the reason, for a person to look at."""
        facts = {
            "reason": reason,
            "sop_class_uid": reception.sop_class_uid,
            "sop_instance_uid": reception.sop_instance_uid,
            "transfer_syntax_uid": reception.transfer_syntax_uid,
            "calling_ae_title": reception.calling_ae_title,
            "source_address": reception.source_address,
            "received_at": received_at.isoformat(),
            "part_10": "yes"
            if reception.preamble
            else "no: a UID of the request is none; the bytes are the bare data set",
        }
        spool_path, new = self._quarantine.take(reception.file, facts, received_at)
        reception.is_kept = True
        log.warning(
            "instance quarantined", sop_instance_uid=reception.sop_instance_uid, reason=reason, spool_path=spool_path,
            calling_ae_title=reception.calling_ae_title, seen_before=not new,
        )  # fmt: skip
        if not new:
            return
        quarantined = QuarantinedInstance(
            spool_path=spool_path,
            reason=reason,
            sop_instance_uid=reception.sop_instance_uid,
            calling_ae_title=reception.calling_ae_title,
            source_address=reception.source_address,
            size_bytes=reception.file.size_bytes,
            received_at=received_at,
        )
        with contextlib.ExitStack() as undo:
            undo.callback(self._quarantine.remove, spool_path)
            with self._database.transaction() as session:
                record_quarantine(session, quarantined)
            undo.pop_all()


class _CommitUnknown(RetriableError):
    """The connection was lost during COMMIT, and the database cannot be asked."""
