"""One C-STORE as an SCU: a stored data set from its file to the peer, to the bit.

pynetdicom's own `send_c_store` sends whole files only, takes who the instance is from its file meta, wants a switch
that holds for the whole process, and queues all of the data set in memory. This goes through the same primitives and
keeps a few PDUs at a time. Called by `iap_node.routing.destinations.dicom`.

References
----------
PS3.7 section 9.1.1 (C-STORE), PS3.8 Annex E (fragments and their control headers).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from iap_node.dicom.part10 import read_file_meta
from iap_node.errors import UnreadableInstance
from iap_node.routing.destinations.outgoing import OutgoingInstance

MOST_FRAGMENT_BYTES = 131_072  # of a peer that takes PDUs of any length
MOST_WAITING_PDUS = 16  # in pynetdicom's queue, which has no limit of its own
ITEM_OVERHEAD = 6  # of one fragment in its PDU, bytes: PS3.8 9.3.5.1
LOW_PRIORITY = 2  # PS3.7 E.1
WAIT_S = 0.0005


def store(assoc: Association, context_id: int, instance: OutgoingInstance, message_id: int) -> Dataset:
    """Send one instance and wait for the answer.

    Returns
    -------
    Dataset
        Status (0000,0900) and what goes with it; empty when no valid answer came and the association is over.

    Raises
    ------
    OSError
        The file cannot be read. When something was sent before, the association is aborted.
    UnreadableInstance
        The file is none of the instance's transfer syntax. Nothing was sent.
    """
    longest = assoc.dimse.maximum_pdu_size or MOST_FRAGMENT_BYTES + ITEM_OVERHEAD
    with instance.file.open("rb") as stream:
        transfer_syntax_uid = read_file_meta(stream)
        if transfer_syntax_uid != instance.transfer_syntax_uid:
            raise UnreadableInstance(
                f"it is in transfer syntax {transfer_syntax_uid}, its row says {instance.transfer_syntax_uid}"
            )
        fragments = _fragments(stream, min(longest - ITEM_OVERHEAD, MOST_FRAGMENT_BYTES))
        first = next(fragments)
        with _reactor_paused(assoc):
            for pdata in _command(instance, message_id).encode_msg(context_id, longest):
                assoc.dul.send_pdu(pdata)
            _send(assoc, context_id, first)
            try:
                while _waits_for_more(assoc) and (fragment := next(fragments, None)) is not None:
                    _send(assoc, context_id, fragment)
            except OSError:
                assoc.abort()  # half a message is under way: nothing more can be said on this association
                raise
            _, response = assoc.dimse.get_msg(block=True)
    if response is None:
        assoc._handle_no_response()
        return Dataset()
    return assoc._check_received_status(response)


def _command(instance: OutgoingInstance, message_id: int) -> C_STORE_RQ:
    """The request without its data set, but saying that one follows."""
    request = C_STORE()
    request.MessageID = message_id
    request.Priority = LOW_PRIORITY
    request.AffectedSOPClassUID = UID(instance.sop_class_uid)
    request.AffectedSOPInstanceUID = UID(instance.sop_instance_uid)
    request.DataSet = BytesIO(b"follows")
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    message.data_set = None
    return message


def _fragments(stream: BinaryIO, most_bytes: int) -> Iterator[bytes]:
    """The rest of a stream, each piece behind its message control header (PS3.8 E.2); one at least."""
    fragment = stream.read(most_bytes)
    while following := stream.read(most_bytes):
        yield b"\x00" + fragment
        fragment = following
    yield b"\x02" + fragment


def _waits_for_more(assoc: Association) -> bool:
    """Wait until pynetdicom's thread has sent some of what it was handed; False where it will send no more."""
    while assoc.dul.to_provider_queue.qsize() >= MOST_WAITING_PDUS:
        if assoc.acse.is_aborted() or not assoc.dul.is_alive():
            return False
        time.sleep(WAIT_S)
    return True


def _send(assoc: Association, context_id: int, fragment: bytes) -> None:
    """Hand one fragment to pynetdicom's thread."""
    pdata = P_DATA()
    pdata.presentation_data_value_list.append((context_id, fragment))
    assoc.dul.send_pdu(pdata)


@contextmanager
def _reactor_paused(assoc: Association) -> Iterator[None]:
    """Keep the association's own thread from taking the response, as pynetdicom's `send_` methods do."""
    assoc._reactor_checkpoint.clear()
    while not assoc._is_paused and assoc.is_alive():
        time.sleep(WAIT_S)
    try:
        yield
    finally:
        assoc._reactor_checkpoint.set()
