"""The fast store path: C-STORE from the socket to the spool, without pynetdicom's decoding, copies and queues.

`scp` names `StoreRequestHandler` in one line; without that line pynetdicom receives everything itself, as it does all
but plain C-STORE requests anyway: negotiation, TLS, release, abort, timers and other services are its own. What is
no C-STORE-RQ on an accepted storage context is handed to it as it came.

Bounded per association, whatever a peer sends: one buffer, one command set, one data set of another service, and a
piece of the spool's memory for the data set that comes in, most of which is read from the socket to where the disk
takes it. A peer that breaks the protocol gets A-ABORT.
Source: PS3.8 9.3.5 and Annex E.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Any, cast

import structlog
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import RequestHandler

from iap_node.dicom.commitment import STORAGE_COMMITMENT_PUSH_MODEL
from iap_node.dicom.part10 import HeaderScanner
from iap_node.errors import RetriableError, where
from iap_node.listener.admission import is_storage
from iap_node.listener.command_set import (
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    C_STORE_RQ,
    COMMAND_DATA_SET_TYPE,
    COMMAND_FIELD,
    IS_COMMAND,
    IS_LAST,
    ITEM_HEADER,
    ITEM_LENGTH_FIELD,
    MESSAGE_ID,
    N_EVENT_REPORT_RQ,
    NO_DATA_SET,
    command_pdus,
    decode_command,
    encode_store_response,
)
from iap_node.listener.handlers import Handlers, peer_of
from iap_node.listener.limits import InstanceTooLarge, PeerOutOfBounds
from iap_node.listener.reception import Reception, Request
from iap_node.listener.upper_layer import (
    CONNECTION_CLOSED,
    INVALID_PDU,
    MAX_CONTROL_PDU_BYTES,
    P_DATA_TF,
    PDU_HEADER,
    PDU_TYPES,
    AssociationEnded,
    UpperLayer,
    Wire,
)
from iap_node.records import ReceivedInstance

BUFFER_BYTES = 65_536  # one per association: headers, commands, and what comes together with them
CHECK_BYTES = 1024**2  # of a data set; how often it is asked whether that is too much
DIRECT_BYTES = 16_384  # of a fragment that are still to come: worth a read of their own, to where they belong
MAX_COMMAND_BYTES = BUFFER_BYTES  # a C-STORE-RQ has about 200
MAX_OTHER_DATA_SET_BYTES = 1024**2  # of a service that is not storage
MAX_COMMITMENT_BYTES = 4 * 1024**2  # of a storage commitment request: more than twenty thousand instances

log = structlog.get_logger("receiver")


class StoreRequestHandler(RequestHandler):
    """pynetdicom's handler of connections, whose associations receive stores by way of `Receiver`."""

    def __init__(self, handlers: Handlers, *arguments: Any) -> None:
        self._handlers = handlers
        super().__init__(*arguments)

    def _create_association(self) -> Association:
        assoc = super()._create_association()
        assoc.dul = UpperLayer(assoc)
        assoc.acse_timeout, assoc.network_timeout = self.ae.acse_timeout, self.ae.network_timeout  # of its timers
        wire = Wire(assoc, self.request)
        assoc.set_socket(wire)
        assoc.dimse = _Messages(assoc, wire, self._handlers)
        return assoc


class _Messages(DIMSEServiceProvider):
    """pynetdicom's messages; the association's thread asks for the next one again and again."""

    def __init__(self, assoc: Association, wire: Wire, handlers: Handlers) -> None:
        super().__init__(assoc)
        self._receiver = Receiver(assoc, wire, handlers, self)

    def get_msg(self, block: bool = False) -> Any:
        """The next message that is not a store."""
        if not block:
            self._receiver.run()
        context_id, message = super().get_msg(block)
        if isinstance(message, N_EVENT_REPORT) and self._receiver.is_answer(message):
            return None, None
        return context_id, message

    def look(self) -> bool:
        """While a service answers at length: take in what came, such as a C-CANCEL; False: the association is over."""
        return self._receiver.look()


class _Violation(Exception):
    """The peer broke the protocol; the text says how."""


class _Phase(Enum):
    """What is expected next."""

    COMMAND = auto()
    DATA_SET = auto()  # of a C-STORE-RQ
    OTHER_DATA_SET = auto()


