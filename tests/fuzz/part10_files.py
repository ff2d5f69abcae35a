"""Fuzz target: Part 10 files, as import, recovery and the worker open them: preamble, file meta, data set."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, cast

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from iap_node.dicom.file_slice import InstanceFile
from iap_node.dicom.part10 import file_preamble, is_safe_uid, open_data_set, read_instance, read_instance_header
from iap_node.errors import UnreadableInstance
from tests.fuzz.instances import SOP_INSTANCE_UID, encode, instances

_MAX_INFLATED_BYTES = 1024**2


class _FileInMemory:
    """What is asked of an `InstanceFile`."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def open(self, mode: str = "rb") -> BinaryIO:
        return BytesIO(self._content)


def seeds() -> Iterator[bytes]:
    """Whole files, files without preamble, and bare data sets."""
    for syntax, dataset in instances():
        yield file_preamble("1.2.840.10008.5.1.4.1.1.4", SOP_INSTANCE_UID, syntax, "SCANNER") + dataset
    preamble = file_preamble("1.2.840.10008.5.1.4.1.1.4", SOP_INSTANCE_UID, DeflatedExplicitVRLittleEndian)
    yield from (preamble[132:] + encode(), encode(), encode(ExplicitVRBigEndian))


def execute(data: bytes) -> None:
    """One input."""
    file = cast(InstanceFile, _FileInMemory(data))
    try:
        header = read_instance_header(file)
    except UnreadableInstance as error:
        assert str(error)
        header = None
    try:
        again, dataset = read_instance(file)
    except UnreadableInstance:
        assert header is None, "one way of reading says that it is readable, the other that it is not"
    else:
        assert again == header
        assert data.endswith(dataset)
    try:
        with open_data_set(file, _MAX_INFLATED_BYTES) as (stream, transfer_syntax_uid):
            assert is_safe_uid(transfer_syntax_uid)
            assert len(stream.read()) <= max(len(data), _MAX_INFLATED_BYTES)
    except UnreadableInstance:
        pass
