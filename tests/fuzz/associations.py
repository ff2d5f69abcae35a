"""Fuzz target: all that a peer says once its association stands, from bytes, without sockets; a model is the referee.

The receiver, the handlers, the intake and the spool are the real ones; only the connection, pynetdicom's other thread
and the archive's rows are not there. An input is a byte that says how much comes at once, and either what is on the
wire, or a script of fragments that are framed here, so that mutations reach beyond the first length. Whatever it is,
the association ends as one does, every data set that came in whole is kept to the bit or in the quarantine, in order,
and answered; nothing is left of the others, and what the receiver holds stays within its bounds, which are smaller
here, so that short inputs reach them.
"""

from __future__ import annotations

import atexit
import itertools
import shutil
import struct
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dsutils import decode
from pynetdicom.presentation import build_context
from pynetdicom.transport import AddressInformation

from iap_node.config import ListenerConfig
from iap_node.errors import UnreadableInstance
from iap_node.listener import receiver, reception
from iap_node.listener.command_set import decode_command
from iap_node.listener.intake import Intake
from iap_node.listener.receiver import _Messages
from iap_node.listener.reception import Request
from iap_node.listener.scp import StoreScp
from iap_node.listener.upper_layer import UpperLayer
from iap_node.records import ReceivedInstance
from iap_node.spool import Spool, lanes, new_instance, staging
from tests.fuzz.instances import SOP_INSTANCE_UID, encode
from tests.integration.listener.wire import (
    ABORT,
    COMMAND,
    DATA,
    LAST,
    RELEASE_RQ,
    STORAGE,
    VERIFICATION,
    echo_request,
    element,
    item,
    items,
    pdu,
    store_request,
)

IMPLICIT_STORAGE = 5  # a context ID
ANSWERS = {0x0000, 0xA700, 0xA900, 0xC000, 0x0110}
ENDS = {"Evt12", "Evt16", "Evt17", "Evt19"} | {"Evt3", "Evt4", "Evt6", "Evt13"}  # PS3.8 Table 9-10: PDUs and the end
_AT_ONCE = (1, 2, 5, 11, 64, 1000, 16_384, 1 << 20)
_CONTEXT_IDS = (STORAGE, VERIFICATION, IMPLICIT_STORAGE, 9)
_LIES = (0, 1, 2, 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_SCRIPT = 0x80  # in the first byte of an input: what follows is a script of fragments


MAX_COMMAND_BYTES = receiver.MAX_COMMAND_BYTES = 1024
MAX_OTHER_DATA_SET_BYTES = receiver.MAX_OTHER_DATA_SET_BYTES = 4096
BUFFER_BYTES = receiver.BUFFER_BYTES = 3000
receiver.DIRECT_BYTES = 500
reception.EARLY_BYTES = 600
staging.STAGING_BYTES = lanes.STAGING_BYTES = new_instance.STAGING_BYTES = 8192


# ---------------------------------------------------------------- stand-ins for what is not there


class _Connection:
    """What `receiver` asks of `Wire`."""

    def __init__(self, content: bytes, at_once: int) -> None:
        self._content = memoryview(content)
        self._at_once = at_once
        self.sent: list[bytes] = []

    def stop_blocking(self) -> None:
        pass

    def read_into(self, view: memoryview) -> int:
        piece = self._content[: min(len(view), self._at_once)]
        assert len(view), "no room is left in the buffer"
        view[: len(piece)] = piece
        self._content = self._content[len(piece) :]
        return len(piece)

    def wait(self) -> bool:
        return True

    def send(self, bytestream: bytes) -> None:
        self.sent.append(bytestream)


class _WatchedMessages(_Messages):
    """Notes that pynetdicom refused what is no plain store, which is its business."""

    refused = False

    def receive_primitive(self, primitive: Any) -> None:
        try:
            super().receive_primitive(primitive)
        except Exception:
            self.refused = True
            raise


class _UpperLayer(UpperLayer):
    """Without its thread."""

    def is_alive(self) -> bool:
        return True

    def stop_dul(self) -> bool:
        return True


@dataclass
class _Registrar:
    """Notes what was accepted, instead of giving it rows."""

    accepted: list[ReceivedInstance] = field(default_factory=list)

    def refusal(self) -> str | None:
        return None

    def submit(self, received: ReceivedInstance) -> None:
        self.accepted.append(received)


def _refuse(dataset: bytes, _: Request) -> NoReturn:
    assert not dataset, "a data set passed through pynetdicom"
    raise UnreadableInstance("it is empty")


class _Node:
    """A spool in memory and what writes to it, for all inputs of a process."""

    def __init__(self) -> None:
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="iap-fuzz-", dir=memory if memory.is_dir() else None))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.spool = Spool(self.folder / "spool", durable=False)
        self.registrar = _Registrar()
        self.intake = Intake(self.spool, None, b"k" * 32)  # type: ignore[arg-type]
        self.quarantined: list[tuple[str, bytes]] = []
        self.intake._registrar = self.registrar  # type: ignore[assignment]
        self.intake._put_aside = self._put_aside  # type: ignore[method-assign]
        self.intake.accept_whole = _refuse  # type: ignore[method-assign]  # what pynetdicom received has no data set
        self.handlers = StoreScp(ListenerConfig(port=0), self.intake)._handlers
        self.ae = AE("IAP_NODE")

    def _put_aside(self, reception: Any, reason: str, received_at: Any) -> None:
        with reception.instance.reader() as file:
            content = file.read()
        self.quarantined.append((reception.request.sop_instance_uid, content[len(content) - reception.size_bytes :]))

    def kept(self, received: ReceivedInstance) -> tuple[str, bytes]:
        """SOP Instance UID and data set of what was accepted."""
        with self.spool.locate(received.spool_path).open("rb") as file:
            content = file.read()
        file_meta_bytes = int.from_bytes(content[140:144], "little")
        return received.header.sop_instance_uid, content[144 + file_meta_bytes :]

    def forget(self) -> None:
        """Remove what an input left."""
        for received in self.registrar.accepted:
            self.spool.remove(received.spool_path)
            self.spool.registered(received.spool_path)
        self.registrar.accepted.clear()
        self.quarantined.clear()


