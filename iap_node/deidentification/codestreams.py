"""Compressed pixels without what encoders write beside them: comments, camera data, small pictures.

Fragments keep their lengths, so that offset tables stay right: the content of a comment becomes zeros, everything else
is passed on as it stands in the file. Called by `copies`.

References
----------
PS3.5 Annex A.4 (fragments); ITU-T T.81 B.2.4.5, B.2.4.6 (COM, APPn), T.800 A.9.2 (COM), T.871 (JFIF), Adobe TN 5116.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from iap_node.dicom import elements as el
from iap_node.dicom.encoded import Part
from iap_node.errors import UnreadableInstance, UnsendableInstance

_HEAD_BYTES = 1024**2  # of a fragment, before its first scan or tile; embedded profiles are some 100 KB
_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
_CONTAINERS = (b"\x00\x00\x00\x0cjP  ", b"\x00\x00\x00\x0cJXL ")
_START_OF_SCAN, _JPEG_COMMENT, _START_OF_TILE, _JPEG_2000_COMMENT = 0xDA, 0xFE, 0x90, 0x64
_APP_FIRST, _APP_LAST = 0xE0, 0xEF
# What decoders go by, and how many bytes of it: JFIF without its picture, Adobe's colours, those of JPEG-LS.
_KEPT = ((b"JFIF\0", 12), (b"Adobe", 12), (b"mrfx", 5))


def without_comments(stream: BinaryIO, start: int, end: int) -> list[Part]:
    """The value of an encapsulated Pixel Data element, up to its delimiter, and what goes in place of its comments.

    Raises
    ------
    UnreadableInstance
        Its fragments are damaged.
    UnsendableInstance
        A fragment is a container file, which may hold text anywhere.
    """
    order: list[Part] = []
    place = kept_from = start
    while True:
        stream.seek(place)
        head = stream.read(el.SHORT_HEADER_BYTES)
        if len(head) < el.SHORT_HEADER_BYTES or place >= end:
            raise UnreadableInstance("its fragments are cut off; send the instance again")
        group, number, length = struct.unpack("<HHI", head)
        tag = group << 16 | number
        if tag == el.SEQUENCE_DELIMITATION:
            order.append((kept_from, place + el.SHORT_HEADER_BYTES))
            return order
        if tag != el.ITEM or place + el.SHORT_HEADER_BYTES + length > end:
            raise UnreadableInstance("its fragments are damaged; send the instance again")
        place += el.SHORT_HEADER_BYTES
        for first, last in _comments(stream.read(min(length, _HEAD_BYTES))):
            order += [(kept_from, place + first), bytes(last - first)]
            kept_from = place + last
        place += length


def _comments(data: bytes) -> list[tuple[int, int]]:
    """Where a fragment holds what no decoder needs, from its first byte."""
    if data.startswith(_CONTAINERS):
        raise UnsendableInstance(
            "not de-identified: its pixels are a container file (JP2, JPEG XL), which may hold text; "
            "have it sent uncompressed"
        )
    if data.startswith(_JPEG_2000):
        last, comment, applications = _START_OF_TILE, _JPEG_2000_COMMENT, range(0)
    elif data.startswith(_JPEG):
        last, comment, applications = _START_OF_SCAN, _JPEG_COMMENT, range(_APP_FIRST, _APP_LAST + 1)
    else:
        return []
    found = []
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill bytes
            place += 1
            continue
        if marker == last:
            break
        begin, end = place + 4, place + 2 + max(2, int.from_bytes(data[place + 2 : place + 4], "big"))
        if marker == comment:
            begin += 2 if marker == _JPEG_2000_COMMENT else 0  # which kind of text it is
        elif marker in applications:
            begin += next((n for name, n in _KEPT if data[begin:].startswith(name)), 0)
        else:
            begin = end
        if begin < end:
            found.append((begin, min(end, len(data))))
        place = end
    return found
