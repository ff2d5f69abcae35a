"""Segments: files that hold many instances, so that an acknowledgement costs one write and one flush, and no new file.

A segment is a row of *records*, each at a multiple of `ALIGNMENT`. A record is a Part 10 file as it stands, which
begins with a preamble of 128 bytes that PS3.10 7.1 leaves to us: there lies what says that the record is whole, and
what its archive row needs beyond the file itself. Both are written at once.

A record counts when its preamble says so: our mark, the segment's own number (random, so that no sender can write
records into its data sets), its own offset, a CRC of the preamble and the file meta, and a checksum of what follows.
What a power cut or a sender's abort tore does not count, whichever of its pages reached the disk.

Used by `lanes` (writing) and by recovery and `iap-node fsck` (`read_records`).
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import xxhash

from iap_node.dicom.file_slice import FileSlice
from iap_node.dicom.part10 import read_file_meta
from iap_node.errors import UnreadableInstance

SEGMENT_BYTES = 64 * 1024**2
ALIGNMENT = 4096  # of records: what one holds can be given back to the file system alone
PREAMBLE_BYTES = 128  # PS3.10 7.1
SUFFIX = ".seg"

MARK = b"IAPNODE1"
# mark, segment, offset, length, kind, address family, length of prefix and file meta, time, address, checksum
_PREAMBLE = struct.Struct("<8s8sQQBBHq16s16s")
_CRC = struct.Struct("<I")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PUNCH_HOLE_KEEP_SIZE = 0x03  # linux/falloc.h
_READ_AT_ONCE = 1024**2

ZERO_PAGE = mmap.mmap(-1, ALIGNMENT)  # aligned itself, for handles that go past the page cache

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class RecordKind(IntEnum):
    """What a record holds."""

    INSTANCE = 1  # a Part 10 file
    NOTE = 2  # the spool path of an instance that is a file of its own


@dataclass(frozen=True, slots=True)
class Facts:
    """What an archive row needs beyond the Part 10 file."""

    received_at: datetime  # aware
    source_address: str  # an IP address; anything else is not kept
    checksum: bytes  # 16 bytes, of transfer syntax UID and data set: see `content_checksum`


@dataclass(frozen=True, slots=True)
class Record:
    """A record that is whole."""

    kind: RecordKind
    where: FileSlice
    facts: Facts


def aligned(position: int) -> int:
    """The first multiple of `ALIGNMENT` that is not below `position`."""
    return -(-position // ALIGNMENT) * ALIGNMENT


def content_checksum(transfer_syntax_uid: str) -> xxhash.xxh3_128:
    """A running XXH3-128 that makes two receptions look the same: of transfer syntax UID and data set.

    It finds accidents, not forgeries: where two agree, the bytes themselves are compared.
    """
    return xxhash.xxh3_128(transfer_syntax_uid.encode("ascii", "replace"))


def encode_preamble(segment_id: str, offset: int, length: int, kind: RecordKind, head: bytes, facts: Facts) -> bytes:
    """The 128 bytes that make a record count.

    Parameters
    ----------
    length
        Of the whole record, preamble included.
    head
        What lies between preamble and data set: DICM and file meta; of a note, everything.
    """
    family, packed = _pack_address(facts.source_address)
    microseconds = (facts.received_at - _EPOCH) // timedelta(microseconds=1)
    fields = _PREAMBLE.pack(
        MARK, bytes.fromhex(segment_id), offset, length, kind, family, len(head), microseconds, packed, facts.checksum
    )
    crc = _CRC.pack(zlib.crc32(head, zlib.crc32(fields)))
    return (fields + crc).ljust(PREAMBLE_BYTES, b"\0")


def read_records(path: Path, *, verify: bool = True) -> Iterator[Record]:
    """The whole records of a segment, in order; what is torn, removed or not written yet is stepped over.

    Parameters
    ----------
    verify
        Read their data sets and compare the checksums. Without, a record whose data set is torn counts too.

    Raises
    ------
    OSError
        The disk fails, or the segment is gone.
    """
    segment_id = path.name.removesuffix(SUFFIX)
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while offset + PREAMBLE_BYTES <= size:
            offset = _next_data(file.fileno(), offset, size)
            record = _read_record(file.fileno(), path, segment_id, offset, size, verify=verify)
            if record is not None:
                yield record
            offset += aligned(record.where.length) if record is not None else ALIGNMENT


def has_records(path: Path) -> bool:
    """Whether a segment holds anything that claims to be a record of it; cheaper than reading them.

    Raises
    ------
    OSError
        The disk fails, or the segment is gone.
    """
    segment_id = bytes.fromhex(path.name.removesuffix(SUFFIX))
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while offset + PREAMBLE_BYTES <= size:
            offset = _next_data(file.fileno(), offset, size)
            if os.pread(file.fileno(), 16, offset) == MARK + segment_id:
                return True
            offset += ALIGNMENT
    return False


def erase(handle: int, offset: int, length: int) -> None:
    """Make a record count no more and give its blocks back, where the file system can do that.

    Raises
    ------
    OSError
        The disk fails.
    """
    if _libc.fallocate(handle, _PUNCH_HOLE_KEEP_SIZE, offset, aligned(length)) != 0:
        os.pwrite(handle, ZERO_PAGE, offset)


def _next_data(handle: int, offset: int, size: int) -> int:
    """Where the file goes on behind holes, at the record that may begin there."""
    try:
        return os.lseek(handle, offset, os.SEEK_DATA) // ALIGNMENT * ALIGNMENT
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size  # nothing but a hole up to the end


def _read_record(
    handle: int, path: Path, segment_id: str, offset: int, size: int, *, verify: bool
) -> Record | None:
    preamble = os.pread(handle, PREAMBLE_BYTES, offset)
    if len(preamble) < PREAMBLE_BYTES or preamble[:8] != MARK:
        return None
    fields = _PREAMBLE.unpack_from(preamble)
    _, owner, own_offset, length, kind, family, n_head, microseconds, packed, checksum = fields
    (crc,) = _CRC.unpack_from(preamble, _PREAMBLE.size)
    is_ours = owner == bytes.fromhex(segment_id) and own_offset == offset
    if not is_ours or not PREAMBLE_BYTES + n_head <= length <= size - offset or kind not in tuple(RecordKind):
        return None
    head = os.pread(handle, n_head, offset + PREAMBLE_BYTES)
    if zlib.crc32(head, zlib.crc32(preamble[: _PREAMBLE.size])) != crc:
        return None
    where = FileSlice(path, offset, length)
    if verify and kind == RecordKind.INSTANCE and checksum != _checksum_of(handle, where, head):
        return None
    try:
        received_at = _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:  # a time that we cannot have written
        return None
    return Record(RecordKind(kind), where, Facts(received_at, _unpack_address(family, packed), checksum))


@lru_cache(1024)
def _pack_address(text: str) -> tuple[int, bytes]:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return 0, b""
    return address.version, address.packed


def _unpack_address(family: int, packed: bytes) -> str:
    if family == 4:
        return str(ipaddress.IPv4Address(packed[:4]))
    return str(ipaddress.IPv6Address(packed)) if family == 6 else ""


def _checksum_of(handle: int, where: FileSlice, head: bytes) -> bytes:
    try:
        checksum = content_checksum(read_file_meta(BytesIO(bytes(PREAMBLE_BYTES) + head)))
    except UnreadableInstance:  # file meta that we cannot have written
        return b""
    position, end = where.offset + PREAMBLE_BYTES + len(head), where.offset + where.length
    while position < end:
        piece = os.pread(handle, min(_READ_AT_ONCE, end - position), position)
        if not piece:
            break
        checksum.update(piece)
        position += len(piece)
    return checksum.digest()
