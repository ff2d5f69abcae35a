"""Command sets of DIMSE messages on the wire, as far as `receiver` needs them: a C-STORE-RQ in, a C-STORE-RSP out.

Source: PS3.7 6.3.1 (implicit VR little endian), 9.3.1 (C-STORE), E.1 (elements); PS3.8 9.3.5 (P-DATA-TF).
"""

from __future__ import annotations

import struct

from iap_node.listener.handlers import Answer
from iap_node.listener.upper_layer import P_DATA_TF, PDU_HEADER

# Element numbers of group 0000.
AFFECTED_SOP_CLASS_UID, COMMAND_FIELD, MESSAGE_ID, MESSAGE_ID_RESPONDED_TO = 0x0002, 0x0100, 0x0110, 0x0120
COMMAND_DATA_SET_TYPE, STATUS, ERROR_COMMENT, AFFECTED_SOP_INSTANCE_UID = 0x0800, 0x0900, 0x0902, 0x1000
C_STORE_RQ, C_STORE_RSP, N_EVENT_REPORT_RQ, NO_DATA_SET = b"\x01\x00", b"\x01\x80", b"\x00\x01", b"\x01\x01"

ITEM_HEADER = struct.Struct(">IBB")  # length of what follows, context ID, message control header: PS3.8 9.3.5.1
ITEM_LENGTH_FIELD = 4
IS_COMMAND, IS_LAST = 1, 2  # PS3.8 E.2; the other bits have no meaning

_ELEMENT = struct.Struct("<HHI")  # group, element, length
_MAX_UID_BYTES = 64  # PS3.5 9.1; an Error Comment has as many


def decode_command(encoded: bytes) -> dict[int, bytes]:
    """Values of a command set by element number.

    Raises
    ------
    ValueError
        It is none.
    """
    elements: dict[int, bytes] = {}
    position = 0
    while position < len(encoded):
        if position + _ELEMENT.size > len(encoded):
            raise ValueError("that ends within an element")
        group, element, length = _ELEMENT.unpack_from(encoded, position)
        position += _ELEMENT.size
        if group or length > len(encoded) - position:
            raise ValueError("with an element of another group, or one longer than the command set")
        elements[element] = encoded[position : position + length]
        position += length
    return elements


def encode_store_response(request: dict[int, bytes], answer: Answer) -> bytes:
    """The command set of a C-STORE-RSP. UIDs longer than a UID are not repeated: they are optional here."""
    comment = answer.comment.encode("ascii")
    elements = b"".join(
        [
            _element(AFFECTED_SOP_CLASS_UID, request.get(AFFECTED_SOP_CLASS_UID, b"")),
            _element(COMMAND_FIELD, C_STORE_RSP),
            _element(MESSAGE_ID_RESPONDED_TO, request[MESSAGE_ID]),
            _element(COMMAND_DATA_SET_TYPE, NO_DATA_SET),
            _element(STATUS, int(answer.status).to_bytes(2, "little")),
            _element(ERROR_COMMENT, comment + b" " * (len(comment) % 2)),
            _element(AFFECTED_SOP_INSTANCE_UID, request.get(AFFECTED_SOP_INSTANCE_UID, b"")),
        ]
    )
    return _ELEMENT.pack(0, 0, 4) + len(elements).to_bytes(4, "little") + elements


def _element(number: int, value: bytes) -> bytes:
    if not 0 < len(value) <= _MAX_UID_BYTES:
        return b""
    padded = value + b"\0" if len(value) % 2 else value  # a UID may have come unpadded
    return _ELEMENT.pack(0, number, len(padded)) + padded


def command_pdus(context_id: int, command: bytes, longest: int) -> bytes:
    """A command set as P-DATA-TF PDUs with fragments of at most `longest` bytes."""
    pdus = []
    for start in range(0, len(command), longest):
        fragment = command[start : start + longest]
        control = IS_COMMAND | (IS_LAST if start + longest >= len(command) else 0)
        length = len(fragment) + ITEM_HEADER.size - ITEM_LENGTH_FIELD
        item = ITEM_HEADER.pack(length, context_id, control) + fragment
        pdus.append(PDU_HEADER.pack(P_DATA_TF, len(item)) + item)
    return b"".join(pdus)
