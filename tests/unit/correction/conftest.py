"""Instances of one series in any transfer syntax, and their corrected copies, without a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

from iap_node.correction.changes import gather
from iap_node.correction.copies import CopyPlan, CorrectedInstance, Original, survey
from iap_node.correction.trace import Origin
from iap_node.correction.uids import CopyUids
from iap_node.database.corrections import AcceptedValue
from iap_node.dicom.encoded import EncodedInstance
from iap_node.dicom.part10 import open_data_set

SERIES = "1.2.3.4"
AT = datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC)
MOST_BYTES = 2**24
PIXELS = bytes(range(256)) * 2


def sop_instance_uid(number: int) -> str:
    return f"{SERIES}.{number}"


@dataclass
class Copies:
    """The corrected copies of a series, and what they were made of."""

    plan: CopyPlan
    instances: list[CorrectedInstance]

    def read(self, index: int = 0) -> Dataset:
        return dcmread(BytesIO(self.content(index)))

    def content(self, index: int = 0) -> bytes:
        with self.instances[index].open() as stream:
            return stream.read()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Original]:
    """Factory of instances: `write(2, ExplicitVRBigEndian, EchoTime="20")`; None leaves an element out."""

    def make(number: int = 1, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> Original:
        ds = Dataset()
        ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        ds.SOPInstanceUID = sop_instance_uid(number)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", SERIES
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        ds.InstanceCreationDate = "20200101"
        ds.Modality, ds.Manufacturer, ds.SeriesDescription = "MR", "SIEMENS", "t1"
        ds.PatientID = "TEST"
        ds.RepetitionTime, ds.EchoTime, ds.InstanceNumber = "2.5", "20", number
        ds.Rows = ds.Columns = 16
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        block = ds.private_block(0x0029, "A VENDOR", create=True)
        block.add_new(0x10, "OB", b"\x01\x02\x03\x04")
        uid = UID(syntax)
        encapsulated = uid.is_compressed and not uid.is_deflated
        ds.PixelData = encapsulate([PIXELS, PIXELS[:100]]) if encapsulated else PIXELS
        ds["PixelData"].VR = "OB" if encapsulated else "OW"
        ds["PixelData"].is_undefined_length = encapsulated
        for keyword, value in elements.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.TransferSyntaxUID = uid
        path = tmp_path / f"original-{number}.dcm"
        dcmwrite(path, ds, enforce_file_format=True)
        return Original(number, str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(uid), path)

    return make


def copies_of(
    originals: Sequence[Original],
    *settings: str,
    accepted: Sequence[AcceptedValue] = (),
    keep_uids: bool = False,
    at: datetime = AT,
    series: str = SERIES,
) -> Copies:
    """Corrected copies of instances of one series."""
    changes = gather(accepted, settings)
    members = frozenset(one.sop_instance_uid for one in originals)
    plan = CopyPlan(
        survey=survey(originals, changes, MOST_BYTES),
        origin=Origin(at, "0.1.0", "SCANNER", tuple(change.keyword for change in changes.changes)),
        uids=None if keep_uids else CopyUids(changes.fingerprint, series, members),
        max_inflated_bytes=MOST_BYTES,
    )
    return Copies(plan, [CorrectedInstance(one, plan) for one in originals])


@pytest.fixture(name="copies_of")
def copies_of_fixture() -> Callable[..., Copies]:
    return copies_of


def top_level_elements(path: Path) -> dict[int, bytes]:
    """Every top-level element as it is encoded."""
    with open_data_set(path, MOST_BYTES) as (stream, transfer_syntax_uid):
        instance = EncodedInstance(stream, transfer_syntax_uid)
        return {span.tag: instance.element(span.tag) or b"" for span in instance.spans}


@pytest.fixture(name="top_level_elements")
def top_level_elements_fixture() -> Callable[[Path], dict[int, bytes]]:
    return top_level_elements
