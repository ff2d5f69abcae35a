"""Fuzz target: the reading of segments after a crash: what is whole is found, what is not is stepped over.

An input is a script of records, some of them then torn, overwritten, or forged down to a right CRC, which a disk does
not do by chance and a sender cannot. Whatever the disk holds: no error but the disk's own, each record within the file
and none within another one, and, where nothing was forged, exactly the records that nobody touched.
"""

from __future__ import annotations

import atexit
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian

from iap_node.dicom.part10 import file_preamble
from iap_node.spool.segments import (
    ALIGNMENT,
    MARK,
    PREAMBLE_BYTES,
    Facts,
    RecordKind,
    aligned,
    content_checksum,
    encode_preamble,
    has_records,
    read_records,
)
from tests.fuzz.instances import SOP_INSTANCE_UID, encode

SEGMENT_ID = "0123456789abcdef"
_HEAD = file_preamble("1.2.840.10008.5.1.4.1.1.4", SOP_INSTANCE_UID, ExplicitVRLittleEndian)[PREAMBLE_BYTES:]
_RECORD, _NOTE, _GAP, _RAW, _FORGED, _CUT = range(6)
_FIELDS_BYTES = 8 + 8 + 8 + 8 + 1 + 1 + 2 + 8 + 16 + 16  # of a preamble before its CRC
_END_OF_CRC = _FIELDS_BYTES + 4

_FOLDERS: list[Path] = []  # one, made when it is first needed


def seeds() -> Iterator[bytes]:
    """Scripts: two bytes say what comes and how long it is in units of 16 bytes, then it follows."""
    dataset = encode()
    size = len(dataset) // 16
    record = bytes([_RECORD, size]) + dataset[: 16 * size]
    note = bytes([_NOTE, 2]) + b"series/3f/1.2.3/1.2.3.4.0a.dcm  "
    fields = struct.pack("<QBBHq16s16s", 4096, 1, 4, len(_HEAD), 1, bytes(16), bytes(16))
    forged = bytes([_FORGED, 4]) + fields + bytes(12)
    yield record * 3
    yield record + note + bytes([_GAP, 1]) + bytes(16) + record
    yield record + bytes([_RAW, 8]) + MARK * 16 + record + bytes([_CUT, 1]) + bytes(16)
    yield forged + record + forged


def execute(data: bytes) -> None:
    """One input."""
    if not _FOLDERS:
        memory = Path("/dev/shm")
        _FOLDERS.append(Path(tempfile.mkdtemp(prefix="iap-fuzz-", dir=memory if memory.is_dir() else None)))
        atexit.register(shutil.rmtree, _FOLDERS[0], ignore_errors=True)
    content, expected, is_forged = _segment(data)
    path = _FOLDERS[0] / f"{SEGMENT_ID}.seg"
    path.write_bytes(content)
    found = [(record.where.offset, record.where.length) for record in read_records(path)]
    end = 0
    for offset, length in found:
        assert offset % ALIGNMENT == 0, "a record at an odd place"
        assert end <= offset, "a record within another one"
        end = offset + length
    assert end <= len(content), "a record beyond the end"
    if not is_forged:
        assert found == expected, f"{found} were found, {expected} are whole"
    assert has_records(path) or not found


def _segment(script: bytes) -> tuple[bytes, list[tuple[int, int]], bool]:
    """What lies on the disk, the records in it that are whole, and whether anything was forged."""
    content = bytearray()
    written: list[tuple[int, bytes]] = []  # offset, record
    is_forged, position = False, 0
    while position + 2 <= len(script) and len(content) < 200_000:
        what, size = script[position] % 6, 16 * script[position + 1]
        piece = script[position + 2 : position + 2 + size]
        position += 2 + size
        offset = len(content)
        if what in (_RECORD, _NOTE):
            record = _record(offset, RecordKind.INSTANCE if what == _RECORD else RecordKind.NOTE, piece)
            written.append((offset, record))
            content += record
        elif what == _FORGED:
            is_forged = True
            fields = (MARK + bytes.fromhex(SEGMENT_ID) + struct.pack("<Q", offset) + piece)[:_FIELDS_BYTES]
            fields = fields.ljust(_FIELDS_BYTES, b"\0")
            (n_head,) = struct.unpack_from("<H", fields, 34)
            head = (_HEAD + piece[_FIELDS_BYTES:])[:n_head].ljust(n_head, b"\0")
            crc = zlib.crc32(head, zlib.crc32(fields))
            content += (fields + struct.pack("<I", crc)).ljust(PREAMBLE_BYTES, b"\0") + head + piece
        elif what == _RAW and content and len(piece) > 3:  # over what was written
            start = int.from_bytes(piece[:3], "little") % len(content)
            content[start : start + len(piece) - 3] = piece[3 : 3 + len(content) - start]
        elif what == _CUT and content:
            del content[int.from_bytes(piece[:3], "little") % len(content) :]
            written = [one for one in written if one[0] < len(content)]
        elif what == _GAP:
            content += bytes(size)
        content += bytes(aligned(len(content)) - len(content))
    whole = [
        (offset, len(record))
        for offset, record in written
        if content[offset:][:_END_OF_CRC] == record[:_END_OF_CRC]  # what pads the preamble behind it says nothing
        and content[offset + PREAMBLE_BYTES : offset + len(record)] == record[PREAMBLE_BYTES:]
    ]
    return bytes(content), whole, is_forged


def _record(offset: int, kind: RecordKind, piece: bytes) -> bytes:
    head, dataset = (_HEAD, piece) if kind is RecordKind.INSTANCE else (piece, b"")
    checksum = content_checksum(ExplicitVRLittleEndian)
    checksum.update(dataset)
    facts = Facts(datetime(2026, 1, 31, tzinfo=UTC), "127.0.0.1", checksum.digest())
    length = PREAMBLE_BYTES + len(head) + len(dataset)
    return encode_preamble(SEGMENT_ID, offset, length, kind, head, facts) + head + dataset
