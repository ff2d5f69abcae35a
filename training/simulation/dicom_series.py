"""A simulated series as DICOM: MR Image Storage with correct geometry and an obviously simulated identity.

Called by tests, demonstrations and `python -m training.simulation`. Everything comes from `rng`, so that the
same state writes the same bytes. Modules: PS3.3 A.4 (MR Image IOD), C.7.6.2 (Image Plane), C.8.3.1 (MR
Image).
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import DSfloat

from iap_node.dicom.parameters import CONTRAST_ABSENT, CONTRAST_NOT_NAMED
from training.simulation.sequences import GYROMAGNETIC_RATIO_HZ_PER_T, true_field
from training.simulation.series import GRID_SIZE, SimulatedSeries

LARGEST_UINT12 = 4095
WINDOW_QUANTILE = 0.995


@dataclass(frozen=True, kw_only=True)
class SimulatedStudy:
    """Identity that several series of one simulated patient share."""

    study_instance_uid: str
    frame_of_reference_uid: str
    patient_name: str
    patient_id: str
    study_id: str
    accession_number: str
    started: datetime.datetime


def make_uid(rng: np.random.Generator) -> str:
    """A UID under the 2.25 root (PS3.5 B.2) from a random UUID of version 4, drawn from `rng`."""
    return f"2.25.{uuid.UUID(bytes=rng.bytes(16), version=4).int}"


def make_study(rng: np.random.Generator, number: int = 1) -> SimulatedStudy:
    """Identity of the `number`-th simulated patient's study; nobody mistakes its name for a person's."""
    # Any date will do; the years are those in which the Duke patients were scanned.
    day = datetime.date(2000, 1, 1) + datetime.timedelta(days=int(rng.integers(5200)))
    started = datetime.datetime.combine(day, datetime.time(int(rng.integers(7, 19)), int(rng.integers(60))))
    return SimulatedStudy(
        study_instance_uid=make_uid(rng),
        frame_of_reference_uid=make_uid(rng),
        patient_name=f"SIMULATED^{number:04d}",
        patient_id=f"SIM{number:04d}",
        study_id=str(number),
        accession_number=f"SIMACC{number:04d}",
        started=started,
    )


def make_datasets(
    series: SimulatedSeries,
    *,
    rng: np.random.Generator,
    study: SimulatedStudy | None = None,
    series_number: int = 1,
    overrides: Mapping[str, Any] | None = None,
) -> list[Dataset]:
    """Turn a series into data sets with file meta information, one per slice, in order of Instance Number.

    Parameters
    ----------
    series
        What to write; the header tells the protocol that the pixels were acquired with.
    rng
        Source of UIDs and, without `study`, of the identity.
    study
        Patient and study to belong to; None makes one.
    series_number
        Series Number (0020,0011).
    overrides
        DICOM keyword to value, set on every data set last of all; None deletes the element. For headers that
        lie.

    Returns
    -------
    list of Dataset
        Explicit VR Little Endian, ready for `save_as` or a C-STORE.
    """
    study = study or make_study(rng)
    common = Dataset()
    _identify(common, series, study, series_number, rng)
    _describe_equipment(common, series)
    _describe_acquisition(common, series)
    datasets = []
    for position in range(len(series.pixels)):
        ds = Dataset()
        ds.update(common)
        _place_slice(ds, series, position)
        ds.SOPInstanceUID = make_uid(rng)
        for keyword, value in (overrides or {}).items():
            if value is not None:
                setattr(ds, keyword, value)
            elif keyword in ds:
                delattr(ds, keyword)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = UID(ds.SOPClassUID)
        ds.file_meta.MediaStorageSOPInstanceUID = UID(ds.SOPInstanceUID)
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        datasets.append(ds)
    return datasets


def write_series(
    series: SimulatedSeries,
    folder: Path,
    *,
    rng: np.random.Generator,
    study: SimulatedStudy | None = None,
    series_number: int = 1,
    overrides: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a series as DICOM files `IM0001.dcm`, ... (by order, not by facts) into `folder`, which is made.

    Parameters are those of `make_datasets`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    datasets = make_datasets(series, rng=rng, study=study, series_number=series_number, overrides=overrides)
    for count, ds in enumerate(datasets, start=1):
        path = folder / f"IM{count:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _decimal(value: float) -> DSfloat:
    """A DS that fits its 16 characters."""
    return DSfloat(value, auto_format=True)


def _identify(
    ds: Dataset, series: SimulatedSeries, study: SimulatedStudy, series_number: int, rng: np.random.Generator
) -> None:
    """Patient, General Study, General Series, Frame of Reference and SOP Common modules."""
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = MRImageStorage
    ds.PatientName = study.patient_name
    ds.PatientID = study.patient_id
    ds.PatientBirthDate = ""
    ds.PatientSex = "F"
    ds.StudyInstanceUID = study.study_instance_uid
    ds.StudyDate = f"{study.started:%Y%m%d}"
    ds.StudyTime = f"{study.started:%H%M%S}"
    ds.StudyID = study.study_id
    ds.AccessionNumber = study.accession_number
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = f"SIMULATED {series.body_part} MR"
    started = study.started + datetime.timedelta(minutes=3 * series_number)
    ds.Modality = "MR"
    ds.SeriesInstanceUID = make_uid(rng)
    ds.SeriesNumber = series_number
    ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = f"{started:%Y%m%d}"
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = f"{started:%H%M%S}"
    ds.SeriesDescription = series.description
    ds.ProtocolName = series.description
    ds.BodyPartExamined = series.body_part
    ds.PatientPosition = series.protocol.patient_position
    ds.FrameOfReferenceUID = study.frame_of_reference_uid
    ds.PositionReferenceIndicator = ""
    ds.ImageComments = "SIMULATED IMAGE, NOT A PATIENT"


def _describe_equipment(ds: Dataset, series: SimulatedSeries) -> None:
    """General Equipment module, and Contrast/Bolus where an agent is present."""
    protocol = series.protocol
    ds.Manufacturer = protocol.manufacturer
    ds.ManufacturerModelName = protocol.model_name
    ds.DeviceSerialNumber = protocol.device_serial_number
    ds.SoftwareVersions = protocol.software_version
    ds.InstitutionName = "SIMULATED"
    ds.StationName = "SIMULATED"
    if protocol.contrast_agent == CONTRAST_NOT_NAMED:
        ds.ContrastBolusAgent = ""
    elif protocol.contrast_agent != CONTRAST_ABSENT:
        ds.ContrastBolusAgent = protocol.contrast_agent


def _describe_acquisition(ds: Dataset, series: SimulatedSeries) -> None:
    """MR Image module: what was set, the same on every slice."""
    protocol = series.protocol
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.ScanningSequence = series.scanning_sequence
    ds.SequenceVariant = ["SK", "SP"] if series.scanning_sequence == "GR" else "SK"
    ds.ScanOptions = protocol.scan_options.split("\\") if protocol.scan_options else ""
    ds.MRAcquisitionType = "3D" if series.scanning_sequence == "GR" else "2D"
    ds.RepetitionTime = _decimal(protocol.repetition_time_ms)
    ds.EchoTime = _decimal(protocol.echo_time_ms)
    ds.EchoTrainLength = 1
    ds.FlipAngle = _decimal(protocol.flip_angle_deg)
    ds.MagneticFieldStrength = _decimal(protocol.field_strength_t)
    frequency_mhz = true_field(protocol.field_strength_t) * GYROMAGNETIC_RATIO_HZ_PER_T * 1e-6
    ds.ImagingFrequency = _decimal(round(frequency_mhz, 6))
    ds.ImagedNucleus = "1H"
    ds.NumberOfAverages = _decimal(1.0)
    ds.PixelBandwidth = _decimal(protocol.pixel_bandwidth_hz)
    ds.SliceThickness = _decimal(protocol.slice_thickness_mm)
    ds.SpacingBetweenSlices = _decimal(series.slice_spacing_mm)
    ds.InPlanePhaseEncodingDirection = protocol.phase_direction
    frequency, phase = protocol.matrix_frequency, protocol.matrix_phase
    # (0018,1310) is frequency rows, frequency columns, phase rows, phase columns; 161 of 161 real series
    # place COL at the first and last, ROW at the middle two.
    along_columns = protocol.phase_direction == "COL"
    ds.AcquisitionMatrix = [frequency, 0, 0, phase] if along_columns else [0, frequency, phase, 0]
    ds.NumberOfPhaseEncodingSteps = round(phase * protocol.partial_fourier)
    ds.PercentSampling = _decimal(100.0 * phase / frequency)
    ds.PercentPhaseFieldOfView = _decimal(100.0)
    if protocol.manufacturer == "GE MEDICAL SYSTEMS":
        # Siemens leaves it out (measured on real headers).
        ds.ReconstructionDiameter = _decimal(protocol.fov_mm)


def _place_slice(ds: Dataset, series: SimulatedSeries, position: int) -> None:
    """General Image, Image Plane, Image Pixel and VOI LUT modules of one slice."""
    pixels = series.pixels[position]
    rows, columns = pixels.shape
    spacing = series.protocol.fov_mm / rows
    # Zero filling keeps the first sample of the object's grid where it is: half a grid pixel from the edge.
    first = -0.5 * series.protocol.fov_mm + 0.5 * series.protocol.fov_mm / GRID_SIZE
    far = (rows - 1) * spacing
    x = first if series.image_orientation[0] > 0.0 else first + far
    y = series.centre_y_mm + (first if series.image_orientation[4] > 0.0 else first + far)
    ds.InstanceNumber = series.slice_index[position] + 1
    ds.AcquisitionNumber = 1
    ds.ImageLaterality = "B" if series.body_part == "BREAST" else "U"
    ds.PixelSpacing = [_decimal(spacing), _decimal(spacing)]
    ds.ImageOrientationPatient = [_decimal(value) for value in series.image_orientation]
    ds.ImagePositionPatient = [_decimal(round(value, 6)) for value in (x, y, series.z_mm[position])]
    ds.SliceLocation = _decimal(round(series.z_mm[position], 6))
    ds.Rows, ds.Columns = rows, columns
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = 16
    ds.BitsStored = 12 if int(series.pixels.max()) <= LARGEST_UINT12 else 16
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = 0
    upper = max(float(np.quantile(pixels, WINDOW_QUANTILE)), 1.0)
    ds.WindowCenter = _decimal(round(upper / 2.0, 1))
    ds.WindowWidth = _decimal(round(max(upper, 1.0), 1))
    ds.PixelData = pixels.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
