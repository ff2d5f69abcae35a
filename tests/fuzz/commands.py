"""Fuzz target: the command set of a C-STORE-RQ in, a C-STORE-RSP out; pynetdicom's codec is the referee."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

from pydicom.uid import MRImageStorage
from pynetdicom.dsutils import decode

from iap_node.dicom.status import StoreStatus
from iap_node.listener.command_set import (
    IS_COMMAND,
    IS_LAST,
    ITEM_HEADER,
    ITEM_LENGTH_FIELD,
    MESSAGE_ID,
    command_pdus,
    decode_command,
    encode_store_response,
)
from iap_node.listener.handlers import Answer
from iap_node.listener.upper_layer import P_DATA_TF, PDU_HEADER
from tests.integration.listener.wire import echo_request, element, store_request

_COMMENTS = ("", "x", "Quarantined: it is none", "y" * 64)
_ANSWERS = [Answer(status, comment) for status in StoreStatus for comment in _COMMENTS]
_UID_TAGS = (0x00000002, 0x00001000)


def seeds() -> Iterator[bytes]:
    """Two bytes that choose answer and longest fragment, then a command set."""
    for command in (store_request("1.2.3"), store_request("1." * 32 + "1"), echo_request(), element(0x0110, b"\0\0")):
        yield b"\0\x20" + command
    yield b"\2\1" + store_request("", 0xFFFF, MRImageStorage, has_data_set=False)


def execute(data: bytes) -> None:
    """One input."""
    if len(data) < 2:
        return
    encoded = data[2:]
    try:
        request = decode_command(encoded)
    except ValueError as error:
        assert str(error)
        return
    assert sum(map(len, request.values())) <= len(encoded)
    if len(request.get(MESSAGE_ID, b"")) != 2:
        return  # no C-STORE-RQ: `receiver` leaves it to pynetdicom
    answer = _ANSWERS[data[0] % len(_ANSWERS)]
    response = encode_store_response(request, answer)
    assert len(response) < 400, "an answer that repeats what came"
    assert all(len(value) % 2 == 0 for value in decode_command(response).values()), "a value of odd length"
    assert _assemble(command_pdus(1, response, 2 * data[1] or len(response))) == response
    read = decode(BytesIO(response), True, True)
    assert read.CommandGroupLength == len(response) - 12
    assert (read.CommandField, read.CommandDataSetType) == (0x8001, 0x0101)
    assert read.MessageIDBeingRespondedTo == int.from_bytes(request[MESSAGE_ID], "little")
    assert (read.Status, read.get("ErrorComment", "") or "") == (answer.status, answer.comment)
    for tag in _UID_TAGS:
        if tag in read:
            assert read.get_item(tag).value.rstrip(b"\0") == request[tag].rstrip(b"\0")


def _assemble(pdus: bytes) -> bytes:
    """The fragments of a message, whose last one, and no other, says that it is."""
    content, control = b"", 0
    while pdus:
        assert not control & IS_LAST, "a fragment after the last one"
        pdu_type, pdu_length = PDU_HEADER.unpack(pdus[: PDU_HEADER.size])
        length, context_id, control = ITEM_HEADER.unpack(pdus[PDU_HEADER.size :][: ITEM_HEADER.size])
        assert (pdu_type, pdu_length - ITEM_LENGTH_FIELD, context_id) == (P_DATA_TF, length, 1)
        assert control & IS_COMMAND
        end = PDU_HEADER.size + ITEM_LENGTH_FIELD + length
        content += pdus[PDU_HEADER.size + ITEM_HEADER.size : end]
        pdus = pdus[end:]
    assert control & IS_LAST
    return content
