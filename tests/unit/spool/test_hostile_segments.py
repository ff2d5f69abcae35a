"""Segments that once stopped a start: found by tests/fuzz, kept as tests."""

from __future__ import annotations

import struct
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from iap_node.dicom.part10 import file_preamble
from iap_node.spool.segments import (
    ALIGNMENT,
    PREAMBLE_BYTES,
    Facts,
    RecordKind,
    aligned,
    content_checksum,
    encode_preamble,
    read_records,
)

SEGMENT_ID = "0123456789abcdef"
HEAD = file_preamble("1.2.840.10008.5.1.4.1.1.4", "1.2.3", ExplicitVRLittleEndian)[PREAMBLE_BYTES:]
TIME = 36  # where the preamble has it: mark, segment, offset and length of 8 bytes each, kind, family, length of head
CRC = 76


def record(offset: int, head: bytes = HEAD) -> bytes:
    facts = Facts(datetime(2026, 1, 31, tzinfo=UTC), "127.0.0.1", content_checksum(ExplicitVRLittleEndian).digest())
    length = PREAMBLE_BYTES + len(head)
    return encode_preamble(SEGMENT_ID, offset, length, RecordKind.INSTANCE, head, facts) + head


def with_time(content: bytes, microseconds: int) -> bytes:
    fields = content[:TIME] + struct.pack("<q", microseconds) + content[TIME + 8 : CRC]
    crc = zlib.crc32(content[PREAMBLE_BYTES:], zlib.crc32(fields))
    return fields + struct.pack("<I", crc) + content[CRC + 4 :]


@pytest.mark.parametrize(
    "forged",
    [record(0, b"no file meta at all"), with_time(record(0), 2**63 - 1), with_time(record(0), -(2**62))],
    ids=["no file meta", "a time in 292,000 years", "a time before Christ"],
)
def test_record_that_we_cannot_have_written_is_stepped_over(tmp_path: Path, forged: bytes) -> None:
    path = tmp_path / f"{SEGMENT_ID}.seg"
    path.write_bytes(forged.ljust(aligned(len(forged)), b"\0") + record(ALIGNMENT))
    assert [found.where.offset for found in read_records(path)] == [ALIGNMENT]


def test_only_its_time_makes_a_record_ours_or_not(tmp_path: Path) -> None:
    path = tmp_path / f"{SEGMENT_ID}.seg"
    path.write_bytes(with_time(record(0), 0))
    (found,) = read_records(path)
    assert found.facts.received_at.year == 1970
