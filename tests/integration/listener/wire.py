"""A sender that says on the wire exactly what a test wants said, legal or not."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from io import BytesIO
from types import TracebackType
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from pynetdicom.dsutils import decode
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import PresentationContext, build_context

STORAGE, VERIFICATION = 1, 3  # context IDs that every `RawSender` proposes
COMMAND, DATA, LAST = 1, 0, 2  # message control header
A_ABORT, P_DATA_TF = 0x07, 0x04
RELEASE_RQ = b"\x05\0\0\0\0\x04\0\0\0\0"
ABORT = b"\x07\0\0\0\0\x04\0\0\0\0"
WAIT_S = 30.0


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


def uid(value: str) -> bytes:
    return value.encode() + b"\0" * (len(value) % 2)


def store_request(
    sop_instance_uid: str, message_id: int = 7, sop_class_uid: str = MRImageStorage, *, has_data_set: bool = True
) -> bytes:
    """The command set of a C-STORE-RQ."""
    elements = (
        element(0x0002, uid(sop_class_uid))
        + element(0x0100, b"\x01\0")
        + element(0x0110, struct.pack("<H", message_id))
        + element(0x0700, b"\0\0")
        + element(0x0800, b"\0\0" if has_data_set else b"\x01\x01")
        + element(0x1000, uid(sop_instance_uid))
    )
    return element(0, struct.pack("<I", len(elements))) + elements


def echo_request(message_id: int = 9) -> bytes:
    """The command set of a C-ECHO-RQ."""
    elements = (
        element(0x0002, uid("1.2.840.10008.1.1"))
        + element(0x0100, b"\x30\0")
        + element(0x0110, struct.pack("<H", message_id))
        + element(0x0800, b"\x01\x01")
    )
    return element(0, struct.pack("<I", len(elements))) + elements


def item(control: int, fragment: bytes, context_id: int = STORAGE, length: int | None = None) -> bytes:
    """A presentation data value; `length` may lie."""
    return struct.pack(">IBB", len(fragment) + 2 if length is None else length, context_id, control) + fragment


def pdu(*items: bytes, pdu_type: int = P_DATA_TF, length: int | None = None) -> bytes:
    """A PDU; `length` may lie."""
    body = b"".join(items)
    return struct.pack(">BxI", pdu_type, len(body) if length is None else length) + body


def fragments(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)] or [b""]


def items(control: int, content: bytes, size: int, context_id: int = STORAGE) -> list[bytes]:
    """Content in pieces of `size`, the last one marked as such."""
    pieces = fragments(content, size)
    return [item(control | (LAST if n == len(pieces) - 1 else 0), piece, context_id) for n, piece in enumerate(pieces)]


def association_request(
    contexts: list[PresentationContext], max_pdu_bytes: int = 16384, *further_user_information: Any
) -> bytes:
    """An A-ASSOCIATE-RQ; contexts have their IDs."""
    request = A_ASSOCIATE()
    request.application_context_name = UID("1.2.840.10008.3.1.1.1")
    request.calling_ae_title, request.called_ae_title = "RAW", "IAP_NODE"
    request.presentation_context_definition_list = contexts
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = max_pdu_bytes
    implementation.implementation_class_uid = UID("1.2.3.4")
    request.user_information = [length, implementation, *further_user_information]
    encoded = A_ASSOCIATE_RQ()
    encoded.from_primitive(request)
    return bytes(encoded.encode())


class RawSender:
    """An association, negotiated; then bytes."""

    def __init__(
        self,
        port: int,
        *,
        max_pdu_bytes: int = 16384,
        transfer_syntax_uid: str = ExplicitVRLittleEndian,
        address: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.longest_pdu = 0  # bytes behind the header, of what was read
        self.socket = socket.create_connection(("127.0.0.1", port), WAIT_S, source_address=(address, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        contexts = [
            build_context(MRImageStorage, transfer_syntax_uid),
            build_context("1.2.840.10008.1.1", "1.2.840.10008.1.2"),
        ]
        contexts[0].context_id, contexts[1].context_id = STORAGE, VERIFICATION
        self.send(association_request(contexts, max_pdu_bytes))
        assert self.read_pdu()[0] == 0x02

    def __enter__(self) -> RawSender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def send_slowly(self, content: bytes, size: int) -> None:
        """In pieces that leave as packets of their own."""
        for piece in fragments(content, size):
            self.socket.sendall(piece)
            time.sleep(0)

    def send_store(self, sop_instance_uid: str, dataset: bytes, size: int = 16000) -> None:
        self.send(pdu(item(COMMAND | LAST, store_request(sop_instance_uid))))
        self.send(*(pdu(one) for one in items(DATA, dataset, size)))

    def read(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            piece = self.socket.recv(size - len(content))
            if not piece:
                raise EOFError
            content += piece
        return content

    def read_pdu(self) -> tuple[int, bytes]:
        pdu_type, length = struct.unpack(">BxI", self.read(6))
        self.longest_pdu = max(self.longest_pdu, length)
        return pdu_type, self.read(length)

    def read_response(self) -> Dataset:
        """The command set of the next message."""
        command, control = b"", 0
        while not control & LAST:
            pdu_type, body = self.read_pdu()
            assert pdu_type == P_DATA_TF, f"a PDU of type {pdu_type}"
            while body:
                length, _, control = struct.unpack(">IBB", body[:6])
                command += body[6 : 4 + length]
                body = body[4 + length :]
        return decode(BytesIO(command), True, True)

    def is_aborted(self) -> bool:
        """Whether what comes next is an A-ABORT; a connection that just ends is none."""
        try:
            return self.read_pdu()[0] == A_ABORT
        except EOFError:
            return False

    def release(self) -> None:
        self.send(RELEASE_RQ)
        assert self.read_pdu()[0] == 0x06
