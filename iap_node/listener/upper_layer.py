"""What pynetdicom's upper layer lends to `receiver`: the socket, and the thread of the state machine.

pynetdicom reads a socket in one thread (`DULServiceProvider`) and serves messages in another (`Association`). Here the
second thread reads, as long as the association stands (state Sta6 of PS3.8 9.2); the first one sends, keeps the
timers, and reads in all other states. The private parts of pynetdicom that this relies on are listed in
docs/decisions/0006; its version is pinned.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import ssl
import struct
import threading
import time
from typing import Any, cast

from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import StateMachine
from pynetdicom.transport import AssociationSocket

A_ASSOCIATE_RQ, P_DATA_TF, A_ABORT = 0x01, 0x04, 0x07  # PDU types, PS3.8 9.3
PDU_TYPES = range(0x01, 0x08)
PDU_HEADER = struct.Struct(">BxI")  # type, length of what follows
# What a PDU other than P-DATA-TF may hold: an A-ASSOCIATE-RQ with 128 presentation contexts of 60 transfer syntaxes
# each, 68 bytes per transfer syntax, is half of it.
MAX_CONTROL_PDU_BYTES = 1024**2

IDLE, AWAITING_REQUEST, ASSOCIATION_ESTABLISHED, AWAITING_CLOSE = "Sta1", "Sta2", "Sta6", "Sta13"  # PS3.8 9.2.1
INVALID_PDU, CONNECTION_CLOSED = "Evt19", "Evt17"  # PS3.8 Table 9-10
OURS = frozenset({"Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"})  # what the node itself asks for

LINGER_S = 0.5  # for which we leave the closing of a connection to the peer, as PS3.8 9.2.3 does
WAIT_S = 0.05  # how soon a thread that waits notices what it is not woken for
_READ_AT_ONCE = 65_536  # bytes

# Each item costs pynetdicom up to 50 microseconds; the request above has 7,936.
MAX_ITEMS = 10_000
_FIXED_FIELDS_BYTES = 74  # of an A-ASSOCIATE-RQ, before its items: PS3.8 Table 9-11
_ITEM = struct.Struct(">BxH")  # type, length of what follows
_SUB_ITEMS_AT = {0x20: 8, 0x50: 4}  # presentation contexts, user information: PS3.8 9.3.2.2, 9.3.2.3

_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class AssociationEnded(Exception):
    """We sent an A-ABORT, or closed the connection: what still comes has no meaning."""


class Wire(AssociationSocket):
    """A connection that two threads use at once; OpenSSL allows one at a time."""

    def __init__(self, assoc: Association, connection: socket.socket) -> None:
        self._turn = threading.Lock()
        self._aborted = False
        self._given_back = bytearray()
        self._send_timeout_s = connection.gettimeout()
        # a poll object is for one thread at a time: the first is the association's, the last the state machine's
        self._readable, self._writable, self._ending = select.poll(), select.poll(), select.poll()
        self._readable.register(connection, select.POLLIN)
        self._ending.register(connection, select.POLLIN)
        self._writable.register(connection, select.POLLOUT)
        super().__init__(assoc, client_socket=connection)

    def recv(self, nr_bytes: int) -> bytearray:
        """As pynetdicom's, after what was given back."""
        given, self._given_back = self._given_back[:nr_bytes], self._given_back[nr_bytes:]
        return given + super().recv(nr_bytes - len(given))

    def give_back(self, content: bytearray) -> None:
        """Let the next `recv` begin with these bytes."""
        self._given_back = content

    def recv_some(self, nr_bytes: int) -> bytes | None:
        """What came, at most `nr_bytes`, without waiting for it: None where nothing did, empty at the end.

        Raises
        ------
        OSError
            The connection broke.
        """
        with self._turn:
            if self.socket is None:
                return b""
            timeout_s = self.socket.gettimeout()
            self.socket.settimeout(0)
            try:
                return self.socket.recv(nr_bytes)
            except _NOT_NOW:
                return None
            finally:
                self.socket.settimeout(timeout_s)

    def stop_blocking(self) -> None:
        """From here on `read_into` is used instead of `recv`."""
        with self._turn:
            if self.socket is not None:
                with contextlib.suppress(OSError):  # closed meanwhile: whoever reads will see
                    self.socket.settimeout(0)

    def read_into(self, view: memoryview) -> int | None:
        """How many bytes were read, None when there are none yet, 0 when the peer closed the connection.

        Raises
        ------
        AssociationEnded
            See there.
        OSError
            The connection broke.
        """
        with self._turn:
            if self._aborted or self.socket is None:
                raise AssociationEnded
            try:
                return self.socket.recv_into(view)
            except _NOT_NOW:
                return None

    def wait(self) -> bool:
        """Whether something came within `WAIT_S`."""
        return bool(self._readable.poll(WAIT_S * 1000))

    def skip(self, patience_s: float) -> bool:
        """Throw away what comes; False when the peer closed the connection, or says nothing for so long."""
        try:
            return (self.ready or bool(self._ending.poll(patience_s * 1000))) and self.recv_some(_READ_AT_ONCE) != b""
        except OSError:
            return False

    def send(self, bytestream: bytes) -> None:
        """Send a PDU; nothing is sent after an A-ABORT. Tells nobody (EVT_DATA_SENT): that takes as long as sending."""
        try:
            with self._turn:
                if self._aborted:
                    return
                self._aborted = bytestream[0] == A_ABORT
                self._send_all(memoryview(bytestream))
        except (OSError, AttributeError):  # AttributeError: another thread closed it, there is no socket any more
            self.event_queue.put(CONNECTION_CLOSED)

    def _send_all(self, view: memoryview) -> None:
        timeout_s = self._send_timeout_s
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while view:
            try:
                view = view[cast(socket.socket, self.socket).send(view) :]
            except _NOT_NOW as error:
                if deadline_s is not None and time.monotonic() >= deadline_s:
                    raise TimeoutError("the peer takes no answer") from error
                self._writable.poll(WAIT_S * 1000)

    def _shutdown_socket(self) -> None:
        with self._turn:
            super()._shutdown_socket()