_NODES: list[_Node] = []  # one, made when it is first needed
_CONTEXTS = {
    STORAGE: build_context(MRImageStorage, ExplicitVRLittleEndian),
    VERIFICATION: build_context("1.2.840.10008.1.1", ImplicitVRLittleEndian),
    IMPLICIT_STORAGE: build_context(MRImageStorage, ImplicitVRLittleEndian),
}
for _context_id, _context in _CONTEXTS.items():
    _context.context_id = _context_id


# ---------------------------------------------------------------- what a stream says, read all at once


def stores_in(stream: bytes) -> list[tuple[str, bytes]]:
    """SOP Instance UID and data set of every plain C-STORE that comes in whole before the association ends."""
    stores: list[tuple[str, bytes]] = []
    command, dataset, context_id, request, n_other = b"", b"", 0, None, 0
    for identifier, control, fragment in _fragments(stream):
        if context_id not in (0, identifier) or (not context_id and identifier not in _CONTEXTS):
            break
        if bool(control & COMMAND) is not (request is None):
            break
        context_id = identifier
        if request is None:
            command += fragment
            if len(command) > MAX_COMMAND_BYTES:
                break
            if not control & LAST:
                continue
            try:
                request, command = decode_command(command), b""
            except ValueError:
                break
            if request.get(0x0100) == b"\x00\x01":
                break  # N-EVENT-REPORT-RQ
            if request.get(0x0800) == b"\x01\x01":  # no data set: pynetdicom's
                request, context_id = None, 0
        elif _is_store(request, context_id):
            dataset += fragment
            if control & LAST:
                uid = request.get(0x1000, b"").decode("ascii", "replace").strip(" \0")
                stores.append((uid, dataset))
                dataset, request, context_id = b"", None, 0
        else:
            n_other += len(fragment)
            if n_other > MAX_OTHER_DATA_SET_BYTES:
                break
            if control & LAST:
                n_other, request, context_id = 0, None, 0
    return stores


