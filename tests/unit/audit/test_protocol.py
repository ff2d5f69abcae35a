"""What a series states of its scanner and protocol: one text per element, from all its instances."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from pydicom.datadict import tag_for_keyword

from iap_node.audit.protocol import acquired_at, stated_protocol
from iap_node.audit.vocabulary import Vocabulary
from iap_node.dicom.mosaic import TileGrid
from iap_node.dicom.protocol import BY_NAME, ELEMENTS, FIXED, keywords_with_tolerance
from iap_node.dicom.sop_classes import MR_IMAGE_STORAGE
from iap_node.dicom.statements import Image, InstanceStatements, Stated
from iap_node.records import StatedProtocol

NAMES = {
    "Manufacturer": "SIEMENS", "ManufacturerModelName": "Skyra", "DeviceSerialNumber": "045001",
    "SoftwareVersions": "syngo MR E11", "ProtocolName": "T1_fl3d_tra", "SequenceName": "*fl3d1_ns",
    "ImageType": "ORIGINAL\\PRIMARY\\M\\NORM\\DIS2D", "SOPClassUID": MR_IMAGE_STORAGE,
}  # fmt: skip


def instance(grid: TileGrid | None = None, **raws: str) -> InstanceStatements:
    stated = {}
    for keyword, raw in {**NAMES, **raws}.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        stated[tag] = Stated(tag, "LO", raw)
    image = Image(stated, places=({0x00200032: stated[0x00200032]} if 0x00200032 in stated else {},))
    return InstanceStatements("1.2.840.10008.1.2.1", image, (image,), grid=grid)


def stated(instances: Iterable[InstanceStatements]) -> StatedProtocol:
    return stated_protocol(list(instances), Vocabulary())


def values(*instances: InstanceStatements) -> dict[str, str]:
    return dict(stated(instances).values)


def test_the_keys_are_folded_and_name_scanner_and_protocol() -> None:
    found = stated([instance()])
    assert (found.manufacturer, found.model, found.serial_number) == ("siemens", "skyra", "45001")
    assert (found.device, found.software_versions) == ("siemens\\\\45001", "syngo mr e11")
    assert found.protocol == "t1_fl3d_tra\\fl\\m original primary"


def test_without_a_serial_number_the_model_tells_the_device() -> None:
    assert stated([instance(DeviceSerialNumber="0")]).device == "siemens\\skyra\\"


@pytest.mark.parametrize(
    ("changes", "protocol"),
    [
        ({"ProtocolName": "", "SeriesDescription": "T1 tra"}, "t1 tra\\fl\\m original primary"),
        ({"SequenceName": "", "PulseSequenceName": "*tfl3d1_16ns"}, "t1_fl3d_tra\\tfl\\m original primary"),
        ({"SequenceName": "", "ScanningSequence": "SE\\EP"}, "t1_fl3d_tra\\ep se\\m original primary"),
        ({"ImageType": "DERIVED\\PRIMARY\\DIFFUSION\\ADC\\ND"}, "t1_fl3d_tra\\fl\\adc derived diffusion primary"),
        ({"ProtocolName": "", "SeriesDescription": ""}, ""),
        (
            {"Manufacturer": "GE MEDICAL SYSTEMS", "ProtocolName": "BRAIN", "SeriesDescription": "Ax T2"},
            "brain / ax t2\\fl\\m original primary",
        ),
    ],
)
def test_the_protocol_is_its_name_its_sequence_and_the_kind_of_image(changes: dict[str, str], protocol: str) -> None:
    assert stated([instance(**changes)]).protocol == protocol


def test_a_hostile_name_fits_into_a_key() -> None:
    found = stated([instance(ProtocolName="\u00df" * 900, DeviceSerialNumber="9" * 900, SequenceName="a" * 900)])
    name, sequence, kind = found.protocol.split("\\")
    assert len(found.protocol) < 300
    assert len(found.device) < 200
    assert (len(name), len(sequence), kind) == (131, 64, "m original primary")


def test_numbers_are_canonical_and_words_keep_their_order() -> None:
    found = values(instance(EchoTime="2.460", ScanOptions="PFP\\ FS ", AcquisitionMatrix="0\\448\\358\\0"))
    assert (found["EchoTime"], found["ScanOptions"], found["AcquisitionMatrix"]) == ("2.46", "PFP\\FS", "448x358")


def test_what_is_absent_empty_or_no_number_is_left_out() -> None:
    found = values(instance(EchoTime="2,46", FlipAngle="", PixelBandwidth="nan", ContrastBolusAgent=""))
    assert not {"EchoTime", "FlipAngle", "PixelBandwidth", "ContrastBolusAgent", "InversionTime"} & set(found)


def test_several_echoes_stand_side_by_side_in_rising_order() -> None:
    echoes = [instance(EchoTime=text) for text in ("7.38", "4.92", "7.38", "4.92")]
    assert values(*echoes)["EchoTime"] == "4.92\\7.38"


def test_one_odd_image_of_many_is_not_the_series_value() -> None:
    images = [instance(EchoTime="2.46", SliceThickness="1.2") for _ in range(19)]
    images.append(instance(EchoTime="24.6", SliceThickness="12"))
    assert values(*images)["EchoTime"] == "2.46"
    assert values(*images)["SliceThickness"] == "1.2"


def test_what_differs_from_image_to_image_is_left_out() -> None:
    images = [instance(EchoTime=str(n), SliceThickness=str(1 + n % 3)) for n in range(1, 31)]
    found = values(*images)
    assert "EchoTime" not in found
    assert "SliceThickness" not in found


def test_what_most_images_leave_out_is_not_stated() -> None:
    images = [instance(EchoTime="2.46"), *[instance() for _ in range(3)]]
    assert "EchoTime" not in values(*images)


def test_slices_are_counted_by_their_places() -> None:
    images = [instance(ImagePositionPatient=f"0\\0\\{n % 12}") for n in range(24)]
    assert values(*images)["NumberOfSlices"] == "12"
    mosaic = instance(grid=TileGrid(36, 6, 6, 64, 64), ImagePositionPatient="0\\0\\0")
    assert values(mosaic, mosaic)["NumberOfSlices"] == "36"


def test_the_field_of_view_is_that_of_one_slice() -> None:
    assert values(instance(Rows="448", Columns="448", PixelSpacing="0.75\\0.75"))["FieldOfView"] == "336"
    tiles = instance(TileGrid(36, 6, 6, 64, 64), Rows="384", Columns="384", PixelSpacing="3\\3")
    assert values(tiles)["FieldOfView"] == "192"


def test_series_without_images_are_of_no_protocol() -> None:
    report = instance(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    assert stated([report]) == stated([]) == StatedProtocol("", "", "", "", "", ())


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        (
            {"AcquisitionDate": "20260301", "AcquisitionTime": "081500.25", "StudyDate": "20260228"},
            datetime(2026, 3, 1, 8, 15, tzinfo=UTC),
        ),
        ({"AcquisitionDate": "***", "StudyDate": "20260228"}, datetime(2026, 2, 28, tzinfo=UTC)),
        ({"StudyDate": "19000101"}, None),
        ({"StudyDate": "20261399", "StudyTime": "99"}, None),
        ({}, None),
    ],
)
def test_the_time_of_acquisition_is_the_first_usable_one(changes: dict[str, str], at: datetime | None) -> None:
    assert acquired_at([instance(**changes)]) == at


def test_every_element_says_why_and_carries_its_own_tag() -> None:
    assert all(element.why for element in ELEMENTS)
    assert len(BY_NAME) == len(ELEMENTS)
    for element in ELEMENTS:
        if element.keyword != "FieldOfView":
            assert tag_for_keyword(element.keyword) == element.tag, element.keyword
    assert set(keywords_with_tolerance()) < {element.keyword for element in FIXED}


def test_the_phase_direction_is_the_same_in_classic_and_in_enhanced_form() -> None:
    direction = BY_NAME["InPlanePhaseEncodingDirection"]
    assert direction.meaning("COL") == direction.meaning("COLUMN") != direction.meaning("ROW")
