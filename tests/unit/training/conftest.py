"""Folders of tiny MR series, one patient each, for the tests of data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian


def write_series(folder: Path, number: int, n_slices: int = 2, **elements: Any) -> Path:
    """A series of 16 x 16 slices of the patient `P<number>`; keyword arguments replace elements, None removes one."""
    rng = np.random.default_rng(number)
    folder = folder / f"series{number}"
    folder.mkdir(parents=True)
    for place in range(n_slices):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}.1.{place + 1}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.3.{number}", f"1.2.3.{number}.1"
        ds.Modality, ds.ImageType = "MR", ["ORIGINAL", "PRIMARY"]
        ds.PatientID = f"P{number}"
        ds.Manufacturer, ds.ManufacturerModelName = "SIEMENS", "Skyra"
        ds.ScanningSequence, ds.SequenceVariant, ds.MRAcquisitionType = "GR", "SP", "3D"
        ds.MagneticFieldStrength, ds.ImagingFrequency, ds.ImagedNucleus = "3", "123.2", "1H"
        ds.SliceThickness, ds.RepetitionTime, ds.EchoTime, ds.FlipAngle = "1.5", "5.25", "2.5", "10"
        ds.AcquisitionMatrix = [0, 16, 16, 0]
        ds.InstanceNumber = str(place + 1)
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 1.5 * place], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.PatientPosition = ["2", "2"], "HFP"
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.Rows = ds.Columns = 16
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit = 15
        ds.PixelData = rng.integers(0, 1000, (16, 16), dtype=np.uint16).tobytes()
        for keyword, value in elements.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        pydicom.dcmwrite(folder / f"{place}.dcm", ds, enforce_file_format=True)
    return folder


@pytest.fixture(scope="session")
def make_series() -> Callable[..., Path]:
    return write_series
