"""What pynetdicom's upper layer lends to `receiver`: the socket, and the thread of the state machine.

pynetdicom reads a socket in one thread (`DULServiceProvider`) and serves messages in another (`Association`). Here the
second thread reads, as long as the association stands (state Sta6 of PS3.8 9.2); the first one sends, keeps the
timers, and reads in all other states. The private parts of pynetdicom that this relies on are listed in
docs/decisions/0006; its version is pinned.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time
from typing import Any, cast

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AssociationSocket

P_DATA_TF, A_ABORT = 0x04, 0x07  # PDU types, PS3.8 9.3
PDU_TYPES = range(0x01, 0x08)
PDU_HEADER = struct.Struct(">BxI")  # type, length of what follows
# What a PDU other than P-DATA-TF may hold: an A-ASSOCIATE-RQ with 128 presentation contexts of 60 transfer syntaxes
# each, 68 bytes per transfer syntax, is half of it.
MAX_CONTROL_PDU_BYTES = 1024**2

ASSOCIATION_ESTABLISHED, AWAITING_CLOSE = "Sta6", "Sta13"  # PS3.8 9.2.1
INVALID_PDU, CONNECTION_CLOSED = "Evt19", "Evt17"  # PS3.8 Table 9-10

WAIT_S = 0.05  # how soon a thread that waits notices what it is not woken for
_SKIPPED_AT_ONCE = 65_536  # bytes

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
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(connection, select.POLLIN)
        self._writable.register(connection, select.POLLOUT)
        super().__init__(assoc, client_socket=connection)

    def recv(self, nr_bytes: int) -> bytearray:
        """As pynetdicom's, after what was given back."""
        given, self._given_back = self._given_back[:nr_bytes], self._given_back[nr_bytes:]
        return given + super().recv(nr_bytes - len(given))

    def give_back(self, content: bytearray) -> None:
        """Let the next `recv` begin with these bytes."""
        self._given_back = content

    def stop_blocking(self) -> None:
        """From here on `read_into` is used instead of `recv`."""
        with self._turn:
            if self.socket is not None:
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

    def skip(self) -> bool:
        """Throw away what came; whether something did."""
        with self._turn:
            try:
                return self.socket is not None and bool(self.socket.recv(_SKIPPED_AT_ONCE))
            except OSError:  # nothing there, too
                return False

    def send(self, bytestream: bytes) -> None:
        """Send a PDU; nothing is sent after an A-ABORT."""
        try:
            with self._turn:
                if self._aborted:
                    return
                self._aborted = bytestream[0] == A_ABORT
                self._send_all(memoryview(bytestream))
        except (OSError, AttributeError):  # AttributeError: another thread closed it, there is no socket any more
            self.event_queue.put(CONNECTION_CLOSED)
            return
        evt.trigger(self.assoc, evt.EVT_DATA_SENT, {"data": bytestream})

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


class UpperLayer(DULServiceProvider):
    """The thread of the state machine; it sleeps while the association's own thread reads."""

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self._news = threading.Event()

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

    def _is_transport_event(self) -> bool:
        state = self.state_machine.current_state
        if state == ASSOCIATION_ESTABLISHED:
            self._news.wait(WAIT_S)
            self._news.clear()
            return False
        if state == AWAITING_CLOSE:
            # pynetdicom would wait for PDUs to be complete. What a peer sends to the end of the association has
            # no meaning, however long it says that it is; ARTIM bounds the time.
            wire = cast(Wire, self.socket)
            if not (wire.ready and wire.skip()):
                wire.close()
            return True
        return super()._is_transport_event()

    def _read_pdu_data(self) -> None:
        """Read one PDU outside of data transfer; as pynetdicom's, but its length is not believed without limit."""
        wire = cast(Wire, self.socket)
        try:
            header = wire.recv(PDU_HEADER.size)
        except OSError:
            self.indicate(CONNECTION_CLOSED)
            return
        if len(header) == PDU_HEADER.size and PDU_HEADER.unpack(header)[1] > MAX_CONTROL_PDU_BYTES:
            self.indicate(INVALID_PDU)
            return
        wire.give_back(header)
        super()._read_pdu_data()