class Receiver:
    """What one association receives once it stands. Runs in the association's thread."""

    def __init__(self, assoc: Association, wire: Wire, handlers: Handlers, messages: DIMSEServiceProvider) -> None:
        self._assoc = assoc
        self._wire = wire
        self._handlers = handlers
        self._messages = messages
        self._started = self._over = False
        self._has_news = False  # pynetdicom has a message to serve
        self._buffer = memoryview(b"")
        self._start = self._end = 0  # of what is in the buffer and not used yet
        self._left_of_pdu = 0
        self._phase = _Phase.COMMAND
        self._context_id = 0  # of the message that is coming in; 0 between messages
        self._command = bytearray()
        self._command_set: dict[int, bytes] = {}
        self._scanner = HeaderScanner()
        self._sender = ("", "")  # calling AE title, address
        self._storage: dict[int, str] = {}  # transfer syntaxes of the contexts by which stores came
        self._n_other = 0
        self._reception: Reception | None = None
        self._n_data_set = self._check_at = 0  # bytes of the data set so far, and when to ask whether that is too much
        self._pace = handlers.limits.new_pace()
        self._failure: RetriableError | InstanceTooLarge | None = None  # why what comes in cannot be stored

    def run(self) -> None:
        """File and answer stores until pynetdicom has something to do: a message to serve, an association to end."""
        if self._over:
            return
        if not self._started:
            self._started = True
            self._sender = peer_of(self._assoc)
            self._buffer = memoryview(bytearray(BUFFER_BYTES))
            self._wire.stop_blocking()
        self._receive_while(lambda: not self._has_news)

    def look(self) -> bool:
        """Take in what came meanwhile, without waiting for more; False: the association is over."""
        if self._started and not self._over:
            self._receive_while(lambda: not self._has_news and self._something_came())
        return not self._over

    def _receive_while(self, condition: Callable[[], bool]) -> None:
        self._has_news = not self._messages.msg_queue.empty()
        dul = cast(UpperLayer, self._assoc.dul)
        try:
            while condition():
                if self._left_of_pdu:
                    self._read_item()
                else:
                    self._read_pdu()
            return
        except AssociationEnded:
            pass
        except OSError:
            dul.indicate(CONNECTION_CLOSED)
        except _Violation as violation:
            self._log_abort(f"the peer sent {violation}")
            dul.indicate(INVALID_PDU)
        except PeerOutOfBounds as error:
            self._log_abort(str(error))
            self._assoc.abort()
        except Exception as error:  # noqa: BLE001 - an edge: pynetdicom's decoding of hostile bytes, or our own fault
            self._log_abort(f"the peer sent what cannot be decoded: {where(error)}")
            dul.indicate(INVALID_PDU)
        self._over = True
        self._drop()

    def is_answer(self, message: N_EVENT_REPORT) -> bool:
        """Whether a message answers what we had said by ourselves; who has to know it is told."""
        message_id, status = message.MessageIDBeingRespondedTo, message.Status
        return message_id is not None and status is not None and self._handlers.answered(
            self._assoc, int(message_id), int(status)
        )

    def _speak(self) -> None:
        """Between messages: say what the node has to say by itself."""
        while (pdus := self._handlers.unasked(self._assoc)) is not None:
            self._wire.send(pdus)

    # ------------------------------------------------------------ PDUs and their items

    def _read_pdu(self) -> None:
        pdu_type, length = PDU_HEADER.unpack(header := self._take(PDU_HEADER.size))
        if pdu_type == P_DATA_TF:
            self._left_of_pdu = length
            return
        if pdu_type not in PDU_TYPES or length > MAX_CONTROL_PDU_BYTES:
            raise _Violation(f"a PDU of type {pdu_type:02X}H and {length} bytes")
        cast(UpperLayer, self._assoc.dul).indicate_pdu(header + b"".join(self._pieces(length)))
        raise AssociationEnded  # every PDU other than P-DATA-TF ends it

    def _read_item(self) -> None:
        if self._left_of_pdu < ITEM_HEADER.size:
            raise _Violation("a P-DATA-TF that ends within the header of an item")
        length, context_id, control = ITEM_HEADER.unpack(self._take(ITEM_HEADER.size))
        if not ITEM_HEADER.size - ITEM_LENGTH_FIELD <= length <= self._left_of_pdu - ITEM_LENGTH_FIELD:
            raise _Violation(f"an item of {length} bytes in what is left of a P-DATA-TF, {self._left_of_pdu} bytes")
        self._left_of_pdu -= ITEM_LENGTH_FIELD + length
        size = length - (ITEM_HEADER.size - ITEM_LENGTH_FIELD)
        if self._context_id not in (0, context_id):
            raise _Violation(f"context {context_id} within a message of context {self._context_id}")
        if bool(control & IS_COMMAND) is not (self._phase is _Phase.COMMAND):
            raise _Violation("a command set within a data set, or a data set without a command set")
        if self._phase is _Phase.COMMAND:
            self._read_command(context_id, size, is_last=bool(control & IS_LAST))
        elif self._phase is _Phase.DATA_SET:
            self._read_data_set(size, is_last=bool(control & IS_LAST))
        else:
            self._read_other_data_set(control, size)

    # ------------------------------------------------------------ messages

    def _read_command(self, context_id: int, size: int, *, is_last: bool) -> None:
        if not self._context_id:
            if context_id not in self._assoc._accepted_cx:
                raise _Violation(f"context {context_id}, which was not accepted")
            self._context_id = context_id
            self._handlers.begin_message(self._assoc)
        if len(self._command) + size > MAX_COMMAND_BYTES:
            raise _Violation(f"a command set of more than {MAX_COMMAND_BYTES} bytes")
        self._command += self._take(size)
        if not is_last:
            return
        encoded, self._command = bytes(self._command), bytearray()
        try:
            self._command_set = decode_command(encoded)
        except ValueError as error:
            raise _Violation(f"a command set {error}") from None
        if self._command_set.get(COMMAND_FIELD) == N_EVENT_REPORT_RQ:
            raise _Violation("an event report: pynetdicom would start a thread for each, and we asked for none")
        has_data_set = self._command_set.get(COMMAND_DATA_SET_TYPE) != NO_DATA_SET
        field, message_id = self._command_set.get(COMMAND_FIELD), self._command_set.get(MESSAGE_ID, b"")
        is_store = field == C_STORE_RQ and len(message_id) == 2 and has_data_set
        if is_store and self._is_storage(context_id):
            self._phase = _Phase.DATA_SET
            self._open_store(self._storage[context_id])
        else:
            self._phase = _Phase.OTHER_DATA_SET if has_data_set else _Phase.COMMAND
            self._hand_over(IS_COMMAND | IS_LAST, encoded)
            if not has_data_set:
                self._context_id = 0

    def _is_storage(self, context_id: int) -> bool:
        """Whether a context is one of the Storage Service Class."""
        if context_id not in self._storage:
            context = self._assoc._accepted_cx[context_id]
            if is_storage(str(context.abstract_syntax)):
                self._storage[context_id] = str(context.transfer_syntax[0])
        return context_id in self._storage

    def _read_data_set(self, size: int, *, is_last: bool) -> None:
        left = size
        while left:
            try:
                n_bytes = self._receive(left)
                left -= n_bytes
                self._n_data_set += n_bytes
                if self._n_data_set >= self._check_at:
                    self._check_at = self._n_data_set + CHECK_BYTES
                    self._handlers.check_store(self._n_data_set)
            except (RetriableError, InstanceTooLarge) as error:
                self._fail(error)
        if is_last:
            self._answer_store()

    def _receive(self, at_most: int) -> int:
        """Take some of the next bytes into the data set that comes in; how many."""
        reception = self._reception
        if self._start == self._end:
            if reception is not None and at_most >= DIRECT_BYTES:
                n_bytes = self._read(reception.room(at_most))
                reception.came(n_bytes)
                return n_bytes
            self._fill()
        piece = self._buffer[self._start : min(self._end, self._start + at_most)]
        if reception is not None:
            reception.write(piece)
        self._start += len(piece)
        return len(piece)

    def _fail(self, error: RetriableError | InstanceTooLarge) -> None:
        """The data set that comes in cannot be stored; that is told in the answer, which comes after it."""
        self._failure = error
        self._drop()

    def _read_other_data_set(self, control: int, size: int) -> None:
        self._n_other += size
        abstract_syntax = str(self._assoc._accepted_cx[self._context_id].abstract_syntax)
        is_commitment = abstract_syntax == STORAGE_COMMITMENT_PUSH_MODEL
        most_bytes = MAX_COMMITMENT_BYTES if is_commitment else MAX_OTHER_DATA_SET_BYTES
        if self._n_other > most_bytes:
            raise _Violation(f"a data set of more than {most_bytes} bytes that is not to be stored")
        self._hand_over(control, b"".join(self._pieces(size)))
        if control & IS_LAST:
            self._phase, self._context_id, self._n_other = _Phase.COMMAND, 0, 0

    def _hand_over(self, control: int, fragment: bytes) -> None:
        """Give a fragment to pynetdicom, as if it had received it."""
        primitive = P_DATA()
        primitive.presentation_data_value_list = []
        primitive.presentation_data_value_list.append((self._context_id, bytes([control]) + fragment))
        self._messages.receive_primitive(primitive)
        self._has_news = not self._messages.msg_queue.empty()

    # ------------------------------------------------------------ C-STORE

    def _open_store(self, transfer_syntax_uid: str) -> None:
        self._failure = None
        self._n_data_set, self._check_at = 0, CHECK_BYTES
        try:
            uids = self._uid(AFFECTED_SOP_CLASS_UID), self._uid(AFFECTED_SOP_INSTANCE_UID)
            request = Request(*uids, transfer_syntax_uid, *self._sender)
            self._reception = self._handlers.open_store(request, self._scanner)
        except RetriableError as error:  # told in the answer, which comes after the data set
            self._failure = error

    def _uid(self, element: int) -> str:
        return self._command_set.get(element, b"").decode("ascii", "replace").strip(" \0")

    def _answer_store(self) -> None:
        answer, kept = self._handlers.answer_store(self._assoc, self._uid(AFFECTED_SOP_INSTANCE_UID), self._keep)
        self._drop()
        response = encode_store_response(self._command_set, answer)
        longest = (self._assoc.requestor.maximum_length or 0) - ITEM_HEADER.size  # of a fragment; 0: unlimited
        self._wire.send(command_pdus(self._context_id, response, longest & ~1 if longest > 1 else len(response)))
        self._phase, self._context_id = _Phase.COMMAND, 0
        if kept is not None:
            self._handlers.accepted(self._assoc, kept)
        self._handlers.end_message(self._assoc)
        self._speak()

    def _keep(self) -> ReceivedInstance:
        if self._failure is not None:
            raise self._failure
        self._handlers.limits.size.check(self._n_data_set)
        return self._handlers.keep_store(cast(Reception, self._reception))

    def _drop(self) -> None:
        if self._reception is not None:
            self._reception.drop()
            self._reception = None

    def _log_abort(self, why: str) -> None:
        peer = self._assoc.requestor
        log.warning(
            "association aborted", why=why, calling_ae_title=str(peer.ae_title).strip(),
            source_address=str(peer.address),
        )  # fmt: skip

    # ------------------------------------------------------------ bytes

    def _take(self, size: int) -> bytes:
        """A copy of the next bytes: headers and commands, which fit into the buffer."""
        while self._end - self._start < size:
            self._fill()
        piece = bytes(self._buffer[self._start : self._start + size])
        self._start += size
        return piece

    def _pieces(self, size: int) -> Iterator[bytes]:
        """The next bytes as they come."""
        while size:
            if self._start == self._end:
                self._fill()
            yield (piece := self._take(min(self._end - self._start, size)))
            size -= len(piece)

    def _fill(self) -> None:
        """Read at least one byte into the buffer; waits for it."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            rest = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, len(rest)
            self._buffer[: self._end] = rest
        self._end += self._read(self._buffer[self._end :])

    def _something_came(self) -> bool:
        """Whether there is something to take in; does not wait for it."""
        if self._start == self._end:
            size = self._wire.read_into(self._buffer)
            if size is None:
                self._check_association()
                return False
            if not size:
                raise ConnectionResetError
            self._start, self._end = 0, size
            self._assoc.dul._idle_timer.restart()
        return True

    def _read(self, view: memoryview) -> int:
        """Read at least one byte; waits for it."""
        while (size := self._wire.read_into(view)) is None:
            waits_since_s = time.monotonic()
            if not self._wire.wait():
                self._check_association()
            if self._context_id or self._left_of_pdu or self._end > self._start:
                self._pace.waited(time.monotonic() - waits_since_s)
            else:  # between messages a peer may take its time: `idle_timeout_s`
                self._pace.begin()
                self._speak()
        if not size:
            raise ConnectionResetError
        self._pace.received(size)
        self._assoc.dul._idle_timer.restart()
        return size

    def _check_association(self) -> None:
        """Whatever else ends an association; pynetdicom's thread, in which we are, acts on it."""
        dul = self._assoc.dul
        if self._assoc._kill or self._assoc.is_aborted or not dul.is_alive() or dul.idle_timer_expired():
            raise AssociationEnded
