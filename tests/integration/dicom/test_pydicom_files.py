"""The header scan on all of pydicom's own test files that come with it; pydicom's reading is the referee.

Big endian, deflated, implicit, explicit, every character set, RLE and JPEG, DICOMDIRs, files without meta, broken ones,
and texts that are no DICOM at all. Not covered here: pixels (tests/unit/dicom/test_pixels.py, and the real series).
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pydicom.data
import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from iap_node.dicom.elements import DAMAGE
from iap_node.dicom.file_slice import FileSlice
from iap_node.dicom.header import read_header_dataset
from iap_node.dicom.part10 import is_safe_uid, read_instance, read_instance_header, scan_instance_header
from iap_node.errors import UnreadableInstance
from iap_node.records import InstanceHeader
from tests.integration.dicom.referee import read_by_pydicom

pytestmark = pytest.mark.filterwarnings("ignore")

FOLDER = Path(pydicom.data.__file__).parent
FILES = sorted(
    path.relative_to(FOLDER).as_posix()
    for path in FOLDER.rglob("*")
    if path.is_file() and path.suffix not in (".py", ".pyc", ".json")  # its programs and their tables
)
# Instances that are identified here although pydicom refuses an element of theirs.
NO_NUMBER = {"test_files/badVR.dcm": "instance_number"}  # '1A': pydicom raises, the scan says that it is no number


def identified_by_pydicom(path: Path) -> InstanceHeader | None:
    """pydicom's reading of an instance; None where there is none, or one without the four UIDs."""
    try:
        header = read_by_pydicom(path)
    except DAMAGE:
        return None
    uids = (header.sop_class_uid, header.sop_instance_uid, header.study_instance_uid, header.series_instance_uid)
    return header if all(map(is_safe_uid, uids)) else None


@pytest.mark.parametrize("name", [name for name in FILES if name not in NO_NUMBER])
def test_header_is_what_pydicom_reads_and_where_it_identifies_nothing_neither_do_we(name: str) -> None:
    expected = identified_by_pydicom(FOLDER / name)
    if expected is None:
        with pytest.raises(UnreadableInstance):
            read_instance_header(FOLDER / name)
    else:
        assert read_instance_header(FOLDER / name) == expected


@pytest.mark.parametrize(("name", "field"), NO_NUMBER.items())
def test_number_that_is_none_costs_the_number_and_not_the_instance(name: str, field: str) -> None:
    assert identified_by_pydicom(FOLDER / name) is None
    assert getattr(read_instance_header(FOLDER / name), field) is None


def test_the_files_are_of_every_encoding() -> None:
    headers = [header for name in FILES if (header := identified_by_pydicom(FOLDER / name)) is not None]
    assert len(headers) > 150
    assert {header.transfer_syntax_uid for header in headers} >= {
        ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
        JPEG2000Lossless, RLELossless,
    }  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_file_slice_bytes_view_and_stream_give_the_same_header(name: str, tmp_path: Path) -> None:
    content = (FOLDER / name).read_bytes()
    segment = tmp_path / "segment"
    segment.write_bytes(b"before" + content + b"\x08\x00\x18\x00UI\x06\x001.2.3\x00 behind")
    part = FileSlice(segment, 6, len(content))
    try:
        header, dataset = read_instance(FOLDER / name)
    except UnreadableInstance as error:
        with pytest.raises(UnreadableInstance) as refused:
            read_instance_header(part)
        assert str(refused.value) == str(error)
        return
    assert read_instance(part) == (header, dataset)
    assert read_instance_header(part) == header
    for source in (dataset, memoryview(dataset), BytesIO(dataset)):
        assert scan_instance_header(source, header.transfer_syntax_uid) == header


@pytest.mark.parametrize("name", FILES)
def test_elements_of_the_acquisition_are_those_that_pydicom_finds(name: str) -> None:
    try:
        found = read_header_dataset(FOLDER / name)
    except UnreadableInstance:
        assert identified_by_pydicom(FOLDER / name) is None
        return
    ds = dcmread(FOLDER / name, force=True, stop_before_pixels=True)
    for tag in found.keys():  # noqa: SIM118  # a Dataset iterates over its elements
        assert encoded(found, tag) == encoded(ds, tag)


def encoded(ds: Dataset, tag: int) -> object:
    """The value of an element as it was read; decoded, where pydicom did that at once."""
    if tag == 0x00080005:
        return ds[tag].value
    element = ds.get_item(tag)
    return element.value if isinstance(element, RawDataElement) else element
