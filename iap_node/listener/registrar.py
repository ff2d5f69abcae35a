"""Gives acknowledged instances their archive rows: one thread of a process, many rows in one transaction.

What is acknowledged lies durably in a segment of the spool, with all that its row is made of; the row follows within
moments. When the process ends in between, recovery does what is left. While the database cannot be used, `refusal`
says so, and what was acknowledged before waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from iap_node.database.engine import Database
from iap_node.database.reception import Arrival, Likeness, Overtaken, record_instances
from iap_node.dicom.part10 import same_data_set
from iap_node.errors import RetriableError, UnreadableInstance, where
from iap_node.records import InstanceHeader, ReceivedInstance, StoreOutcome
from iap_node.spool import Spool
from iap_node.upkeep.quarantine import put_aside_copy

BATCH = 500
LINGER_S = 0.1  # what comes within it shares a transaction
MOST_WAITING = 20_000  # instances; about 30 MB
# Senders that are faster than the database are slowed down before anybody is refused: each waits for its answer, so
# that one that floods us on all its associations costs the others a moment, and not their instances.
MANY_WAITING = MOST_WAITING // 4
PATIENCE_S = 5.0  # with a database that neither works nor fails
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 2.0

log = structlog.get_logger("registrar")


class Ticket:
    """What becomes of one instance, for those who wait for it."""

    def __init__(self) -> None:
        self._settled = threading.Event()
        self._outcome: StoreOutcome | None = None
        self._error: Exception | None = None

    def settle(self, outcome: StoreOutcome | None, error: Exception | None = None) -> None:
        """Tell; the first word counts."""
        if not self._settled.is_set():
            self._outcome, self._error = outcome, error
            self._settled.set()

    def outcome(self) -> StoreOutcome:
        """Wait for it.

        Raises
        ------
        RetriableError
            The database cannot be used now; the instance is kept, and gets its row later.
        UnreadableInstance
            It cannot be recorded and lies in the quarantine.
        """
        self._settled.wait()
        if self._outcome is None:
            assert self._error is not None
            raise self._error
        return self._outcome


@dataclass(slots=True)
class _Entry:
    received: ReceivedInstance
    ticket: Ticket | None = None  # somebody waits
    is_done: bool = False

    @property
    def is_urgent(self) -> bool:
        return self.ticket is not None


@dataclass(slots=True)
class _Call:
    """To be made when everything before it has its row."""

    function: Callable[[], None]
    is_urgent: bool = False
    done: threading.Event = field(default_factory=threading.Event)


class Registrar:
    """Every method may be called from any thread. The thread starts with the first instance.

    Parameters
    ----------
    hash_of
        Keyed hash of the patient of an instance.
    """

    def __init__(self, spool: Spool, database: Database, hash_of: Callable[[InstanceHeader], str]) -> None:
        self._hash_of = hash_of
        self._spool = spool
        self._database = database
        self._turn = threading.Lock()
        self._changed = threading.Condition(self._turn)
        self._has_room = threading.Condition(self._turn)
        self._waiting: deque[_Entry | _Call] = deque()
        self._n_urgent = 0  # waiting entries and calls that somebody waits for
        self._thread: threading.Thread | None = None
        self._closed = False
        self._away: str | None = None

    # ------------------------------------------------------------ for others

    def refusal(self) -> str | None:
        """Why nothing more can be taken now; None: it can."""
        if self._away is not None:
            return self._away
        if len(self._waiting) > MOST_WAITING:
            return f"{MOST_WAITING} instances wait for their archive rows: the database is too slow"
        return None

    def submit(self, received: ReceivedInstance) -> None:
        """Give an instance that is kept its row, soon; waits a while where many wait for theirs."""
        if len(self._waiting) >= MANY_WAITING:
            with self._turn:
                self._has_room.wait_for(
                    lambda: len(self._waiting) < MANY_WAITING or self._closed or self._away is not None, PATIENCE_S
                )
        self._put(_Entry(received))

    def submit_and_tell(self, received: ReceivedInstance) -> Ticket:
        """Give an instance that is kept its row at once, and tell what becomes of it."""
        ticket = Ticket()
        self._put(_Entry(received, ticket))
        return ticket

    def then(self, function: Callable[[], None]) -> None:
        """Call `function` when all that was submitted so far has its rows; it must not raise."""
        self._put(_Call(function))

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was submitted so far has its rows; False: it has not in time."""
        with self._turn:
            if self._thread is None or self._closed:  # nobody would come to a call
                return not self._waiting
        call = _Call(lambda: None, is_urgent=True)
        self._put(call)
        return call.done.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Write the rows that wait, as far as time and database allow; recovery does the rest at the next start."""
        self.flush(timeout_s)
        with self._turn:
            self._closed = True
            self._changed.notify_all()
            self._has_room.notify_all()
            thread, n_left = self._thread, len(self._waiting)
        if thread is not None:
            thread.join()
        if n_left:
            log.warning("rows left to the next start", n_instances=n_left)

    # ------------------------------------------------------------ the thread

    def _put(self, item: _Entry | _Call) -> None:
        with self._turn:
            self._waiting.append(item)
            self._n_urgent += item.is_urgent
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="registrar", daemon=True)
                self._thread.start()
            if item.is_urgent or len(self._waiting) in (1, BATCH):
                self._changed.notify_all()

    def _run(self) -> None:
        wait_s = RETRY_FIRST_S
        while (batch := self._next()) is not None:
            try:
                self._do(batch)
            except Exception as error:  # noqa: BLE001 - an edge: whatever it is, nothing acknowledged may be forgotten
                self._note_failure(batch, error)
                with self._turn:
                    self._changed.wait_for(lambda: self._closed, wait_s)
                wait_s = min(2 * wait_s, RETRY_MOST_S)
                continue
            if self._away is not None:
                log.info("archive rows are written again")
            self._away, wait_s = None, RETRY_FIRST_S
            with self._turn:
                for item in batch:
                    self._waiting.popleft()
                    self._n_urgent -= item.is_urgent
                self._has_room.notify_all()

    def _note_failure(self, batch: Sequence[_Entry | _Call], error: Exception) -> None:
        known = error if isinstance(error, RetriableError) else RetriableError(f"unexpected error {where(error)}")
        if self._away is None:
            log.error("archive rows wait", error=str(known), n_instances=len(self._waiting))
        self._away = str(known)
        with self._turn:
            self._has_room.notify_all()
        for item in batch:
            if isinstance(item, _Entry) and item.ticket is not None:
                item.ticket.settle(None, known)

    def _next(self) -> list[_Entry | _Call] | None:
        """What is to be done together; None: nothing any more."""
        with self._turn:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            until_s = time.monotonic() + LINGER_S
            while not self._closed and not self._n_urgent and len(self._waiting) < BATCH:
                if not self._changed.wait(max(0.0, until_s - time.monotonic())):
                    break
            batch: list[_Entry | _Call] = []
            for item in self._waiting:
                if batch and (isinstance(item, _Call) or isinstance(batch[0], _Call) or len(batch) >= BATCH):
                    break
                batch.append(item)
            return batch

    def _do(self, batch: Sequence[_Entry | _Call]) -> None:
        if isinstance(call := batch[0], _Call):
            try:
                call.function()
            except Exception as error:  # noqa: BLE001 - an edge: the rows go on
                log.error("call after the rows failed", error=where(error))
            call.done.set()
            return
        entries = [entry for entry in batch if isinstance(entry, _Entry) and not entry.is_done]
        if not entries:
            return
        try:
            self._register(entries)
        except RetriableError:
            raise
        except Exception as error:  # noqa: BLE001 - an edge: one odd instance must not keep the others from their rows
            if len(entries) > 1:
                for entry in entries:
                    self._do([entry])
            elif isinstance(error, Overtaken):
                self._do(entries)  # the other process has committed: this time it is found
            else:
                self._put_aside(entries[0], error)

    def _register(self, entries: Sequence[_Entry]) -> None:
        arrivals = [Arrival(entry.received, self._hash_of(entry.received.header)) for entry in entries]
        with self._database.transaction() as session:
            outcomes = record_instances(session, arrivals, self._compare)
        superfluous = [
            arrival.received.spool_path
            for arrival, outcome in zip(arrivals, outcomes, strict=True)
            if outcome is StoreOutcome.DUPLICATE
        ]
        if superfluous:
            self._remove(superfluous)
        for entry, outcome in zip(entries, outcomes, strict=True):
            received = entry.received
            entry.is_done = True
            self._spool.registered(received.spool_path)
            if outcome is StoreOutcome.CONFLICT:
                log.warning(
                    "conflict: other bytes are archived under this SOP Instance UID; these are kept beside them",
                    sop_instance_uid=received.header.sop_instance_uid, calling_ae_title=received.calling_ae_title,
                )  # fmt: skip
            if entry.ticket is not None:
                entry.ticket.settle(outcome)

    def _compare(self, standing: str, received: str) -> Likeness:
        """Whether two receptions with one checksum are one instance."""
        if not self._spool.exists(standing):
            return Likeness.GONE
        try:
            same = same_data_set(self._spool.locate(standing), self._spool.locate(received))
        except (OSError, UnreadableInstance) as error:  # the new ones were written a moment ago: the old ones are bad
            log.error("archived bytes cannot be read, replaced", spool_path=standing, error=type(error).__name__)
            return Likeness.GONE
        return Likeness.SAME if same else Likeness.OTHER

    def _remove(self, spool_paths: Sequence[str]) -> None:
        try:
            self._spool.remove(*spool_paths)
        except RetriableError as error:  # `iap-node fsck` finds them
            log.error("bytes of duplicates not removed", n_instances=len(spool_paths), error=str(error))

    def _put_aside(self, entry: _Entry, error: Exception) -> None:
        """An acknowledged instance cannot be recorded: keep it where a person looks, with the reason."""
        received = entry.received
        reason = f"it cannot be recorded in the archive: {type(error).__name__}; report this"
        facts = {
            "reason": reason,
            "sop_class_uid": received.header.sop_class_uid,
            "sop_instance_uid": received.header.sop_instance_uid,
            "transfer_syntax_uid": received.header.transfer_syntax_uid,
            "calling_ae_title": received.calling_ae_title,
            "source_address": received.source_address,
            "part_10": "yes",
        }
        put_aside_copy(self._spool, self._database, received.spool_path, facts, received.received_at)
        log.error(
            "instance quarantined", sop_instance_uid=received.header.sop_instance_uid, reason=reason,
            error=where(error),
        )  # fmt: skip
        entry.is_done = True
        self._remove([received.spool_path])
        self._spool.registered(received.spool_path)
        if entry.ticket is not None:
            entry.ticket.settle(None, UnreadableInstance(reason))
