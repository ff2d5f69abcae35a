"""Command sets that once were answered wrongly: found by tests/fuzz, kept as tests."""

from __future__ import annotations

from iap_node.dicom.status import StoreStatus
from iap_node.listener.command_set import (
    AFFECTED_SOP_INSTANCE_UID,
    MESSAGE_ID,
    decode_command,
    encode_store_response,
)
from iap_node.listener.handlers import Answer


def test_uid_of_odd_length_is_repeated_with_its_padding() -> None:
    """PS3.5 6.2: values have an even length, in our answer too."""
    request = {MESSAGE_ID: b"\1\0", AFFECTED_SOP_INSTANCE_UID: b"1.2.3"}
    response = decode_command(encode_store_response(request, Answer(StoreStatus.SUCCESS, "")))
    assert response[AFFECTED_SOP_INSTANCE_UID] == b"1.2.3\0"
