"""Fuzz target: the scan of an instance's header, as every C-STORE runs it, in every encoding; pydicom is the referee.

An input is one byte that chooses the encoding and the bytes of a data set. Whatever they are: a header, sound in every
field, or `UnreadableInstance`; the same from bytes and from a stream; and never more than a few kilobytes at once.
Where the bytes are a data set that pydicom reads and writes back to the bit, the header must say what pydicom says.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import astuple
from io import BytesIO

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from iap_node.dicom import elements as el
from iap_node.dicom.part10 import is_safe_uid, scan_instance_header
from iap_node.errors import UnreadableInstance
from iap_node.records import InstanceHeader
from tests.fuzz.instances import encode, instances

COMPRESSED_HERE = "deflated by the target, so that mutations reach what is inflated"
# What the first byte of an input chooses.
ENCODINGS = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    COMPRESSED_HERE,
    JPEGBaseline8Bit,
    el.PAPYRUS_3,
    "1.2.3.4",  # private
)
MAX_READ_BYTES = 65_536  # at once
_DEEP = 16  # pydicom's reading and writing are recursive
_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")

config.settings.reading_validation_mode = config.IGNORE
config.settings.writing_validation_mode = config.IGNORE


class _WatchedStream(BytesIO):
    """Notes what is asked for at once, and never hands out what is not asked for."""

    longest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0, "the rest of a data set is read at once"
        self.longest = max(self.longest, size)
        return super().read(size)


def seeds() -> Iterator[bytes]:
    """Headers of real instances where they are at hand, and simulated ones, in every encoding."""
    for transfer_syntax_uid, dataset in instances():
        if transfer_syntax_uid in ENCODINGS:
            yield bytes([ENCODINGS.index(transfer_syntax_uid)]) + dataset
        elif transfer_syntax_uid not in el.DEFLATED:
            yield bytes([ENCODINGS.index(JPEGBaseline8Bit)]) + dataset
    for number, syntax in enumerate(ENCODINGS):
        yield bytes([number]) + encode(syntax if syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian) else None)


def execute(data: bytes) -> None:
    """One input."""
    if not data:
        return
    chosen = ENCODINGS[data[0] % len(ENCODINGS)]
    plain = dataset = data[1:]
    if chosen == COMPRESSED_HERE:
        chosen = DeflatedExplicitVRLittleEndian
        deflater = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        dataset = deflater.compress(dataset) + deflater.flush()
    elif chosen in el.DEFLATED:
        plain = b""  # whether it is a deflate stream is not for the referee to say
    found = _scan(dataset, chosen)
    stream = _WatchedStream(dataset)
    assert _scan(stream, chosen) == found, "bytes and a stream of them give different headers"
    assert stream.longest <= MAX_READ_BYTES, f"{stream.longest} bytes at once"
    if isinstance(found, InstanceHeader):
        _check(found)
    if plain:
        _compare(plain, el.encoding_of(chosen), found)


def _scan(dataset: bytes | BytesIO, transfer_syntax_uid: str) -> InstanceHeader | str:
    try:
        return scan_instance_header(dataset, transfer_syntax_uid)
    except UnreadableInstance as error:
        assert str(error), "no reason"
        assert len(str(error)) < 400, "a reason that repeats what came"
        return str(error)


def _check(header: InstanceHeader) -> None:
    """Every field is fit for a file name, a log, a row."""
    for uid in (header.sop_class_uid, header.sop_instance_uid, header.study_instance_uid, header.series_instance_uid):
        assert is_safe_uid(uid), uid
    assert header.study_date == "" or (len(header.study_date) == 8 and header.study_date.isdigit()), header.study_date
    for value in astuple(header):
        if isinstance(value, str):
            value.encode()  # a lone surrogate cannot be, nor stored
            assert "\0" not in value, "NUL"
            assert value == value.strip(), "padding"
        elif value is not None:
            assert -(2**31) <= value < 2**31, value


def _compare(dataset: bytes, encoding: el.Encoding, found: InstanceHeader | str) -> None:
    """With pydicom, where the bytes are a data set beyond doubt."""
    try:
        ds = read_dataset(BytesIO(dataset), encoding.implicit, encoding.little)
        if _depth(ds) > _DEEP or not _is_written_back(ds, dataset, encoding):
            return
        expected = [str(ds.get(keyword, "")).strip(" \0") for keyword in _UIDS]
    except el.DAMAGE_IN_MEMORY:
        return
    if isinstance(found, InstanceHeader):
        assert [
            found.sop_class_uid, found.sop_instance_uid, found.study_instance_uid, found.series_instance_uid,
        ] == expected, f"{found} is not what pydicom reads: {expected}"  # fmt: skip
    else:
        assert not all(map(is_safe_uid, expected)), f"{found!r}, but pydicom reads {expected}"


def _is_written_back(ds: Dataset, dataset: bytes, encoding: el.Encoding) -> bool:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = encoding
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue()) == dataset


def _depth(ds: Dataset) -> int:
    return 1 + max((_depth(item) for one in ds if one.VR == "SQ" for item in one.value), default=0)
