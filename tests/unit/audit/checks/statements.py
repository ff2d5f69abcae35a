"""Simulated statements for the tests of header checks: an axial slice of a 3 T gradient echo, and what tests change."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

from iap_node.audit.checks import CHECKS, check_series
from iap_node.audit.checks.registry import Check
from iap_node.dicom.statements import Image, InstanceStatements, PixelsThere, Stated
from iap_node.records import Finding

ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"
SOUND: dict[str, str] = {
    "ImageType": "ORIGINAL\\PRIMARY\\M\\ND",
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
    "SOPInstanceUID": "1.2.3.4",
    "StudyDate": "20240229",
    "StudyTime": "101500.5",
    "Modality": "MR",
    "Manufacturer": "SIEMENS",
    "ManufacturerModelName": "Skyra",
    "ScanningSequence": "GR",
    "SequenceVariant": "SP\\OSP",
    "ScanOptions": "FS",
    "MRAcquisitionType": "2D",
    "SliceThickness": "3",
    "RepetitionTime": "300",
    "EchoTime": "2.46",
    "NumberOfAverages": "1",
    "ImagingFrequency": "123.25",
    "ImagedNucleus": "1H",
    "EchoNumbers": "1",
    "MagneticFieldStrength": "3",
    "SpacingBetweenSlices": "3.6",
    "EchoTrainLength": "1",
    "PercentSampling": "90",
    "PercentPhaseFieldOfView": "100",
    "PixelBandwidth": "355",
    "DeviceSerialNumber": "67060",
    "SoftwareVersions": "syngo MR E11",
    "ProtocolName": "t1_fl2d_tra",
    "AcquisitionMatrix": "256\\0\\0\\230",
    "InPlanePhaseEncodingDirection": "COL",
    "FlipAngle": "80",
    "PatientPosition": "HFS",
    "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.1",
    "SeriesNumber": "2",
    "InstanceNumber": "1",
    "ImagePositionPatient": "-130\\-130\\0",
    "ImageOrientationPatient": "1\\0\\0\\0\\1\\0",
    "FrameOfReferenceUID": "1.2.3.9",
    "SamplesPerPixel": "1",
    "PhotometricInterpretation": "MONOCHROME2",
    "Rows": "256",
    "Columns": "256",
    "PixelSpacing": "1.015625\\1.015625",
    "BitsAllocated": "16",
    "BitsStored": "12",
    "HighBit": "11",
    "PixelRepresentation": "0",
}
IN_GROUPS = (
    "SliceThickness", "SpacingBetweenSlices", "PixelSpacing", "ImageOrientationPatient", "RepetitionTime", "FlipAngle",
    "EchoTime", "PixelBandwidth", "PercentSampling", "PercentPhaseFieldOfView",
)  # fmt: skip
GROUPS = frozenset({0x00289110, 0x00209113, 0x00209116, 0x00189112, 0x00189114})


def stated(elements: dict[str, str]) -> dict[int, Stated]:
    found = {}
    for keyword, raw in elements.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        found[tag] = Stated(tag, dictionary_VR(tag)[:2], raw)
    return found


def classic(values: dict[int, Stated]) -> Image:
    return Image(values, places=({tag: values[tag] for tag in (0x00200032,) if tag in values},))


def instance(facts: dict[str, Any] | None = None, **elements: str | None) -> InstanceStatements:
    """One classic image: `elements` replace those of `SOUND`, None removes one; `facts` are about pixels and blocks."""
    values = {keyword: raw for keyword, raw in (SOUND | elements).items() if raw is not None}
    top = classic(stated(values))
    rows, columns = int(top.number(0x00280010) or 0), int(top.number(0x00280011) or 0)
    sound = {"pixels": PixelsThere(0x7FE00010, 2 * rows * columns, 2 * rows * columns)}
    return dataclasses.replace(
        InstanceStatements("1.2.840.10008.1.2.1", top, (top,)), **(sound | (facts or {}))
    )  # fmt: skip


def frames(count: int = 4, facts: dict[str, Any] | None = None, **elements: str | None) -> InstanceStatements:
    """One enhanced image whose frames state the same; an element named `top_X` is stated at the top level only."""
    tops = {name.removeprefix("top_"): raw for name, raw in elements.items() if name.startswith("top_")}
    others = {name: raw for name, raw in elements.items() if not name.startswith("top_")}
    sound = SOUND | {
        "SOPClassUID": ENHANCED, "NumberOfFrames": str(count), "ResonantNucleus": "1H",
        "InPlanePhaseEncodingDirection": "COLUMN",
    }  # fmt: skip
    values = {keyword: raw for keyword, raw in (sound | others).items() if raw is not None}
    in_frame = stated(values)
    places = tuple(
        {0x00200032: Stated(0x00200032, "DS", f"0\\0\\{3.6 * number:g}")} for number in range(count)
    )  # fmt: skip
    in_frame.pop(0x00200032, None)
    top = {keyword: raw for keyword, raw in values.items() if keyword not in IN_GROUPS} | {
        keyword: raw for keyword, raw in tops.items() if raw is not None
    }
    pixels = PixelsThere(0x7FE00010, 2 * 256 * 256 * count, 2 * 256 * 256 * count)
    enhanced = InstanceStatements(
        "1.2.840.10008.1.2.1", Image(stated(top)), (Image(in_frame, True, places, GROUPS),), count, True, pixels
    )
    return dataclasses.replace(enhanced, **(facts or {}))


def series(count: int = 8, spacing: float = 3.6, **elements: str | None) -> list[InstanceStatements]:
    """Parallel slices, `spacing` mm apart."""
    return [
        instance(
            SOPInstanceUID=f"1.2.3.4.{number:03d}",
            InstanceNumber=str(number),
            **({"ImagePositionPatient": f"-130\\-130\\{spacing * number:.6f}"} | elements),
        )
        for number in range(1, count + 1)
    ]


def with_odd(instances: list[InstanceStatements], **elements: str | None) -> list[InstanceStatements]:
    """The series with the fourth instance changed."""
    odd = instances[3].top
    values = {stated.tag: stated for stated in odd.stated.values()}
    for keyword, raw in elements.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        if raw is None:
            values.pop(tag, None)
        else:
            values[tag] = Stated(tag, dictionary_VR(tag)[:2], raw)
    top = classic(values)
    return [*instances[:3], dataclasses.replace(instances[3], top=top, images=(top,)), *instances[4:]]


def by_name(name: str) -> Check:
    return next(check for check in CHECKS if check.name == name)


def found(name: str, *instances: InstanceStatements) -> tuple[Finding, ...]:
    """What one check finds."""
    return check_series(instances, [by_name(name)])
