"""Simulated images with something in every element of Table E.1-1, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

from iap_node.deidentification.copies import DeidentifiedInstance
from iap_node.deidentification.profile import Retained
from iap_node.deidentification.pseudonyms import Pseudonyms

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
PSEUDONYMS = Pseudonyms.of_node(b"k" * 32)
LIMIT = 2**31


def image(**elements: Any) -> Dataset:
    """A classic MR image; keyword arguments replace elements, None removes one."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = UID(MR_IMAGE_STORAGE), "1.2.3.4.5"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.9"
    ds.PatientID, ds.IssuerOfPatientID, ds.PatientName = "P4711", "HOSPITAL", "Doe^Jane"
    ds.Modality, ds.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M", "NONE"]
    ds.EchoTime, ds.RepetitionTime, ds.Manufacturer = "2.5", "5.25", "SIEMENS"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", 8, 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.add_new(0x7FE00010, "OW", np.arange(64, dtype="<u2").tobytes())
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


@pytest.fixture
def make_image() -> Callable[..., Dataset]:
    return image


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a data set as a Part 10 file as the spool does, with who sent it; its path."""
    numbers = iter(range(1_000_000))

    def make(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
        path = tmp_path / f"{next(numbers)}.dcm"
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = UID(syntax)
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.SourceApplicationEntityTitle = "SENDER_4711"
        ds.preamble = b"P4711".ljust(128, b"\0")
        dcmwrite(path, ds, enforce_file_format=True)
        return path

    return make


@pytest.fixture
def copy_of() -> Callable[..., bytes]:
    """The bytes of the de-identified copy of a file."""

    def make(path: Path, *retained: Retained) -> bytes:
        with DeidentifiedInstance(path, frozenset(retained), PSEUDONYMS, LIMIT).open() as stream:
            return stream.read()

    return make


@pytest.fixture
def copied(write: Callable[..., Path], copy_of: Callable[..., bytes]) -> Callable[..., Dataset]:
    """The de-identified copy of a data set, read by pydicom."""

    def make(ds: Dataset, *retained: Retained, syntax: str = ExplicitVRLittleEndian) -> Dataset:
        return dcmread(BytesIO(copy_of(write(ds, syntax), *retained)))

    return make