def _is_store(request: dict[int, bytes], context_id: int) -> bool:
    return request.get(0x0100) == b"\x01\x00" and len(request.get(0x0110, b"")) == 2 and context_id != VERIFICATION


def _fragments(stream: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Context ID, control header and content of whole fragments, up to what is none."""
    position, end_of_pdu = 0, 0
    while True:
        if position == end_of_pdu:
            if position + 6 > len(stream) or stream[position] != 0x04:
                return
            end_of_pdu = position + 6 + struct.unpack(">I", stream[position + 2 : position + 6])[0]
            position += 6
        else:
            if position + 6 > min(len(stream), end_of_pdu):
                return
            length, context_id, control = struct.unpack(">IBB", stream[position : position + 6])
            end = position + 4 + length
            if length < 2 or end > end_of_pdu:
                return
            yield context_id, control & ~LAST if end > len(stream) else control, stream[position + 6 : end]
            position = end
            if end > len(stream):
                return


# ---------------------------------------------------------------- the target


def seeds() -> Iterator[bytes]:
    """Messages on the wire, and scripts of the same."""
    dataset = encode()
    store, echo = store_request(SOP_INSTANCE_UID), echo_request()
    whole = [*items(COMMAND, store, 50), *items(DATA, dataset, 300)]
    echoed = pdu(item(COMMAND | LAST, echo, VERIFICATION))
    for tail in (b"", RELEASE_RQ, ABORT, echoed, pdu(bytes(68), pdu_type=1), pdu(pdu_type=9)):
        yield b"\x06" + pdu(*whole) + b"".join(map(pdu, whole)) + tail
    yield b"\3" + pdu(item(COMMAND | LAST, store_request("1.2.9"))) + pdu(item(DATA | LAST, dataset)) + RELEASE_RQ
    yield b"\6" + pdu(item(COMMAND | LAST, store_request(SOP_INSTANCE_UID, has_data_set=False)))
    yield b"\6" + pdu(item(COMMAND | LAST, echo.replace(b"\x01\x01", b"\0\0"), VERIFICATION), item(DATA | LAST, b"", 3))
    for field_ in (0x0020, 0x0021, 0x0FFF, 0x0100, 0x0110, 0x0130, 0x8001, 0x0150):
        other = echo.replace(element(0x0100, b"\x30\0"), element(0x0100, struct.pack("<H", field_)))
        yield bytes([_SCRIPT | 6]) + _script(VERIFICATION, COMMAND, other)
    implicit = encode(ImplicitVRLittleEndian)
    yield bytes([_SCRIPT | 7]) + _script(STORAGE, COMMAND, store) + _script(STORAGE, DATA, dataset)
    yield bytes([_SCRIPT | 1]) + _script(IMPLICIT_STORAGE, COMMAND, store) + _script(IMPLICIT_STORAGE, DATA, implicit)
    large = dataset[:-32] + bytes(4 * BUFFER_BYTES)
    yield b"\7" + pdu(item(COMMAND | LAST, store)) + pdu(*items(DATA, large, 2000))
    yield bytes([_SCRIPT | 7]) + _script(STORAGE, COMMAND, store) + _script(STORAGE, DATA, large)


def _script(context_id: int, kind: int, content: bytes, size: int = 200) -> bytes:
    """Content as a script of fragments."""
    pieces = [content[start : start + size] for start in range(0, len(content), size)] or [b""]
    last = len(pieces) - 1
    chosen = _CONTEXT_IDS.index(context_id) << 2
    return b"".join(
        bytes([kind | (LAST if n == last else 0) | chosen, len(piece)]) + piece for n, piece in enumerate(pieces)
    )


def _framed(script: bytes) -> bytes:
    """The fragments of a script as PDUs: two bytes say of what kind each is and how long, then it follows."""
    pdus, waiting, position = [], [], 0
    while position + 2 <= len(script):
        flags, size = script[position], script[position + 1]
        position += 2
        if flags & 0x20:
            size *= 64
        fragment = script[position : position + size]
        position += size
        lie = _LIES[size % len(_LIES)] if flags & 0x40 and flags & 0x80 else None
        waiting.append(item(flags & (COMMAND | LAST), fragment, _CONTEXT_IDS[flags >> 2 & 3], lie))
        if not flags & 0x10:
            pdus.append(pdu(*waiting))
            waiting = []
    return b"".join([*pdus, *waiting])


def execute(data: bytes) -> None:
    """One input."""
    if not data:
        return
    stream = _framed(data[1:]) if data[0] & _SCRIPT else data[1:]
    if not _NODES:
        _NODES.append(_Node())
    node = _NODES[0]
    n_threads = threading.active_count()
    connection = _Connection(stream, _AT_ONCE[data[0] % len(_AT_ONCE)])
    assoc, messages = _associate(node, connection)
    try:
        for n_served in itertools.count():
            assert n_served <= len(stream), "messages without end"
            context_id, message = messages.get_msg()
            if message is None or assoc._kill:
                break
            assoc._serve_request(message, context_id)
        _check(node, connection, assoc, messages, stream)
        assert threading.active_count() == n_threads, "a thread is left"
    finally:
        node.forget()


def _associate(node: _Node, connection: _Connection) -> tuple[Association, _WatchedMessages]:
    assoc = Association(node.ae, "acceptor")
    assoc.dul = _UpperLayer(assoc)
    assoc.dul.socket = connection  # type: ignore[assignment]
    assoc._accepted_cx = dict(_CONTEXTS)
    assoc.is_established = True
    assoc.requestor.ae_title, assoc.requestor.address_info = "FUZZ", AddressInformation("127.0.0.1", 104)
    assoc.requestor.maximum_length = 16_384
    for event, handler in node.handlers.bindings():
        assoc.bind(event, handler)
    messages = assoc.dimse = _WatchedMessages(assoc, connection, node.handlers)  # type: ignore[arg-type]
    return assoc, messages


def _check(node: _Node, connection: _Connection, assoc: Association, messages: _WatchedMessages, stream: bytes) -> None:
    receiving = messages._receiver
    is_killed = bool(assoc._kill) or messages.refused  # by pynetdicom, over a service that we do not offer
    events = list(assoc.dul.event_queue.queue)
    assert assoc._kill or receiving._over, "the receiver goes on without a connection"
    assert assoc._kill or events, "nobody is told that the association ended"
    assert set(events) <= ENDS, events
    assert len(receiving._buffer) == BUFFER_BYTES
    assert len(receiving._command) <= MAX_COMMAND_BYTES
    assert receiving._reception is None, "an instance is neither kept nor dropped"

    expected = stores_in(stream)
    n_kept = len(node.registrar.accepted) + len(node.quarantined)
    statuses = [_status(sent) for sent in connection.sent]
    assert len(statuses) == n_kept, f"{n_kept} data sets, answers {statuses}"
    assert set(statuses) <= ANSWERS, statuses
    if is_killed:
        assert n_kept <= len(expected)
        expected = expected[:n_kept]
    assert n_kept == len(expected), f"{n_kept} data sets kept, {len(expected)} came in whole"
    kept, quarantined = map(node.kept, node.registrar.accepted), iter(node.quarantined)
    for store, status in zip(expected, statuses, strict=True):
        assert next(quarantined if status else kept) == store, "not what came in"
    incoming = node.spool.root / "incoming"
    assert not incoming.exists() or not list(incoming.iterdir()), "a temporary file is left"
    assert list(node.folder.iterdir()) in ([], [node.spool.root]), "something lies beside the spool"


def _status(pdus: bytes) -> int:
    command = b"".join(fragment for _, _, fragment in _fragments(pdus))
    return int(decode(BytesIO(command), True, True).Status)
