"""Each check once set off, and once where it must be silent; all on simulated headers.

What real scanners write is the subject of tests/integration/audit/test_checks_on_real_series.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from iap_node.audit.checks import CHECKS, check_series
from iap_node.dicom.codestreams import CodestreamHeader
from iap_node.dicom.mosaic import TileGrid
from iap_node.dicom.statements import InstanceStatements, PixelsThere
from tests.unit.audit.checks.statements import found, frames, instance, series, with_odd

Make = Callable[[], Sequence[InstanceStatements]]
SPIN_ECHO = {"ScanningSequence": "SE", "RepetitionTime": "600", "EchoTime": "10"}
PIXELS = 2 * 256 * 256
GE_PRIVATE = frozenset({"GEMS_IDEN_01", "GEMS_PARM_01"})
SIEMENS_UID = "1.3.12.2.1107.5.2.43.67060.2022"
SHEET = TileGrid(36, 6, 6, 64, 64)


class Case(NamedTuple):
    """A header that a check must find fault with, and in which element; what it suggests, where it does."""

    check: str
    make: Make
    element: str
    suggested: str | None = None


def one(**elements: str | None) -> Make:
    return lambda: [instance(**elements)]


def pixels(stated: int | None, there: int = PIXELS, fragments: int = 0, complete: bool = True) -> dict[str, object]:
    return {"pixels": PixelsThere(0x7FE00010, stated, there, fragments, complete)}


def codestream(rows: int, columns: int, samples: int = 1, precision: int = 12) -> dict[str, object]:
    return {
        "transfer_syntax_uid": "1.2.840.10008.1.2.4.70",
        "pixels": PixelsThere(0x7FE00010, None, 1000, 1, True, CodestreamHeader(rows, columns, samples, precision)),
    }


FAULTS = [
    Case("type-1-value", one(PixelSpacing=None), "PixelSpacing"),
    Case("type-1-value", one(ImageType=""), "ImageType"),
    Case("type-1-value", one(SequenceVariant="\\"), "SequenceVariant"),
    Case("type-2-element", one(PatientPosition=None), "PatientPosition"),
    Case("known-value-empty", one(EchoTime=""), "EchoTime"),
    Case("field-strength-missing", one(MagneticFieldStrength=None), "MagneticFieldStrength", "3"),
    Case(
        "field-strength-missing",
        one(MagneticFieldStrength="", ImagingFrequency="63.87"),
        "MagneticFieldStrength",
        "1.5",
    ),
    Case("inversion-time-missing", one(ScanningSequence="GR\\IR"), "InversionTime"),
    Case("enhanced-type-1-value", lambda: [frames(MagneticFieldStrength=None)], "MagneticFieldStrength"),
    Case("not-a-number", one(EchoTime="2,46"), "EchoTime", "2.46"),
    Case("not-a-number", one(EchoTime="0.00246 s"), "EchoTime", "2.46"),
    Case("not-a-number", one(MagneticFieldStrength="1.5T"), "MagneticFieldStrength", "1.5"),
    Case("not-a-number", one(ImagePositionPatient="1\\2\\-inf"), "ImagePositionPatient"),
    Case("not-a-number", lambda: [frames(EchoTime="nan")], "EchoTime"),
    Case("not-an-integer", one(EchoTrainLength="1.5"), "EchoTrainLength"),
    Case("multiplicity", one(EchoTime="2.46\\4.92"), "EchoTime"),
    Case("multiplicity", one(ImageOrientationPatient="1\\0\\0"), "ImageOrientationPatient"),
    Case("value-too-long", one(RepetitionTime="300.00000000000001"), "RepetitionTime"),
    Case("code-string-characters", one(PatientPosition="hfs"), "PatientPosition", "HFS"),
    Case("date-or-time", one(StudyDate="20230229"), "StudyDate"),
    Case("date-or-time", one(StudyTime="2515"), "StudyTime"),
    Case("enumerated-value", one(PatientPosition="PRONE"), "PatientPosition"),
    Case("enumerated-value", one(PatientPosition="LFDR"), "PatientPosition"),
    Case("enumerated-value", one(MRAcquisitionType="1D"), "MRAcquisitionType"),
    Case("enumerated-value", one(InPlanePhaseEncodingDirection="COLUMN"), "InPlanePhaseEncodingDirection", "COL"),
    Case("enumerated-value", one(Modality="OT"), "Modality", "MR"),
    Case("image-type", one(ImageType="PRIMARY\\ORIGINAL"), "ImageType"),
    Case("image-type", one(ImageType="ORIGINAL"), "ImageType"),
    Case("nucleus-without-mass-number", one(ImagedNucleus="NA"), "ImagedNucleus", "23NA"),
    Case("imaging-frequency-unit", one(ImagingFrequency="123250000"), "ImagingFrequency", "123.25"),
    Case("imaging-frequency-unit", one(ImagingFrequency="123250"), "ImagingFrequency", "123.25"),
    Case(
        "field-strength-unit",
        one(MagneticFieldStrength="15000", ImagingFrequency="63.87"),
        "MagneticFieldStrength",
        "1.5",
    ),
    Case("field-strength-unit", one(MagneticFieldStrength="3000"), "MagneticFieldStrength", "3"),
    Case("echo-time-unit", one(EchoTime="0.00246"), "EchoTime", "2.46"),
    Case("echo-time-unit", one(**SPIN_ECHO | {"EchoTime": "0.01"}), "EchoTime", "10"),
    Case("echo-time-unit", one(EchoTime="0"), "EchoTime"),
    Case("repetition-time-unit", one(**SPIN_ECHO | {"RepetitionTime": "0.6"}), "RepetitionTime", "600"),
    Case("inversion-time-unit", one(InversionTime="0.9"), "InversionTime", "900"),
    Case("flip-angle-range", one(FlipAngle="270"), "FlipAngle"),
    Case("flip-angle-range", one(FlipAngle="0.1745"), "FlipAngle", "10"),
    Case("length-range", one(SliceThickness="0.003"), "SliceThickness", "3"),
    Case("length-range", one(SliceThickness="-3"), "SliceThickness"),
    Case("length-range", one(PixelSpacing="0.001015625\\0.001015625"), "PixelSpacing"),
    Case("acquisition-duration-unit", one(AcquisitionDuration="188717"), "AcquisitionDuration", "188.717"),
    Case("pixel-bandwidth-unit", one(PixelBandwidth="0.355"), "PixelBandwidth", "355"),
    Case("percent-unit", one(PercentSampling="0.9"), "PercentSampling", "90"),
    Case("field-strength-and-frequency", one(MagneticFieldStrength="1.5"), "MagneticFieldStrength", "3"),
    Case("field-strength-and-frequency", one(ImagingFrequency="51.7"), "ImagedNucleus", "31P"),
    Case("echo-time-and-repetition-time", one(EchoTime="300", RepetitionTime="2.46"), "EchoTime"),
    Case("readout-and-repetition-time", one(PixelBandwidth="3"), "PixelBandwidth"),
    Case(
        "readout-and-repetition-time",
        one(ScanningSequence="EP", RepetitionTime="3000", EchoTime="30", PixelBandwidth="12"),
        "PixelBandwidth",
    ),
    Case("inversion-time-and-repetition-time", one(**SPIN_ECHO, InversionTime="2500"), "InversionTime"),
    Case("acquisition-matrix-values", one(AcquisitionMatrix="256\\230\\0\\0"), "AcquisitionMatrix"),
    Case(
        "phase-direction-and-matrix", one(InPlanePhaseEncodingDirection="ROW"), "InPlanePhaseEncodingDirection", "COL"
    ),
    Case("matrix-and-image-size", one(AcquisitionMatrix="512\\0\\0\\460"), "AcquisitionMatrix"),
    Case(
        "matrix-and-image-size",
        lambda: [instance({"grid": SHEET}, Rows="384", Columns="384", AcquisitionMatrix="128\\0\\0\\128")],
        "AcquisitionMatrix",
    ),
    Case("matrix-and-percentages", one(AcquisitionMatrix="256\\0\\0\\115"), "AcquisitionMatrix"),
    Case("phase-field-of-view-and-extent", one(Rows="192"), "PercentPhaseFieldOfView", "75"),
    Case("reconstruction-diameter-and-extent", one(ReconstructionDiameter="300"), "ReconstructionDiameter", "260"),
    Case("spacing-and-thickness", one(SliceThickness="5"), "SliceThickness"),
    Case("spacing-and-thickness", one(MRAcquisitionType="3D", SliceThickness="36"), "SliceThickness"),
    Case("orientation-orthonormal", one(ImageOrientationPatient="1\\0\\0\\0.1\\1\\0"), "ImageOrientationPatient"),
    Case(
        "positions-and-spacing",
        lambda: series(8, spacing=2.7, SpacingBetweenSlices="2.9"),
        "SpacingBetweenSlices",
        "2.7",
    ),
    Case("odd-position", lambda: with_odd(series(), ImagePositionPatient="-120\\-130\\14.4"), "ImagePositionPatient"),
    Case("odd-position", lambda: with_odd(series(), ImagePositionPatient="-130\\-130\\16"), "ImagePositionPatient"),
    Case(
        "odd-orientation",
        lambda: with_odd(series(), ImageOrientationPatient="0\\1\\0\\0\\0\\-1"),
        "ImageOrientationPatient",
    ),
    Case("contrast-companions", one(ContrastBolusVolume="15"), "ContrastBolusAgent"),
    Case("contrast-companions", one(ContrastBolusAgent="", ContrastBolusRoute="IV"), "ContrastBolusAgent"),
    Case("contrast-agent-denied", one(ContrastBolusAgent="None"), "ContrastBolusAgent"),
    Case(
        "contrast-volume-range", one(ContrastBolusAgent="GADAVIST", ContrastBolusVolume="7500"), "ContrastBolusVolume"
    ),
    Case("manufacturer-and-traces", one(Manufacturer="Philips"), "Manufacturer", "SIEMENS"),
    Case(
        "manufacturer-and-traces",
        lambda: [
            instance({"creators": GE_PRIVATE}, ManufacturerModelName="x", SoftwareVersions="x", ScanOptions="FAST_GEMS")
        ],
        "Manufacturer",
        "GE MEDICAL SYSTEMS",
    ),
    Case("model-and-manufacturer", one(ManufacturerModelName="SIGNA Pioneer"), "ManufacturerModelName"),
    Case("model-and-field-strength", one(ManufacturerModelName="Avanto"), "MagneticFieldStrength", "1.5"),
    Case("scan-options-of-another-vendor", one(ScanOptions="FAST_GEMS\\PFP"), "ScanOptions"),
    Case(
        "serial-number-and-uid",
        one(SOPInstanceUID=SIEMENS_UID, SeriesInstanceUID=SIEMENS_UID + ".0.0.0", DeviceSerialNumber="12345"),
        "DeviceSerialNumber",
        "67060",
    ),
    Case("one-per-series", lambda: with_odd(series(), PatientPosition="HFP"), "PatientPosition", "HFS"),
    Case("one-per-series", lambda: with_odd(series(2) * 3, DeviceSerialNumber=None), "DeviceSerialNumber", "67060"),
    Case("one-series-number", lambda: with_odd(series(), SeriesNumber="7"), "SeriesNumber", "2"),
    Case("odd-protocol", lambda: with_odd(series(), FlipAngle="8"), "FlipAngle", "80"),
    Case("odd-protocol", lambda: with_odd(series(), EchoTime="4.92"), "EchoTime", "2.46"),
    Case("frames-and-functional-groups", lambda: [frames(4, NumberOfFrames="5")], "NumberOfFrames"),
    Case("frames-and-functional-groups", lambda: [frames(4, {"n_frames": 0})], "PerFrameFunctionalGroupsSequence"),
    Case(
        "functional-groups-missing",
        lambda: [_without_group(frames(), 0x00289110)],
        "PixelMeasuresSequence",
    ),
    Case("top-level-and-functional-groups", lambda: [frames(top_RepetitionTime="400")], "RepetitionTime", "300"),
    Case("bits", one(HighBit="15"), "HighBit", "11"),
    Case("bits", one(BitsAllocated="12"), "BitsAllocated"),
    Case("bits", one(BitsStored="24"), "BitsStored"),
    Case("samples-and-photometric-interpretation", one(PhotometricInterpretation="RGB"), "SamplesPerPixel", "3"),
    Case("pixel-data-there", lambda: [instance({"pixels": None})], "PixelData"),
    Case("pixel-data-there", lambda: [instance(pixels(PIXELS, PIXELS - 1))], "PixelData"),
    Case("pixel-data-there", lambda: [instance(pixels(None, 500, 0))], "PixelData"),
    Case("pixel-data-size", lambda: [instance(pixels(PIXELS // 2, PIXELS // 2))], "PixelData"),
    Case("pixel-data-size", lambda: [instance(pixels(2 * PIXELS, 2 * PIXELS))], "PixelData"),
    Case("codestream-and-header", lambda: [instance(codestream(256, 512))], "Columns", "512"),
    Case("fragments-and-frames", lambda: [frames(4, pixels(None, 9000, 3))], "NumberOfFrames"),
    Case("mosaic-tiles", lambda: [instance({"grid_problem": "a mosaic without its number of tiles"})], "ImageType"),
]

# Legitimate headers that look odd: of each, nothing at all may be said.
LEGITIMATE: dict[str, Make] = {
    "a sound image": one(),
    "a sound series": series,
    "a sound enhanced image": lambda: [frames()],
    "1.494 T": one(MagneticFieldStrength="1.494", ImagingFrequency="63.6", ManufacturerModelName="Avanto"),
    "7 T": one(MagneticFieldStrength="7", ImagingFrequency="297.2", ManufacturerModelName="MAGNETOM Terra"),
    "sodium": one(ImagedNucleus="23NA", ImagingFrequency="32.6"),
    "Scan Options that Siemens leaves out": one(ScanOptions=None),
    "Scan Options that Siemens leaves empty": one(ScanOptions=""),
    "an agent that Philips leaves empty": one(
        ContrastBolusAgent="", Manufacturer="Philips", ManufacturerModelName="Achieva", SoftwareVersions="5.7.1"
    ),
    "companions of zero": one(ContrastBolusVolume="0", ContrastBolusRoute="", ContrastBolusTotalDose="0.0"),
    "a named agent with its companions": one(ContrastBolusAgent="GADAVIST", ContrastBolusVolume="7.5"),
    "an interpolated image": one(AcquisitionMatrix="128\\0\\0\\115"),
    "a mosaic": lambda: [
        instance({"grid": SHEET}, Rows="384", Columns="384", AcquisitionMatrix="64\\0\\0\\64", PercentSampling="100")
    ],
    "a mosaic whose phase field of view is 200 %": lambda: [
        instance({"grid": SHEET}, Rows="384", Columns="384", AcquisitionMatrix="64\\0\\0\\64", PercentSampling="100",
                 PercentPhaseFieldOfView="200")
    ],
    "UIH's matrix for ROW": one(
        Manufacturer="UIH", ManufacturerModelName="uMR 770", SoftwareVersions="R002",
        AcquisitionMatrix="0\\256\\0\\230", InPlanePhaseEncodingDirection="ROW",
    ),
    "a square image of a rectangular field": one(PercentPhaseFieldOfView="75", AcquisitionMatrix="256\\0\\0\\173"),
    "inversion-prepared gradient echo": one(
        ScanningSequence="GR\\IR", RepetitionTime="7.25", EchoTime="3.1", InversionTime="750"
    ),
    "overlapping 3D slices": one(MRAcquisitionType="3D", SliceThickness="2", SpacingBetweenSlices="1"),
    "an ultrashort echo": one(EchoTime="0.03", PixelBandwidth="1500", RepetitionTime="5"),
    "an echo-shifted sequence": one(
        ProtocolName="PRESTO_fMRI", EchoTime="35", RepetitionTime="24", PixelBandwidth="1500"
    ),
    "a fast gradient echo": one(RepetitionTime="1.8", EchoTime="0.8", PixelBandwidth="1500"),
    "a field map's frames without echo time": lambda: [frames(EchoTime="0")],
    "a decubitus patient": one(PatientPosition="HFDL"),
    "an animal that enters with its left side": one(PatientPosition="LFP"),
    "a patient's position in codes": lambda: [instance({"has_patient_orientation": True}, PatientPosition=None)],
    "a vendor's own acquisition type of enhanced MR": lambda: [frames(MRAcquisitionType="2D_3D")],
    "three bytes for a pixel": lambda: [
        instance(pixels(3 * PIXELS // 2, 3 * PIXELS // 2), BitsAllocated="24", BitsStored="24", HighBit="23")
    ],
    "an averaged fraction": one(NumberOfAverages="0.78125"),
    "a derived map": one(
        ImageType="DERIVED\\SECONDARY\\ADC", EchoTime="", FlipAngle="0", SliceThickness="0", AcquisitionMatrix=None
    ),
    "a maker nobody knows": one(Manufacturer="MPTronic software", ManufacturerModelName="", SoftwareVersions=""),
    "private blocks that a workstation added": lambda: [
        instance({"creators": frozenset({"SIEMENS MR HEADER", "GEMS_PARM_01"})})
    ],
    "UIDs that an archive gave": one(SOPInstanceUID="1.2.840.113619.2.5", SeriesInstanceUID="1.2.840.113619.2.6"),
    "a serial number that was taken out": one(
        SOPInstanceUID=SIEMENS_UID, SeriesInstanceUID=SIEMENS_UID + ".0", DeviceSerialNumber="000000"
    ),
    "one product in several spellings": lambda: [instance(ManufacturerModelName="MAGNETOM Prisma Fit")],
    "missing slices": lambda: [one for number, one in enumerate(series(20)) if number % 3 == 0 or number == 4],
    "two groups of slices with a gap": lambda: [
        *series(5), *(series(5, ImagePositionPatient=f"-130\\-130\\{500 + 3.6 * i:.3f}")[i] for i in range(5))
    ],
    "a localizer of three planes": lambda: [
        instance(SOPInstanceUID=f"1.2.3.{number}", ImageOrientationPatient=plane)
        for number, plane in enumerate(["1\\0\\0\\0\\1\\0", "0\\1\\0\\0\\0\\-1", "1\\0\\0\\0\\0\\-1"] * 3)
    ],
    "two echoes of each slice": lambda: [
        instance(
            SOPInstanceUID=f"1.2.3.{number}", EchoTime=("5.19", "7.65")[number % 2], EchoNumbers=str(1 + number % 2),
            ImagePositionPatient=f"-130\\-130\\{3.6 * (number // 2)}",
        )
        for number in range(12)
    ],
    "a calibration image before those of a perfusion series": lambda: with_odd(
        series(12, ImageType="ORIGINAL\\PRIMARY\\ASL\\NONE"), RepetitionTime="6000", FlipAngle="90"
    ),
    "many echoes of one slice": lambda: [
        instance(SOPInstanceUID=f"1.2.3.{number}", EchoTime=f"{2.46 * (number + 1):.2f}") for number in range(8)
    ],
    "orientation with rounding jitter": lambda: with_odd(
        series(), ImageOrientationPatient="1\\0.0000004\\0\\-0.0000004\\1\\0"
    ),
    "odd bytes of padding": lambda: [instance(pixels(PIXELS + 100, PIXELS + 100))],
    "a JPEG with more bits than stored": lambda: [instance(codestream(256, 256, precision=16))],
    "a JPEG 2000 with no more bits than needed": lambda: [instance(codestream(256, 256, precision=10))],
    "one compressed frame in several fragments": lambda: [
        instance(pixels(None, 9000, 2) | {"transfer_syntax_uid": "1.2.840.10008.1.2.4.70"})
    ],
    "parameters copied to the top level, rounded": lambda: [frames(top_PixelBandwidth="356", top_SliceThickness="3")],
    "raw data": one(SOPClassUID="1.2.840.10008.5.1.4.1.1.66", EchoTime="nan", PixelSpacing=None),
}  # fmt: skip


def _without_group(enhanced: InstanceStatements, sequence: int) -> InstanceStatements:
    images = tuple(dataclasses.replace(image, groups=image.groups - {sequence}) for image in enhanced.images)
    return dataclasses.replace(enhanced, images=images)


@pytest.mark.parametrize("case", FAULTS, ids=lambda case: f"{case.check}: {case.element}")
def test_a_check_finds_what_it_is_for(case: Case) -> None:
    findings = [finding for finding in found(case.check, *case.make()) if finding.element == case.element]
    assert len(findings) == 1, found(case.check, *case.make())
    assert findings[0].suggested_value == case.suggested
    assert findings[0].evidence


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert {case.check for case in FAULTS} == {check.name for check in CHECKS}


@pytest.mark.parametrize("make", LEGITIMATE.values(), ids=LEGITIMATE.keys())
def test_nothing_is_said_of_what_is_legitimate(make: Make) -> None:
    assert check_series(make()) == ()