def _check_items(request: bytearray) -> None:
    """Raise ValueError where an A-ASSOCIATE-RQ has more items and sub-items than anybody needs."""
    n_items, places = 0, [(_FIXED_FIELDS_BYTES, len(request))]
    while places:
        place, end = places.pop()
        while place + _ITEM.size <= end:
            kind, length = _ITEM.unpack_from(request, place)
            following = place + _ITEM.size + length
            if kind in _SUB_ITEMS_AT and end == len(request):
                places.append((place + _SUB_ITEMS_AT[kind], min(following, end)))
            place = following
            n_items += 1
            if n_items > MAX_ITEMS:
                raise ValueError(f"an A-ASSOCIATE-RQ of more than {MAX_ITEMS} items")


class _StateMachine(StateMachine):
    """pynetdicom's, which does not break down where we answer a peer whose association has just ended."""

    def do_action(self, event: str) -> None:
        """Act on an event, unless it comes from us and too late or too early: PS3.8 Table 9-10 has no place for
        those."""
        if event in OURS and self.current_state in (IDLE, AWAITING_REQUEST, AWAITING_CLOSE):
            with contextlib.suppress(queue.Empty):
                self.dul.to_provider_queue.get(block=False)
            if self.current_state == AWAITING_REQUEST:  # we stop, and there is nothing to abort yet
                cast(Wire, self.dul.socket).close()
            return
        if event == CONNECTION_CLOSED and self.current_state == IDLE:
            return  # whoever sends and whoever reads may notice it both
        super().do_action(event)
        if self.current_state == IDLE and self.dul.assoc.requestor.primitive is None:
            # The association's thread waits for a request that does not come any more. Without a word it would wait
            # to the end of the timeout, and a peer that connects again and again would pile up threads.
            self.dul.to_user_queue.put(None)


class UpperLayer(DULServiceProvider):
    """The thread of the state machine; it sleeps while the association's own thread reads."""

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self.state_machine = _StateMachine(self)
        self._news = threading.Event()
        self._coming = bytearray()  # of a PDU outside of data transfer

    def send_pdu(self, primitive: Any) -> None:
        """As pynetdicom's, and at once."""
        super().send_pdu(primitive)
        self._news.set()

    def indicate(self, event: str) -> None:
        """Something happened that the state machine is to act on; from the association's thread."""
        self.event_queue.put(event)
        self._news.set()

    def indicate_pdu(self, pdu: bytes) -> None:
        """A whole PDU came in; raises whatever pynetdicom's decoding says about hostile bytes."""
        decoded, event = self._decode_pdu(bytearray(pdu))
        self._recv_pdu.put(decoded)
        self.indicate(event)

    def _decode_pdu(self, bytestream: bytearray) -> tuple[Any, str]:
        """As pynetdicom's, and raises at once what the state machine, whose thread it would end, would meet later."""
        if bytestream[0] == A_ASSOCIATE_RQ:
            _check_items(bytestream)
        decoded: Any
        decoded, event = super()._decode_pdu(bytestream)
        primitive = decoded.to_primitive()
        decoded.to_primitive = lambda: primitive  # it may have taken half a second
        return decoded, event

    def _process_recv_primitive(self) -> bool:
        # pynetdicom's looks at what we want sent and leaves it in its queue until the event is acted on: behind another
        # event it would see it twice.
        return self.event_queue.empty() and super()._process_recv_primitive()

    def _is_transport_event(self) -> bool:
        state = self.state_machine.current_state
        if state == ASSOCIATION_ESTABLISHED:
            if self.event_queue.empty():
                self._news.wait(WAIT_S)
                self._news.clear()
            return False
        if state == AWAITING_CLOSE:
            # What a peer sends to the end of the association has no meaning, however long it says that it is. Closing
            # while it still sends would reset the connection, and our A-ABORT might get lost. ARTIM bounds the time.
            if not cast(Wire, self.socket).skip(LINGER_S):
                cast(Wire, self.socket).close()
            return True
        return super()._is_transport_event()

    def _read_pdu_data(self) -> None:
        """Read what came of a PDU outside of data transfer; pynetdicom gets the PDU once it is whole.

        pynetdicom's own waits for the rest, and no timer runs meanwhile: a peer that sends a byte now and then
        would never be too late. Nor is the length believed without limit.
        """
        wire = cast(Wire, self.socket)
        wanted = PDU_HEADER.size
        if len(self._coming) >= PDU_HEADER.size:
            wanted += PDU_HEADER.unpack_from(self._coming)[1]
        try:
            came = wire.recv_some(min(wanted - len(self._coming), _READ_AT_ONCE))
        except OSError:
            came = b""
        if came is None:
            return
        self._coming += came
        if not came:
            self.indicate(CONNECTION_CLOSED)
        elif len(self._coming) >= PDU_HEADER.size:
            length = PDU_HEADER.unpack_from(self._coming)[1]
            if length > MAX_CONTROL_PDU_BYTES:
                self.indicate(INVALID_PDU)
            elif len(self._coming) == PDU_HEADER.size + length:
                wire.give_back(self._coming)
                self._coming = bytearray()
                super()._read_pdu_data()
