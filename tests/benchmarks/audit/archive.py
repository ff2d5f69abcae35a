"""The folder that is audited: studies of simulated patients on two scanners, with errors planted in some series.

Written once into the bench's folder and found there again. Images are simulated at full size and then thinned to
64 x 64, the acquisition matrix with them, so that thousands of headers fit on any disk. What differs between patients
as it does in real archives (position, field of view) is no error; what is planted is, and `index.json` says where.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from training.simulation import Protocol, sample_protocol, simulate_series
from training.simulation.dicom_series import make_datasets, make_study, make_uid

VERSION = 3  # of the files' form: others are written anew
SEED = 11
SIDE = 64  # pixels
MAKERS = ("SIEMENS", "GE MEDICAL SYSTEMS")
TIMES = ((1.0, 1.0), (0.8, 1.3), (1.2, 0.7))  # of the scanner's protocols: factors of repetition time and flip angle
FIELDS_OF_VIEW = (0.95, 1.0, 1.0, 1.05)  # patients differ


@dataclass(frozen=True)
class Size:
    """How much there is."""

    patients: int  # half of them on each scanner
    slices: int  # of a series

    @property
    def headers(self) -> int:
        return self.patients * len(TIMES) * self.slices


FULL = Size(patients=60, slices=27)
QUICK = Size(patients=8, slices=6)


@dataclass(frozen=True)
class Kind:
    """One way to be wrong."""

    name: str
    title: str
    elements: tuple[str, ...]  # where a finding may see it
    plant: Callable[[list[Dataset]], None]


@dataclass(frozen=True)
class Series:
    """One series of the folder, and what was planted in it."""

    folder: str  # below the archive's
    kind: str  # "" where nothing was


def _each(change: Callable[[Dataset], None]) -> Callable[[list[Dataset]], None]:
    def plant(datasets: list[Dataset]) -> None:
        for ds in datasets:
            change(ds)

    return plant


def _scaled(keyword: str, factor: float) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        setattr(ds, keyword, DSfloat(float(ds[keyword].value) * factor, auto_format=True))

    return change


def _to(keyword: str, value: Any) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)

    return change


def _swap_times(ds: Dataset) -> None:
    ds.EchoTime, ds.RepetitionTime = ds.RepetitionTime, ds.EchoTime


def _other_maker(ds: Dataset) -> None:
    ds.Manufacturer = next(maker for maker in ("Philips", *MAKERS) if maker != ds.Manufacturer)


def _in_one(change: Callable[[Dataset], None]) -> Callable[[list[Dataset]], None]:
    return lambda datasets: change(datasets[len(datasets) // 3])


def _cut_off(datasets: list[Dataset]) -> None:
    datasets[-1].PixelData = datasets[-1].PixelData[: SIDE * SIDE]  # half of it


KINDS = (
    Kind("te-seconds", "echo time in s", ("EchoTime",), _each(_scaled("EchoTime", 0.001))),
    Kind("frequency-hertz", "imaging frequency in Hz", ("ImagingFrequency",), _each(_scaled("ImagingFrequency", 1e6))),
    Kind("te-tr-swapped", "echo and repetition time swapped", ("EchoTime", "RepetitionTime"), _each(_swap_times)),
    Kind("field", "field strength of another scanner", ("MagneticFieldStrength",),
         _each(_scaled("MagneticFieldStrength", 0.5))),
    Kind("maker", "another manufacturer", ("Manufacturer", "ManufacturerModelName"), _each(_other_maker)),
    Kind("thickness", "slice thickness ten times", ("SliceThickness",), _each(_scaled("SliceThickness", 10))),
    Kind("spacing", "spacing between slices a tenth more", ("SpacingBetweenSlices", "SliceThickness"),
         _each(_scaled("SpacingBetweenSlices", 1.1))),
    Kind("pixel-spacing", "pixel spacing missing", ("PixelSpacing",), _each(_to("PixelSpacing", None))),
    Kind("bolus", "a bolus without an agent", ("ContrastBolusAgent",), _each(_to("ContrastBolusVolume", "15"))),
    Kind("position", "patient position not of the standard", ("PatientPosition",),
         _each(_to("PatientPosition", "PRONE"))),
    Kind("date", "content date that is none", ("ContentDate",), _each(_to("ContentDate", "***"))),
    Kind("one-te", "one of many with another echo time", ("EchoTime",), _in_one(_scaled("EchoTime", 1.3))),
    Kind("one-model", "one of many from another model", ("ManufacturerModelName",),
         _in_one(_to("ManufacturerModelName", "X"))),
    Kind("pixels", "pixel data of one image cut off", ("PixelData",), _cut_off),
    Kind("flip-angle", "another flip angle than the protocol's", ("FlipAngle",), _each(_scaled("FlipAngle", 1.5))),
    Kind("repetition-time", "another repetition time than the protocol's", ("RepetitionTime",),
         _each(_scaled("RepetitionTime", 1.25))),
)  # fmt: skip
BY_NAME = {kind.name: kind for kind in KINDS}


def prepare(folder: Path, size: Size) -> list[Series]:
    """The archive, written into `folder` unless it lies there."""
    index = folder.with_suffix(".json")  # beside it: every file in it is audited
    wanted = {"version": VERSION, "kinds": [kind.name for kind in KINDS], **asdict(size)}
    if index.is_file():
        content = json.loads(index.read_text())
        if content["archive"] == wanted:
            return [Series(**entry) for entry in content["series"]]
    shutil.rmtree(folder, ignore_errors=True)  # of another form
    series = _write(folder, size)
    index.write_text(json.dumps({"archive": wanted, "series": [asdict(one) for one in series]}, indent=1))
    return series


def _write(folder: Path, size: Size) -> list[Series]:
    rng = np.random.default_rng(SEED)
    templates = [
        _template(rng, protocol, 1 + number % len(TIMES), size.slices)
        for number, protocol in enumerate(_protocols(rng))
    ]
    kinds = {}  # each on both scanners, so that no two series of a protocol or a study are wrong in the same way
    for scanner in range(len(MAKERS)):
        places = [(patient, n) for patient in range(scanner, size.patients, len(MAKERS)) for n in range(len(TIMES))]
        order = [place for place in places if sum(place) % 2 == 0]  # every other series is left as it is
        rng.shuffle(order)
        kinds.update(zip(map(tuple, order), KINDS, strict=False))
    written = []
    for patient in range(size.patients):
        study = make_study(rng, patient + 1)
        move, zoom = float(rng.integers(-40, 40)), float(rng.choice(FIELDS_OF_VIEW))
        for number in range(len(TIMES)):
            template = templates[patient % len(MAKERS) * len(TIMES) + number]
            kind = kinds.get((patient, number))
            place = Path(f"patient-{patient + 1:03d}") / f"series-{number + 1}"
            datasets = [_of_patient(ds, move, zoom) for ds in template]
            series_instance_uid = make_uid(rng)
            for ds in datasets:
                ds.PatientName, ds.PatientID = study.patient_name, study.patient_id
                ds.StudyInstanceUID, ds.FrameOfReferenceUID = study.study_instance_uid, study.frame_of_reference_uid
                ds.SeriesInstanceUID, ds.SOPInstanceUID = series_instance_uid, make_uid(rng)
                ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            if kind is not None:
                kind.plant(datasets)
            (folder / place).mkdir(parents=True, exist_ok=True)
            for position, ds in enumerate(datasets, start=1):
                ds.save_as(folder / place / f"IM{position:04d}.dcm", enforce_file_format=True)
            written.append(Series(str(place), kind.name if kind is not None else ""))
    return written


def _protocols(rng: np.random.Generator) -> list[Protocol]:
    """Some of each scanner, alike but for their timing."""
    found = []
    for maker in MAKERS:
        base = sample_protocol(rng)
        while base.manufacturer != maker or base.contrast_agent != "absent":
            base = sample_protocol(rng)
        for repetition, flip in TIMES:
            found.append(
                dataclasses.replace(
                    base,
                    repetition_time_ms=round(base.repetition_time_ms * repetition, 2),
                    flip_angle_deg=round(base.flip_angle_deg * flip, 1),
                )
            )
    return found


def _template(rng: np.random.Generator, protocol: Protocol, number: int, n_slices: int) -> list[Dataset]:
    """The series of a protocol, thinned."""
    simulated = simulate_series(rng, n_slices, protocol=protocol, slice_positions="contiguous")
    datasets = make_datasets(simulated, rng=rng, series_number=number)
    for ds in datasets:
        ds.SeriesDescription = ds.ProtocolName = f"SIMULATED {ds.ManufacturerModelName} 3D GRE {number}"
        rows = ds.Rows
        kept = np.arange(SIDE) * rows // SIDE
        pixels = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)[np.ix_(kept, kept)]
        ds.Rows = ds.Columns = SIDE
        ds.PixelData = pixels.astype("<u2").tobytes()
        spacing = DSfloat(float(ds.PixelSpacing[0]) * rows / SIDE, auto_format=True)
        ds.PixelSpacing = [spacing, spacing]
        frequency, phase = (value for value in ds.AcquisitionMatrix if value)
        thinned = round(SIDE * phase / frequency)
        along_columns = ds.InPlanePhaseEncodingDirection == "COL"
        ds.AcquisitionMatrix = [SIDE, 0, 0, thinned] if along_columns else [0, SIDE, thinned, 0]
        ds.NumberOfPhaseEncodingSteps = round(ds.NumberOfPhaseEncodingSteps * thinned / phase)
    return datasets


def _of_patient(template: Dataset, move: float, zoom: float) -> Dataset:
    ds = Dataset()
    for element in template:
        ds[element.tag] = copy.copy(element)
    ds.file_meta = template.file_meta
    x, y, z = (float(value) for value in ds.ImagePositionPatient)
    ds.ImagePositionPatient = [DSfloat(value, auto_format=True) for value in (x * zoom, y * zoom, round(z + move, 6))]
    ds.SliceLocation = DSfloat(round(z + move, 6), auto_format=True)
    ds.PixelSpacing = [DSfloat(float(value) * zoom, auto_format=True) for value in ds.PixelSpacing]
    if "ReconstructionDiameter" in ds:
        ds.ReconstructionDiameter = DSfloat(float(ds.ReconstructionDiameter) * zoom, auto_format=True)
    return ds
