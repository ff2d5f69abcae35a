"""Factories of tiny MR instances for the tests of the DICOM room."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
AXIAL = [1, 0, 0, 0, 1, 0]


def mr_dataset(pixels: npt.NDArray[Any] | None = None, **elements: Any) -> Dataset:
    """One classic MR image at z = 0; keyword arguments replace elements, None removes one."""
    pixels = np.arange(6, dtype=np.uint16).reshape(2, 3) if pixels is None else pixels
    ds = Dataset()
    ds.SOPClassUID = MR_IMAGE_STORAGE
    ds.SOPInstanceUID = "1.2.3.4"
    ds.StudyInstanceUID = "1.2.3"
    ds.SeriesInstanceUID = "1.2.3.1"
    ds.Modality = "MR"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.Manufacturer = "SIEMENS"
    ds.ManufacturerModelName = "Skyra"
    ds.PatientID = "P1"
    ds.PatientPosition = "HFP"
    ds.ScanOptions = ["PFP", "FS"]
    ds.MagneticFieldStrength = "3"
    ds.SliceThickness = "1.5"
    ds.RepetitionTime = "5.25"
    ds.EchoTime = "2.5"
    ds.FlipAngle = "10"
    ds.AcquisitionMatrix = [0, 448, 381, 0]
    ds.InstanceNumber = "1"
    ds.ImagePositionPatient = [0, 0, 0]
    ds.ImageOrientationPatient = AXIAL
    ds.PixelSpacing = ["2", "2"]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        ds.NumberOfFrames = pixels.shape[0]
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.add_new(0x7FE00010, "OW", pixels.tobytes())
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def encoded(ds: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    """The data set as a C-STORE would carry it (not deflated)."""
    syntax = UID(transfer_syntax_uid)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = syntax.is_little_endian, syntax.is_implicit_VR
    write_dataset(buffer, ds)
    return buffer.getvalue()


@pytest.fixture
def make_mr() -> Callable[..., Dataset]:
    return mr_dataset


@pytest.fixture
def encode() -> Callable[..., bytes]:
    return encoded


@pytest.fixture
def write_mr(tmp_path: Path) -> Callable[..., Path]:
    """Writes a data set as a Part 10 file and returns its path."""
    counter = iter(range(1_000_000))

    def write(ds: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian, name: str = "") -> Path:
        path = tmp_path / (name or f"{next(counter):06d}.dcm")
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        buffer = BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        path.write_bytes(buffer.getvalue())
        return path

    return write
