"""Made-up series as a scanner's habit counts them: one breast protocol of a Skyra, each series with its own study."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from iap_node.records import PastSeries, StatedProtocol

FIRST = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
PROTOCOL = "t1_fl3d_tra\\fl\\m original primary"
VALUES = {
    "AcquisitionMatrix": "448x358",
    "DeviceSerialNumber": "45001",
    "EchoTime": "2.46",
    "FieldOfView": "340",
    "FlipAngle": "10",
    "ImageType": "ORIGINAL\\PRIMARY\\M\\NORM\\DIS2D",
    "ImagedNucleus": "1H",
    "ImagingFrequency": "123.25",
    "MRAcquisitionType": "3D",
    "MagneticFieldStrength": "3",
    "Manufacturer": "SIEMENS",
    "ManufacturerModelName": "Skyra",
    "NumberOfSlices": "160",
    "PatientPosition": "HFP",
    "PixelBandwidth": "320",
    "RepetitionTime": "5.4",
    "ScanOptions": "PFP\\FS",
    "ScanningSequence": "GR",
    "SequenceVariant": "SP\\OSP",
    "SliceThickness": "1.2",
    "SoftwareVersions": "syngo MR E11",
}


def stated(protocol: str = PROTOCOL, **changes: str | None) -> StatedProtocol:
    """What one series states; None leaves an element out."""
    values = {keyword: text for keyword, text in {**VALUES, **changes}.items() if text is not None}
    return StatedProtocol(
        manufacturer=values.get("Manufacturer", "").casefold(),
        model=values.get("ManufacturerModelName", "").casefold(),
        serial_number=values.get("DeviceSerialNumber", ""),
        software_versions=values.get("SoftwareVersions", "").casefold(),
        protocol=protocol,
        values=tuple(sorted(values.items())),
    )


def past(number: int, study: str = "", protocol: str = PROTOCOL, **changes: str | None) -> PastSeries:
    """One of many: a day after the one before, in a study of its own unless `study` names one."""
    own = study or f"study {number}"
    return PastSeries(f"{own}/{number}", own, stated(protocol, **changes), FIRST + timedelta(days=number))


def archive(n: int, **changes: str | None) -> list[PastSeries]:
    """So many series that state the same, the newest first as the archive gives them."""
    return [past(number, **changes) for number in reversed(range(n))]
